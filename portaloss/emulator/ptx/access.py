"""Loads and stores: parameters, global and shared memory, and the matrices of ldmatrix and stmatrix."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.emulator.errors import Site
from portaloss.emulator.memory import Memory
from portaloss.emulator.ptx.decode import TYPES, Decoder, instruction, raw
from portaloss.emulator.ptx.machine import Machine, Step
from portaloss.emulator.ptx.syntax import Instruction, vector

Array = npt.NDArray[Any]

#: Modifiers that say how caches are used, which does not change what is loaded.
_HINTS = re.compile(
    r"(volatile|relaxed|weak|gpu|cta|sys|nc|ca|cg|cs|lu|cv|wb|wt|L1::\w+|L2::\w+|cta_group::\d|shared::cta)$"
)


class Address:
    """The operand [register + offset], [symbol + offset] or [number]."""

    def __init__(self, decoder: Decoder, operand: str) -> None:
        inside = operand.strip("[] ")
        base, _, offset = inside.partition("+")
        self._offset = int(offset.strip(), 0) if offset.strip() else 0
        self._base = decoder.source(base.strip(), "b32" if base.strip() in decoder.kernel.symbols else "b64")

    def of(self, machine: Machine) -> Array:
        """The addresses of the lanes, as int64."""
        base = machine.registers[self._base].astype(np.int64)
        return base + self._offset if self._offset else base


def _space(one: Instruction) -> tuple[str, int, str]:
    """Which memory, how many elements, and of which type."""
    space, count = "", 1
    *modifiers, kind = one.modifiers
    for each in modifiers:
        if each in ("global", "shared", "param"):
            space = each
        elif each in ("v2", "v4", "v8"):
            count = int(each[1])
        elif not _HINTS.match(each):
            raise one.unknown()
    if not space or kind not in TYPES:
        raise one.unknown()
    return space, count, kind


def _memory(machine: Machine, space: str) -> Memory:
    return machine.memory if space == "global" else machine.shared


@instruction("ld")
def load(decoder: Decoder, one: Instruction) -> Step:
    """One or several elements; a signed one that is narrower than its register is extended by its sign."""
    space, count, kind = _space(one)
    targets = [decoder.target(name) for name in vector(one.operands[0])]
    widths = [np.dtype(f"u{decoder.width(target)}") for target in targets]
    dtype, site = TYPES[kind], one.site
    if space == "param":
        number = decoder.register(one.operands[1])
        (target,), (width,) = targets, widths
        return lambda machine: machine.put(target, machine.registers[number].view(dtype).astype(width))
    address = Address(decoder, one.operands[1])

    def step(machine: Machine) -> None:
        memory = _memory(machine, space)
        values = memory.load(machine.lanes, address.of(machine), machine.mask, dtype.itemsize, count, site)
        for target, width, value in zip(targets, widths, values, strict=True):
            machine.put(target, value if value.dtype == width else value.view(dtype).astype(width))

    return step


@instruction("st")
def store(decoder: Decoder, one: Instruction) -> Step:
    """One or several elements; of a register that is wider, the lower bits."""
    space, _, kind = _space(one)
    sources = [decoder.source(name, kind) for name in vector(one.operands[1])]
    address, dtype, site = Address(decoder, one.operands[0]), raw(kind), one.site

    def step(machine: Machine) -> None:
        values = [machine.registers[source].astype(dtype, copy=False) for source in sources]
        _memory(machine, space).store(machine.lanes, address.of(machine), machine.mask, values, site)

    return step


# Matrices: each lane gives the address of a row of 8 elements of 16 bits


def _matrices(one: Instruction) -> tuple[int, bool]:
    """How many, and whether they are transposed."""
    modifiers = one.modifiers
    if not {"sync", "aligned", "m8n8", "b16"} <= set(modifiers):
        raise one.unknown()
    return next(int(each[1]) for each in modifiers if each in ("x1", "x2", "x4")), "trans" in modifiers


def _rows(machine: Machine, address: Array, row: Array) -> Array:
    """For each lane, the address that lane ``row`` of its warp has."""
    if len(address) == 1:
        return address
    return address[np.arange(len(address)) // 32 * 32 + row]


def _places(machine: Machine, address: Array, matrix: int, half: int, transposed: bool) -> Array:
    """Where each lane's part of a matrix is: elements (lane / 4, 2 (lane % 4) + half) of it, or its transpose."""
    lane = machine.lanes.thread % 32
    row, column = lane // 4, 2 * (lane % 4) + half
    if transposed:
        row, column = column, row
    first = _rows(machine, address, 8 * matrix + row)
    places: Array = first + 2 * column
    return places


@instruction("ldmatrix")
def load_matrix(decoder: Decoder, one: Instruction) -> Step:
    """Each lane gets two neighbouring elements of each matrix."""
    count, transposed = _matrices(one)
    targets = [decoder.target(name) for name in vector(one.operands[0])]
    address, site = Address(decoder, one.operands[1]), one.site

    def step(machine: Machine) -> None:
        base = address.of(machine)
        for matrix, target in enumerate(targets):
            halves = [_part(machine, _places(machine, base, matrix, half, transposed), site) for half in range(2)]
            machine.put(target, halves[0].astype(np.uint32) | (halves[1].astype(np.uint32) << 16))

    if len(targets) != count:
        raise one.unknown()
    return step


def _part(machine: Machine, address: Array, site: Site) -> Array:
    return machine.shared.load(machine.lanes, address, machine.mask, 2, 1, site)[0]


@instruction("stmatrix")
def store_matrix(decoder: Decoder, one: Instruction) -> Step:
    """The reverse of ldmatrix."""
    _, transposed = _matrices(one)
    sources = [decoder.source(name, "b32") for name in vector(one.operands[1])]
    address, site = Address(decoder, one.operands[0]), one.site

    def step(machine: Machine) -> None:
        base = address.of(machine)
        for matrix, source in enumerate(sources):
            value = machine.registers[source]
            for half in range(2):
                part = (value >> (16 * half)).astype(np.uint16)
                places = _places(machine, base, matrix, half, transposed)
                machine.shared.store(machine.lanes, places, machine.mask, [part], site)

    return step

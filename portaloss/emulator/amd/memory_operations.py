"""Loads and stores: global memory, buffers with range checks, shared memory, and scalar loads."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from portaloss.emulator.amd.assembly import Instruction, Operand
from portaloss.emulator.amd.operands import Context, Source, scalar_source, unknown, vector_source
from portaloss.emulator.amd.vector import Run
from portaloss.emulator.amd.waves import Array, Waves
from portaloss.emulator.errors import OutOfBoundsError

#: Hints to caches, which change no value.
_HINTS = {"glc", "slc", "dlc", "nt", "sc0", "sc1", "th", "scope"}


@dataclass(frozen=True)
class Shape:
    """What an operation moves for each lane."""

    size: int  #: bytes of an element
    count: int = 1  #: of elements
    signed: bool = False
    high: bool = False  #: into or from the upper half of a register
    half: bool = False  #: the other half of the register is kept


_SHAPES: dict[str, Shape] = {
    "ubyte": Shape(1), "u8": Shape(1), "byte": Shape(1), "b8": Shape(1),
    "sbyte": Shape(1, signed=True), "i8": Shape(1, signed=True),
    "ushort": Shape(2), "u16": Shape(2), "short": Shape(2), "b16": Shape(2),
    "sshort": Shape(2, signed=True), "i16": Shape(2, signed=True),
    "short_d16": Shape(2, half=True), "d16_b16": Shape(2, half=True), "u16_d16": Shape(2, half=True),
    "short_d16_hi": Shape(2, high=True, half=True), "d16_hi_b16": Shape(2, high=True, half=True),
    "u16_d16_hi": Shape(2, high=True, half=True), "b16_d16_hi": Shape(2, high=True, half=True),
    "dword": Shape(4), "b32": Shape(4),
    "dwordx2": Shape(4, 2), "b64": Shape(4, 2),
    "dwordx3": Shape(4, 3), "b96": Shape(4, 3),
    "dwordx4": Shape(4, 4), "b128": Shape(4, 4),
    "dwordx8": Shape(4, 8), "b256": Shape(4, 8),
    "dwordx16": Shape(4, 16), "b512": Shape(4, 16),
}  # fmt: skip


def _shape(instruction: Instruction, context: Context, name: str) -> Shape:
    if name not in _SHAPES:
        raise unknown(context, instruction)
    return _SHAPES[name]


def _check(instruction: Instruction, context: Context, *more: str) -> None:
    strange = set(instruction.modifiers) - _HINTS - set(more)
    if strange:
        raise unknown(context, instruction, f"unknown modifiers {', '.join(sorted(strange))}")


def _number(instruction: Instruction, modifier: str) -> int:
    return int(instruction.modifiers.get(modifier, "0"), 0)


def write_loaded(waves: Waves, index: int, shape: Shape, values: list[Array]) -> None:
    """Put what was loaded into registers, extended to 32 bits."""
    for k, value in enumerate(values):
        bits = value.reshape(waves.size, waves.lanes)
        if shape.half:
            old = waves.vector["u32"][index, waves.group]
            wide = bits.astype(np.uint32)
            bits = (old & np.uint32(0xFFFF)) | (wide << 16) if shape.high else (old & np.uint32(0xFFFF0000)) | wide
        elif shape.signed:
            bits = bits.view(f"i{shape.size}").astype(np.int32).view(np.uint32)
        waves.write("u32", index + k, bits)


def read_stored(waves: Waves, operand: Operand, shape: Shape) -> list[Array]:
    """What is stored, from registers, as one array of all lanes for each element."""
    values = []
    for k in range(shape.count):
        bits = waves.vector["u32"][operand.index + k, waves.group].reshape(-1)
        if shape.size < 4:
            bits = (bits >> 16 if shape.high else bits).astype(f"u{shape.size}")
        values.append(bits)
    return values


def _mask(waves: Waves) -> Array | None:
    return None if waves.full else waves.active.reshape(-1)


def _flatten(waves: Waves, address: Any) -> Array:
    return np.broadcast_to(address, (waves.size, waves.lanes)).astype(np.int64).reshape(-1)


def vector_memory(instruction: Instruction, context: Context) -> Run:
    """global_*, flat_* and buffer_* loads and stores."""
    found = re.fullmatch(r"(global|flat|buffer)_(load|store)_(\w+)", instruction.name)
    if found is None:
        raise unknown(context, instruction)
    space, what, suffix = found.groups()
    shape = _shape(instruction, context, suffix)
    operands = instruction.operands
    if space == "buffer":
        data = operands[0]
        locate = _buffer_address(instruction, operands[1:], shape, context)
    else:
        _check(instruction, context, "offset")
        data, rest = (operands[0], operands[1:]) if what == "load" else (operands[1], [operands[0], *operands[2:]])
        locate = _global_address(instruction, rest, context)
    site = context.site(instruction)
    index = data.index

    def load(waves: Waves) -> None:
        address, mask = locate(waves)
        values = waves.memory.load(waves.own, address, mask, shape.size, shape.count, site)
        write_loaded(waves, index, shape, values)

    def store(waves: Waves) -> None:
        address, mask = locate(waves)
        waves.memory.store(waves.own, address, mask, read_stored(waves, data, shape), site)
        if waves.memory.races:
            waves.stores.add(waves, address, mask, shape.size * shape.count, site)

    return load if what == "load" else store


Locate = Callable[[Waves], tuple[Array, Array | None]]


def _global_address(instruction: Instruction, operands: list[Operand], context: Context) -> Locate:
    """A vector of 64-bit addresses, or a scalar address plus a vector of 32-bit offsets."""
    offset = np.int64(_number(instruction, "offset"))
    base: Source | None = None
    if len(operands) > 1 and operands[1].file == "s":
        base = vector_source(operands[1], "u64", context)
        moved = vector_source(operands[0], "u32", context)
    else:
        moved = vector_source(operands[0], "u64", context)

    def locate(waves: Waves) -> tuple[Array, Array | None]:
        address = moved(waves).astype(np.int64) + offset
        if base is not None:
            address = address + base(waves).astype(np.int64)
        return _flatten(waves, address), _mask(waves)

    return locate


def _buffer_address(instruction: Instruction, operands: list[Operand], shape: Shape, context: Context) -> Locate:
    """A resource of four scalar registers has a base and a size. What exceeds the size loads 0 and stores nothing."""
    _check(instruction, context, "offen", "offset")
    moved, resource, added = operands
    offset, size = _number(instruction, "offset"), shape.size * shape.count
    vector = vector_source(moved, "u32", context) if moved.file == "v" else None
    scalar = scalar_source(added, "u32", context)
    first = resource.index
    site = context.site(instruction)

    def locate(waves: Waves) -> tuple[Array, Array | None]:
        words = waves.scalar["u32"][waves.group, first : first + 4].astype(np.int64)
        if (words[:, 1] >> 16).any():
            raise unknown(context, instruction, f"{site}: a resource with a stride")
        base = (words[:, 0] | (words[:, 1] & 0xFFFF) << 32)[:, None]
        within = np.int64(offset)
        if vector is not None:
            within = within + vector(waves).astype(np.int64)
        inside = within + size <= words[:, 2, None]
        extra = np.asarray(scalar(waves)).astype(np.int64)
        address = base + within + (extra[:, None] if extra.ndim else extra)
        if inside.all():
            return _flatten(waves, address), _mask(waves)
        mask = np.broadcast_to(inside if waves.full else inside & waves.active, (waves.size, waves.lanes))
        return _flatten(waves, address), mask.reshape(-1)

    return locate


def private_memory(instruction: Instruction, context: Context) -> Run:
    """scratch_*: memory of each lane's own, for registers that are spilled. Addresses begin at 0 in every lane."""
    found = re.fullmatch(r"scratch_(load|store)_(\w+)", instruction.name)
    if found is None or _SHAPES.get(found[2], Shape(1)).size != 4:
        raise unknown(context, instruction)
    shape, stores = _SHAPES[found[2]], found[1] == "store"
    _check(instruction, context, "offset")
    first, second, base = instruction.operands
    moved, data = (first, second) if stores else (second, first)
    vector = vector_source(moved, "u32", context) if moved.file == "v" else None
    scalar = scalar_source(base, "u32", context) if base.file == "s" else None
    offset, site, lane = _number(instruction, "offset"), context.site(instruction), np.arange(context.program.lanes)

    def word(waves: Waves) -> Array:
        address = np.full((waves.size, 1), offset, np.int64)
        address = address if vector is None else address + vector(waves)
        address = address if scalar is None else address + np.asarray(scalar(waves))[:, None]
        outside = (address < 0) | (address + 4 * shape.count > 4 * len(waves.private)) | (address % 4 != 0)
        if (outside if waves.full else outside & waves.active).any():
            raise OutOfBoundsError(
                f"{site}: {waves.own.name(0)}: outside of the {4 * len(waves.private)} bytes of private memory"
            )
        return np.where(outside, 0, address // 4)

    def load(waves: Waves) -> None:
        place, wave = word(waves), waves.numbers[:, None]
        for k in range(shape.count):
            waves.write("u32", data.index + k, waves.private[place + k, wave, lane])

    def store(waves: Waves) -> None:
        place, wave = word(waves), waves.numbers[:, None]
        for k in range(shape.count):
            value = waves.vector["u32"][data.index + k, waves.group]
            if not waves.full:
                value = np.where(waves.active, value, waves.private[place + k, wave, lane])
            waves.private[place + k, wave, lane] = value

    return store if stores else load


_SHARED_NAMES = {"read": "load", "write": "store", "load": "load", "store": "store"}


def shared_memory(instruction: Instruction, context: Context) -> Run:
    """ds_* loads and stores, also of two places at once."""
    found = re.fullmatch(
        r"ds_(read|write|load|store)(?:(2|_2addr)(st64|_stride64)?)?_(u8|i8|u16|i16|b8|b16|b32|b64|b96|b128)"
        r"((?:_d16)?(?:_hi)?)", instruction.name
    )  # fmt: skip
    if found is None:
        raise unknown(context, instruction)
    shape = _shape(instruction, context, found[4] + found[5])
    stores, double = _SHARED_NAMES[found[1]] == "store", found[2] is not None
    _check(instruction, context, "offset", "offset0", "offset1")
    scale = shape.size * shape.count * (64 if found[3] else 1)
    names = ("offset0", "offset1") if double else ("offset",)
    offsets = [np.int64(_number(instruction, name) * (scale if double else 1)) for name in names]
    operands = instruction.operands
    where = vector_source(operands[0] if stores else operands[1], "u32", context)
    site = context.site(instruction)

    def load(waves: Waves) -> None:
        address, target = where(waves).astype(np.int64), operands[0].index
        loaded = [
            waves.shared.load(waves.own, _flatten(waves, address + offset), _mask(waves), shape.size, shape.count, site)
            for offset in offsets
        ]
        for k, values in enumerate(loaded):
            write_loaded(waves, target + k * shape.count, shape, values)

    def store(waves: Waves) -> None:
        address = where(waves).astype(np.int64)
        for offset, data in zip(offsets, operands[1:], strict=True):
            values = read_stored(waves, data, shape)
            waves.shared.store(waves.own, _flatten(waves, address + offset), _mask(waves), values, site)

    return store if stores else load


def scalar_load(instruction: Instruction, context: Context) -> Run:
    """s_load: the same address for all lanes of a wave."""
    found = re.fullmatch(r"s_load_(\w+)", instruction.name)
    if found is None:
        raise unknown(context, instruction)
    shape = _shape(instruction, context, found[1])
    _check(instruction, context, "offset")
    target, base, added = instruction.operands
    read, extra = scalar_source(base, "u64", context), scalar_source(added, "u32", context)
    negative = added.file == "constant" and added.value < 0
    offset = np.int64(_number(instruction, "offset") + (int(added.value) if negative else 0))
    site = context.site(instruction)
    index = target.index

    def run(waves: Waves) -> None:
        address = read(waves).astype(np.int64) + offset
        if not negative:
            address = address + np.asarray(extra(waves)).astype(np.int64)
        lanes = waves.first_lanes
        values = waves.memory.load(lanes, address, None, shape.size, shape.count, site)
        for k, value in enumerate(values):
            if shape.signed:
                value = value.view(f"i{shape.size}").astype(np.int32).view(np.uint32)
            waves.scalar["u32"][waves.group, index + k] = value

    return run

"""Decodes vector instructions that compute one value from a few others: what tables of functions describe.

A table has an entry for each name: the kind of the result, the kinds of the sources, and the function. Encodings are
common to all: a source permuted among lanes (DPP), parts of registers (SDWA), halves of registers (op_sel), signs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from portaloss.emulator.amd.assembly import Instruction, Operand
from portaloss.emulator.amd.operands import Context, Sink, Source, unknown, vector_sink, vector_source
from portaloss.emulator.amd.waves import DTYPES, Array, Waves

Run = Callable[[Waves], Any]
#: The result's kind, the sources' kinds, and the function of the sources.
Entry = tuple[str, tuple[str, ...], Callable[..., Any]]

#: Modifiers that every vector instruction may have; decoding handles all of them.
_COMMON = {
    "op_sel", "clamp", "mul", "div", "dst_sel", "dst_unused", "src0_sel", "src1_sel",
    "row_mask", "bank_mask", "bound_ctrl", "fi",
    "quad_perm", "row_shr", "row_shl", "row_ror", "row_bcast", "row_mirror", "row_half_mirror", "row_newbcast",
    "wave_shr", "wave_shl", "wave_ror", "wave_rol", "row_share", "row_xmask",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A vector instruction in two parts, since paired instructions read before either writes."""

    compute: Source
    write: Sink

    def run(self, waves: Waves) -> None:
        """Compute and write."""
        self.write(waves, self.compute(waves))


def sources(
    instruction: Instruction, operands: list[Operand], kinds: tuple[str, ...], context: Context
) -> list[Source]:
    """The sources of a vector instruction, with what its encoding does to them."""
    strange = set(instruction.modifiers) - _COMMON
    if strange:
        raise unknown(context, instruction, f"unknown modifiers {', '.join(sorted(strange))}")
    if len(operands) != len(kinds):
        raise unknown(context, instruction, f"{len(operands)} sources, expected {len(kinds)}")
    halves = instruction.numbers("op_sel") or [0] * (len(kinds) + 1)
    found = []
    for k, (operand, kind) in enumerate(zip(operands, kinds, strict=True)):
        part = instruction.modifiers.get(f"src{k}_sel", "")
        high = bool(halves[k]) and kind[1:] == "16"
        found.append(vector_source(operand, kind, context, part, high))
    return found


def decode(instruction: Instruction, entry: Entry, context: Context) -> Step:
    """An instruction of a table: a destination, then the sources."""
    result, kinds, function = entry
    if "clamp" in instruction.modifiers and result[0] != "f":
        function = _saturated(function, result)
    target, *rest = instruction.operands
    halves = instruction.numbers("op_sel")
    high = bool(halves) and halves is not None and len(halves) > len(kinds) and halves[-1] == 1
    write = vector_sink(instruction, target, result, context, high)
    read = sources(instruction, rest, kinds, context)
    if instruction.encoding == "dpp" or any(name.startswith(("row_", "quad_perm")) for name in instruction.modifiers):
        permuted = Permuted(read[0], instruction, context)
        return Step(permuted.compute(function, read[1:]), permuted.write(write))
    return Step(compute(function, read), write)


def _saturated(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """A sum or product of integers; the nearest integer of the type where it is out of range."""
    dtype = DTYPES[kind]
    info = np.iinfo(dtype)
    return lambda *values: np.clip(function(*(x.astype(np.int64) for x in values)), info.min, info.max).astype(dtype)


def compute(function: Callable[..., Any], read: list[Source]) -> Source:
    """The function of what the sources read."""
    if len(read) == 1:
        (only,) = read
        return lambda waves: function(only(waves))
    if len(read) == 2:
        first, second = read
        return lambda waves: function(first(waves), second(waves))
    if len(read) == 3:
        one, two, three = read
        return lambda waves: function(one(waves), two(waves), three(waves))
    return lambda waves: function(*(source(waves) for source in read))


def pair(first: Step, second: Step) -> Run:
    """Two instructions of RDNA that run together: both read before either writes."""

    def run(waves: Waves) -> None:
        one = first.compute(waves)
        two = np.array(second.compute(waves))  # a copy: it may be a view of what the first one writes
        first.write(waves, one)
        second.write(waves, two)

    return run


class Permuted:
    """DPP: the first source comes from another lane of the wave.

    A source lane is invalid if it is outside of the row or not active. Then 0 is read with ``bound_ctrl:1``, and else
    the lane is not written. Lanes whose row or bank of four is masked out are not written either.
    """

    def __init__(self, read: Source, instruction: Instruction, context: Context) -> None:
        modifiers = instruction.modifiers
        lanes = context.program.lanes
        self._read = read
        #: for each lane, the lane that it reads, or -1
        origin = _origins(instruction, lanes)
        if origin is None:
            raise unknown(context, instruction, "unknown permutation of lanes")
        self._inside = origin >= 0
        self._origin = np.where(self._inside, origin, np.arange(lanes))
        lane = np.arange(lanes)
        rows = int(modifiers.get("row_mask", "0xf"), 0) >> (lane // 16) & 1
        banks = int(modifiers.get("bank_mask", "0xf"), 0) >> (lane % 16 // 4) & 1
        self._written: Array = (rows & banks).astype(bool)
        self._zero = modifiers.get("bound_ctrl") in ("0", "1")
        self._inactive = modifiers.get("fi") == "1"  # lanes that are not active are read all the same
        self._always = bool(self._written.all()) and (self._zero or bool(self._inside.all()))

    def _valid(self, waves: Waves) -> Array:
        if waves.full or self._inactive:
            return self._inside
        return self._inside & waves.active[:, self._origin]

    def compute(self, function: Callable[..., Any], rest: list[Source]) -> Source:
        """The function of the permuted source and the others."""

        def run(waves: Waves) -> Any:
            value = self._read(waves)
            value = value[:, self._origin] if value.shape[1] > 1 else value
            if self._zero:
                valid = self._valid(waves)
                if not valid.all():
                    value = np.where(valid, value, value.dtype.type(0))
            return function(value, *(source(waves) for source in rest))

        return run

    def write(self, write: Sink) -> Sink:
        """Write only the lanes that are written."""

        def run(waves: Waves, value: Any) -> None:
            if self._always and (waves.full or self._zero or self._inactive):
                write(waves, value)
                return
            mask = self._written if self._zero else self._written & self._valid(waves)
            full, active = waves.full, waves.active
            waves.active = np.broadcast_to(mask if full else mask & active, (waves.size, waves.lanes))
            waves.full = False
            write(waves, value)
            waves.full, waves.active = full, active

        return run


def _origins(instruction: Instruction, lanes: int) -> Array | None:
    lane = np.arange(lanes)
    row, place = lane - lane % 16, lane % 16
    for name, text in instruction.modifiers.items():
        if name == "quad_perm":
            return np.asarray(lane - lane % 4 + np.array(instruction.numbers(name))[lane % 4])
        amount = int(text, 0) if text and text[0].isdigit() else 0
        if name == "row_shr":
            return np.where(place >= amount, lane - amount, -1)
        if name == "row_shl":
            return np.where(place + amount < 16, lane + amount, -1)
        if name == "row_ror":
            return row + (place - amount) % 16
        if name == "row_mirror":
            return row + 15 - place
        if name == "row_half_mirror":
            return lane - lane % 8 + 7 - lane % 8
        if name == "row_bcast" and amount == 15:  # the last lane of a row to the next row
            return np.where(lane >= 16, row - 1, -1)
        if name == "row_bcast" and amount == 31:  # lane 31 to the upper half
            return np.where(lane >= 32, 31, -1)
        if name in ("row_newbcast", "row_share"):
            return row + amount
        if name == "row_xmask":
            return row + (place ^ amount)
    return None

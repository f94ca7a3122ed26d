"""Turns operands into functions that read them, and destinations into functions that write them.

An instruction is decoded once, into Python functions of the waves. A vector instruction reads arrays [waves, lanes], or
[waves, 1] from scalar registers; a scalar instruction reads arrays [waves]. Constants are NumPy scalars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from portaloss.emulator import arithmetic
from portaloss.emulator.amd.assembly import EXEC, NULL, Instruction, Operand, Program, constant_bits
from portaloss.emulator.amd.waves import DTYPES, Array, Waves
from portaloss.emulator.errors import Site, UnknownInstructionError
from portaloss.emulator.models import Model

Source = Callable[[Waves], Any]
Sink = Callable[[Waves, Any], None]

_UNSIGNED = {"8": "u8", "16": "u16", "32": "u32", "64": "u64"}


@dataclass
class Context:
    """What decoding needs to know besides the instruction."""

    program: Program
    model: Model = field(default_factory=Model)

    @property
    def key(self) -> object:
        """What the functions of instructions depend on."""
        return self.program.generation, self.program.lanes, self.flushes, self.model

    @property
    def flushes(self) -> bool:
        """Whether the mode register flushes subnormal numbers of 32 bits."""
        return self.program.descriptor.get("float_denorm_mode_32", 3) != 3

    @property
    def keeps_high_half(self) -> bool:
        """Whether an instruction with a 16-bit result keeps the other half of the register: RDNA; gfx9 writes 0."""
        return self.program.generation > 9

    def site(self, instruction: Instruction) -> Site:
        """The instruction, for messages."""
        return Site(self.program.name, instruction.text, instruction.source)


def unknown(context: Context, instruction: Instruction, why: str = "this instruction is not implemented") -> Exception:
    """The error for what the emulator does not know."""
    return UnknownInstructionError(f"{context.site(instruction)}: {why} ({instruction.name})")


def vector_source(operand: Operand, kind: str, context: Context, part: str = "", high: bool = False) -> Source:
    """What a vector instruction reads.

    Args:
        operand: the register or constant.
        kind: how the instruction understands the bits, such as "f32".
        context: the program and the model.
        part: SDWA: which part of the register, such as BYTE_2 or WORD_1.
        high: whether a 16-bit value is in the upper half.
    """
    read = _plain(operand, kind, high)
    if part not in ("", "DWORD"):
        read = _selected(operand, kind, part)
    if kind == "f32" and context.flushes:
        read = _then(read, arithmetic.flush)
    return _signs(read, operand, kind)


def _then(read: Source, change: Callable[[Any], Any]) -> Source:
    return lambda waves: change(read(waves))


def _plain(operand: Operand, kind: str, high: bool) -> Source:
    index, width = operand.index, kind[1:]
    if operand.file == "constant":
        bits = constant_bits(operand, kind) >> (16 if high else 0)
        value = np.array(bits, DTYPES[_UNSIGNED[width]]).view(DTYPES[kind])[()]
        return lambda waves: value
    if operand.file == "v":
        if width == "64":
            return lambda waves: waves.read_pair(index).view(DTYPES[kind])
        if high:
            dtype = DTYPES[kind]
            return lambda waves: (waves.vector["u32"][index, waves.group] >> 16).astype(np.uint16).view(dtype)
        return lambda waves: waves.vector[kind][index, waves.group]
    if operand.file == "s":
        if width == "64":
            half = index // 2
            return lambda waves: waves.scalar[kind][waves.group, half, None]
        if high:
            dtype = DTYPES[kind]
            return lambda waves: (waves.scalar["u32"][waves.group, index, None] >> 16).astype(np.uint16).view(dtype)
        return lambda waves: waves.scalar[kind][waves.group, index, None]
    raise UnknownInstructionError(f"an operand that the emulator does not know: {operand.text}")


def _selected(operand: Operand, kind: str, part: str) -> Source:
    """SDWA: a byte or a word of the register, extended to the width of the operand."""
    whole = _plain(operand, "u32", high=False)
    size, _, number = part.partition("_")
    bits = {"BYTE": 8, "WORD": 16}[size]
    shift, mask = np.uint32(int(number) * bits), np.uint32((1 << bits) - 1)
    sign = np.uint32(1 << bits - 1)
    signed = operand.signed

    def read(waves: Waves) -> Any:
        value = (whole(waves) >> shift) & mask
        if signed:
            value = (value ^ sign) - sign
        if kind[1:] == "16":
            return value.astype(np.uint16).view(DTYPES[kind])
        return value.view(DTYPES[kind])

    return read


def _signs(read: Source, operand: Operand, kind: str) -> Source:
    """Absolute value, then negation; of the sign bit only, whatever the instruction does with the value."""
    negative, absolute = operand.negative, operand.absolute
    if not (negative or absolute):
        return read
    if kind[0] == "f":
        if negative and absolute:
            return lambda waves: np.negative(np.abs(read(waves)))
        return _then(read, np.negative if negative else np.abs)
    dtype: Any = DTYPES[_UNSIGNED[kind[1:]]]
    sign = dtype(1 << int(kind[1:]) - 1)

    def change(value: Any) -> Any:
        value = value.view(dtype)
        value = value & ~sign if absolute else value
        return (value ^ sign if negative else value).view(DTYPES[kind])

    return _then(read, change)


def vector_sink(instruction: Instruction, operand: Operand, kind: str, context: Context, high: bool = False) -> Sink:
    """Where a vector instruction writes, in the active lanes; with its output modifiers."""
    index = operand.index
    write: Sink
    if operand.file != "v":
        raise unknown(context, instruction, f"{operand.text} is no vector register")
    if kind[1:] == "64":
        write = lambda waves, value: waves.write_pair(index, value)  # noqa: E731
    elif kind[1:] == "16":
        write = _half_sink(index, kind, context, high)
    else:
        write = lambda waves, value: waves.write(kind, index, value)  # noqa: E731
    part = instruction.modifiers.get("dst_sel", "DWORD")
    if part != "DWORD":
        write = _part_sink(index, kind, part, instruction.modifiers.get("dst_unused", "UNUSED_PAD"))
    if kind == "f32" and context.flushes:
        write = _before(write, arithmetic.flush)
    if "clamp" in instruction.modifiers and kind[0] == "f":
        write = _before(write, lambda value: np.where(value > 0, np.minimum(value, value.dtype.type(1)), 0 * value * 0))
        write = _before(write, lambda value: np.where(np.isnan(value), value.dtype.type(0), value))
    for modifier, factor in (("mul", {"2": 2, "4": 4}), ("div", {"2": 0.5})):
        if modifier in instruction.modifiers:
            write = _before(write, _times(factor[instruction.modifiers[modifier]]))
    return write


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda value: value * value.dtype.type(factor)


def _before(write: Sink, change: Callable[[Any], Any]) -> Sink:
    return lambda waves, value: write(waves, change(value))


def _half_sink(index: int, kind: str, context: Context, high: bool) -> Sink:
    if high:

        def write_high(waves: Waves, value: Any) -> None:
            low = waves.vector["u32"][index, waves.group] & np.uint32(0xFFFF)
            waves.write("u32", index, low | (np.asarray(value).view(np.uint16).astype(np.uint32) << 16))

        return write_high
    if context.keeps_high_half:
        return lambda waves, value: waves.write(kind, index, value)
    return lambda waves, value: waves.write("u32", index, np.asarray(value).view(np.uint16).astype(np.uint32))


def _part_sink(index: int, kind: str, part: str, unused: str) -> Sink:
    size, _, number = part.partition("_")
    bits = {"BYTE": 8, "WORD": 16}[size]
    shift, mask = np.uint32(int(number) * bits), np.uint32((1 << bits) - 1)
    unsigned = DTYPES[_UNSIGNED[kind[1:]]]

    def write(waves: Waves, value: Any) -> None:
        value = np.asarray(value).view(unsigned).astype(np.uint32) & mask
        if unused == "UNUSED_SEXT":
            sign = np.uint32(1 << bits - 1)
            value = (value ^ sign) - sign
        value = value << shift
        if unused == "UNUSED_PRESERVE":
            value = value | (waves.vector["u32"][index, waves.group] & ~np.uint32(mask << shift))
        waves.write("u32", index, value)

    return write


def scalar_source(operand: Operand, kind: str, context: Context) -> Source:
    """What a scalar instruction reads."""
    index = operand.index
    if operand.file == "v":  # a vector register has no single value
        raise UnknownInstructionError(f"{operand.text} is no scalar operand in {context.program.name}")
    if operand.file == "s" and operand.text.lstrip("-|").startswith("src_"):
        raise UnknownInstructionError(operand.text)
    if operand.file == "s" and kind[1:] == "64":
        half = index // 2
        read: Source = lambda waves: waves.scalar[kind][waves.group, half]  # noqa: E731
    elif operand.file == "s":
        read = lambda waves: waves.scalar[kind][waves.group, index]  # noqa: E731
    else:
        read = _plain(operand, kind, high=False)
    if kind == "f32" and context.flushes:
        read = _then(read, arithmetic.flush)
    return _signs(read, operand, kind)


def scalar_sink(operand: Operand, kind: str) -> Sink:
    """Where a scalar instruction writes."""
    index = operand.index
    if operand.file != "s":
        raise UnknownInstructionError(f"{operand.text} is no scalar register")
    if index == NULL:
        return lambda waves, value: None
    place = index // 2 if kind[1:] == "64" else index

    def write(waves: Waves, value: Any) -> None:
        waves.scalar[kind][waves.group, place] = value

    def write_exec(waves: Waves, value: Any) -> None:
        write(waves, value)
        waves.masked()

    if kind[1:] == "16":
        return lambda waves, value: _write_low(waves, index, value)
    return write_exec if index >= EXEC else write


def _write_low(waves: Waves, index: int, value: Array) -> None:
    """A 16-bit result of a scalar instruction; the other half is 0."""
    waves.scalar["u32"][waves.group, index] = np.asarray(value).view(np.uint16).astype(np.uint32)

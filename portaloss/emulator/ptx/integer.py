"""Integers and bits: arithmetic, shifts, logic, comparisons, selections and moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.emulator.ptx import floating
from portaloss.emulator.ptx.decode import TYPES, Decoder, elementwise, instruction, raw
from portaloss.emulator.ptx.floating import comparison
from portaloss.emulator.ptx.machine import Machine, Step
from portaloss.emulator.ptx.syntax import Instruction, vector

Array = npt.NDArray[Any]


def _sources(decoder: Decoder, one: Instruction, kind: str) -> list[int]:
    return [decoder.source(operand, kind) for operand in one.operands[1:]]


# Arithmetic; floats of the same names are in ``floating``


@instruction("add", "sub", "min", "max", "neg", "abs", "div", "rem")
def arithmetic(decoder: Decoder, one: Instruction) -> Step:
    """Of integers: wrapped around where they overflow. Of floats: in ``floating``."""
    kind = one.modifiers[-1]
    if kind[0] not in "su" or kind not in TYPES:
        return floating.arithmetic(decoder, one)
    if len(one.modifiers) != 1 or kind not in TYPES or kind[0] not in "su":
        raise one.unknown()
    dtype, bits = TYPES[kind], raw(kind)
    function = {**_ARITHMETIC, "div": _divide, "rem": _remainder}[one.name]
    return elementwise(
        decoder.target(one.operands[0]),
        _sources(decoder, one, kind),
        lambda *values: function(*[value.view(dtype) for value in values]).view(bits),
    )


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.minimum,
    "max": np.maximum,
    "neg": np.negative,
    "abs": np.abs,
}


def _divide(x: Array, y: Array) -> Any:
    """Truncated; a division by 0 gives all bits set, as the hardware's sequence does."""
    zero = y == 0
    quotient = x // np.where(zero, 1, y)
    if x.dtype.kind == "i":  # NumPy rounds down
        quotient = quotient + ((x % np.where(zero, 1, y) != 0) & ((x < 0) != (y < 0)))
    result: Array = np.where(zero, np.array(-1).astype(x.dtype), quotient).astype(x.dtype)
    return result


def _remainder(x: Array, y: Array) -> Any:
    remainder: Array = np.where(y == 0, x, np.fmod(x, np.where(y == 0, 1, y)))
    return remainder.astype(x.dtype)


@instruction("mul", "mad")
def multiply(decoder: Decoder, one: Instruction) -> Step:
    """The lower or upper half of a product, or all of it; and a sum."""
    *how, kind = one.modifiers
    if (
        (one.name == "mul" and how and how[0] not in ("lo", "hi", "wide"))
        or not how
        or kind[0] == "f"
        or kind == "bf16"
    ):
        return floating.arithmetic(decoder, one)
    dtype, bits = TYPES[kind], raw(kind)
    wide = np.dtype(f"{dtype.kind}{min(8, 2 * dtype.itemsize)}")
    sources = [decoder.source(operand, kind) for operand in one.operands[1:3]]
    if how == ["lo"]:

        def product(x: Array, y: Array) -> Any:
            return (x.view(bits) * y.view(bits)).view(bits)

        out = bits
    elif how == ["wide"] and dtype.itemsize < 8:
        out = np.dtype(f"u{wide.itemsize}")

        def product(x: Array, y: Array) -> Any:
            return (x.view(dtype).astype(wide) * y.view(dtype).astype(wide)).view(out)

    elif how == ["hi"]:
        out = bits
        if dtype.itemsize == 8:

            def product(x: Array, y: Array) -> Any:
                return _high64(x, y, signed=dtype.kind == "i")
        else:

            def product(x: Array, y: Array) -> Any:
                both = x.view(dtype).astype(wide) * y.view(dtype).astype(wide)
                return (both >> (8 * dtype.itemsize)).astype(dtype).view(bits)
    else:
        raise one.unknown()
    target = decoder.target(one.operands[0])
    if one.name == "mul":
        return elementwise(target, sources, product)
    addend = decoder.source(one.operands[3], f"u{8 * out.itemsize}")
    return elementwise(target, [*sources, addend], lambda x, y, z: product(x, y) + z)


def _high64(x: Array, y: Array, *, signed: bool) -> Any:
    """The upper 64 bits of a product of 64 bits."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = x.view(np.uint64), y.view(np.uint64)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    other = x0 * y1 + (middle & low)
    high = x1 * y1 + (middle >> half) + (other >> half)
    if signed:
        high = high - np.where(x.view(np.int64) < 0, y, 0) - np.where(y.view(np.int64) < 0, x, 0)
    return high


# Bits


_LOGIC: dict[str, Callable[..., Any]] = {
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
}


@instruction("and", "or", "xor", "not")
def logic(decoder: Decoder, one: Instruction) -> Step:
    """Bit by bit; also of predicates."""
    kind = one.modifiers[-1]
    return elementwise(decoder.target(one.operands[0]), _sources(decoder, one, kind), _LOGIC[one.name])


@instruction("shl", "shr")
def shift(decoder: Decoder, one: Instruction) -> Step:
    """By an unsigned amount; beyond the width, nothing but zeros or copies of the sign is left."""
    kind = one.modifiers[-1]
    dtype, bits = TYPES[kind], raw(kind)
    width = 8 * dtype.itemsize
    source, amount = decoder.source(one.operands[1], kind), decoder.source(one.operands[2], "u32")
    target = decoder.target(one.operands[0])
    move = np.left_shift if one.name == "shl" else np.right_shift
    known = decoder.value(amount)
    if known is not None and known < width:
        by = dtype.type(known)
        return elementwise(target, [source], lambda x: move(x.view(dtype), by).view(bits))
    fills = one.name == "shr" and dtype.kind == "i"

    def function(x: Array, by: Array) -> Any:
        shifted = move(x.view(dtype), np.minimum(by, width - 1).astype(dtype))
        if not fills:
            shifted = np.where(by < width, shifted, dtype.type(0))
        return shifted.view(bits)

    return elementwise(target, [source, amount], function)


@instruction("bfe")
def extract_field(decoder: Decoder, one: Instruction) -> Step:
    """Some bits of a number; for signed types, the highest of them is the sign."""
    kind = one.modifiers[-1]
    dtype, bits = TYPES[kind], raw(kind)
    width = 8 * dtype.itemsize

    def function(x: Array, at: Array, length: Array) -> Any:
        at, length = (at & 0xFF).astype(np.int64), (length & 0xFF).astype(np.int64)
        wide = x.view(dtype).astype(np.int64 if dtype.kind == "i" else np.uint64)
        moved = wide >> np.minimum(at, 63).astype(wide.dtype)
        moved = np.where(at < width, moved, 0 if dtype.kind == "u" else wide >> 63)
        unused = np.clip(64 - length, 0, 63).astype(wide.dtype)
        field = (moved << unused) >> unused
        return np.where(length == 0, 0, field).astype(dtype).view(bits)

    sources = [decoder.source(one.operands[1], kind), *(decoder.source(each, "u32") for each in one.operands[2:])]
    return elementwise(decoder.target(one.operands[0]), sources, function)


@instruction("bfi")
def insert_field(decoder: Decoder, one: Instruction) -> Step:
    """Some bits of a number replaced by those of another."""
    kind = one.modifiers[-1]
    bits = raw(kind)
    width = 8 * bits.itemsize

    def function(x: Array, into: Array, at: Array, length: Array) -> Any:
        at, length = (at & 0xFF).astype(np.uint64), (length & 0xFF).astype(np.uint64)
        one_ = np.uint64(1)
        ones = np.where(length >= 64, ~np.uint64(0), (one_ << np.minimum(length, 63)) - one_)
        mask = np.where(at < width, ones << np.minimum(at, 63), 0).astype(np.uint64)
        moved = x.astype(np.uint64) << np.minimum(at, 63)
        return ((into.astype(np.uint64) & ~mask) | (moved & mask)).astype(bits)

    sources = [decoder.source(each, kind) for each in one.operands[1:3]]
    sources += [decoder.source(each, "u32") for each in one.operands[3:]]
    return elementwise(decoder.target(one.operands[0]), sources, function)


@instruction("prmt")
def permute_bytes(decoder: Decoder, one: Instruction) -> Step:
    """Four bytes chosen out of eight; with bit 3 of a selector, only the byte's sign, repeated."""
    if one.modifiers != ("b32",):
        raise one.unknown()

    def function(low: Array, high: Array, selector: Array) -> Any:
        both = low.astype(np.uint64) | (high.astype(np.uint64) << np.uint64(32))
        result: Any = np.zeros(1, np.uint32)
        for k in range(4):
            chosen = (selector >> np.uint32(4 * k)) & 0xF
            byte = (both >> ((chosen & 7) * 8).astype(np.uint64)).astype(np.uint32) & 0xFF
            byte = np.where(chosen & 8, np.where(byte & 0x80, 0xFF, 0), byte).astype(np.uint32)
            result = result | (byte << np.uint32(8 * k))
        return result

    return elementwise(decoder.target(one.operands[0]), _sources(decoder, one, "b32"), function)


@instruction("lop3")
def any_logic(decoder: Decoder, one: Instruction) -> Step:
    """Any function of three bits, by its table of eight."""
    table = decoder.value(decoder.source(one.operands[4], "b32"))
    if one.modifiers != ("b32",) or table is None:
        raise one.unknown()

    def function(x: Array, y: Array, z: Array) -> Any:
        result: Any = np.zeros(1, np.uint32)
        for k in range(8):
            if table >> k & 1:
                result = result | ((x if k & 4 else ~x) & (y if k & 2 else ~y) & (z if k & 1 else ~z))
        return result

    sources = [decoder.source(operand, "b32") for operand in one.operands[1:4]]
    return elementwise(decoder.target(one.operands[0]), sources, function)


@instruction("popc", "clz", "brev", "bfind")
def count_bits(decoder: Decoder, one: Instruction) -> Step:
    """The bits that are set, or the zeros before the first."""
    kind = one.modifiers[-1]
    width = 8 * raw(kind).itemsize

    def function(x: Array) -> Any:
        bits = np.unpackbits(np.ascontiguousarray(x).astype(f">u{width // 8}").view(np.uint8)).reshape(-1, width)
        if one.name == "popc":
            return bits.sum(axis=1).astype(np.uint32)
        return np.where(bits.any(axis=1), bits.argmax(axis=1), width).astype(np.uint32)

    if one.name not in ("popc", "clz"):
        raise one.unknown()
    return elementwise(decoder.target(one.operands[0]), _sources(decoder, one, kind), function)


# Comparisons and selections


@instruction("setp")
def compare(decoder: Decoder, one: Instruction) -> Step:
    """A predicate; two for packed types, and where predicates are joined by a bar."""
    how, *joined, kind = one.modifiers
    if joined and joined != ["ftz"]:
        raise one.unknown()
    function = comparison(one, how, kind, flushes=bool(joined))
    targets = [decoder.target(name.strip()) for name in one.operands[0].split("|")]
    first, second = (decoder.source(operand, kind) for operand in one.operands[1:])
    if len(targets) == 1:
        return elementwise(targets[0], [first, second], function)
    lower, upper = targets

    def both(machine: Machine) -> None:
        result = function(machine.registers[first], machine.registers[second])
        machine.put(lower, result[0::2])
        machine.put(upper, result[1::2])

    return both


def _chosen(x: Array, y: Array, holds: Array) -> Any:
    return np.where(holds, x, y)


@instruction("selp")
def select(decoder: Decoder, one: Instruction) -> Step:
    """One of two values, by a predicate."""
    kind = one.modifiers[-1]
    sources = [*(decoder.source(operand, kind) for operand in one.operands[1:3])]
    sources.append(decoder.source(one.operands[3], "pred"))
    return elementwise(decoder.target(one.operands[0]), sources, _chosen)


# Moves


@instruction("mov")
def move(decoder: Decoder, one: Instruction) -> Step:
    """A copy; of a register of the machine; or between a register and the parts of a vector."""
    kind = one.modifiers[-1]
    target, source = one.operands
    if target.startswith("{"):
        return _unpack(decoder, vector(target), source, kind)
    if source.startswith("{"):
        parts = vector(source)
        width = raw(kind).itemsize // len(parts)
        numbers = [decoder.source(part, f"b{8 * width}") for part in parts]
        return elementwise(decoder.target(target), numbers, lambda *values: _pack(values, raw(kind)))
    if source.startswith("%") and decoder.kernel.register_type(source) is None:
        return _special(decoder, one)
    number, to = decoder.source(source, kind), decoder.target(target)
    return lambda machine: machine.put(to, machine.registers[number])


def _pack(parts: tuple[Array, ...], dtype: Any) -> Any:
    result = parts[0].astype(dtype)
    for k, part in enumerate(parts[1:], 1):
        result = result | (part.astype(dtype) << dtype.type(8 * part.itemsize * k))
    return result


def _unpack(decoder: Decoder, targets: list[str], source: str, kind: str) -> Step:
    number = decoder.source(source, kind)
    part = np.dtype(f"u{raw(kind).itemsize // len(targets)}")
    into = [(k, decoder.target(name)) for k, name in enumerate(targets) if name != "_"]

    def step(machine: Machine) -> None:
        value = machine.registers[number]
        for k, target in into:
            machine.put(target, (value >> value.dtype.type(8 * part.itemsize * k)).astype(part))

    return step


_AXES = {"x": 0, "y": 1, "z": 2}


def _special(decoder: Decoder, one: Instruction) -> Step:
    """The numbers of a thread, a block and the grid."""
    target, (name, _, axis) = decoder.target(one.operands[0]), one.operands[1].partition(".")
    dtype = raw(one.modifiers[-1])

    def value(machine: Machine) -> Any:
        launch, lanes = machine.batch.launch, machine.lanes
        along = _AXES.get(axis, 0)
        if name == "%tid":
            return lanes.thread if along == 0 else np.zeros(1)
        if name == "%ctaid":
            index = machine.batch.block_index(along)
            return index[:1] if lanes.blocks == 1 else index
        if name == "%laneid":
            return lanes.thread % launch.warp_size
        return np.array([launch.grid[along] if name == "%nctaid" else launch.threads if along == 0 else 1])

    if name not in ("%tid", "%ctaid", "%laneid", "%nctaid", "%ntid"):
        raise one.unknown()
    return lambda machine: machine.put(target, value(machine).astype(dtype))

"""Floating-point numbers: arithmetic, comparisons and approximate functions.

A result that is nan has the bits that NVIDIA's hardware gives it, since kernels may look at bits.

The bounds of approximate functions are those of the PTX manual, in units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.emulator.arithmetic import (
    flush,
    fma,
    from_bfloat16,
    maximum,
    minimum,
    round_to_odd,
    to_bfloat16,
    two_sum,
)  # fmt: skip
from portaloss.emulator.ptx.decode import PACKED, TYPES, Decoder, elementwise, instruction, raw
from portaloss.emulator.ptx.machine import Machine, Step
from portaloss.emulator.ptx.syntax import Instruction

Array = npt.NDArray[Any]
Function = Callable[..., Any]

#: The bits of a nan that arithmetic gives.
NAN = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "f64": 0xFFF8000000000000}


def canonical(value: Array, kind: str) -> Array:
    """The bits of results, in which every nan has the bits of ``NAN``."""
    bits: Array = value.view(raw(kind))
    most = np.maximum.reduce(value)
    if most != most:
        bits = np.where(value != value, np.array(NAN[kind], bits.dtype), bits)
    return bits


def lifted(kind: str, function: Function, *, flushes: bool = False, wide: bool = False) -> Function:
    """A function of floats as one of raw bits.

    16-bit floats are computed in float32: of sums, differences and products, the second rounding is harmless. With
    ``wide``, the function takes float64 and gives a pair of a float64 and its rounding error, for fused products.
    """
    if kind in PACKED:
        kind, bits = PACKED[kind]
        each, one, whole = lifted(kind, function, flushes=flushes, wide=wide), raw(kind), np.dtype(f"u{bits // 8}")

        def packed(*values: Array) -> Array:
            return np.ascontiguousarray(each(*_parts(values, one))).view(whole)

        return packed
    if kind in ("f32", "f64"):
        dtype = TYPES[kind]
        if flushes:
            return lambda *values: canonical(flush(function(*[flush(value.view(dtype)) for value in values])), kind)
        return lambda *values: canonical(function(*[value.view(dtype) for value in values]), kind)
    if kind not in ("f16", "bf16") or flushes:
        raise NotImplementedError(kind)

    def widen(bits: Array) -> Array:
        return _widen(kind, bits)

    def narrow(result: Array) -> Array:
        if kind == "bf16":
            return to_bfloat16(result)
        return canonical(result.astype(np.float16), "f16")

    if wide:
        return lambda *values: narrow(round_to_odd(*function(*[widen(value).astype(np.float64) for value in values])))
    return lambda *values: narrow(function(*[widen(value) for value in values]))


def _parts(values: tuple[Array, ...], dtype: Any) -> list[Array]:
    """The numbers that packed values consist of, as many for each value."""
    return [np.ascontiguousarray(value).view(dtype) for value in np.broadcast_arrays(*values)]


_BINARY: dict[str, Function] = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
_SIGN: dict[str, Function] = {"neg": np.negative, "abs": np.abs}


def arithmetic(decoder: Decoder, one: Instruction) -> Step:
    """Sums, differences, products, quotients, signs, minima and maxima of floats; ``integer`` has these opcodes."""
    *how, kind = one.modifiers
    if "f32" in how:
        return _mixed(decoder, one, _BINARY, 1)
    target = decoder.target(one.operands[0])
    sources = [decoder.source(operand, kind) for operand in one.operands[1:]]
    if one.name == "div" and ("full" in how or "approx" in how):
        return _approximate_quotient(one, target, sources, how)
    flushes, nan = "ftz" in how, "NaN" in how
    # compares sizes; the result is positive if the signs are equal
    crossed = how[-2:] == ["xorsign", "abs"]
    how = how[:-2] if crossed else how
    if set(how) - {"ftz", "rn", "NaN"} or (kind not in PACKED and kind not in NAN) or (crossed and kind != "f32"):
        raise one.unknown()
    if one.name in _SIGN:
        return elementwise(target, sources, _signs(one.name, kind, flushes=flushes))
    if one.name in ("min", "max"):
        choose = minimum if one.name == "min" else maximum

        def most(x: Array, *others: Array) -> Array:
            for other in others:  # three operands, from sm_100 on
                if crossed:
                    negative = np.signbit(x) ^ np.signbit(other)
                    x = choose(np.abs(x), np.abs(other), nan=nan)
                    x = np.where(negative, -x, x)
                else:
                    x = choose(x, other, nan=nan)
            return x

        return elementwise(target, sources, lifted(kind, most, flushes=flushes))
    if one.name == "div" and "rn" not in how:
        raise one.unknown()
    return elementwise(target, sources, lifted(kind, _BINARY[one.name], flushes=flushes))


def _mixed(decoder: Decoder, one: Instruction, functions: dict[str, Function], narrow: int) -> Step:
    """A function of float32, whose first operands, ``narrow`` of them, are of 16 bits; from sm_100 on."""
    *how, wide, kind = one.modifiers
    if how not in ([], ["rn"]) or wide != "f32" or kind not in ("f16", "bf16") or one.name not in ("add", "sub", "fma"):
        raise one.unknown()
    kinds = [kind] * narrow + ["f32"]
    sources = [decoder.source(operand, each) for operand, each in zip(one.operands[1:], kinds, strict=True)]
    function = lifted("f32", functions[one.name])

    def mixed(*values: Array) -> Any:
        widened = [_widen(kind, value).view(np.uint32) for value in values[:narrow]]
        return function(*widened, values[narrow])

    return elementwise(decoder.target(one.operands[0]), sources, mixed)


def _widen(kind: str, bits: Array) -> Array:
    """The float32 of a 16-bit float's bits."""
    return from_bfloat16(bits) if kind == "bf16" else bits.view(np.float16).astype(np.float32)


def _signs(name: str, kind: str, *, flushes: bool) -> Function:
    """neg and abs change the sign's bit, also that of nan."""
    part, bits = PACKED.get(kind, (kind, 8 * raw(kind).itemsize))
    width = 8 * raw(part).itemsize
    sign = sum(1 << (k + width - 1) for k in range(0, bits, width))
    dtype = np.dtype(f"u{bits // 8}")
    flip, keep = dtype.type(sign), dtype.type(~sign & ((1 << bits) - 1))
    if flushes:
        floats = TYPES[kind]
        return lambda x: (
            (flush(x.view(floats)).view(dtype) & keep) if name == "abs" else (flush(x.view(floats)).view(dtype) ^ flip)
        )
    return (lambda x: x & keep) if name == "abs" else (lambda x: x ^ flip)


def _product_and_error(a: Array, b: Array, c: Array) -> Any:
    """The sum in float64 of an exact product and another number, and its rounding error."""
    return two_sum(a * b, c)


@instruction("fma")
def fused(decoder: Decoder, one: Instruction) -> Step:
    """A product and a sum with one rounding."""
    *how, kind = one.modifiers
    if "f32" in how:
        return _mixed(decoder, one, {"fma": fma}, 2)
    if set(how) - {"rn", "ftz"} or "rn" not in how:
        raise one.unknown()
    sources = [decoder.source(operand, kind) for operand in one.operands[1:]]
    narrow = kind in ("f16", "bf16", "f16x2", "bf16x2")
    function: Function = _product_and_error if narrow else fma
    return elementwise(
        decoder.target(one.operands[0]), sources, lifted(kind, function, flushes="ftz" in how, wide=narrow)
    )


# Comparisons


def _unordered(compare: Function) -> Function:
    """Also holds where either is nan."""
    return lambda x, y: compare(x, y) | (x != x) | (y != y)


_COMPARE: dict[str, Function] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
_FLOAT_COMPARE: dict[str, Function] = {
    **_COMPARE,
    "ne": lambda x, y: (x != y) & (x == x) & (y == y),
    "num": lambda x, y: (x == x) & (y == y),
    "nan": lambda x, y: (x != x) | (y != y),
    **{f"{name}u": _unordered(_COMPARE[name]) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
}


def comparison(one: Instruction, how: str, kind: str, *, flushes: bool = False) -> Function:
    """A comparison of raw bits of a type."""
    if kind in PACKED:
        part = PACKED[kind][0]
        each, dtype = comparison(one, how, part), raw(part)
        return lambda *values: each(*_parts(values, dtype))
    floats = kind in NAN
    function = (_FLOAT_COMPARE if floats else _COMPARE).get(how)
    if function is None or (kind not in TYPES):
        raise one.unknown()
    if kind == "bf16":
        return lambda x, y: function(from_bfloat16(x), from_bfloat16(y))
    dtype = TYPES[kind]
    if flushes:
        return lambda x, y: function(flush(x.view(dtype)), flush(y.view(dtype)))
    return lambda x, y: function(x.view(dtype), y.view(dtype))


# Approximate functions


def _approximate_quotient(one: Instruction, target: int, sources: list[int], how: list[str]) -> Step:
    """2 units for div.full and div.approx, which differ for divisors beyond 2^126."""
    x, y = sources
    flushes, kind = "ftz" in how, one.modifiers[-1]
    if kind != "f32":
        raise one.unknown()

    def step(machine: Machine) -> None:
        a, b = (machine.registers[source].view(np.float32) for source in (x, y))
        if flushes:
            a, b = flush(a), flush(b)
        exact = a.astype(np.float64) / b
        if "approx" in how:
            exact = np.where((np.abs(b) > 2.0**126) & np.isfinite(b), np.where(np.isinf(a), np.nan, exact * 0), exact)
        result = machine.model.apply(exact, 2)
        machine.put(target, canonical(flush(result) if flushes else result, kind))

    return step


@instruction("rcp", "sqrt", "rsqrt", "ex2", "lg2")
def function(decoder: Decoder, one: Instruction) -> Step:
    """Reciprocals, roots, powers of two and logarithms: rounded correctly, or approximate."""
    *how, kind = one.modifiers
    flushes = "ftz" in how
    target, source = decoder.target(one.operands[0]), decoder.source(one.operands[1], kind)
    if one.opcode == "rcp.approx.ftz.f64":
        return elementwise(target, [source], _gross_reciprocal)
    exact, bound, promised = _FUNCTIONS[one.name]
    if "rn" in how and one.name in ("rcp", "sqrt"):
        return elementwise(target, [source], lifted(kind, exact, flushes=flushes))
    if "approx" not in how or kind != "f32":
        raise one.unknown()

    def step(machine: Machine) -> None:
        value = machine.registers[source].view(np.float32)
        if flushes:
            value = flush(value)
        wide = value.astype(np.float64)
        result = machine.model.apply(exact(wide), bound, promised=promised(wide))
        machine.put(target, canonical(flush(result) if flushes else result, kind))

    return step


def _nowhere(x: Array) -> Array:
    return np.zeros(1, bool)


#: name -> the function in float64, its bound, and where the result is exact: 2^x for whole x.
_FUNCTIONS: dict[str, tuple[Function, float, Function]] = {
    "rcp": (lambda x: 1.0 / x, 1, _nowhere),
    "sqrt": (np.sqrt, 1, _nowhere),
    "rsqrt": (lambda x: 1.0 / np.sqrt(x), 2, _nowhere),
    "ex2": (np.exp2, 2, lambda x: x == np.rint(x)),
    "lg2": (np.log2, 2, lambda x: np.frexp(x)[0] == 0.5),
}


def _gross_reciprocal(x: Array) -> Array:
    """Of the upper 32 bits, to the upper 32 bits: a start for a few steps of Newton's."""
    upper = np.uint64(0xFFFFFFFF00000000)
    value = flush((x & upper).view(np.float64))
    return np.where(np.isnan(value), NAN["f64"], flush(1.0 / value).view(np.uint64) & upper).astype(np.uint64)

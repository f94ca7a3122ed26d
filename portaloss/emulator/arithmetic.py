"""Arithmetic of GPUs in NumPy, bit for bit: fused products, roundings, conversions, minima and flushed subnormals.

Functions take and give arrays of NumPy's types; 16-bit brain floats are uint16 arrays of their bits. Nothing here
warns: callers switch NumPy's warnings off (``np.errstate(all="ignore")``).

    fma(a, b, c)                       a b + c with one rounding, float32 or float64
    round_to_odd(value, error)         what makes a second rounding harmless
    narrow(x, dtype, mode)             float64 or float32 to float32 or float16, in a rounding mode
    to_bfloat16(x, mode), from_bfloat16(bits)
    to_integer(x, dtype, mode, nan=0)  saturates
    from_integer(x, dtype, mode)
    minimum(x, y, nan=False), maximum(x, y, nan=False)
    flush(x)                           subnormal numbers to zeros of their sign

Rounding modes: "n" to nearest even, "z" to zero, "m" to minus infinity, "p" to plus infinity; "o" to odd.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_SIGN64 = np.int64(-(1 << 63))


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum, and its rounding error."""
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)


def round_to_odd(value: Array, error: Array) -> Array:
    """value + error in float64, rounded to odd: truncated, with the last bit set if that was inexact.

    Args:
        value: a float64 sum, rounded to nearest.
        error: its rounding error; nan where value is not finite.
    """
    bits = np.ascontiguousarray(value).view(np.int64)
    inexact = (error != 0.0) & (error == error)
    even = (bits & 1) == 0
    # away from 0 by one step if the exact sum is beyond, else towards 0; either neighbour of an even number is odd
    outward = np.signbit(error) == np.signbit(value)
    step = np.where(inexact & even, np.where(outward, 1, -1), 0)
    rounded: Array = (bits + step).view(np.float64)
    return rounded


def fma(a: Array, b: Array, c: Array) -> Array:
    """a b + c with one rounding."""
    return _fma32(a, b, c) if a.dtype == np.float32 else _fma64(a, b, c)


_LEAST_NORMAL32 = np.float32(2.0**-126)


def _fma32(a: Array, b: Array, c: Array) -> Array:
    """In float64 the product is exact. The second rounding is harmless, but for sums next to a midpoint of floats."""
    product = a.astype(np.float64) * b
    total = product + c
    result = total.astype(np.float32)
    tie = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
    tie |= (np.abs(result) < _LEAST_NORMAL32) & (total != 0.0)
    if tie.any():
        where = np.nonzero(tie)
        wide = [np.broadcast_to(x, total.shape)[where] for x in (product, c)]
        result[where] = round_to_odd(*two_sum(wide[0], wide[1].astype(np.float64))).astype(np.float32)
    return result


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded product and its rounding error, by Dekker and Veltkamp; |a|, |b| < 2^996, and no underflow."""
    product = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _split(x: Array) -> tuple[Array, Array]:
    scaled = x * 134217729.0
    high = scaled - (scaled - x)
    return high, x - high


def _fma64(a: Array, b: Array, c: Array) -> Array:
    """The exact product is high + low, and high + c is total + error.

    rest = error + low has a relative error of 2^-53. If that cannot change the result, it is right (Ziv's test).
    """
    high, low = two_product(a, b)
    total, error = two_sum(high, c)
    rest = error + low
    result: Array = total + rest
    unsure = total + rest * (1.0 + 2.0**-50) != total + rest * (1.0 - 2.0**-50)
    unsure |= ~((np.abs(high) > 2.0**-900) & (np.abs(result) < 2.0**995))
    if unsure.any():
        where = np.nonzero(unsure)
        a, b, c = np.broadcast_arrays(a, b, c)
        result[where] = _fma64_rare(a[where], b[where], c[where])
    return result


def _sum_of_three(high: Array, low: Array, c: Array) -> Array:
    """By Boldo and Melquiond: the two lower parts are added with rounding to odd."""
    t_high, t_low = two_sum(c, low)
    v_high, v_low = two_sum(high, t_high)
    total: Array = v_high + round_to_odd(*two_sum(t_low, v_low))
    return total


def _fma64_rare(a: Array, b: Array, c: Array) -> Array:
    """Infinities, nan and zeros as they come; else scaled by powers of two; results that are subnormal by fractions."""
    result = np.where(np.isinf(c) & np.isfinite(a) & np.isfinite(b), c, a * b + c)  # an overflow is no infinity
    simple = ~np.isfinite(a) | ~np.isfinite(b) | ~np.isfinite(c) | (a == 0.0) | (b == 0.0)
    if simple.all():
        return result
    a_part, a_power = np.frexp(np.where(simple, 1.0, a))
    b_part, b_power = np.frexp(np.where(simple, 1.0, b))
    c_part, c_power = np.frexp(np.where(simple, 1.0, c))
    power = a_power + b_power
    # a term that is far smaller than the other still decides which side of a midpoint the sum is on
    gap = np.clip(c_power - power, -200, 200)
    shift = np.where(c_part == 0.0, power, np.maximum(power, c_power - 200))
    product, error = two_product(a_part, b_part)
    small = _sum_of_three(product, error, np.ldexp(c_part, gap))
    scaled = np.ldexp(small, shift)
    fine = ~simple & ((np.abs(scaled) >= 2.0**-1021) | (small == 0.0))
    result[fine] = scaled[fine]
    for k in np.flatnonzero(~simple & ~fine):
        result[k] = _exact(float(a[k]), float(b[k]), float(c[k]))
    return result


def _exact(a: float, b: float, c: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        # a subnormal is a whole multiple of 2^-1074
        whole = round(exact * 2**1074)  # Python rounds halves to even
        value = float(Fraction(whole, 2**1074)) if abs(whole) < 1 << 53 else exact.numerator / exact.denominator
    except OverflowError:
        value = float("inf") if exact > 0 else float("-inf")
    return value if value or exact >= 0 else -0.0


def flush(x: Array) -> Array:
    """Subnormal numbers become zeros of their sign."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)


# Conversions


def from_bfloat16(bits: Array) -> Array:
    """The float32 of a bfloat16's bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat16(x: Array, mode: str = "n") -> Array:
    """The bits of the bfloat16 next to a float32 or float64."""
    if x.dtype == np.float64:
        x = narrow(x, np.float32, "o" if mode == "n" else mode)
    bits = np.ascontiguousarray(x).view(np.uint32)
    if mode == "n":
        rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    else:
        up = (bits & 0xFFFF) != 0
        if mode == "z":
            up &= False
        elif mode == "m":
            up &= np.signbit(x)
        elif mode == "p":
            up &= ~np.signbit(x)
        rounded = (bits >> 16) + up
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def narrow(x: Array, dtype: Any, mode: str = "n") -> Array:
    """A float in a narrower type."""
    near = x.astype(dtype)
    if mode == "n":
        return near
    exact = near.astype(x.dtype)
    infinity = np.array(np.inf, dtype)
    over, under = exact > x, exact < x
    if mode == "z":
        over &= x > 0
        under &= x < 0
    elif mode == "m":
        under[...] = False
    elif mode == "p":
        over[...] = False
    else:  # to odd: of the two neighbours, the one with an odd last bit
        odd = (np.ascontiguousarray(near).view(f"u{near.itemsize}") & 1) == 1
        over &= ~odd
        under &= ~odd
    lower, upper = np.nextafter(near, -infinity), np.nextafter(near, infinity)
    return np.where(over, lower, np.where(under, upper, near))


def round_to_whole(x: Array, mode: str) -> Array:
    """The whole number next to a float, as a float."""
    whole: Array = {"n": np.rint, "z": np.trunc, "m": np.floor, "p": np.ceil}[mode](x)
    return whole


def to_integer(x: Array, dtype: Any, mode: str = "z", nan: int = 0) -> Array:
    """A float as an integer; the nearest integer of the type where it is out of range, and ``nan`` for nan."""
    whole = round_to_whole(x, mode)
    info = np.iinfo(dtype)
    # the largest integer of a type is no float, but one more than it is a power of two
    high, low = whole >= float(info.max // 2 + 1) * 2.0, whole <= float(info.min)
    inside = np.where(high | low | (x != x), 0, whole).astype(dtype)
    result = np.where(high, info.max, np.where(low, info.min, inside)).astype(dtype)
    return np.where(x != x, np.array(nan).astype(dtype), result)


def from_integer(x: Array, dtype: Any, mode: str = "n") -> Array:
    """An integer as a float."""
    if mode == "n" and (x.itemsize < 8 or dtype != np.float16):
        return x.astype(dtype)  # one rounding
    if x.itemsize < 8:
        return narrow(x.astype(np.float64), dtype, mode)
    wide = x.astype(np.longdouble)  # exact where it has 64 bits of fraction
    if np.finfo(np.longdouble).nmant < 63:
        raise NotImplementedError("64-bit integers need a long double of 64 bits to be rounded other than to nearest")
    return narrow(wide, dtype, mode)


# Minima and maxima


def minimum(x: Array, y: Array, *, nan: bool = False) -> Array:
    """The smaller; -0 is smaller than 0. Nan where either is nan, or with not ``nan`` only where both are."""
    least = np.minimum(x, y) if nan else np.fmin(x, y)
    return np.where((x == 0) & (y == 0), np.where(np.signbit(x), x, y), least)


def maximum(x: Array, y: Array, *, nan: bool = False) -> Array:
    """The larger, as in ``minimum``."""
    most = np.maximum(x, y) if nan else np.fmax(x, y)
    return np.where((x == 0) & (y == 0), np.where(np.signbit(x), y, x), most)

"""Arithmetic that losses share, in plain ``tl``: the same on NVIDIA, AMD and in the interpreter.

libdevice's names differ between vendors, and the interpreter has none of them.
"""

from __future__ import annotations

import struct

import triton
import triton.language as tl


def bits(number: float) -> int:
    """A float as the integer with the same 64 bits.

    Triton passes a Python float as float32, and a constexpr would compile anew for every value. As bits a float64
    arrives whole.
    """
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


@triton.jit
def number(number_bits, MATH: tl.constexpr):
    """The float that ``bits`` made, in the math dtype."""
    return number_bits.to(tl.int64).to(tl.float64, bitcast=True).to(MATH)


@triton.jit
def maximum(x, y):
    """The larger; nan where either is."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    """The smaller; nan where either is."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def exp(x):
    """exp(x) to a few units in the last place, however large x is.

    A GPU's fast float32 exponential is 2^(x log2(e)), and the product's rounding grows with x: 22 units at -30. So the
    whole powers of two go first, exactly: x = k ln(2) + r with |r| < 0.35, and exp(x) = 2^k exp(r).
    """
    if x.dtype == tl.float64:
        return tl.exp(x)
    within = minimum(maximum(x, -160.0), 160.0)
    k = tl.floor(within * 1.4426950408889634 + 0.5)
    r = (within - k * 0.693359375) - k * -2.12194440e-4  # ln(2), the first part with bits to spare for the product
    # 2^k in two steps: alone it would overflow, or underflow, before the product does
    half = tl.floor(k * 0.5)
    return (tl.exp(r) * tl.exp2(half)) * tl.exp2(k - half)


@triton.jit
def exp_difference(x, y):
    """exp(x - y), with what rounding takes from the difference (Knuth's two-sum) given back."""
    d = x - y
    added = d - x
    lost = (x - (d - added)) - (y + added)
    e = exp(d)
    return e + tl.where(lost == lost, lost, 0.0) * e


@triton.jit
def atanh_series(s, TERMS: tl.constexpr):
    """2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...), to one unit in the last place where TERMS suffice for s."""
    square = s * s
    tail = square * 0.0 + 1.0 / (2 * TERMS + 1)
    for k in tl.static_range(TERMS - 1):
        tail = tail * square + 1.0 / (2 * (TERMS - 1 - k) + 1)
    return 2.0 * s + 2.0 * s * (square * tail)


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0, to a few units in the last place.

    Up to 1/2, 2 atanh(x / (2 + x)) is a short series of positive terms. Beyond, log(1 + x) is far from 0, and what
    rounding takes from 1 + x is a small part of it, given back as a derivative.
    """
    TERMS: tl.constexpr = 13 if x.dtype == tl.float64 else 7  # (1/5)^(2 TERMS) is below half a unit
    small = x <= 0.5
    near = tl.where(small, x, 0.0)
    u = 1.0 + x
    lost = (x - (u - 1.0)) / u
    far = tl.log(u) + tl.where(lost == lost, lost, 0.0)
    return tl.where(small, atanh_series(near / (2.0 + near), TERMS), far)


@triton.jit
def log1p_negated(x):
    """-log(1 - x) for 0 <= x <= 1/2: 2 atanh(x / (2 - x))."""
    TERMS: tl.constexpr = 17 if x.dtype == tl.float64 else 8  # (1/3)^(2 TERMS) is below half a unit
    return atanh_series(x / (2.0 - x), TERMS)


@triton.jit
def step(condition, like):
    """1 where the condition holds, else 0."""
    return tl.where(condition, 1.0, 0.0).to(like.dtype)


@triton.jit
def sign(x):
    """-1, 0 or 1; 0 for nan, as the chapters have it."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def fractional_power(x, A: tl.constexpr, REST: tl.constexpr = 0.0):
    """x^A for x >= 0 and A other than 0, to a few units in the last place, however large or small x is.

    exp(A log(x)) loses as many units as the logarithm is large: hundreds, in float64. So the powers of two go apart:
    x = 2^k m with m between sqrt(1/2) and sqrt(2), and x^A = 2^(A k) m^A, of whose exponents only the fractions are
    rounded: by A/2 units at most. A k is exact in two parts. REST is what rounding took from A, as it does from 1/3.
    """
    DOUBLE: tl.constexpr = x.dtype == tl.float64
    INT: tl.constexpr = tl.int64 if DOUBLE else tl.int32
    MANTISSA: tl.constexpr = 52 if DOUBLE else 23
    ROOT: tl.constexpr = 0x3FE6A09E667F3BCD if DOUBLE else 0x3F3504F3  # the bits of sqrt(1/2)
    LEAST: tl.constexpr = 2.2250738585072014e-308 if DOUBLE else 1.1754943508222875e-38  # that is normal
    PART: tl.constexpr = int(A * 1048576.0) / 1048576.0 if DOUBLE else int(A * 2048.0) / 2048.0
    subnormal = x < LEAST
    whole = tl.where(subnormal, x * (1 << MANTISSA), x).to(x.dtype).to(INT, bitcast=True)
    power_of_two = (whole - ROOT) >> MANTISSA
    m = (whole - (power_of_two << MANTISSA)).to(x.dtype, bitcast=True)
    k = power_of_two.to(x.dtype) - tl.where(subnormal, 1.0 * MANTISSA, 0.0).to(x.dtype)
    exponent = k * PART
    n = tl.floor(exponent + 0.5)
    log_m = tl.log2(m)
    fraction = (exponent - n) + (k * (A - PART) + (log_m * A + (k + log_m) * REST))
    half = tl.floor(n * 0.5)  # in two steps, as in exp
    result = (tl.exp2(fraction) * tl.exp2(half)) * tl.exp2(n - half)
    beyond = x  # 0, inf or nan
    if A < 0.0:
        beyond = 1.0 / x
    return tl.where((x > 0.0) & (x < float("inf")), result, beyond)


@triton.jit
def power(x, EXPONENT: tl.constexpr, REST: tl.constexpr = 0.0):
    """x^EXPONENT for x >= 0 and EXPONENT other than 0. Whole powers by products and halves by a root."""
    WHOLE: tl.constexpr = int(EXPONENT // 1) if EXPONENT > 0 and EXPONENT < 16 else 0
    LEFT: tl.constexpr = EXPONENT - WHOLE
    result = x
    if WHOLE > 1:
        for _ in tl.static_range(WHOLE - 1):
            result = result * x
    if LEFT == 0.5:
        root = tl.sqrt(x)
        result = root if WHOLE == 0 else result * root
    elif LEFT != 0.0:
        part = fractional_power(x, LEFT, REST)
        result = part if WHOLE == 0 else result * part
    return result

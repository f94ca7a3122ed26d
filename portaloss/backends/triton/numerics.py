"""Arithmetic that losses share, in plain ``tl``: the same on NVIDIA and AMD.

libdevice's function names differ between vendors.
"""

from __future__ import annotations

import struct

import triton
import triton.language as tl


def bits(number: float) -> int:
    """A float as the integer with the same 64 bits.

    Triton passes a Python float as float32, and compiles a kernel again for every value of a constexpr. The bits pass a
    float64 without rounding.
    """
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


@triton.jit
def number(number_bits, MATH: tl.constexpr):
    """The float whose bits these are, in the math dtype."""
    return number_bits.to(tl.int64).to(tl.float64, bitcast=True).to(MATH)


@triton.jit
def maximum(x, y):
    """The larger; nan where either is nan."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    """The smaller; nan where either is nan."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def quotient(x, y):
    """x / y, rounded correctly: NVIDIA's own quotient of float32 is off by up to 2 units."""
    return x / y if y.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def root(x):
    """The square root, rounded correctly: NVIDIA's own of float32 is off by one unit, and 0 for subnormal numbers."""
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def times_power_of_two(x, k):
    """2^k x for a whole k (a float), exactly but for overflow and underflow.

    In two factors, in float32 made of bits: one could overflow or underflow where the result does not.
    """
    if x.dtype == tl.float64:
        half = tl.floor(k * 0.5)
        first = tl.exp2(half)
        second = tl.exp2(k - half)
    else:
        k = minimum(maximum(k, -252.0), 252.0)
        half = tl.floor(k * 0.5)
        first = ((half.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
        second = (((k - half).to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return (x * first) * second


#: 1.5 * 2^23, where float32 has a spacing of 1: a small number plus this is rounded to a whole one, in the lowest bits.
_TO_WHOLE = tl.constexpr(12582912.0)

#: log2(e) as a float32, and the rest.
_LOG2_E = tl.constexpr(1.4426950216293335)
_LOG2_E_REST = tl.constexpr(1.925963033500e-08)


@triton.jit
def _two_to(r):
    """2^r in float32 for 0 <= r <= 1: 1 + r q(r), where the polynomial q minimises the largest relative error.

    A GPU's own is off by up to 2 units, and differs between vendors.
    """
    q = tl.fma(r, 0.00021618879691231996, 0.001246600761078298)
    q = tl.fma(r, q, 0.009675665758550167)
    q = tl.fma(r, q, 0.055485162883996964)
    q = tl.fma(r, q, 0.24022933840751648)
    q = tl.fma(r, q, 0.6931470632553101)
    return tl.fma(r, q, 1.0)


@triton.jit
def _exp_of_sum(x, rest, HAS_REST: tl.constexpr):
    """exp(x + rest) in float32 to 1.7 units in the last place; 0 below the smallest normal number, whatever rest is.

    x log2(e) = k + r with a whole k and 0 <= r <= 1, by fused products and log2(e) in two parts. 2^k is made of bits.
    """
    shifted = tl.minimum(tl.fma(x, _LOG2_E, -0.5), 128.0) + _TO_WHOLE  # k in its lowest bits
    r = tl.fma(x, _LOG2_E_REST, tl.fma(x, _LOG2_E, _TO_WHOLE - shifted))
    if HAS_REST:
        r = tl.fma(rest, _LOG2_E, r)
    power = ((shifted.to(tl.int32, bitcast=True) << 23) + (127 << 23)).to(tl.float32, bitcast=True)  # 0 for k = -127
    return tl.where(x < -88.0, 0.0, _two_to(r) * power)


@triton.jit
def exp(x):
    """exp(x), to a few units in the last place however large x is."""
    return tl.exp(x) if x.dtype == tl.float64 else _exp_of_sum(x, x, False)


@triton.jit
def exp_difference(x, y):
    """exp(x - y) for x <= y, corrected for the rounding error of the difference (Knuth's two-sum)."""
    d = x - y
    added = d - x
    lost = (x - (d - added)) - (y + added)  # nan where d is -inf
    if d.dtype == tl.float64:
        e = tl.exp(d)
        result = e + tl.where(lost == lost, lost, 0.0) * e
    else:
        result = _exp_of_sum(d, lost, True)
    return result


@triton.jit
def atanh_series(s, TERMS: tl.constexpr):
    """2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...), to one unit in the last place if TERMS are enough for s."""
    return 2.0 * s + 2.0 * s * _atanh_tail(s, TERMS)


@triton.jit
def _atanh_tail(s, TERMS: tl.constexpr):
    """s^2/3 + s^4/5 + ..."""
    square = s * s
    tail = square * 0.0 + 1.0 / (2 * TERMS + 1)
    for k in tl.static_range(TERMS - 1):
        tail = tail * square + 1.0 / (2 * (TERMS - 1 - k) + 1)
    return square * tail


@triton.jit
def _log_of_sum(u, rest):
    """log(u + rest) in float32 for u > 0, to one unit in the last place; rest is at most half a unit of u.

    u = 2^k m with m between sqrt(1/2) and sqrt(2), and log m is 2 atanh(s) with s = (m - 1) / (m + 1). The numerator
    is exact, rest included where k = 0; the rounding error of m + 1 is corrected to first order. A GPU's own log is off
    by up to 2.5 units.
    """
    subnormal = u < 1.1754943508222875e-38
    bits = tl.where(subnormal, u * 8388608.0, u).to(tl.int32, bitcast=True)
    power_of_two = (bits - 0x3F3504F3) >> 23
    m = (bits - (power_of_two << 23)).to(tl.float32, bitcast=True)
    k = power_of_two.to(tl.float32) - tl.where(subnormal, 23.0, 0.0)
    rest = rest * (tl.maximum(127 - power_of_two, 0) << 23).to(tl.float32, bitcast=True)  # times 2^-k
    below = m + 1.0
    s = tl.div_rn((m - 1.0) + rest, below)
    lost = (m - (below - 1.0)) + rest
    tail = _atanh_tail(s, 5) - lost * (0.5 - 0.5 * s)  # (1 - s) / 2 is 1 / (m + 1)
    result = k * 0.693359375 + (2.0 * s + (2.0 * s * tail + k * -2.12194440e-4))  # ln(2) in two parts, as in exp
    return tl.where(u < float("inf"), result, u)


@triton.jit
def log(x):
    """log(x), to one unit in the last place."""
    if x.dtype == tl.float64:
        result = tl.log(x)
    else:
        result = _log_of_sum(x, 0.0 * x)
        result = tl.where(x > 0.0, result, tl.where(x == 0.0, float("-inf"), float("nan")))
    return result


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0, to a few units in the last place.

    In float64, up to 1/2 it is 2 atanh(x / (2 + x)), a short series of positive terms. Beyond, log(1 + x) is far from
    0, and the rounding error of 1 + x is corrected to first order.
    """
    u = 1.0 + x
    lost = x - (u - 1.0)
    lost = tl.where(lost == lost, lost, 0.0)
    if x.dtype == tl.float64:
        small = x <= 0.5
        near = tl.where(small, x, 0.0)
        # (1/5)^26 is below half a unit
        result = tl.where(small, atanh_series(near / (2.0 + near), 13), tl.log(u) + lost / u)
    else:
        result = _log_of_sum(u, lost)
    return result


@triton.jit
def log_odds(m):
    """log((1 - m) / m) for 0 <= m <= 1/2, to a few units in the last place.

    From 2/5 on it is 2 atanh(1 - 2 m), where the difference is exact. Below, it is the log1p of (1 - 2 m) / m.
    """
    TERMS: tl.constexpr = 13 if m.dtype == tl.float64 else 7  # (1/5)^(2 TERMS) is below half a unit
    apart = 1.0 - 2.0 * m
    small = apart <= 0.2
    return tl.where(small, atanh_series(tl.where(small, apart, 0.0), TERMS), log1p(quotient(apart, m)))


@triton.jit
def log1p_negated(x):
    """-log(1 - x) for 0 <= x <= 1/2: in float64, 2 atanh(x / (2 - x))."""
    if x.dtype == tl.float64:
        result = atanh_series(x / (2.0 - x), 17)  # (1/3)^34 is below half a unit
    else:
        u = 1.0 - x
        result = -_log_of_sum(u, (1.0 - u) - x)
    return result


@triton.jit
def step(condition, like):
    """1 where the condition holds, else 0."""
    return tl.where(condition, 1.0, 0.0).to(like.dtype)


@triton.jit
def sign(x):
    """-1, 0 or 1; 0 for nan, as in the chapters."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def fractional_power(x, A: tl.constexpr, REST: tl.constexpr = 0.0):
    """x^A for x >= 0 and A other than 0, to a few units in the last place, however large or small x is.

    The error of exp(A log(x)) grows with the logarithm, to hundreds of units in float64. So powers of two are split
    off: x = 2^k m with m between sqrt(1/2) and sqrt(2), and x^A = 2^(A k) m^A. Only the fractional parts of the
    exponents are rounded, with an error of at most A/2 units; A k is exact in two parts. REST is the rounding error of
    A, such as that of 1/3.
    """
    DOUBLE: tl.constexpr = x.dtype == tl.float64
    INT: tl.constexpr = tl.int64 if DOUBLE else tl.int32
    MANTISSA: tl.constexpr = 52 if DOUBLE else 23
    ROOT: tl.constexpr = 0x3FE6A09E667F3BCD if DOUBLE else 0x3F3504F3  # the bits of sqrt(1/2)
    LEAST: tl.constexpr = 2.2250738585072014e-308 if DOUBLE else 1.1754943508222875e-38  # the smallest normal number
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
    if DOUBLE:
        power = tl.exp2(fraction)
    else:
        whole_part = tl.floor(fraction)
        power = _two_to(fraction - whole_part)
        n += whole_part
    result = times_power_of_two(power, tl.where(n == n, n, 0.0))
    beyond = x  # 0, inf or nan
    if A < 0.0:
        beyond = quotient(1.0, x)
    return tl.where((x > 0.0) & (x < float("inf")), result, beyond)


@triton.jit
def power(x, EXPONENT: tl.constexpr, REST: tl.constexpr = 0.0):
    """x^EXPONENT for x >= 0 and EXPONENT other than 0: products for whole powers, a square root for a half."""
    WHOLE: tl.constexpr = int(EXPONENT // 1) if EXPONENT > 0 and EXPONENT < 16 else 0
    LEFT: tl.constexpr = EXPONENT - WHOLE
    result = x
    if WHOLE > 1:
        for _ in tl.static_range(WHOLE - 1):
            result = result * x
    if LEFT == 0.5:
        half = root(x)
        result = half if WHOLE == 0 else result * half
    elif LEFT != 0.0:
        part = fractional_power(x, LEFT, REST)
        result = part if WHOLE == 0 else result * part
    return result

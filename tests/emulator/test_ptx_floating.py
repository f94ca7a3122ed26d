"""Floats of PTX: exact operations against fractions or a wider type, approximate ones against the manual's bounds."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from portaloss.emulator.models import MODELS

from .ptx_machine import compute, floats, same

F = np.float32
WORD = {np.float16: np.uint16, np.float32: np.uint32, np.float64: np.uint64}
KINDS = {"f32": np.float32, "f64": np.float64}


def rounded(exact: Fraction, dtype: Any) -> float:
    """The float next to a fraction, ties to even: the fraction as a whole multiple of the result's unit."""
    least, most, bits = (-126, 128, 7) if dtype == "bf16" else _limits(dtype)
    if exact == 0:
        return 0.0
    size = abs(exact)
    power = max(size.numerator.bit_length() - size.denominator.bit_length(), least)
    while Fraction(2) ** power > size and power > least:
        power -= 1
    unit = Fraction(2) ** (power - bits)
    whole = round(size / unit)
    if whole * unit >= Fraction(2) ** most:
        return float("inf") if exact > 0 else float("-inf")
    return float(whole * unit) * (1 if exact > 0 else -1)


def _limits(dtype: Any) -> tuple[int, int, int]:
    """The exponents of the least normal number and of what is too large, and the bits of a fraction."""
    info = np.finfo(dtype)
    return int(info.minexp), int(info.maxexp), int(info.nmant)


def bfloat(x: Any) -> Any:
    """The bits of bfloat16 of float32 values, by cutting."""
    return (np.ascontiguousarray(x, F).view(np.uint32) >> 16).astype(np.uint16)


def wide(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(F)


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic(kind: str) -> None:
    dtype = KINDS[kind]
    more = np.float64 if kind == "f32" else np.longdouble
    x, y = floats(dtype, seed=1), floats(dtype, seed=2)
    with np.errstate(all="ignore"):
        for name, function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div.rn", np.divide)):
            # for float32, a second rounding is harmless: float64 has more than twice the bits
            expected = function(x.astype(more), y.astype(more)) if kind == "f32" else function(x, y)
            got = compute(f"{name}.{kind} %out, %a, %b;", x, y, out=dtype)
            assert same(got, expected.astype(dtype)), name
        assert same(compute(f"sqrt.rn.{kind} %out, %a;", x, out=dtype), np.sqrt(x))
        assert same(compute(f"rcp.rn.{kind} %out, %a;", x, out=dtype), 1 / x)
    for name in ("add", "mul"):  # every nan is the one that NVIDIA gives
        got = compute(f"{name}.{kind} %out, %a, %b;", x, y, out=WORD[dtype])
        nan = got[got.view(dtype) != got.view(dtype)]
        assert len(nan)
        assert set(nan.tolist()) == {0x7FFFFFFF if kind == "f32" else 0xFFF8000000000000}


@pytest.mark.parametrize("kind", KINDS)
def test_fused_products_are_rounded_once(kind: str) -> None:
    dtype = KINDS[kind]
    x, y, z = (floats(dtype, 1024, seed) for seed in (3, 4, 5))
    with np.errstate(all="ignore"):
        # sums that cancel, where two roundings would show
        z[::2] = -(x[::2] * y[::2])
        got = compute(f"fma.rn.{kind} %out, %a, %b, %c;", x, y, z, out=dtype)
        finite = np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
        exact = [Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)) for a, b, c in
                 zip(x[finite], y[finite], z[finite], strict=True)]  # fmt: skip
        expected = np.array([rounded(each, dtype) for each in exact])
        nonzero = np.array([each != 0 for each in exact])
        assert nonzero.sum() > 300
        assert same(got[finite][nonzero], expected[nonzero].astype(dtype))
        assert (got[finite][~nonzero] == 0).all()
        product = np.where(np.isfinite(x) & np.isfinite(y), 0, x * y)  # one that overflows is still finite
        assert same(got[~finite], (product + z)[~finite])


def test_16_bits_and_packed_types() -> None:
    x, y, z = (floats(np.float16, seed=seed) for seed in (6, 7, 8))
    a, b = bfloat(floats(F, seed=9)), bfloat(floats(F, seed=10))
    with np.errstate(all="ignore"):
        for name, function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply)):
            expected = function(x.astype(np.float64), y.astype(np.float64)).astype(np.float16)
            assert same(compute(f"{name}.f16 %out, %a, %b;", x, y, out=np.float16), expected), name
            pairs = compute(f"{name}.f16x2 %out, %a, %b;", x.view(np.uint32), y.view(np.uint32), out=np.uint32)
            assert same(pairs.view(np.float16), expected), name
            got = wide(compute(f"{name}.bf16 %out, %a, %b;", a, b, out=np.uint16))
            for one, left, right in zip(got[:1000], wide(a), wide(b), strict=False):
                if np.isfinite(left) and np.isfinite(right):
                    exact = function(Fraction(float(left)), Fraction(float(right)))
                    assert float(one) == rounded(exact, "bf16")
                else:
                    assert same(one, function(left, right))
        got = compute("fma.rn.f16 %out, %a, %b, %c;", x[:512], y[:512], z[:512], out=np.float16)
        finite = np.isfinite(x[:512]) & np.isfinite(y[:512]) & np.isfinite(z[:512])
        for k in np.flatnonzero(finite):
            exact_one = Fraction(float(x[k])) * Fraction(float(y[k])) + Fraction(float(z[k]))
            assert float(got[k]) == rounded(exact_one, np.float16)


def test_a_narrow_and_a_wide_operand() -> None:
    x, y, z = floats(np.float16, seed=22), floats(np.float16, seed=23), floats(F, seed=24)
    a, b = bfloat(floats(F, seed=25)), bfloat(floats(F, seed=26))
    with np.errstate(all="ignore"):
        for kind, first, second, left, right in (
            ("f16", x, y, x.astype(F), y.astype(F)),
            ("bf16", a, b, wide(a), wide(b)),
        ):
            assert same(compute(f"add.rn.f32.{kind} %out, %a, %b;", first, z, out=F), left + z)
            assert same(compute(f"sub.rn.f32.{kind} %out, %a, %b;", first, z, out=F), left - z)
            got = compute(f"fma.rn.f32.{kind} %out, %a, %b, %c;", first, second, z, out=F)
            assert same(got, compute("fma.rn.f32 %out, %a, %b, %c;", left, right, z, out=F))


def test_pairs_of_float32_and_three_operands() -> None:
    x, y, z = (floats(F, seed=seed) for seed in (11, 12, 13))
    words = [each.view(np.uint64) for each in (x, y, z)]
    with np.errstate(all="ignore"):
        for name, function in (("add.rn", np.add), ("mul.rn", np.multiply)):
            got = compute(f"{name}.f32x2 %out, %a, %b;", *words[:2], out=np.uint64)
            assert same(got.view(F), function(x, y)), name
        got = compute("fma.rn.f32x2 %out, %a, %b, %c;", *words, out=np.uint64)
        assert same(got.view(F), compute("fma.rn.f32 %out, %a, %b, %c;", x, y, z, out=F))
        assert same(compute("max.NaN.f32 %out, %a, %b, %c;", x, y, z, out=F) + 0, np.maximum(np.maximum(x, y), z) + 0)
        assert same(compute("max.f32 %out, %a, %b, %c;", x, y, z, out=F) + 0, np.fmax(np.fmax(x, y), z) + 0)


@pytest.mark.parametrize("kind", KINDS)
def test_minima_signs_and_flushed_numbers(kind: str) -> None:
    dtype = KINDS[kind]
    x, y = floats(dtype, seed=14), floats(dtype, seed=15)
    nan = (x != x) | (y != y)
    for name, less in (("min", True), ("max", False)):
        got = compute(f"{name}.{kind} %out, %a, %b;", x, y, out=dtype)
        first = np.where(x == y, np.signbit(x) == less, (x < y) == less)  # -0 is less than 0
        expected = np.where(x != x, y, np.where(y != y, x, np.where(first, x, y)))
        assert same(got, expected), name
        if kind == "f32":
            got = compute(f"{name}.NaN.{kind} %out, %a, %b;", x, y, out=dtype)
            assert same(got, np.where(nan, np.nan, expected)), name
            got = compute(f"{name}.xorsign.abs.{kind} %out, %a, %b;", x, y, out=dtype)
            sizes = (np.fmin if name == "min" else np.fmax)(np.abs(x), np.abs(y))
            assert same(got, np.copysign(sizes, np.where(np.signbit(x) == np.signbit(y), F(1), F(-1)))), name
    word = WORD[dtype]
    top = word(1 << (8 * x.itemsize - 1))
    bits = x.view(word)
    assert (compute(f"neg.{kind} %out, %a;", x, out=word) == bits ^ top).all()
    assert (compute(f"abs.{kind} %out, %a;", x, out=word) == bits & ~top).all()
    if kind == "f32":
        tiny = np.finfo(F).tiny
        zeroed = np.where(np.abs(x) < tiny, np.copysign(F(0), x), x)
        with np.errstate(all="ignore"):
            sums = zeroed + F(0.0)
            got = compute("add.ftz.f32 %out, %a, 0f00000000;", x, out=F)
            assert same(got, sums)
            assert (got != compute("add.f32 %out, %a, 0f00000000;", x, out=F)).sum() > (x != x).sum() + 10


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_comparisons(kind: str) -> None:
    dtype = {**KINDS, "f16": np.float16, "bf16": F}[kind]
    x, y = floats(dtype, seed=16), floats(dtype, seed=17)
    y[:200] = x[:200]
    a, b = x, y
    if kind == "bf16":
        a, b = bfloat(x), bfloat(y)
        x, y = wide(a), wide(b)
    nan = (x != x) | (y != y)
    table = {"eq": x == y, "ne": (x != y) & ~nan, "lt": x < y, "le": x <= y, "gt": x > y, "ge": x >= y}
    table |= {f"{name}u": holds | nan for name, holds in table.items()}
    table |= {"num": ~nan, "nan": nan}
    for name, holds in table.items():
        got = compute(f"setp.{name}.{kind} %p1, %a, %b; selp.b32 %out, 1, 0, %p1;", a, b, out=np.uint32)
        assert (got == holds).all(), name
    if kind in ("f16", "bf16"):
        code = f"setp.lt.{kind}x2 %p1|%p2, %a, %b; selp.b32 %r1, 1, 0, %p1; selp.b32 %r2, 2, 0, %p2;"
        code += "or.b32 %out, %r1, %r2;"
        got = compute(code, a.view(np.uint32), b.view(np.uint32), out=np.uint32)
        assert (got == (x < y)[0::2] + 2 * (x < y)[1::2]).all()


#: instruction -> the function, and the manual's bound in units in the last place.
APPROXIMATE: dict[str, tuple[Any, float]] = {
    "ex2.approx.f32": (np.exp2, 2),
    "ex2.approx.ftz.f32": (np.exp2, 2),
    "rcp.approx.f32": (lambda x: 1 / x, 1),
    "sqrt.approx.f32": (np.sqrt, 1),
    "sqrt.approx.ftz.f32": (np.sqrt, 1),
    "rsqrt.approx.f32": (lambda x: 1 / np.sqrt(x), 2),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximate_functions_stay_within_the_bound(name: str) -> None:
    function, bound = APPROXIMATE[name]
    x = floats(F, seed=18)
    tiny = float(np.finfo(F).tiny)
    given = np.where(np.abs(x) < tiny, np.copysign(F(0), x), x) if ".ftz" in name else x
    with np.errstate(all="ignore"):
        exact = function(given.astype(np.float64))
        near = exact.astype(F)
        unit = np.ldexp(1.0, np.maximum(np.frexp(exact)[1] - 1, -126) - 23)
        seen = []
        for model in MODELS:
            got = compute(f"{name} %out, %a;", x, out=F, model=model)
            finite = np.isfinite(near)
            if ".ftz" in name:
                assert not ((got != 0) & (np.abs(got) < tiny)).any()
                finite &= np.abs(exact) >= 2 * tiny
            else:
                assert same(got[~finite], near[~finite])
            error = (got.astype(np.float64) - exact)[finite] / unit[finite]
            assert (np.abs(error) <= bound * (1 + 2.0**-20)).all(), model  # float64 has rounded the exact value
            if model != "exact":
                assert np.abs(error).max() > 0.6 * bound, model
            seen.append(got)
        assert all(not same(seen[0], each) for each in seen[1:])


def test_approximate_quotients_and_logarithms() -> None:
    x, y = floats(F, seed=19), floats(F, seed=20)
    with np.errstate(all="ignore"):
        exact = x.astype(np.float64) / y
        assert same(compute("div.full.f32 %out, %a, %b;", x, y, out=F), exact.astype(F))
        high, low = (compute("div.full.f32 %out, %a, %b;", x, y, out=F, model=each) for each in ("high", "low"))
        usual = np.isfinite(exact) & (np.abs(exact) < 1e38) & (np.abs(exact) > 1e-30)
        assert (high[usual] >= exact[usual]).all()
        assert (low[usual] <= exact[usual]).all()
        assert (np.abs(high / exact - 1)[usual] <= 2.0**-22).all()
        assert (np.abs(low / exact - 1)[usual] <= 2.0**-22).all()
        logarithm = compute("lg2.approx.f32 %out, %a;", x, out=F)
        assert same(logarithm, np.log2(x.astype(np.float64)).astype(F))


def test_a_gross_reciprocal_has_20_bits() -> None:
    x = floats(np.float64, seed=21)
    got = compute("rcp.approx.ftz.f64 %out, %a;", x, out=np.float64)
    with np.errstate(all="ignore"):
        usual = np.isfinite(x) & (np.abs(x) > 1e-300) & (np.abs(x) < 1e300)
        assert (np.abs(got * x - 1)[usual] < 2.0**-19).all()
    assert (got[usual].view(np.uint64) & np.uint64(0xFFFFFFFF) == 0).all()
    assert np.isnan(got[np.isnan(x)]).all()
    assert (np.abs(got[np.isinf(x)]) == 0).all()
    assert np.isinf(got[np.abs(x) < np.finfo(np.float64).tiny]).all()

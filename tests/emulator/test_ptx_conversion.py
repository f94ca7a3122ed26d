"""Conversions of PTX in all rounding modes, against fractions and Python's integers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from .ptx_machine import compute, floats, same

F = np.float32


def neighbours(exact: Fraction, near: Any) -> tuple[Any, Any]:
    """The floats below and above a number, or twice itself, from one that is next to it."""
    dtype = near.dtype.type
    value = Fraction(float(near)) if np.isfinite(near) else None
    if value == exact:
        return near, near
    below = (value is None and near > 0) or (value is not None and value > exact)
    with np.errstate(over="ignore"):
        other = np.nextafter(near, dtype(-np.inf if below else np.inf))
    return (other, near) if below else (near, other)


@pytest.mark.parametrize(("to", "dtype", "source", "wide"), [
    ("f16", np.float16, "f32", np.float32),
    ("f32", np.float32, "f64", np.float64),
    ("f16", np.float16, "f64", np.float64),
])  # fmt: skip
def test_narrower_floats(to: str, dtype: Any, source: str, wide: Any) -> None:
    with np.errstate(all="ignore"):
        x = np.concatenate([floats(wide, 512, 1), floats(dtype, 512, 2).astype(wide) * wide(1.0001)])
        nearest = x.astype(dtype)
    assert same(compute(f"cvt.rn.{to}.{source} %out, %a;", x, out=dtype), nearest)
    finite = np.flatnonzero(np.isfinite(x) & (x != 0))
    for mode in ("rz", "rm", "rp"):
        got = compute(f"cvt.{mode}.{to}.{source} %out, %a;", x, out=dtype)
        for k in finite:
            low, high = neighbours(Fraction(float(x[k])), nearest[k])
            expected = low if mode == "rm" or (mode == "rz" and x[k] > 0) else high
            assert got[k] == expected, (mode, x[k])


def test_bfloat16() -> None:
    x = floats(F, 2048, 3)
    bits = x.view(np.uint32)
    nan = x != x
    cut = bits >> 16
    rest = bits & 0xFFFF
    up = (rest > 0x8000) | ((rest == 0x8000) & (cut & 1 == 1))
    got = compute("cvt.rn.bf16.f32 %out, %a;", x, out=np.uint16)
    assert (got == np.where(nan, 0x7FFF, cut + up)).all()
    got = compute("cvt.rz.bf16.f32 %out, %a;", x, out=np.uint16)
    assert (got == np.where(nan, 0x7FFF, cut)).all()
    assert same(compute("cvt.f32.bf16 %out, %a;", got, out=F), (got.astype(np.uint32) << 16).view(F))
    y = floats(F, 2048, 4)
    pair = compute("cvt.rn.bf16x2.f32 %out, %a, %b;", x, y, out=np.uint32)
    assert (pair >> 16 == compute("cvt.rn.bf16.f32 %out, %a;", x, out=np.uint16)).all()
    assert (pair & 0xFFFF == compute("cvt.rn.bf16.f32 %out, %a;", y, out=np.uint16)).all()
    half = floats(np.float16, 2048, 5)
    assert same(compute("cvt.f32.f16 %out, %a;", half, out=F), [float(each) for each in half])


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_whole_numbers(kind: str) -> None:
    dtype = np.float32 if kind == "f32" else np.float64
    generator = np.random.default_rng(7)
    x = np.concatenate([floats(dtype, 1024, 6), generator.integers(-40, 40, 256).astype(dtype) / 4])
    for mode, function in ROUND.items():
        got = compute(f"cvt.{mode}.{kind}.{kind} %out, %a;", x, out=dtype)
        for value, result in zip(x.tolist(), got.tolist(), strict=True):
            whole = math.copysign(float(function(value)), value) if math.isfinite(value) else value
            assert result == whole or (value != value and result != result), (mode, value)
            assert value != value or math.copysign(1, result) == math.copysign(1, value)
    if kind == "f32":  # a subnormal number that is flushed is not rounded down to -1
        tiny = np.array([-1e-40, -1e-37], F)
        assert compute("cvt.rmi.ftz.f32.f32 %out, %a;", tiny, out=F).tolist() == [0, -1]
        assert same(compute("cvt.f64.f32 %out, %a;", x, out=np.float64), [float(each) for each in x])


INTEGERS = {"s16": np.int16, "u16": np.uint16, "s32": np.int32, "u32": np.uint32, "s64": np.int64, "u64": np.uint64}
ROUND: dict[str, Any] = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


@pytest.mark.parametrize("source", ["f32", "f64"])
@pytest.mark.parametrize("to", INTEGERS)
def test_floats_to_integers(to: str, source: str) -> None:
    dtype = INTEGERS[to]
    info = np.iinfo(dtype)
    wide = np.float32 if source == "f32" else np.float64
    generator = np.random.default_rng(5)
    x = np.concatenate([
        floats(wide, 256, 5), generator.normal(size=256) * 2.0 ** generator.integers(0, 66, 256),
        [info.max, info.min, 0.5, 1.5, -0.5, -1.5],
    ]).astype(wide)  # fmt: skip
    for mode, function in ROUND.items():
        got = compute(f"cvt.{mode}.{to}.{source} %out, %a;", x, out=dtype)
        for value, result in zip(x.tolist(), got.tolist(), strict=True):
            if value == value and not math.isinf(value):
                assert result == min(max(function(value), info.min), info.max), (mode, value)
            elif value == value:
                assert result == (info.max if value > 0 else info.min)
            elif info.bits < 64:
                assert result == 0


@pytest.mark.parametrize("source", INTEGERS)
def test_integers_to_floats_and_integers(source: str) -> None:
    dtype = INTEGERS[source]
    info = np.iinfo(dtype)
    x = np.random.default_rng(6).integers(info.min, info.max, 512, dtype=dtype, endpoint=True)
    for to, wide in (("f32", np.float32), ("f64", np.float64)):
        got = compute(f"cvt.rn.{to}.{source} %out, %a;", x, out=wide)
        for value, result in zip(x.tolist(), got, strict=True):
            # correctly rounded: no neighbour is nearer, and in a tie the last bit is 0
            error = abs(Fraction(float(result)) - value)
            for other in (np.nextafter(result, wide(-np.inf)), np.nextafter(result, wide(np.inf))):
                away = abs(Fraction(float(other)) - value)
                assert error < away or (error == away and result.view(f"u{result.itemsize}") & 1 == 0)
        down = compute(f"cvt.rz.{to}.{source} %out, %a;", x, out=wide)
        for value, result in zip(x.tolist(), down, strict=True):
            beyond = np.nextafter(result, wide(np.copysign(np.inf, value)))
            assert abs(Fraction(float(result))) <= abs(value) < abs(Fraction(float(beyond)))
    for to, other in INTEGERS.items():
        whole = 1 << np.iinfo(other).bits
        got = compute(f"cvt.{to}.{source} %out, %a;", x, out=other)
        least = int(np.iinfo(other).min)
        assert got.tolist() == [(value - least) % whole + least for value in x.tolist()], to

"""Divisions, by the sequence of instructions that the compiler emits: the correctly rounded quotient, always."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .amd_machine import execute, vector

DIVIDE32 = """
v_div_scale_f32 v3, s[4:5], v2, v2, v1
v_rcp_f32_e32 v4, v3
v_div_scale_f32 v5, vcc, v1, v2, v1
v_fma_f32 v6, -v3, v4, 1.0
v_fmac_f32_e32 v4, v6, v4
v_mul_f32_e32 v6, v5, v4
v_fma_f32 v7, -v3, v6, v5
v_fmac_f32_e32 v6, v7, v4
v_fma_f32 v3, -v3, v6, v5
v_div_fmas_f32 v3, v3, v4, v6
v_div_fixup_f32 v20, v3, v2, v1
"""

DIVIDE64 = """
v_div_scale_f64 v[6:7], s[4:5], v[4:5], v[4:5], v[2:3]
v_rcp_f64_e32 v[8:9], v[6:7]
v_fma_f64 v[10:11], -v[6:7], v[8:9], 1.0
v_fmac_f64_e32 v[8:9], v[8:9], v[10:11]
v_fma_f64 v[10:11], -v[6:7], v[8:9], 1.0
v_fmac_f64_e32 v[8:9], v[8:9], v[10:11]
v_div_scale_f64 v[10:11], vcc, v[2:3], v[4:5], v[2:3]
v_mul_f64 v[12:13], v[10:11], v[8:9]
v_fma_f64 v[6:7], -v[6:7], v[12:13], v[10:11]
v_div_fmas_f64 v[6:7], v[6:7], v[8:9], v[12:13]
v_div_fixup_f64 v[20:21], v[6:7], v[4:5], v[2:3]
"""

MODELS = ["exact", "high", "low", "random"]


def operands(dtype: Any, lowest: int, highest: int, seed: int) -> tuple[Any, Any]:
    """Random numbers with exponents over the whole range, and special ones."""
    rng = np.random.default_rng(seed)
    count = 4096
    pair = []
    for _ in range(2):
        fraction = (1 + rng.random(count)) * rng.choice([-1, 1], count)
        values = np.ldexp(fraction, rng.integers(lowest, highest, count)).astype(dtype)
        pair.append(values)
    special = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, np.finfo(dtype).tiny, np.finfo(dtype).max], dtype)
    x, y = np.meshgrid(special, special)
    pair[0][: x.size], pair[1][: x.size] = x.ravel(), y.ravel()
    return pair[0], pair[1]


def check(result: Any, expected: Any) -> None:
    equal = (result == expected) & (np.signbit(result) == np.signbit(expected))
    equal |= np.isnan(result) & np.isnan(expected)
    assert equal.all(), (result[~equal][:3], expected[~equal][:3])


@pytest.mark.parametrize("model", MODELS)
def test_quotients_of_32_bits_are_correctly_rounded(model: str) -> None:
    n, d = operands(np.float32, -149, 127, 1)
    with np.errstate(all="ignore"):
        expected = n / d
    check(vector(execute(DIVIDE32, {1: n, 2: d}, model=model), 20, np.float32), expected)


@pytest.mark.parametrize("model", MODELS)
def test_quotients_of_64_bits_are_correctly_rounded(model: str) -> None:
    n, d = operands(np.float64, -1022, 1023, 2)
    with np.errstate(all="ignore"):
        expected = n / d
    normal = ~((np.abs(expected) < np.finfo(np.float64).tiny) & (expected != 0))
    result = vector(execute(DIVIDE64, {2: n, 4: d}, model=model), 20, np.float64)
    check(result[normal], expected[normal])
    # a subnormal quotient is rounded twice, here as on the hardware: one unit at most
    assert np.abs(result[~normal] - expected[~normal]).max() <= 5e-324


def test_operands_that_need_no_scaling_are_not_scaled() -> None:
    x = np.float32(3)
    waves = execute("v_div_scale_f32 v3, vcc, v2, v2, v1", {1: x, 2: np.float32(5)})
    assert vector(waves, 3, np.float32)[0] == 5
    assert not waves.mask(106).any()
    waves = execute("v_div_scale_f32 v3, vcc, v1, v2, v1", {1: np.float32(1e-30), 2: np.float32(1e10)})
    assert vector(waves, 3, np.float32)[0] == np.float32(1e-30) * np.float32(2.0**64)
    assert waves.mask(106).all()

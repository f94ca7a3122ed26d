"""Vector instructions of AMD against NumPy, on random, special and subnormal values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .amd_machine import execute, vector

RNG = np.random.default_rng(0)
LANES = 256

SPECIAL32 = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, 1.5, 2.5, -0.5],
    np.float32,
)
SPECIAL64 = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 2.2e-308, 1.7e308, 1.5, 2.5, -0.5], np.float64
)


def floats(dtype: Any, count: int = LANES) -> Any:
    """Random bits (so that all exponents occur), ordinary numbers, and special ones at the beginning."""
    bits = RNG.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), count, dtype=f"u{np.dtype(dtype).itemsize}").view(dtype)
    values = np.where(RNG.random(count) < 0.5, bits, RNG.standard_normal(count).astype(dtype))
    special = SPECIAL32 if dtype == np.float32 else SPECIAL64
    values[: len(special)] = special
    values[50 : 50 + len(special)] = special
    return values


def bits32() -> Any:
    values = RNG.integers(0, 2**32, LANES, dtype=np.uint32)
    values[:8] = [0, 1, 31, 32, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 255]
    return values


def shuffled(values: Any) -> Any:
    return values[np.random.default_rng(7).permutation(len(values))]


def same(result: Any, expected: Any) -> None:
    """Equal bits, but for what a nan holds."""
    expected = np.broadcast_to(expected, result.shape).astype(result.dtype)
    size = result.dtype.itemsize
    equal = result.view(f"u{size}") == np.ascontiguousarray(expected).view(f"u{size}")
    if result.dtype.kind == "f":
        equal |= np.isnan(result) & np.isnan(expected)
    where = np.flatnonzero(~equal)
    assert not len(where), (result[where[:3]], expected[where[:3]])


def python(function: Any) -> Any:
    """A function of Python integers, applied to each lane."""
    return lambda *arrays: np.array(
        [function(*map(int, row)) & 0xFFFFFFFF for row in zip(*arrays, strict=True)], np.uint32
    )


def signed(x: int, bits: int = 32) -> int:
    x &= (1 << bits) - 1
    return x - (x >> bits - 1 << bits)


def _perm(a: int, b: int, selector: int) -> int:
    both, result = a << 32 | b, 0
    for k in range(4):
        choice = selector >> 8 * k & 255
        if choice < 8:
            byte = both >> 8 * choice & 255
        elif choice < 12:
            byte = 255 * (both >> 16 * (choice - 8) + 15 & 1)
        else:
            byte = 0 if choice == 12 else 255
        result |= byte << 8 * k
    return result


INTEGERS = {
    "v_add_u32_e32 v4, v1, v2": lambda a, b, c: a + b,
    "v_sub_u32_e32 v4, v1, v2": lambda a, b, c: a - b,
    "v_subrev_u32_e32 v4, v1, v2": lambda a, b, c: b - a,
    "v_sub_u32_e64 v4, v1, v2 clamp": lambda a, b, c: max(a - b, 0),
    "v_add_u32_e64 v4, v1, v2 clamp": lambda a, b, c: min(a + b, 2**32 - 1),
    "v_and_b32_e32 v4, v1, v2": lambda a, b, c: a & b,
    "v_or_b32_e32 v4, 0xff, v2": lambda a, b, c: 0xFF | b,
    "v_xor_b32_e32 v4, -1, v2": lambda a, b, c: ~b,
    "v_not_b32_e32 v4, v1": lambda a, b, c: ~a,
    "v_lshlrev_b32_e32 v4, v1, v2": lambda a, b, c: b << (a & 31),
    "v_lshrrev_b32_e32 v4, v1, v2": lambda a, b, c: b >> (a & 31),
    "v_ashrrev_i32_e32 v4, v1, v2": lambda a, b, c: signed(b) >> (a & 31),
    "v_bfrev_b32_e32 v4, v1": lambda a, b, c: int(f"{a:032b}"[::-1], 2),
    "v_add3_u32 v4, v1, v2, v3": lambda a, b, c: a + b + c,
    "v_add_lshl_u32 v4, v1, v2, v3": lambda a, b, c: a + b << (c & 31),
    "v_lshl_add_u32 v4, v1, v2, v3": lambda a, b, c: (a << (b & 31)) + c,
    "v_lshl_or_b32 v4, v1, 3, v3": lambda a, b, c: a << 3 | c,
    "v_and_or_b32 v4, v1, v2, v3": lambda a, b, c: a & b | c,
    "v_or3_b32 v4, v1, v2, v3": lambda a, b, c: a | b | c,
    "v_xad_u32 v4, v1, v2, v3": lambda a, b, c: (a ^ b) + c,
    "v_bfe_u32 v4, v1, v2, v3": lambda a, b, c: a >> (b & 31) & (1 << (c & 31)) - 1,
    "v_bfe_i32 v4, v1, v2, v3": lambda a, b, c: 0 if not c & 31 else signed(signed(a) >> (b & 31), c & 31),
    "v_bfi_b32 v4, v1, v2, v3": lambda a, b, c: a & b | ~a & c,
    "v_alignbit_b32 v4, v1, v2, v3": lambda a, b, c: (a << 32 | b) >> (c & 31),
    "v_perm_b32 v4, v1, v2, v3": lambda a, b, c: _perm(a, b, c % 2**32 & 0x0F0F0F0F),
    "v_mul_lo_u32 v4, v1, v2": lambda a, b, c: a * b,
    "v_mul_hi_u32 v4, v1, v2": lambda a, b, c: a * b >> 32,
    "v_mul_hi_i32 v4, v1, v2": lambda a, b, c: signed(a) * signed(b) >> 32,
    "v_mul_u32_u24_e32 v4, v1, v2": lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF),
    "v_mul_i32_i24_e32 v4, v1, v2": lambda a, b, c: signed(a, 24) * signed(b, 24),
    "v_mad_i32_i24 v4, v1, v2, v3": lambda a, b, c: signed(a, 24) * signed(b, 24) + c,
    "v_max_i32_e32 v4, v1, v2": lambda a, b, c: max(signed(a), signed(b)),
    "v_min_u32_e32 v4, v1, v2": lambda a, b, c: min(a, b),
    "v_med3_i32 v4, v1, v2, v3": lambda a, b, c: sorted(map(signed, (a, b, c)))[1],
    "v_ffbh_u32_e32 v4, v1": lambda a, b, c: 32 - a.bit_length() if a else -1,
    "v_bcnt_u32_b32 v4, v1, v2": lambda a, b, c: bin(a).count("1") + b,
    "v_add_u16_e32 v4, v1, v2": lambda a, b, c: a + b & 0xFFFF,
    "v_lshrrev_b16_e32 v4, 1, v2": lambda a, b, c: (b & 0xFFFF) >> 1,
    "v_pack_b32_f16 v4, v1, v2": lambda a, b, c: a & 0xFFFF | (b & 0xFFFF) << 16,
    "v_pack_b32_f16 v4, v1, v2 op_sel:[1,0,0]": lambda a, b, c: a >> 16 | (b & 0xFFFF) << 16,
    "v_and_b32_sdwa v4, v1, v2 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:BYTE_1": (
        lambda a, b, c: a & (b >> 8 & 255)
    ),
    "v_or_b32_sdwa v4, sext(v1), v2 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:WORD_1 src1_sel:BYTE_3": (
        lambda a, b, c: signed(a >> 16, 16) | b >> 24
    ),
    "v_add_u32_sdwa v4, v1, v2 dst_sel:WORD_1 dst_unused:UNUSED_PAD src0_sel:WORD_0 src1_sel:DWORD": (
        lambda a, b, c: ((a & 0xFFFF) + b & 0xFFFF) << 16
    ),
}


@pytest.mark.parametrize("code", INTEGERS)
def test_integers_are_those_of_python(code: str) -> None:
    a, b, c = bits32(), shuffled(bits32()), shuffled(bits32())[::-1].copy()
    if "perm" in code:
        c &= np.uint32(0x0F0F0F0F)
    waves = execute(code, {1: a, 2: b, 3: c})
    same(vector(waves, 4), python(INTEGERS[code])(a, b, c))


def test_carries_make_sums_of_64_bits() -> None:
    a, b = (RNG.integers(0, 2**64, LANES, dtype=np.uint64) for _ in range(2))
    sums = "v_add_co_u32_e32 v6, vcc, v1, v3\nv_addc_co_u32_e32 v7, vcc, v2, v4, vcc"
    same(vector(execute(sums, {1: a, 3: b}), 6, np.uint64), a + b)
    differences = "v_sub_co_u32_e64 v6, s[4:5], v1, v3\nv_subb_co_u32_e64 v7, s[4:5], v2, v4, s[4:5]"
    same(vector(execute(differences, {1: a, 3: b}), 6, np.uint64), a - b)
    rdna = "v_sub_co_u32 v6, vcc_lo, v1, v3\nv_sub_co_ci_u32_e64 v7, null, v2, v4, vcc_lo"
    same(vector(execute(rdna, {1: a, 3: b}, arch="gfx1100"), 6, np.uint64), a - b)


def test_products_and_shifts_of_64_bits() -> None:
    a, b, c = bits32(), shuffled(bits32()), RNG.integers(0, 2**64, LANES, dtype=np.uint64)
    waves = execute("v_mad_u64_u32 v[6:7], s[4:5], v1, v2, v[4:5]", {1: a, 2: b, 4: c})
    same(vector(waves, 6, np.uint64), a.astype(np.uint64) * b + c)
    waves = execute("v_lshl_add_u64 v[6:7], v[4:5], 3, v[4:5]", {4: c})
    same(vector(waves, 6, np.uint64), (c << np.uint64(3)) + c)
    waves = execute("v_ashrrev_i64 v[6:7], 30, v[4:5]", {4: c})
    same(vector(waves, 6, np.uint64), (c.view(np.int64) >> 30).view(np.uint64))


FLOATS = {
    "v_add_{f}{e} v[10], v[2], v[4]": lambda a, b, c: a + b,
    "v_mul_{f}{e} v[10], v[2], v[4]": lambda a, b, c: a * b,
    "v_add_{f}{e} v[10], -v[2], v[4]": lambda a, b, c: b - a,
    "v_mul_{f}{e} v[10], |v[2]|, -v[4]": lambda a, b, c: np.abs(a) * -b,
    "v_floor_{f}_e32 v[10], v[2]": lambda a, b, c: np.floor(a),
    "v_trunc_{f}_e32 v[10], v[2]": lambda a, b, c: np.trunc(a),
    "v_rndne_{f}_e32 v[10], v[2]": lambda a, b, c: np.rint(a),
    "v_max_{f}{e} v[10], v[2], v[4]": lambda a, b, c: np.where((a == 0) & (b == 0), a + b, np.fmax(a, b)),
}


@pytest.mark.parametrize("code", FLOATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_those_of_numpy(code: str, dtype: Any) -> None:
    a, b = floats(dtype), shuffled(floats(dtype))
    wide = dtype == np.float64
    code = code.format(f="f64" if wide else "f32", e="" if wide else "_e64")
    for start in (2, 4, 10):
        code = code.replace(f"v[{start}]", f"v[{start}:{start + 1}]" if wide else f"v{start}")
    with np.errstate(all="ignore"):
        expected = FLOATS[code_key(code, wide)](a, b, None)
    if "max" in code:  # of zeros, the one without a sign; their sum has a sign only if both have
        expected = np.where(np.isnan(a), b, np.where(np.isnan(b), a, expected))
    same(vector(execute(code, {2: a, 4: b}), 10, dtype), expected)


def code_key(code: str, wide: bool) -> str:
    for start in (2, 4, 10):
        code = code.replace(f"v[{start}:{start + 1}]" if wide else f"v{start}", f"v[{start}]")
    name, _, rest = code.partition(" ")
    for key in FLOATS:
        if key.format(f="f64" if wide else "f32", e="" if wide else "_e64") == f"{name} {rest}":
            return key
    raise AssertionError(code)


@pytest.mark.parametrize("wide", [False, True])
def test_fused_products_have_one_rounding(wide: bool) -> None:
    dtype: Any = np.float64 if wide else np.float32
    a, b = (RNG.standard_normal(LANES).astype(dtype) for _ in range(2))
    c = -(a * b)  # what is left is the rounding error of the product
    code = "v_fma_f64 v[10:11], v[2:3], v[4:5], v[6:7]" if wide else "v_fma_f32 v10, v2, v4, v6"
    result = vector(execute(code, {2: a, 4: b, 6: c}), 10, dtype)
    from fractions import Fraction

    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
    same(result, np.array([float(value) for value in exact]).astype(dtype))
    assert np.count_nonzero(result) > LANES // 2


@pytest.mark.parametrize("code", ["v_fmac_f32_e32 v6, v2, v4", "v_fmaak_f32 v6, v2, v4, 0x40400000"])
def test_accumulators_and_constants_are_the_last_source(code: str) -> None:
    a, b, c = (np.arange(LANES, dtype=np.float32) + k for k in range(3))
    same(vector(execute(code, {2: a, 4: b, 6: c}), 6, np.float32), a * b + (3.0 if "aak" in code else c))


def test_the_mode_register_flushes_subnormal_numbers() -> None:
    tiny = np.array([1e-40, -1e-40, 2e-38], np.float32)
    code = "v_mul_f32_e32 v2, 1.0, v1\nv_mul_f32_e32 v3, 0.5, v1"
    kept, flushed = execute(code, {1: tiny}), execute(code, {1: tiny}, denormals=0)
    same(vector(kept, 2, np.float32)[:3], tiny)
    same(vector(flushed, 2, np.float32)[:3], np.array([0.0, -0.0, 2e-38], np.float32))
    assert vector(kept, 3, np.float32)[2] > 0
    assert vector(flushed, 3, np.float32)[2] == 0


def test_packed_operations_select_registers_and_signs() -> None:
    a, b = (RNG.standard_normal(2 * 64).astype(np.float32).reshape(64, 2) for _ in range(2))
    given = {2: a.copy().view(np.uint64), 4: b.copy().view(np.uint64)}
    waves = execute("v_pk_mul_f32 v[6:7], v[2:3], v[4:5] op_sel_hi:[1,0] neg_hi:[1,0]", given)
    same(vector(waves, 6, np.float32), a[:, 0] * b[:, 0])
    same(vector(waves, 7, np.float32), -a[:, 1] * b[:, 0])
    waves = execute("v_pk_mov_b32 v[6:7], v[2:3], v[4:5] op_sel:[1,0]", given)
    same(vector(waves, 6, np.float32), a[:, 1])
    same(vector(waves, 7, np.float32), b[:, 0])


def test_mixed_operations_read_halves() -> None:
    low, high = (RNG.standard_normal(64).astype(np.float16) for _ in range(2))
    both = low.view(np.uint16).astype(np.uint32) | high.view(np.uint16).astype(np.uint32) << 16
    x = RNG.standard_normal(64).astype(np.float32)
    waves = execute("v_fma_mix_f32 v3, v1, v2, v2 op_sel:[1,0,0] op_sel_hi:[1,0,0]", {1: both, 2: x})
    wide = high.astype(np.float64) * x + x
    same(vector(waves, 3, np.float32), wide.astype(np.float32))
    waves = execute("v_fma_mixhi_f16 v1, v2, 1.0, 0", {1: both, 2: x})
    result = vector(waves, 1)
    same((result & 0xFFFF).astype(np.uint16), low.view(np.uint16))
    same((result >> 16).astype(np.uint16), x.astype(np.float16).view(np.uint16))


def test_a_16_bit_result_keeps_the_other_half_on_rdna_only() -> None:
    x, old = np.float32(1.5), np.uint32(0xABCD0000)
    for arch, upper in (("gfx942", 0), ("gfx1100", 0xABCD)):
        result = vector(execute("v_cvt_f16_f32_e32 v2, v1", {1: x, 2: old}, arch=arch), 2)
        assert result[0] == upper << 16 | 0x3E00


def truncated(x: Any, low: int, high: int) -> Any:
    return np.clip(np.nan_to_num(np.trunc(x.astype(np.float64)), posinf=2e10, neginf=-2e10), low, high)


CONVERSIONS: dict[str, tuple[Any, Any, Any]] = {
    "v_cvt_f64_f32_e32 v[4:5], v2": (np.float32, np.float64, lambda x: x.astype(np.float64)),
    "v_cvt_f32_f64_e32 v4, v[2:3]": (np.float64, np.float32, lambda x: x.astype(np.float32)),
    "v_cvt_f32_i32_e32 v4, v2": (np.int32, np.float32, lambda x: x.astype(np.float64).astype(np.float32)),
    "v_cvt_f32_u32_e32 v4, v2": (np.uint32, np.float32, lambda x: x.astype(np.float64).astype(np.float32)),
    "v_cvt_f64_u32_e32 v[4:5], v2": (np.uint32, np.float64, lambda x: x.astype(np.float64)),
    "v_cvt_i32_f32_e32 v4, v2": (
        np.float32, np.int32, lambda x: truncated(x, -(2**31), 2**31 - 1)),
    "v_cvt_u32_f32_e32 v4, v2": (
        np.float32, np.uint32, lambda x: truncated(x, 0, 2**32 - 1)),
    "v_cvt_i32_f64_e32 v4, v[2:3]": (
        np.float64, np.int32, lambda x: truncated(x, -(2**31), 2**31 - 1)),
}  # fmt: skip


@pytest.mark.parametrize("code", CONVERSIONS)
def test_conversions_round_to_nearest_and_saturate(code: str) -> None:
    given, result, expected = CONVERSIONS[code]
    x = bits32().view(given) if np.dtype(given).kind != "f" else floats(given)
    with np.errstate(all="ignore"):
        same(vector(execute(code, {2: x}), 4, result), expected(x))


@pytest.mark.parametrize(
    "name", ["lt", "eq", "le", "gt", "lg", "ge", "o", "u", "nge", "nlg", "ngt", "nle", "neq", "nlt"]
)
def test_comparisons_of_nan(name: str) -> None:
    a, b = floats(np.float32), shuffled(floats(np.float32))
    a[100:110], b[95:105] = np.nan, np.nan
    with np.errstate(all="ignore"):
        relations = {"lt": a < b, "eq": a == b, "le": a <= b, "gt": a > b, "ge": a >= b, "lg": (a < b) | (a > b)}
        relations["o"] = ~(np.isnan(a) | np.isnan(b))
        relations["neq"] = ~relations["eq"]
    expected = relations[name] if name in relations else ~relations[{"u": "o"}.get(name, name[1:])]
    code = f"v_cmp_{name}_f32_e64 s[4:5], v1, v2\nv_cndmask_b32_e64 v3, 0, 1, s[4:5]"
    same(vector(execute(code, {1: a, 2: b}), 3), expected.astype(np.uint32))


def test_classes_of_floats() -> None:
    values = np.array([np.nan, -np.inf, -1, -1e-45, -0.0, 0.0, 1e-45, 1, np.inf], np.float32)
    for k, bit in enumerate(range(1, 10)):
        waves = execute(f"v_cmp_class_f32_e64 s[4:5], v1, {1 << bit}\nv_cndmask_b32_e64 v3, 0, 1, s[4:5]", {1: values})
        same(vector(waves, 3)[:9], (np.arange(9) == k).astype(np.uint32))


def test_registers_change_places() -> None:
    waves = execute("v_swap_b32 v1, v2", {1: np.arange(64, dtype=np.uint32), 2: np.uint32(100)}, mask=0x3)
    assert vector(waves, 1)[:4].tolist() == [100, 100, 2, 3]
    assert vector(waves, 2)[:4].tolist() == [0, 1, 100, 100]


def test_pairs_read_before_either_writes() -> None:
    waves = execute(
        "v_dual_mov_b32 v1, v2 :: v_dual_mov_b32 v2, v1", {1: np.uint32(10), 2: np.uint32(20)}, arch="gfx1100"
    )
    assert vector(waves, 1)[0] == 20
    assert vector(waves, 2)[0] == 10


def test_lanes_that_are_not_active_keep_their_values() -> None:
    waves = execute("v_mov_b32_e32 v1, 7", {1: np.arange(64, dtype=np.uint32)}, mask=0x5)
    expected = np.arange(64)
    expected[[0, 2]] = 7
    same(vector(waves, 1), expected)


APPROXIMATE = {
    "v_rcp_f32_e32 v2, v1": (lambda x: 1 / x, 1.0),
    "v_exp_f32_e32 v2, v1": (np.exp2, 1.0),
    "v_log_f32_e32 v2, v1": (np.log2, 1.0),
    "v_sqrt_f32_e32 v2, v1": (np.sqrt, 1.0),
}


@pytest.mark.parametrize("code", APPROXIMATE)
@pytest.mark.parametrize("model", ["exact", "high", "low", "random"])
def test_approximate_instructions_err_by_at_most_their_bound(code: str, model: str) -> None:
    function, bound = APPROXIMATE[code]
    x = np.abs(RNG.standard_normal(LANES).astype(np.float32)) + np.float32(0.01)
    result = vector(execute(code, {1: x}, model=model), 2, np.float32).astype(np.float64)
    exact = function(x.astype(np.float64))
    error = np.abs(result - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert error.max() <= (0.5 if model == "exact" else bound)
    if model != "exact":
        assert error.max() > 0.5


def test_approximate_instructions_have_no_subnormal_numbers() -> None:
    x = np.array([1e-40, -1e-40, 3e38], np.float32)
    result = vector(execute("v_rcp_f32_e32 v2, v1", {1: x}), 2, np.float32)[:3]
    same(result, np.array([np.inf, -np.inf, 0], np.float32))

"""Scalar instructions and branches."""

from __future__ import annotations

import numpy as np
import pytest

from .amd_machine import execute, vector

A, B = 0xDEADBEEF, 0x80000001


def signed(x: int) -> int:
    return x - (x >> 31 << 32)


CASES = {
    "s_add_u32 s6, s4, s5": (A + B, 1),
    "s_sub_u32 s6, s5, s4": (B - A, 1),
    "s_add_i32 s6, s4, s5": (A + B, 1),
    "s_sub_i32 s6, s4, s5": (A - B, 0),
    "s_mul_i32 s6, s4, s5": (A * B, None),
    "s_mul_hi_u32 s6, s4, s5": (A * B >> 32, None),
    "s_and_b32 s6, s4, 0xff00": (A & 0xFF00, 1),
    "s_andn2_b32 s6, s4, s4": (0, 0),
    "s_or_b32 s6, s4, s5": (A | B, 1),
    "s_xor_b32 s6, s4, s4": (0, 0),
    "s_not_b32 s6, s4": (~A, 1),
    "s_lshl_b32 s6, s4, 7": (A << 7, 1),
    "s_lshr_b32 s6, s4, 7": (A >> 7, 1),
    "s_ashr_i32 s6, s4, 7": (signed(A) >> 7, 1),
    "s_bfe_u32 s6, s4, 0x50019": (A >> 25 & 31, 1),
    "s_bfe_i32 s6, s4, 0x80018": (signed(A) >> 24, 1),
    "s_lshl2_add_u32 s6, s4, s5": ((A << 2) + B, 1),
    "s_abs_i32 s6, s4": (-signed(A), 1),
    "s_brev_b32 s6, -2": (0x7FFFFFFF, None),
    "s_movk_i32 s6, 0xff00": (-256, None),
    "s_min_i32 s6, s4, s5": (B, 0),
    "s_max_u32 s6, s4, s5": (A, 1),
}


@pytest.mark.parametrize("code", CASES)
def test_results_and_condition(code: str) -> None:
    expected, condition = CASES[code]
    waves = execute(code, {}, {4: A, 5: B})
    assert waves.scalar["u32"][0, 6] == expected & 0xFFFFFFFF
    if condition is not None:
        assert bool(waves.scc[0]) is bool(condition)


def test_carries_and_shifts_of_64_bits() -> None:
    x, y = 0xFFFFFFFF_00000005, 0x00000001_FFFFFFFE
    given = {4: x & 0xFFFFFFFF, 5: x >> 32, 6: y & 0xFFFFFFFF, 7: y >> 32}
    waves = execute("s_add_u32 s8, s4, s6\ns_addc_u32 s9, s5, s7\ns_lshl_b64 s[10:11], s[4:5], 9", {}, given)
    assert waves.scalar["u64"][0, 4] == (x + y) % 2**64
    assert waves.scalar["u64"][0, 5] == (x << 9) % 2**64
    waves = execute(
        "s_add_nc_u64 s[8:9], s[4:5], s[6:7]\ns_mul_u64 s[10:11], s[4:5], s[6:7]", {}, given, arch="gfx1201"
    )
    assert waves.scalar["u64"][0, 4] == (x + y) % 2**64
    assert waves.scalar["u64"][0, 5] == (x * y) % 2**64


def test_floats_of_rdna4() -> None:
    def bits(x: float) -> int:
        return int(np.float32(x).view(np.uint32))

    code = "s_mul_f32 s6, s4, 0.5\ns_fmac_f32 s5, s4, s4\ns_floor_f32 s7, s6\ns_cmp_gt_f32 s4, s6\ns_cvt_u32_f32 s8, s4"
    waves = execute(code, {}, {4: bits(7), 5: bits(1)}, arch="gfx1201")
    assert waves.scalar["f32"][0, 5:8].tolist() == [50, 3.5, 3]
    assert waves.scc[0]
    assert waves.scalar["u32"][0, 8] == 7


@pytest.mark.parametrize(
    ("name", "expected"),
    [("and", 0b1000), ("or", 0b1110), ("xor", 0b0110), ("andn2", 0b0010), ("andn1", 0b0100)],
)
def test_exec_is_saved_and_combined(name: str, expected: int) -> None:
    waves = execute(f"s_{name}_saveexec_b64 s[8:9], s[4:5]", {}, {4: 0b1010, 5: 0}, mask=0b1100)
    assert waves.scalar["u64"][0, 4] == 0b1100
    assert waves.scalar["u64"][0, 63] == expected


def test_waves_that_loop_a_different_number_of_times_meet_again() -> None:
    code = """
    v_readfirstlane_b32 s4, v1
    s_mov_b32 s5, 0
.LOOP:
    s_add_i32 s5, s5, s4
    s_sub_i32 s4, s4, 1
    s_cmp_lg_u32 s4, 0
    s_cbranch_scc1 .LOOP
    v_mov_b32_e32 v2, s5
    """
    count = np.repeat(np.array([3, 1, 5, 3], np.uint32), 64)
    assert (vector(execute(code, {1: count}), 2) == count * (count + 1) // 2).all()


def test_branches_on_masks() -> None:
    code = """
    v_cmp_gt_u32_e32 vcc, 2, v1
    s_and_saveexec_b64 s[4:5], vcc
    s_cbranch_execz .END
    v_mov_b32_e32 v2, 9
.END:
    s_or_b64 exec, exec, s[4:5]
    v_add_u32_e32 v2, 1, v2
    """
    value = np.concatenate([np.arange(64), np.full(64, 5)]).astype(np.uint32)
    result = vector(execute(code, {1: value, 2: np.zeros(128, np.uint32)}), 2)
    assert (result == np.where(value < 2, 10, 1)).all()

"""What moves values between lanes: DPP, permutations, swizzles, and lanes read and written by scalars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .amd_machine import execute, vector

LANE = np.arange(64, dtype=np.uint32)


def moved(modifiers: str, **options: Any) -> Any:
    return vector(execute(f"v_mov_b32_dpp v2, v1 {modifiers}", {1: LANE + 100, 2: LANE}, **options), 2)


def test_quads() -> None:
    expected = 100 + LANE // 4 * 4 + np.array([2, 3, 0, 1])[LANE % 4]
    assert (moved("quad_perm:[2,3,0,1] row_mask:0xf bank_mask:0xf") == expected).all()


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("amount", [1, 2, 4, 8])
def test_shifts_within_rows(amount: int, zero: bool) -> None:
    inside = amount <= LANE % 16
    edge = 0 if zero else LANE
    bound = " bound_ctrl:1" if zero else ""
    result = moved(f"row_shr:{amount} row_mask:0xf bank_mask:0xf{bound}")
    assert (result == np.where(inside, 100 + LANE - amount, edge)).all()
    inside = LANE % 16 + amount < 16
    result = moved(f"row_shl:{amount} row_mask:0xf bank_mask:0xf{bound}")
    assert (result == np.where(inside, 100 + LANE + amount, edge)).all()


def test_rotations_and_broadcasts_of_rows() -> None:
    assert (moved("row_ror:4 row_mask:0xf bank_mask:0xf") == 100 + LANE // 16 * 16 + (LANE - 4) % 16).all()
    result = moved("row_bcast:15 row_mask:0xa bank_mask:0xf")
    assert (result == np.where(LANE // 16 % 2 == 1, 100 + LANE // 16 * 16 - 1, LANE)).all()
    result = moved("row_bcast:31 row_mask:0xc bank_mask:0xf")
    assert (result == np.where(LANE >= 32, 131, LANE)).all()


def test_rows_and_banks_that_are_masked_out_are_not_written() -> None:
    result = moved("quad_perm:[0,1,2,3] row_mask:0x1 bank_mask:0x3 bound_ctrl:1")
    assert (result == np.where(LANE < 8, 100 + LANE, LANE)).all()


def test_lanes_that_are_not_active_are_invalid_sources() -> None:
    odd = 0xAAAAAAAAAAAAAAAA
    kept = moved("quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf", mask=odd)
    assert (kept == LANE).all()
    zeros = moved("quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf bound_ctrl:1", mask=odd)
    assert (zeros == np.where(LANE % 2, 0, LANE)).all()


def test_the_second_source_is_not_moved() -> None:
    code = "v_add_f32_dpp v2, v1, v3 row_shr:1 row_mask:0xf bank_mask:0xf bound_ctrl:1"
    x, y = LANE.astype(np.float32), (LANE * 2).astype(np.float32)
    result = vector(execute(code, {1: x, 3: y}), 2, np.float32)
    assert (result == np.where(LANE % 16, x - 1, 0) + y).all()


def test_permutes_and_swizzles() -> None:
    order = np.random.default_rng(0).permutation(64).astype(np.uint32)
    result = vector(execute("ds_bpermute_b32 v3, v2, v1\ns_waitcnt lgkmcnt(0)", {1: LANE * 3, 2: order * 4}), 3)
    assert (result == order * 3).all()
    for text, expected in {
        "SWAP,16": LANE ^ 16,
        "REVERSE,8": LANE ^ 7,
        "BROADCAST,4,1": LANE // 4 * 4 + 1,
        'BITMASK_PERM,"00pip"': (LANE // 32 * 32) | (LANE & 7 ^ 2),
    }.items():
        code = f"ds_swizzle_b32 v3, v1 offset:swizzle({text})\ns_waitcnt lgkmcnt(0)"
        assert (vector(execute(code, {1: LANE}), 3) == expected).all(), text


def test_a_row_reads_the_other_row() -> None:
    lane = LANE[:32]
    code = "s_mov_b32 s4, 0x76543210\ns_mov_b32 s5, 0xfedcba98\nv_permlanex16_b32 v2, v1, s4, s5"
    assert (vector(execute(code, {1: lane}, arch="gfx1100"), 2) == (lane ^ 16)).all()
    code = "v_permlanex16_b32 v2, v1, -1, -1 op_sel:[1,0]"
    expected = np.where(lane < 16, 31, lane)
    assert (vector(execute(code, {1: lane, 2: lane}, arch="gfx1100", mask=0xFFFF), 2) == expected).all()


def test_scalars_read_and_write_lanes() -> None:
    code = "v_readfirstlane_b32 s4, v1\nv_readlane_b32 s5, v1, 63\nv_writelane_b32 v1, s4, 40"
    waves = execute(code, {1: LANE + 5}, mask=0xF0)
    assert waves.scalar["u32"][0, 4] == 9
    assert waves.scalar["u32"][0, 5] == 68
    assert vector(waves, 1)[40] == 9


def test_masks_count_the_lanes_below() -> None:
    code = "v_mbcnt_lo_u32_b32 v1, -1, 0\nv_mbcnt_hi_u32_b32 v1, -1, v1"
    assert (vector(execute(code, {2: LANE}), 1) == LANE).all()

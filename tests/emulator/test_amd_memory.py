"""Loads and stores of AMD, and the faults that the checkers find in them."""

from __future__ import annotations

import numpy as np
import pytest

from portaloss.emulator.errors import (
    BarrierError,
    OutOfBoundsError,
    RaceError,
    UnknownInstructionError,
    UnwrittenError,
    WaitError,
)

from .amd_machine import execute, launch, vector

COPY = """
    s_load_dwordx4 s[4:7], s[0:1], 0x0
    v_lshlrev_b32_e32 v1, 2, v0
    s_waitcnt lgkmcnt(0)
    global_load_dword v2, v1, s[4:5]
    s_waitcnt vmcnt(0)
    global_store_dword v1, v2, s[6:7]
"""


def test_a_copy_and_its_faults() -> None:
    x, y = np.arange(64, dtype=np.uint32), np.zeros(64, np.uint32)
    launch(COPY, [x, y])
    assert (x == y).all()
    with pytest.raises(WaitError, match=r"v2 is under way from memory"):
        launch(COPY.replace("s_waitcnt vmcnt(0)", "s_waitcnt vmcnt(1)"), [x, y])
    with pytest.raises(WaitError, match=r"s4, s5 is under way"):
        launch(COPY.replace("s_waitcnt lgkmcnt(0)", ""), [x, y])
    with pytest.raises(
        OutOfBoundsError, match=r"thread 63: 4 bytes .* lie outside of every tensor, 252 bytes after .* 0"
    ):
        launch(COPY, [x[:63], y])
    with pytest.raises(OutOfBoundsError, match=r"of tensor 1, which has 252 bytes"):
        launch(COPY, [x, y[:63]])
    with pytest.raises(UnwrittenError, match=r"reads byte \d+ of tensor 0"):
        launch(COPY, [x, y], written=[np.arange(256) < 252, np.ones(256, bool)])


def test_waits_count_from_the_last_operation() -> None:
    code = """
    s_load_dwordx4 s[4:7], s[0:1], 0x0
    v_lshlrev_b32_e32 v1, 2, v0
    s_waitcnt lgkmcnt(0)
    global_load_dword v2, v1, s[4:5]
    global_load_dword v3, v1, s[4:5]
    s_waitcnt vmcnt({})
    v_add_u32_e32 v{}, 1, v{}
    s_waitcnt vmcnt(0)
    global_store_dword v1, v3, s[6:7]
    """
    x, y = np.arange(64, dtype=np.uint32), np.zeros(64, np.uint32)
    launch(code.format(1, 2, 2), [x, y])
    with pytest.raises(WaitError):
        launch(code.format(1, 3, 3), [x, y])


def test_buffers_have_a_size() -> None:
    code = """
    s_load_dwordx4 s[4:7], s[0:1], 0x0
    v_lshlrev_b32_e32 v1, 3, v0
    s_waitcnt lgkmcnt(0)
    s_mov_b32 s8, s4
    s_and_b32 s9, s5, 0xffff
    s_mov_b32 s10, 200
    s_mov_b32 s11, 0x27000
    buffer_load_dwordx2 v[2:3], v1, s[8:11], 0 offen offset:8
    s_waitcnt vmcnt(0)
    v_lshlrev_b32_e32 v1, 3, v0
    global_store_dwordx2 v1, v[2:3], s[6:7]
    """
    x, y = np.arange(200, dtype=np.uint32) + 1, np.zeros(128, np.uint32)
    launch(code, [x, y])
    assert (y[:48] == x[2:50]).all()
    assert (y[48:] == 0).all()


SHARED = """
    s_load_dwordx2 s[6:7], s[0:1], 0x0
    v_lshlrev_b32_e32 v1, 2, v0
    ds_write_b32 v1, v0
    s_waitcnt lgkmcnt(0)
    s_barrier
    v_xor_b32_e32 v2, 0xfc, v1
    v_xor_b32_e32 v2, 0x100, v2
    ds_read_b32 v3, v2
    s_waitcnt lgkmcnt(0)
    global_store_dword v1, v3, s[6:7]
"""


def test_waves_exchange_values_by_shared_memory() -> None:
    y = np.zeros(128, np.uint32)
    launch(SHARED, [y], warps=2, shared=512)
    assert (y == np.arange(128)[::-1]).all()


def test_a_missing_barrier_is_found() -> None:
    y = np.zeros(128, np.uint32)
    with pytest.raises((RaceError, UnwrittenError), match="ds_read_b32"):
        launch(SHARED.replace("s_barrier", ""), [y], warps=2, shared=512)


def test_a_missing_wait_before_a_barrier_is_found() -> None:
    y = np.zeros(128, np.uint32)
    with pytest.raises(WaitError, match="a store to shared memory is under way at the barrier"):
        launch(SHARED.replace("s_waitcnt lgkmcnt(0)\n    s_barrier", "s_barrier"), [y], warps=2, shared=512)


def test_shared_memory_has_bounds() -> None:
    y = np.zeros(128, np.uint32)
    with pytest.raises(OutOfBoundsError, match="lie outside of the block's 508 bytes of shared memory"):
        launch(SHARED, [y], warps=2, shared=508)


def test_a_barrier_that_not_all_waves_reach() -> None:
    code = """
    v_readfirstlane_b32 s4, v0
    s_cmp_lg_u32 s4, 0
    s_cbranch_scc1 .SECOND
    s_barrier_signal -1
.SECOND:
    s_barrier_wait -1
    """
    with pytest.raises(BarrierError, match="`s_barrier_wait -1`: waves wait at a barrier"):
        launch(code, [], warps=2, arch="gfx1201")


def test_two_places_of_shared_memory_at_once() -> None:
    code = """
    s_load_dwordx2 s[6:7], s[0:1], 0x0
    v_lshlrev_b32_e32 v1, 2, v0
    v_add_u32_e32 v2, 1000, v0
    ds_write2st64_b32 v1, v0, v2 offset1:1
    s_waitcnt lgkmcnt(0)
    v_lshlrev_b32_e32 v3, 3, v0
    ds_read2_b32 v[4:5], v3 offset1:1
    s_waitcnt lgkmcnt(0)
    global_store_dwordx2 v3, v[4:5], s[6:7]
    """
    y = np.zeros(128, np.uint32)
    launch(code, [y], shared=512)
    assert (y == np.concatenate([np.arange(64), 1000 + np.arange(64)])).all()


def test_barriers_in_two_parts() -> None:
    code = """
    s_load_b64 s[6:7], s[0:1], 0x0
    v_lshlrev_b32_e32 v1, 2, v0
    ds_store_b32 v1, v0
    s_wait_dscnt 0x0
    s_barrier_signal -1
    v_xor_b32_e32 v2, 0xfc, v1
    s_barrier_wait -1
    ds_load_b32 v3, v2
    s_wait_loadcnt_dscnt 0x0
    s_wait_kmcnt 0x0
    global_store_b32 v1, v3, s[6:7]
    """
    y = np.zeros(64, np.uint32)
    launch(code, [y], warps=2, shared=256, arch="gfx1201")
    assert (y == np.arange(64)[::-1]).all()
    with pytest.raises(WaitError, match="v3"):
        launch(code.replace("s_wait_loadcnt_dscnt 0x0", "s_wait_loadcnt 0x0"), [y], warps=2, shared=256, arch="gfx1201")


def test_narrow_loads_are_extended() -> None:
    code = """
    s_load_dwordx4 s[4:7], s[0:1], 0x0
    v_lshlrev_b32_e32 v1, 1, v0
    v_lshlrev_b32_e32 v4, 2, v0
    s_waitcnt lgkmcnt(0)
    global_load_{} v2, v1, s[4:5]
    s_waitcnt vmcnt(0)
    global_store_dword v4, v2, s[6:7]
    """
    x, y = (np.arange(64) * 1021).astype(np.uint16), np.zeros(64, np.uint32)
    launch(code.format("ushort"), [x, y])
    assert (y == x).all()
    launch(code.format("sshort"), [x, y])
    assert (y.view(np.int32) == x.view(np.int16)).all()


def test_an_unknown_instruction_is_named() -> None:
    with pytest.raises(UnknownInstructionError, match="v_frobnicate_b32"):
        launch("v_frobnicate_b32 v1, v2", [])


def test_registers_are_spilled_to_private_memory() -> None:
    code = """
    scratch_store_dwordx2 off, v[0:1], off offset:8
    v_mov_b32_e32 v2, 12
    scratch_load_dword v4, v2, off
    scratch_load_dword v5, off, off offset:8
    s_waitcnt vmcnt({})
    v_add_u32_e32 v4, v4, v5
    """
    a, b = np.arange(64, dtype=np.uint32), np.arange(64, dtype=np.uint32) * 7
    assert (vector(execute(code.format(0), {0: a, 1: b}, private=16), 4) == a + b).all()
    with pytest.raises(WaitError, match="v5"):
        execute(code.format(1), {0: a, 1: b}, private=16)
    with pytest.raises(OutOfBoundsError, match="outside of the 12 bytes of private memory"):
        execute(code.format(0), {0: a, 1: b}, private=12)


EXCHANGE = """
    s_load_dwordx4 s[4:7], s[0:1], 0x0
    v_lshlrev_b32_e32 v1, 2, v0
    v_xor_b32_e32 v2, 0x1fc, v1
    s_waitcnt lgkmcnt(0)
    global_store_dword v1, v0, s[4:5]
    s_waitcnt vmcnt(0)
    s_barrier
    global_load_dword v3, v2, s[4:5]
    s_waitcnt vmcnt(0)
    global_store_dword v1, v3, s[6:7]
"""


def test_a_store_must_be_waited_for_before_the_barrier() -> None:
    x, y = np.zeros(128, np.uint32), np.zeros(128, np.uint32)
    launch(EXCHANGE, [x, y], warps=2)
    assert (y == np.arange(128)[::-1]).all()
    for wait in ("", "s_waitcnt vmcnt(1)"):
        faulty = EXCHANGE.replace("s_waitcnt vmcnt(0)\n    s_barrier", f"{wait}\n    s_barrier")
        with pytest.raises(RaceError, match=r"`global_load_dword v3.* of tensor 0 was written by warp \d of block 0"):
            launch(faulty, [x, y], warps=2)

"""Loads, stores and what threads do together in PTX, and the faults that the checkers find in them."""

from __future__ import annotations

import numpy as np
import pytest

from portaloss.emulator.errors import (
    BarrierError,
    MisalignedError,
    OutOfBoundsError,
    RaceError,
    StoreConflictError,
    UnknownInstructionError,
    UnwrittenError,
)

from .ptx_machine import compute, launch

COPY = """
    ld.param.b64 %at0, [p0];
    ld.param.b64 %at1, [p1];
    mov.u32 %index1, %tid.x;
    mul.wide.u32 %at2, %index1, 4;
    add.s64 %at0, %at0, %at2;
    add.s64 %at1, %at1, %at2;
    ld.global.b32 %r1, [%at0];
    st.global.b32 [%at1], %r1;
"""


def test_a_copy_and_its_faults() -> None:
    x, y = np.arange(128, dtype=np.uint32), np.zeros(128, np.uint32)
    launch(COPY, [x, y])
    assert (x == y).all()
    with pytest.raises(
        OutOfBoundsError,
        match=r"kernel.*`ld.global.b32 %r1, \[%at0\]`: block 0, thread 127: 4 bytes .* lie outside of every tensor, "
        r"508 bytes after the beginning of tensor 0",
    ):
        launch(COPY, [x[:127], y])
    with pytest.raises(OutOfBoundsError, match=r"of tensor 1, which has 508 bytes"):
        launch(COPY, [x, y[:127]])
    with pytest.raises(OutOfBoundsError, match=r"thread 0: 4 bytes .* -4 bytes after the beginning of tensor 0"):
        launch(COPY.replace("[%at0]", "[%at0+-4]"), [x, y])
    with pytest.raises(UnwrittenError, match=r"thread 127: reads byte 508 of tensor 0, which was never written"):
        launch(COPY, [x, y], written=[np.arange(512) < 508, None])
    with pytest.raises(MisalignedError, match=r"is no multiple of 4"):
        launch(COPY.replace("[%at0]", "[%at0 + 2]"), [x, y])
    with pytest.raises(UnknownInstructionError, match=r"`frob.b32 %r1, %r1`: PTX instruction frob.b32 is not impl"):
        launch(COPY + "frob.b32 %r1, %r1;", [x, y])


def test_vectors() -> None:
    code = """
    ld.param.b64 %at0, [p0];
    ld.param.b64 %at1, [p1];
    mov.u32 %index1, %tid.x;
    mul.wide.u32 %at2, %index1, 16;
    add.s64 %at0, %at0, %at2;
    add.s64 %at1, %at1, %at2;
    ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%at0 + 0];
    st.global.v2.b32 [%at1 + 8], {%r1, %r2};
    st.global.v2.b32 [%at1], {%r3, %r4};
    """
    x = np.arange(512, dtype=np.uint32)
    y = np.zeros_like(x)
    launch(code, [x, y])
    assert (y.reshape(-1, 2, 2) == x.reshape(-1, 2, 2)[:, ::-1]).all()
    with pytest.raises(OutOfBoundsError, match="16 bytes"):
        launch(code, [x[:510], y])


def test_a_guarded_load_reads_nothing_where_the_guard_does_not_hold() -> None:
    code = COPY.replace("ld.global", "setp.lt.u32 %p1, %index1, 100; mov.b32 %r1, 5; @%p1 ld.global")
    x, y = np.arange(100, dtype=np.uint32), np.zeros(128, np.uint32)
    launch(code, [x, y])
    assert (y[:100] == x).all()
    assert (y[100:] == 5).all()


def test_narrow_loads_are_extended() -> None:
    x = np.arange(-64, 64, dtype=np.int8).view(np.uint8)
    code = COPY.replace("mul.wide.u32 %at2, %index1, 4;", "cvt.u64.u32 %at2, %index1;").replace(
        "add.s64 %at1, %at1, %at2", "mad.wide.u32 %at1, %index1, 4, %at1"
    )
    for kind, expected in (("s8", x.view(np.int8)), ("u8", x)):
        y = np.zeros(128, np.int32)
        launch(code.replace("ld.global.b32", f"ld.global.{kind}"), [x, y])
        assert (y == expected).all()


def test_threads_that_store_different_values_to_one_address() -> None:
    code = COPY.replace("mul.wide.u32 %at2, %index1, 4", "shr.u32 %r2, %index1, {}; mul.wide.u32 %at2, %r2, 4").replace(
        "ld.global.b32 %r1, [%at0]", "mov.b32 %r1, {}"
    )
    x, y = np.zeros(128, np.uint32), np.zeros(128, np.uint32)
    launch(code.format(1, 7), [x, y])
    with pytest.raises(
        StoreConflictError, match=r"thread 0 and block 0, thread 1 store different values \(0x0 and 0x1"
    ):
        launch(code.format(1, "%index1"), [x, y])
    with pytest.raises(RaceError, match=r"byte 0 of tensor 1"):  # warps 0 and 1, and nothing orders them
        launch(
            code.format(6, "%warp").replace("%warp", "%r3").replace(
                "mov.b32 %r1", "add.u32 %r3, %index1, 0; setp.lt.u32 %p1, %index1, 32; @%p1 st.global.b32 [%at1], 3; "
                "mov.b32 %r3, 4; mov.b32 %r1"
            ),
            [x, y],
        )  # fmt: skip


REVERSE = """
    ld.param.b64 %at0, [p0];
    mov.u32 %index1, %tid.x;
    shl.b32 %r1, %index1, 2;
    mov.b32 %r2, global_smem;
    add.s32 %r3, %r2, %r1;
    st.shared.b32 [%r3], %index1;
    bar.sync 0;
    sub.s32 %r4, 508, %r1;
    add.s32 %r4, %r4, %r2;
    ld.shared.b32 %r5, [%r4];
    mul.wide.u32 %at1, %index1, 4;
    add.s64 %at0, %at0, %at1;
    st.global.b32 [%at0], %r5;
"""


def test_shared_memory_and_its_faults() -> None:
    y = np.zeros(128, np.uint32)
    launch(REVERSE, [y], shared=512)
    assert (y == np.arange(128)[::-1]).all()
    with pytest.raises(
        RaceError, match=r"ld.shared.b32 .* was written by warp 3 of block 0, and no barrier orders the"
    ):
        launch(REVERSE.replace("bar.sync 0;", ""), [y], shared=512)
    with pytest.raises(OutOfBoundsError, match=r"thread 127: 4 bytes at 508 lie outside of the block's 508 bytes"):
        launch(REVERSE, [y], shared=508)
    with pytest.raises(UnwrittenError, match="shared memory, which was never written"):
        launch(REVERSE.replace("st.shared", "setp.lt.u32 %p1, %index1, 127; @%p1 st.shared"), [y], shared=512)


def test_shared_memory_is_a_blocks_own() -> None:
    code = REVERSE.replace("mul.wide.u32 %at1, %index1, 4", "mov.u32 %r6, %ctaid.x; mad.lo.s32 %index1, %r6, 128, "
        "%index1; mul.wide.u32 %at1, %index1, 4; add.s32 %r5, %r5, %r6")  # fmt: skip
    y = np.zeros(128 * 5, np.uint32)
    launch(code, [y], shared=512, grid=(5, 1, 1))
    assert (y.reshape(5, 128) == np.arange(128)[::-1] + np.arange(5)[:, None]).all()


def test_a_barrier_that_some_threads_do_not_come_to() -> None:
    code = """
    mov.u32 %index1, %tid.x;
    setp.lt.u32 %p1, %index1, 64;
    @%p1 bra FIRST;
    bar.sync 0;
    bra DONE;
FIRST:
    bar.sync 0;
DONE:
    """
    with pytest.raises(BarrierError, match=r"waits here for other threads of its block"):
        launch(code, [])


def test_blocks_of_a_grid_of_three_axes() -> None:
    code = """
    ld.param.b64 %at0, [p0];
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.z;
    mov.u32 %r4, %nctaid.x; mov.u32 %r5, %nctaid.y;
    mad.lo.s32 %r6, %r3, %r5, %r2;
    mad.lo.s32 %r6, %r6, %r4, %r1;
    mul.wide.u32 %at1, %r6, 4;
    add.s64 %at0, %at0, %at1;
    mad.lo.s32 %r7, %r3, 100, %r1;
    mad.lo.s32 %r7, %r2, 10, %r7;
    st.global.b32 [%at0], %r7;
    """
    y = np.zeros(2 * 3 * 4, np.uint32)
    launch(code, [y], grid=(4, 3, 2))
    assert y.tolist() == [100 * z + 10 * y + x for z in range(2) for y in range(3) for x in range(4)]


def test_shuffles() -> None:
    x = np.random.default_rng(0).integers(0, 1 << 32, 128).astype(np.uint32)
    lane = np.arange(32)
    rows = x.reshape(4, 32)

    def shuffled(code: str) -> np.ndarray:
        found: np.ndarray = compute(code, x, out=np.uint32).reshape(4, 32)
        return found

    for by in (1, 5, 16):
        got = shuffled(f"shfl.sync.bfly.b32 %out, %a, {by}, 31, -1;")
        assert (got == rows[:, lane ^ by]).all()
        got = shuffled(f"shfl.sync.down.b32 %out, %a, {by}, 31, -1;")
        assert (got == rows[:, np.where(lane + by < 32, lane + by, lane)]).all()
        got = shuffled(f"shfl.sync.up.b32 %out, %a, {by}, 0, -1;")
        assert (got == rows[:, np.where(lane >= by, lane - by, lane)]).all()
        got = shuffled(f"shfl.sync.idx.b32 %out, %a, {by}, 31, -1;")
        assert (got == rows[:, [by]]).all()
    # segments of 8 lanes: bits 8 to 12 of the last operand but one are a mask of the lane's number
    got = shuffled(f"shfl.sync.down.b32 %out, %a, 3, {0x1800 | 7}, -1;")
    assert (got == rows[:, np.where(lane % 8 + 3 < 8, lane + 3, lane)]).all()
    got = shuffled("shfl.sync.up.b32 %out|%p1, %a, 3, 0, -1; selp.b32 %out, 1, 0, %p1;")
    assert (got == (lane >= 3)).all()


def test_a_shuffle_from_a_thread_that_does_not_take_part() -> None:
    x = np.arange(128, dtype=np.uint32)
    code = "setp.ne.u32 %p1, %a, 37; mov.b32 %out, 0; @%p1 shfl.sync.bfly.b32 %out, %a, 1, 31, -1;"
    with pytest.raises(UnwrittenError, match=r"thread 36: reads from block 0, thread 37, which does not take part"):
        compute(code, x, out=np.uint32)


def test_votes_and_reductions() -> None:
    generator = np.random.default_rng(1)
    x = generator.integers(0, 1 << 32, 256).astype(np.uint32)
    x[32:64] |= 1
    x[64:96] &= 0xFFFFFFFE
    odd = (x & 1 == 1).reshape(-1, 32)
    code = "and.b32 %r1, %a, 1; setp.eq.u32 %p1, %r1, 1; vote.sync.{}.pred %p2, %p1, -1; selp.b32 %out, 1, 0, %p2;"
    for name, function in (("any", np.any), ("all", np.all)):
        got = compute(code.format(name), x, out=np.uint32)
        assert (got == np.repeat(function(odd, axis=1), 32)).all()
    ballot = "and.b32 %r1, %a, 1; setp.eq.u32 %p1, %r1, 1; vote.sync.ballot.b32 %out, %p1, -1;"
    expected = (odd * (1 << np.arange(32, dtype=np.uint64))).sum(axis=1)
    assert (compute(ballot, x, out=np.uint32) == np.repeat(expected, 32)).all()
    rows = x.reshape(-1, 32)
    for name, values in (
        ("add.u32", rows.sum(axis=1)), ("max.u32", rows.max(axis=1)), ("min.s32", rows.view(np.int32).min(axis=1)),
        ("and.b32", np.bitwise_and.reduce(rows, axis=1)), ("xor.b32", np.bitwise_xor.reduce(rows, axis=1)),
    ):  # fmt: skip
        got = compute(f"redux.sync.{name} %out, %a, -1;", x, out=np.uint32)
        assert (got == np.repeat(values.astype(np.int64) & 0xFFFFFFFF, 32)).all(), name
    numbers = generator.normal(size=(8, 32)).astype(np.float32)
    numbers[1, 7], numbers[2], numbers[3, 4] = np.nan, -0.0, np.inf
    numbers[2, 9] = 0.0
    for name, function in (("max", np.fmax.reduce), ("min", np.fmin.reduce), ("max.NaN", np.maximum.reduce)):
        got = compute(f"redux.sync.{name}.f32 %out, %a, -1;", numbers.ravel(), out=np.float32)
        np.testing.assert_array_equal(got, np.repeat(function(numbers, axis=1), 32))
    highest = compute("redux.sync.max.f32 %out, %a, -1;", numbers.ravel(), out=np.uint32)
    assert (highest[64:96] == 0).all()  # 0 is more than -0


def test_a_loop_that_lanes_leave_at_different_times_meets_before_a_shuffle() -> None:
    """The place where lanes meet comes before the loop's body in the text, as compilers place it in rotated loops."""
    code = """
    mov.b32 %r1, 0;
    and.b32 %r2, %a, 7;
    bra TEST;
MEET:
    shfl.sync.bfly.b32 %out, %r1, 1, 31, -1;
    bra DONE;
BODY:
    add.s32 %r1, %r1, 2;
    sub.s32 %r2, %r2, 1;
TEST:
    setp.eq.u32 %p1, %r2, 0;
    @%p1 bra MEET;
    bra BODY;
DONE:
    """
    x = np.arange(128, dtype=np.uint32)
    assert (compute(code, x, out=np.uint32) == 2 * ((x ^ 1) & 7)).all()


def test_matrices() -> None:
    code = """
    ld.param.b64 %at0, [p0];
    ld.param.b64 %at1, [p1];
    mov.u32 %index1, %tid.x;
    mul.wide.u32 %at2, %index1, 16;
    add.s64 %at0, %at0, %at2;
    add.s64 %at1, %at1, %at2;
    ld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%at0];
    shl.b32 %r5, %index1, 4;
    mov.b32 %r6, global_smem;
    add.s32 %r5, %r5, %r6;
    {}
    st.global.v4.b32 [%at1], {{%r1, %r2, %r3, %r4}};
    """
    store = "st.shared.v4.b32 [%r5], {%r1, %r2, %r3, %r4}; bar.warp.sync -1;"
    load = "ldmatrix.sync.aligned.m8n8.x4{}.shared.b16 {{%r1, %r2, %r3, %r4}}, [%r5];"
    back = "bar.warp.sync -1; stmatrix.sync.aligned.m8n8.x4{}.shared.b16 [%r5], {{%r1, %r2, %r3, %r4}};"
    read = "bar.warp.sync -1; ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r5];"
    x = np.arange(256, dtype=np.uint16)  # 32 rows of 8 elements: 4 matrices
    matrices = x.reshape(4, 8, 8)
    for how in ("", ".trans"):
        y = np.zeros_like(x)
        launch(code.format(store + load.format(how)), [x, y], warps=1, shared=512)
        turned = matrices.transpose(0, 2, 1) if how else matrices
        # register m of lane 4 r + c: elements 2 c and 2 c + 1 of row r of matrix m
        expected = turned.reshape(4, 8, 4, 2).transpose(1, 2, 0, 3).reshape(-1)
        assert (y == expected).all()
        launch(code.format(store + load.format(how) + back.format(how) + read), [x, y], warps=1, shared=512)
        assert (y == x).all()

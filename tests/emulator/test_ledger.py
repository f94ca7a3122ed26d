"""What the ledger counts, on kernels whose counts are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from portaloss import cli  # noqa: E402
from portaloss.emulator import Ledger, emulating  # noqa: E402
from portaloss.emulator.ledger import Entry, class_of, wavefronts  # noqa: E402
from portaloss.ledger import gpus  # noqa: E402

CHIPS = {"sm_90": 32, "gfx942": 64, "gfx1100": 64}  #: and the bytes of a sector


@triton.jit
def double_kernel(x_ptr, y_ptr, STEP: tl.constexpr, BLOCK: tl.constexpr):
    index = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) * STEP
    x = tl.load(x_ptr + index)
    tl.store(y_ptr + index, x + x)


def count(chip, *, step=1, elements=4096):
    ledger = Ledger()
    x = torch.ones(elements * step)
    with emulating(chip, counter=ledger):
        double_kernel[(elements // 256,)](x, torch.zeros_like(x), STEP=step, BLOCK=256, num_warps=4)
    (entry,) = ledger.entries
    return entry


@pytest.mark.parametrize("chip", CHIPS)
def test_adjacent_elements(chip):
    entry = count(chip)
    assert (entry.kernel, entry.blocks) == ("double_kernel", 16)
    assert entry.requested == entry.sectors * entry.sector == entry.moved == 2 * 4096 * 4
    assert entry.wavefronts == 0


@pytest.mark.parametrize("chip", CHIPS)
def test_each_element_in_a_sector_of_its_own(chip):
    entry = count(chip, step=16)
    assert entry.requested == 2 * 4096 * 4
    assert entry.sectors * entry.sector == entry.moved == 2 * 4096 * CHIPS[chip]


def test_instructions_of_warps():
    # two elements for each of 128 threads; 16 blocks of 4 warps
    instructions = count("sm_90").instructions
    assert instructions["float"] == 2 * 16 * 4
    assert instructions["memory"] == 2 * 16 * 4 + 2 * 16 * 4  # one load and one store of both; two parameters
    assert instructions["special"] == instructions["double"] == instructions["barrier"] == 0


def test_a_kernel_without_branches_does_not_diverge():
    assert count("sm_90").divergence == 0.0


@pytest.mark.parametrize(
    ("address", "size", "used", "least"),
    [
        (np.zeros(32, int), 4, 1, 1),  # one word for all
        (4 * np.arange(32), 4, 1, 1),  # a word from each bank
        (8 * np.arange(32), 4, 2, 1),  # two words from every other bank
        (128 * np.arange(32), 4, 32, 1),  # all from one bank
        (16 * np.arange(32), 16, 4, 4),  # 512 bytes
        (2 * np.arange(32), 2, 1, 1),  # half-words
    ],
)
def test_wavefronts(address, size, used, least):
    lane = np.arange(32)
    assert wavefronts(np.zeros(32, int), lane, address, size) == (used, least)
    two = np.concatenate([address, address])
    warps = np.repeat([0, 1], 32)
    assert wavefronts(warps, np.concatenate([lane, lane]), two, size) == (2 * used, 2 * least)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fma.rn.f32 %r1, %r2, %r3, %r4", "float"),
        ("add.f64 %rd1, %rd2, %rd3", "double"),
        ("add.s32 %r1, %r2, %r3", "integer"),
        ("ex2.approx.ftz.f32 %r1, %r2", "special"),
        ("div.full.f32 %r1, %r2, %r3", "special"),
        ("div.rn.f64 %rd1, %rd2, %rd3", "double"),
        ("ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1]", "memory"),
        ("shfl.sync.bfly.b32 %r1, %r2, 16, 31, -1", "shuffle"),
        ("bar.sync 0", "barrier"),
        ("setp.lt.f32 %p1, %r1, %r2", "integer"),
        ("v_fma_f32 v1, v2, v3, v4", "float"),
        ("v_pk_mul_f32 v[0:1], v[2:3], v[4:5]", "float"),
        ("v_add_f64 v[0:1], v[2:3], v[4:5]", "double"),
        ("v_exp_f32_e32 v1, v2", "special"),
        ("v_add_u32_e32 v1, v2, v3", "integer"),
        ("v_add_f32_dpp v1, v2, v3 row_shr:1", "shuffle"),
        ("global_load_dwordx4 v[0:3], v4, s[0:1]", "memory"),
        ("ds_bpermute_b32 v1, v2, v3", "shuffle"),
        ("ds_read_b128 v[0:3], v4", "memory"),
        ("s_load_dwordx2 s[0:1], s[2:3], 0x0", "memory"),
        ("s_waitcnt vmcnt(0)", "control"),
        ("s_add_u32 s0, s1, s2", "scalar"),
        ("s_barrier", "barrier"),
    ],
)
def test_classes(text, expected):
    assert class_of(text) == expected


# Predictions


def test_the_limits_of_a_launch():
    entry = Entry("k", blocks=1, threads=256, warp_size=32, shared=0, text="")
    entry.instructions.update(float=1000, special=100)
    found = gpus.H200.seconds([entry, entry])
    rate = 132 * 1.98e9
    assert found["float"] == pytest.approx(2 * 1000 * 32 / 128 / rate)
    assert found["special"] == pytest.approx(2 * 100 * 32 / 16 / rate)
    assert found["issue"] == pytest.approx(2 * 1100 * 32 / 128 / rate)
    assert found["memory"] == 0.0


@pytest.mark.parametrize(
    ("gpu", "threads", "registers", "shared", "expected"),
    [
        (gpus.H200, 256, 32, 0, 1.0),
        (gpus.H200, 256, 64, 0, 0.5),  # 2048 registers a warp: 32 of 64 warps
        (gpus.H200, 256, 32, 100 << 10, 0.25),  # two blocks of 8 warps, by shared memory
        (gpus.MI300X, 256, 64, 0, 1.0),  # 512 registers of a lane hold 8 waves on each of 4 units
        (gpus.MI300X, 256, 128, 0, 0.5),
    ],
)
def test_occupancy(gpu, threads, registers, shared, expected):
    lanes = 32 if gpu is gpus.H200 else 64
    entry = Entry("k", blocks=1, threads=threads, warp_size=lanes, shared=shared, text="")
    assert gpu.occupancy(entry, registers) == expected


def test_the_command(tmp_path, capsys):
    path = tmp_path / "ledger.json"
    assert cli.main(["ledger", "--kind", "mse", "--json", str(path)]) == cli.PASSED
    said = capsys.readouterr().out
    assert "H200" in said
    assert "MI300X" in said
    for row in json.loads(path.read_text())["rows"]:
        # nothing is moved twice; what is left are the partial sums and the scale
        assert row["ideal_bytes"] <= row["moved_bytes"] <= 1.01 * row["ideal_bytes"]
        assert row["limit"] == "memory"
        assert row["registers"] > 0
        assert 0 < row["occupancy"] <= 1
    assert cli.main(["ledger", "--gpu", "H300"]) == cli.USAGE
    assert "there is no such GPU; there are: H200, MI300X" in capsys.readouterr().err

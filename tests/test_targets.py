"""Compiling for GPUs that are not there: how the compiler's output is read, and what counts as a problem."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from portaloss import cli
from portaloss.chips import CHIPS, Chip
from portaloss.kinds import LossKind
from portaloss.targets import report, run
from portaloss.targets.report import Compiled

needs_triton = pytest.mark.skipif(run.missing() is not None, reason=str(run.missing()))


def _line(**fields: Any) -> Compiled:
    known = {"kernel": "k", "variant": "", "layout": "odd", "kind": "mse", "dtype": "float32", "chip": "sm_90"}
    return Compiled(**{**known, "seconds": 0.5, **fields})


# The command


@needs_triton
@pytest.mark.filterwarnings("ignore")  # warnings of libraries in other processes do not matter here
def test_one_kind_compiles_for_both_vendors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    path = tmp_path / "targets.json"
    argv = ["targets", "--chip", "sm_90", "--chip", "gfx942", "--kind", "huber", "--dtype", "bfloat16"]
    code = cli.main([*argv, "--json", str(path)])
    said, errors = capfd.readouterr()
    assert code == cli.PASSED, errors
    lines = json.loads(path.read_text())["rows"]
    assert said.splitlines()[-1] == f"targets: {len(lines)} passed, 0 failed"
    assert {line["chip"] for line in lines} == {"sm_90", "gfx942"}
    assert {line["kernel"] for line in lines} == {"pointwise_kernel"}  # 16-bit gradients are not rescaled
    assert all(line["passed"] and line["registers"] > 0 and line["spills"] == 0 for line in lines)
    # the widest load has eight numbers of 16 bits
    assert all(line["widest_load"] == 128 for line in lines if line["vector"])
    # 33 x 77 is odd: numbers of 16 bits are loaded one by one, and the widest load is that of a scale in float32
    assert {line["widest_load"] for line in lines if line["layout"] == "odd"} == {32}
    # no launch twice
    keys = [(line["chip"], line["kernel"], line["layout"], line["variant"]) for line in lines]
    assert len(set(keys)) == len(keys)


def test_names_that_do_not_exist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "missing", lambda: None)
    assert cli.main(["targets", "--chip", "sm_1"]) == cli.USAGE
    assert "sm_1: there is no such chip; there are: sm_80" in capsys.readouterr().err
    assert cli.main(["targets", "--kind", "nothing"]) == cli.USAGE
    assert cli.main(["targets", "--json", "/no/such/folder/f.json"]) == cli.USAGE


def test_without_triton(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "triton" else object())
    assert cli.main(["targets"]) == cli.USAGE
    assert capsys.readouterr().err == "portaloss: targets needs triton: pip install 'portaloss[triton]'\n"


def test_a_problem_is_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [_line(), _line(kernel="bad", problem="3 spills")]
    monkeypatch.setattr(run, "missing", lambda: None)
    monkeypatch.setattr(run, "run", lambda *args: made)
    assert cli.main(["targets", "--json", str(tmp_path / "f.json")]) == cli.FAILED
    said, errors = capsys.readouterr()
    assert said.splitlines()[-1] == "targets: 1 passed, 1 failed"
    assert "FAILED sm_90 bad mse float32 (odd: ): 3 spills\n" in errors
    lines = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert [line["passed"] for line in lines] == [True, False]


def test_the_table_shows_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    narrow = {"widest_load": 64, "vector": True, "registers": 10}
    wide = {"widest_load": 128, "vector": True, "registers": 99, "excuse": "because"}
    report.print_table([_line(**narrow), _line(**wide), _line(widest_load=16)])
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if "sm_90" in line)
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells[:5] == ["sm_90", "k", "3", "0", "99"]
    assert cells[8] == "64"
    assert "excused, 1 launches: k, because" in said


# Processes


def _survives(number: int) -> int:
    return number


def _ends_its_process(number: int) -> int:
    if number == 3:
        os._exit(1)
    return number


@needs_triton
def test_a_task_that_ends_its_process_is_the_only_one_lost(tmp_path: Path) -> None:
    assert dict(run._each(_survives, range(3), 2, str(tmp_path))) == {0: 0, 1: 1, 2: 2}
    assert dict(run._each(_ends_its_process, range(6), 2, str(tmp_path))) == {0: 0, 1: 1, 2: 2, 3: None, 4: 4, 5: 5}


# Reading and judging


if run.missing() is None:
    import triton
    import triton.language as tl

    @triton.jit
    def copy_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
        at = tl.arange(0, BLOCK)
        tl.store(y_ptr + at, tl.load(x_ptr + at))

    @triton.jit
    def whole_row_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
        at = tl.arange(0, BLOCK)
        x = tl.load(x_ptr + at)
        tl.store(y_ptr + at, x / tl.sum(x))  # all x are kept until the last is read

    @triton.jit
    def bad_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
        at = tl.arange(0, BLOCK)  # must be a power of two
        tl.store(y_ptr + at, tl.load(x_ptr + at))


@pytest.fixture(params=["sm_90", "gfx942"])
def chip(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chip:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return CHIPS[str(request.param)]


def _compile(kernel: Any, block: int, chip: Chip, *, aligned: bool = True) -> Compiled:
    from portaloss.targets import compiling, record

    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "BLOCK": "constexpr"}
    attributes = {(i,): [["tt.divisibility", 16]] for i in range(2)} if aligned else {}
    launch = record.Launch(kernel, signature, {(2,): block}, attributes, {"num_warps": 4}, record.CONTIGUOUS)
    return compiling.compile_launch(launch, "mse", "float32", chip)


@needs_triton
def test_a_good_kernel(chip: Chip) -> None:
    line = _compile(copy_kernel, 2048, chip)
    assert not line.problem
    assert (line.kernel, line.variant, line.num_warps) == ("copy_kernel", "BLOCK=2048", 4)
    assert (line.widest_load, line.spills, line.stack, line.shared) == (128, 0, 0, 0)
    assert 4 <= line.registers <= 64  # a thread holds two pointers and 16 numbers, or 8 with 64 lanes
    assert not line.matrix


@needs_triton
def test_narrow_loads_are_reported(chip: Chip, monkeypatch: pytest.MonkeyPatch) -> None:
    from portaloss.targets import compiling

    line = _compile(copy_kernel, 2048, chip, aligned=False)
    assert (line.problem, line.widest_load) == ("widest load is 32 bits", 32)
    monkeypatch.setattr(compiling, "NARROW_LOADS", {"copy_kernel": "it is a test"})
    line = _compile(copy_kernel, 2048, chip, aligned=False)
    assert (line.problem, line.excuse) == ("", "it is a test")


@needs_triton
def test_spills_are_reported(chip: Chip) -> None:
    # 1024 numbers of 4 bytes for each thread, which has at most 255 registers on NVIDIA and 512 on AMD
    line = _compile(whole_row_kernel, 1024 * 4 * chip.lanes, chip)
    assert line.spills >= 512
    assert line.stack >= 2048
    assert line.problem == f"{line.spills} spills"


@needs_triton
def test_too_much_shared_memory_is_reported(chip: Chip) -> None:
    line = _compile(whole_row_kernel, 2048, dataclasses.replace(chip, shared=8))
    assert line.shared >= 16  # a partial sum for each warp
    assert line.problem == f"{line.shared} bytes of shared memory, at most 8"


@needs_triton
def test_an_error_is_reported(chip: Chip) -> None:
    line = _compile(bad_kernel, 24, chip)
    assert "arange's range must be a power of 2" in line.problem


@needs_triton
@pytest.mark.parametrize("chip", ["sm_90", "gfx942"])
def test_no_launch_lets_the_compiler_fuse_products(chip: str) -> None:
    """A fused product gave -inf for nan in poisson_nll; in multi_margin, lanes disagreed about a number they share."""
    from portaloss.targets import record

    seen: dict[str, set[bool]] = {}
    for kind in (LossKind.POISSON_NLL, LossKind.CTC, LossKind.MULTI_MARGIN):
        for launch in record.launches(kind, "float32", CHIPS[chip]):
            seen.setdefault(launch.name, set()).add(launch.options["enable_fp_fusion"])
    names = ("pointwise", "scale", "walk", "exp", "posterior", "multi_margin")
    assert seen == {f"{name}_kernel": {False} for name in names}


@needs_triton
def test_every_kind_is_recorded_in_every_pass() -> None:
    from portaloss.targets.record import launches

    for kind in LossKind:
        found = launches(kind, "bfloat16", CHIPS["gfx1100"])
        variants = " ".join(one.variant for one in found)
        assert "UPSTREAM" in variants or kind is LossKind.CTC, kind
        assert "ITEMS" in variants or kind is LossKind.CTC, kind
        assert {one.layout for one in found} >= {"contiguous"}
        keys = [one.key for one in found]
        assert len(set(keys)) == len(keys)

"""Time and memory: turns, medians, peaks."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from portaloss import machine
from portaloss.kinds import LossKind

torch = pytest.importorskip("torch")
pytest.importorskip("threadpoolctl")

from portaloss.bench import contenders, memory, run, timing  # noqa: E402  # what they need is there now
from portaloss.bench.cases import Spec, shape_of  # noqa: E402

MIB = 1 << 20


def test_contenders_take_turns():
    said = []

    def clock(call, number):
        said.append((call(), number))
        return {"a": 1e-4, "b": 1.0}[call()]

    found = timing.interleaved({"a": lambda: "a", "b": lambda: "b"}, clock, 3)
    # a is short and is tried three times; every other round is in reverse order
    assert [name for name, _ in said] == [*"aaab", *"ab", *"ba", *"ab"]
    assert found["a"]["calls"] == 50  # 5 ms
    assert found["b"]["calls"] == 1
    assert found["b"]["median_s"] == found["b"]["q1_s"] == 1.0
    assert found["b"]["rounds"] == 3


def test_a_disturbed_round_does_not_change_the_median():
    found = timing.statistics([1.0, 1.0, 2.0, 3.0, 100.0])
    assert found == {"median_s": 2.0, "q1_s": 1.0, "q3_s": 3.0, "min_s": 1.0, "rounds": 5}


def test_slow_rounds_are_fewer_but_not_less_than_five():
    found = timing.interleaved({"a": lambda: time.sleep(0.01)}, timing.of_cpu, 50, seconds=0.0)
    assert found["a"]["rounds"] == 5
    assert found["a"]["min_s"] >= 0.01


def test_the_clock_of_the_gpu(monkeypatch):
    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.recorded = True

        def synchronize(self):
            assert self.recorded

        def elapsed_time(self, end):
            assert self.recorded
            assert end.recorded
            return 8.0  # ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    calls = []
    assert timing.clock("cuda")(lambda: calls.append(1), 4) == 2e-3
    assert len(calls) == 4


def test_a_rise_is_the_peak_of_allocations():
    def call():
        first = np.ones(32 * MIB // 8)
        del first
        return np.ones(16 * MIB // 8)

    found = memory.rise(call)
    if found is None:
        pytest.skip("this system does not report it")
    assert found >= 31 * MIB  # the system counts pages, and not exactly
    if sys.platform == "linux":
        assert found < 40 * MIB  # not 48: the first one was gone


def test_memory_of_a_case_in_a_process_of_its_own():
    spec = Spec(LossKind.MSE, "float32", "large", (2048, 2048))
    found = {name: memory.peak_extra(spec, name, 1) for name in ("portaloss", "eager")}
    if found["eager"]["forward"] is None:
        pytest.skip("this system does not report it")
    gradient = 16 * MIB
    for name in found:
        # at least the gradient without its unaligned ends; at most gradient, PyTorch's items and a little more
        assert gradient - MIB <= found[name]["forward_backward"] <= 2 * gradient + 4 * MIB
    assert found["eager"]["forward"] >= gradient - MIB  # its items
    assert found["portaloss"]["forward"] < gradient / 2  # none are stored


def test_threads_are_as_before_afterwards():
    import portaloss

    before = torch.get_num_threads(), portaloss.get_num_threads()
    with machine.use_threads(1, "cpu"):
        assert (torch.get_num_threads(), portaloss.get_num_threads()) == (1, 1)
    assert (torch.get_num_threads(), portaloss.get_num_threads()) == before


# A run


def measured(kind, names=("portaloss", "arrays", "eager"), dtype="float32"):
    spec = Spec(kind, dtype, "tiny", shape_of(kind, "tiny"))
    seen = []
    lines = run.run([spec], run.Settings(names, threads=1, rounds=2), lambda lines: seen.append(len(lines)))
    assert seen == [2]
    assert [line.direction for line in lines] == ["forward", "forward_backward"]
    return lines


def test_a_line_has_the_times_of_all_contenders():
    for line in measured(LossKind.KL_DIV):
        assert not line.error
        assert list(line.contenders) == ["portaloss", "arrays", "eager"]
        for found in line.contenders.values():
            assert 0 < found["q1_s"] <= found["median_s"] <= found["q3_s"]
            assert found["relative_error"] < 1e-6
            assert found["gb_s"] == pytest.approx(line.moved_bytes / found["median_s"] / 1e9)
        expected = line.median("eager") / line.median("portaloss")
        assert line.speedup() == line.speedups["portaloss"]["eager"] == pytest.approx(expected)


def test_a_wrong_result_is_not_timed(monkeypatch):
    from portaloss import functional

    right = functional.mse_loss
    monkeypatch.setattr(functional, "mse_loss", lambda input, target: 1.001 * right(input, target))
    for line in measured(LossKind.MSE, ("portaloss", "eager")):
        assert "portaloss: the loss is off" in line.error
        assert line.median("portaloss") is line.median("eager") is None
        assert line.speedups == {}


def test_a_contender_that_fails_does_not_stop_the_others(monkeypatch):
    def broken(loss, dynamic):
        def fails(**operands):
            raise RuntimeError("no compiler")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    for line in measured(LossKind.MSE, ("portaloss", "compile", "eager")):
        assert not line.error
        assert line.contenders["compile"] == {"error": "RuntimeError: no compiler"}
        assert line.median("portaloss") > 0
        assert line.median("eager") > 0


def test_a_contender_of_ours_that_fails_is_a_failure(monkeypatch):
    from portaloss import functional

    def broken(input, target):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(functional, "mse_loss", broken)
    assert "no kernel" in measured(LossKind.MSE)[0].error


def test_too_little_memory_does_not_stop_the_others(monkeypatch):
    def full(spec):
        raise MemoryError("no room")

    monkeypatch.setattr(run, "draw", full)
    assert {line.error for line in measured(LossKind.MSE)} == {"MemoryError: no room"}


def test_an_absent_library_is_not_a_failure(monkeypatch):
    def absent(kind):
        raise contenders.UnavailableError("liger-kernel is not installed")

    monkeypatch.setattr(contenders, "_liger", absent)
    (line, _) = measured(LossKind.KL_DIV, ("portaloss", "liger"))
    assert line.contenders["liger"] == {"absent": "liger-kernel is not installed"}
    assert not line.error


def test_memory_on_the_gpu_is_that_of_the_allocator(monkeypatch):
    fake = SimpleNamespace(
        synchronize=lambda: None,
        memory_allocated=lambda: 100,
        reset_peak_memory_stats=lambda: None,
        max_memory_allocated=lambda: 350,
    )
    monkeypatch.setattr(torch, "cuda", fake)
    assert memory.of_gpu(lambda: None) == 250

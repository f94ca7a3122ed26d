"""The pool of threads of the CPU backend: its order, its errors, and its size."""

import _thread
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import portaloss
from portaloss.backends.cpu.threads import most_threads, parallel, use_num_threads
from portaloss.functional import mse_loss

IN_MAIN = threading.main_thread()


@pytest.fixture
def threads():
    with use_num_threads(None):
        yield portaloss.set_num_threads


def slowly(index):
    """A tile that several threads take part in."""
    time.sleep(0.001)
    return index


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_order(threads, count):
    threads(count)
    assert parallel(lambda i: i * i, 37) == [i * i for i in range(37)]
    assert parallel(lambda i: i, 0) == []


def test_more_than_one_thread_takes_part(threads):
    threads(3)
    meeting = threading.Barrier(3, timeout=10)  # breaks unless three threads are inside at once
    parallel(lambda i: meeting.wait(), 3)


def test_the_first_error_reaches_the_caller(threads):
    threads(2)

    def fail(index):
        if index == 3:
            raise KeyError("three")
        time.sleep(0.001)

    with pytest.raises(KeyError, match="three"):
        parallel(fail, 100)
    assert parallel(lambda i: i, 4) == [0, 1, 2, 3]  # the pool is still good


def test_nested_calls_do_not_wait_for_each_other(threads):
    threads(2)
    assert parallel(lambda i: sum(parallel(lambda j: i * j, 8)), 8) == [i * 28 for i in range(8)]


def test_workers_do_not_warn(threads):
    threads(2)
    with np.errstate(all="raise"):
        parallel(lambda i: np.exp(np.float32(1000.0)), 8)


def test_the_number_of_threads_can_change_while_others_compute(threads):
    threads(2)
    x = np.ones((2000, 500), np.float32)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            threads(2)
            threads(3)

    other = threading.Thread(target=change)
    other.start()
    try:
        for _ in range(30):
            assert parallel(slowly, 6) == list(range(6))
            assert mse_loss(x, 0 * x) == 1.0
    finally:
        stop.set()
        other.join()


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_system_that_refuses_threads_leaves_fewer(threads, monkeypatch, allowed):
    """A submit that fails has queued its work already: it is done later, while or after the call collects results."""
    start, started = threading.Thread.start, []

    def refuse(thread):
        if len(started) >= allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    threads(4)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(20):
        assert parallel(slowly, 9) == list(range(9))
    monkeypatch.undo()
    assert parallel(slowly, 9) == list(range(9))


def test_an_error_of_a_tile_ends_the_call_when_no_tile_is_running(threads):
    """On whichever thread: no tile is running after it, and few have started."""
    threads(2)
    for fails_in_caller in (True, False):
        started, ended = [], []
        failed = threading.Event()

        def tile(index, fails_in_caller=fails_in_caller, started=started, ended=ended, failed=failed):
            started.append(index)
            try:
                if (threading.current_thread() is IN_MAIN) == fails_in_caller:
                    failed.set()
                    raise MemoryError("no room")
                failed.wait(timeout=30)
                time.sleep(0.05)
            finally:
                ended.append(index)

        with pytest.raises(MemoryError, match="no room"):
            parallel(tile, 100)
        assert sorted(started) == sorted(ended)
        assert len(started) < 10


@pytest.fixture
def interruptible():
    """A process that was started in the background ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.filterwarnings("error")
def test_an_interrupt_is_raised_after_running_tiles_have_ended(threads):
    """Whether it hits the calling thread at work or as it waits for a helper; and where a helper raises it itself."""
    threads(2)
    for where in ("work", "wait", "helper"):
        running, both = [], threading.Barrier(2)

        def tile(index, where=where, running=running, both=both):
            running.append(index)
            both.wait(timeout=30)
            if threading.current_thread() is IN_MAIN:
                if where == "work":
                    _thread.interrupt_main()
                    time.sleep(10)
            elif where == "helper":
                raise KeyboardInterrupt
            else:
                time.sleep(0.1)  # the calling thread is at work, or has come to wait
                if where == "wait":
                    _thread.interrupt_main()
                time.sleep(0.1)
            running.remove(index)

        with pytest.raises(KeyboardInterrupt):
            parallel(tile, 2)
        assert len(running) == (where != "wait")  # that of the thread that was interrupted did not come to its end
    assert parallel(slowly, 9) == list(range(9))


fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
# Python 3.12 warns of fork in a process with threads: that is the point
in_spite_of_threads = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@fork
@in_spite_of_threads
def test_a_forked_child_gets_a_pool_of_its_own(threads):
    """While the parent has a pool, and while another thread of it computes."""
    threads(2)
    parallel(slowly, 4)
    stop = threading.Event()

    def compute():
        while not stop.is_set():
            assert parallel(slowly, 20) == list(range(20))

    other = threading.Thread(target=compute)
    try:
        for busy in (False, True):
            if busy:
                other.start()
                time.sleep(0.005)
            for _ in range(5):
                child = multiprocessing.get_context("fork").Process(target=_exit_with_a_loss)
                child.start()
                child.join(timeout=60)
                assert child.exitcode == 0
    finally:
        stop.set()
        other.join()
    assert parallel(slowly, 9) == list(range(9))


def _exit_with_a_loss():
    x = np.ones((2000, 500), np.float32)
    right = parallel(slowly, 9) == list(range(9)) and mse_loss(x, 0 * x) == 1.0
    os._exit(0 if right else 1)


@fork
@in_spite_of_threads
def test_a_fork_in_the_middle_of_a_call_loses_no_tile(threads):
    """As by a signal's handler. The child lacks the thread that has the other tile, so that its call cannot end."""
    threads(2)
    both = threading.Barrier(2)
    children = []

    def tile(index):
        both.wait(timeout=30)
        if threading.current_thread() is IN_MAIN:
            children.append(os.fork())
        else:
            time.sleep(0.2)
        return index

    try:
        results, error = parallel(tile, 2), ""
    except RuntimeError as raised:
        results, error = None, str(raised)
    if children == [0]:
        os._exit(0 if "forked" in error else 1)
    assert os.waitpid(children[0], 0)[1] == 0
    assert results == [0, 1]


def test_what_a_late_helper_could_do_does_not_keep_operands_alive(threads, monkeypatch):
    """As that of a thread that was refused, whose work stays in the queue."""
    jobs = []
    monkeypatch.setattr("portaloss.backends.cpu.threads._ask", lambda help, threads: jobs.append(help))
    threads(2)
    operand = np.zeros(3)
    count = sys.getrefcount(operand)
    parallel(lambda i: operand[i], 3)
    assert sys.getrefcount(operand) == count
    jobs.pop()()  # and it does nothing


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="threads must be at least 1"):
        portaloss.set_num_threads(0)
    with pytest.raises(TypeError, match="threads must be an int"):
        portaloss.set_num_threads(1.5)
    with pytest.raises(TypeError, match="threads must be an int or None"):
        portaloss.set_num_threads(True)


COUNTED = """
import os, sys, threading
import numpy as np
import portaloss
from portaloss.backends.cpu import tiles
from portaloss.functional import mse_loss

seen = set()
original = tiles.Pass._tile
def tile(self, *args):
    seen.add(threading.get_ident())
    {pause}
    return original(self, *args)
tiles.Pass._tile = tile
import time

def used(x):
    seen.clear()
    mse_loss(x, 0 * x)
    return len(seen)

x = np.ones((4096, 1024), np.float32)
{code}
"""


def run(code, **environment):
    """What the code prints, in a process of its own; ``used(x)`` is how many threads run tiles of a loss."""
    text = COUNTED.format(code=code, pause="time.sleep(0.02)")
    clean = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", text], env=clean | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(most_threads() < 2, reason="needs two cores")
def test_arrays_follow_the_environment_and_the_cores(threads, monkeypatch):
    assert run("print(used(x), portaloss.get_num_threads())", OMP_NUM_THREADS="1") == ["1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert portaloss.get_num_threads() == 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for nothing in ("", "many", "0", "-1", "100000"):
        monkeypatch.setenv("OMP_NUM_THREADS", nothing)
        assert portaloss.get_num_threads() == cores
    if hasattr(os, "sched_setaffinity"):
        assert run("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(used(x))") == ["1"]


@pytest.mark.skipif(most_threads() < 2, reason="needs two cores")
def test_tensors_follow_pytorch_and_a_choice_overrules_all_until_it_is_taken_back():
    pytest.importorskip("torch")
    code = """
import torch
t = torch.from_numpy(x)
print(used(x), used(t))
torch.set_num_threads(2)
print(used(x), used(t))
torch.set_num_threads(1)
portaloss.set_num_threads(2)
print(used(x), used(t), portaloss.get_num_threads())
portaloss.set_num_threads(None)
print(used(x), used(t), portaloss.get_num_threads())
"""
    assert run(code, OMP_NUM_THREADS="1") == ["1", "1", "1", "2", "2", "2", "2", "1", "1", "1"]


def test_every_engine_follows_pytorch(threads, monkeypatch):
    """CTC, linear cross-entropy and its casts: with tensors, each asks for the number of tensors."""
    torch = pytest.importorskip("torch")
    from portaloss.functional import ctc_loss, linear_cross_entropy

    asked = []

    def number(*, tensors):
        asked.append(tensors)
        return 1

    monkeypatch.setattr("portaloss.backends.cpu.threads.num_threads", number)
    log_probs, labels, lengths = torch.zeros(4, 2, 3), torch.ones(2, 1, dtype=torch.int64), torch.ones(2, dtype=int)
    x, weight = torch.zeros(5, 4), torch.zeros(4, 3).T
    for tensors in (True, False):
        asked.clear()
        of = (lambda value: value) if tensors else (lambda value: value.numpy())
        ctc_loss(of(log_probs), of(labels), of(lengths), of(lengths))
        linear_cross_entropy(of(x.half()), of(weight.half()), of(torch.ones(5, dtype=torch.int64)))
        assert len(asked) >= 2
        assert set(asked) == {tensors}


def test_pytorch_stays_on_a_tile_s_thread(threads):
    """What it would start there is threads times threads; and what it may start elsewhere does not change."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("threadpoolctl")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threads(2)
        both = threading.Barrier(2)

        def seen(index):
            both.wait(timeout=30)  # each of two threads has one of the two
            return threading.get_ident(), torch.get_num_threads()

        (first, one), (second, other) = parallel(seen, 2)
        assert first != second
        assert (one, other) == (1, 1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)

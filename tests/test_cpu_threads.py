"""The pool of threads of the CPU backend: its order, its errors, and its size."""

import os
import threading
import time

import numpy as np
import pytest

import portaloss
from portaloss.backends.cpu.threads import parallel


@pytest.fixture
def threads():
    before = portaloss.get_num_threads()
    yield portaloss.set_num_threads
    portaloss.set_num_threads(before)


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
    stop = threading.Event()

    def change():
        while not stop.is_set():
            threads(2)
            threads(3)

    other = threading.Thread(target=change)
    other.start()
    try:
        for _ in range(200):
            assert parallel(lambda i: i, 6) == list(range(6))
    finally:
        stop.set()
        other.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of fork in a threaded process: the point
def test_a_forked_child_gets_a_pool_of_its_own(threads):
    threads(2)
    parallel(lambda i: i, 4)
    child = os.fork()
    if child == 0:
        os._exit(0 if parallel(lambda i: i, 4) == [0, 1, 2, 3] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="threads must be at least 1"):
        portaloss.set_num_threads(0)
    with pytest.raises(TypeError, match="threads must be an int"):
        portaloss.set_num_threads(1.5)


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

"""Large results reuse freed memory, and never memory that an array still uses."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import portaloss
from portaloss import functional
from portaloss.backends.cpu import blocks, memory

pytestmark = pytest.mark.skipif(blocks._FREE is None, reason="this system has no MADV_FREE: nothing is kept")

N = blocks.LEAST // 4
DEFAULT = 1 << 30


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Each test begins and ends with nothing kept."""
    gc.collect()
    portaloss.empty_cache()
    yield
    gc.collect()
    portaloss.empty_cache()
    portaloss.set_cache_limit(DEFAULT)


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_freed_block_is_used_again() -> None:
    first = memory.empty((N,), np.float32)
    where = address(first)
    assert blocks.kept() == 0
    del first
    assert blocks.kept() == 4 * N
    again = memory.empty((2, N // 2), np.float32)
    assert address(again) == where
    assert again.shape == (2, N // 2)
    assert blocks.kept() == 0


def test_a_view_keeps_the_block() -> None:
    first = memory.empty((N,), np.float32)
    first.fill(3.0)
    view = first.reshape(4, -1)[1:, ::2].T
    del first
    other = memory.empty((N,), np.float32)
    other.fill(5.0)
    assert blocks.kept() == 0
    assert (view == 3.0).all()
    del view
    assert blocks.kept() == 4 * N


def test_a_tensor_keeps_the_block() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(N, requires_grad=True)
    functional.mse_loss(x, torch.zeros(N), reduction="sum").backward()
    kept = x.grad
    x.grad = None
    functional.mse_loss(2 * x, torch.zeros(N), reduction="sum").backward()
    assert (kept == 2.0).all()
    assert (x.grad == 8.0).all()
    assert kept.data_ptr() != x.grad.data_ptr()


def test_arrays_of_a_loss_are_reused_between_calls() -> None:
    loss = portaloss.value_and_grad(functional.mse_loss)
    x, t = np.ones(N, np.float32), np.zeros(N, np.float32)
    _, gradient = loss(x, t)
    where = address(gradient)
    expected = gradient.copy()
    del gradient
    _, gradient = loss(x, t)
    assert address(gradient) == where
    np.testing.assert_array_equal(gradient, expected)


def test_small_results_are_not_in_blocks() -> None:
    array = memory.empty((N - 1,), np.float32)
    assert array.base is None
    del array
    assert blocks.kept() == 0


def test_a_block_much_larger_than_needed_is_left() -> None:
    array = memory.empty((2 * N,), np.float32)
    where = address(array)
    del array
    other = memory.empty((N,), np.float32)
    assert address(other) != where
    assert blocks.kept() == 8 * N
    assert address(memory.empty((2 * N - N // 8,), np.float32)) == where  # a fourteenth is little


def test_beyond_the_limit_the_oldest_goes() -> None:
    portaloss.set_cache_limit(2 * 4 * N)
    arrays = [memory.empty((N + i,), np.float32) for i in range(3)]
    sizes = [array.nbytes for array in arrays]
    arrays.pop(0)
    assert blocks.kept() == sizes[0]
    arrays.pop(0)
    assert blocks.kept() == sizes[1]  # both are 4 bytes more than the limit
    portaloss.set_cache_limit(0)
    assert blocks.kept() == 0
    arrays.clear()
    assert blocks.kept() == 0


def test_limit_zero_takes_memory_from_numpy() -> None:
    portaloss.set_cache_limit(0)
    assert memory.empty((N,), np.float32).base is None


def test_a_result_larger_than_the_limit_is_not_kept() -> None:
    array = memory.empty((N,), np.float32)
    portaloss.set_cache_limit(4 * N - 1)
    del array
    assert blocks.kept() == 0
    assert memory.empty((N,), np.float32).base is None


def test_other_orders_of_memory_keep_theirs() -> None:
    given = np.empty((N, 2), np.float32).T
    assert memory.empty_like(given).strides == given.strides


def test_what_cannot_be_had_is_numpys_error() -> None:
    portaloss.set_cache_limit(1 << 62)
    with pytest.raises(MemoryError):
        memory.empty((1 << 59,), np.float32)


def test_threads_never_share_a_block() -> None:
    wrong: list[int] = []

    def work(mine: int) -> None:
        for _ in range(20):
            array = memory.empty((N,), np.float32)
            array.fill(mine)
            if array.min() != mine or array.max() != mine:
                wrong.append(mine)
            del array

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 < blocks.kept() <= 4 * 4 * N


def test_an_emptied_cache_has_nothing() -> None:
    memory.empty((N,), np.float32)
    assert blocks.kept() == 4 * N
    portaloss.empty_cache()
    assert blocks.kept() == 0


def test_garbage_gives_its_block_back() -> None:
    cycle: list[Any] = [memory.empty((N,), np.float32)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert blocks.kept() == 4 * N


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (-1, ValueError, r"limit must be at least 0, got -1"),
        (1.5, TypeError, r"limit must be an int, got float"),
        (True, TypeError, r"limit must be an int, got bool"),
        ("1", TypeError, r"limit must be an int, got str"),
    ],
)
def test_limits_that_are_none(limit: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        portaloss.set_cache_limit(limit)

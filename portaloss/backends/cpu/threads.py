"""The thread pool that tiles run on.

NumPy's ufuncs release Python's lock on large arrays, so threads use all cores. The calling thread works too: small work
stays on it, and it never waits for a pool that is busy or shut down.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_threads: int | None = None


def get_num_threads() -> int:
    """How many threads the CPU backend uses; by default one for each core this process may run on."""
    if _threads is not None:
        return _threads
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def set_num_threads(threads: int) -> None:
    """Use this many threads from now on. The number does not change a single bit of the results.

    Raises:
        TypeError: threads is not an int.
        ValueError: threads is less than 1.
    """
    global _pool, _threads
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be an int, got {threads!r}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    with _lock:
        pool, _pool, _threads = _pool, None, threads
    if pool is not None:
        pool.shutdown(wait=False)


def _forget_pool() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # threads do not survive a fork


def _workers(count: int) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(count, thread_name_prefix="portaloss")
        return _pool


def parallel(function: Callable[[int], T], count: int, *, most: int | None = None) -> list[T]:
    """``[function(0), ..., function(count - 1)]``, the calls spread over the threads, or over no more than ``most``.

    Calls start in the order of the indexes. The first exception is raised after all running calls have ended.
    """
    threads = min(get_num_threads(), count, most or count)
    if threads <= 1:
        with np.errstate(all="ignore"):
            return [function(index) for index in range(count)]

    results: list[T | None] = [None] * count
    next_index = itertools.count()
    errors: list[BaseException] = []

    def work() -> None:
        # overflow and invalid give inf and nan, as they should, without warnings; NumPy's setting is per thread
        with np.errstate(all="ignore"), _alone():
            while not errors and (index := next(next_index)) < count:
                try:
                    results[index] = function(index)
                except BaseException as error:
                    errors.append(error)

    pool = _workers(get_num_threads() - 1)
    try:
        futures = [pool.submit(work) for _ in range(threads - 1)]
    except RuntimeError:  # set_num_threads shut the pool down in between
        futures = []
    work()
    for future in futures:
        if not future.cancel():  # one that has not started has nothing to do
            future.result()
    if errors:
        raise errors[0]
    return results  # type: ignore[return-value]  # every index was filled


def _alone() -> AbstractContextManager[Any]:
    """Limit PyTorch to one thread when it is called on this thread, since all cores have work already.

    OpenMP has this limit for each thread, so other threads are not affected. Without threadpoolctl there is no limit.
    """
    torch = sys.modules.get("torch")
    controller = None if torch is None else _openmp()
    if torch is None or controller is None:
        return nullcontext()
    torch.get_num_threads()  # PyTorch sets its number on a thread at the first call there, which must come before ours
    limited: AbstractContextManager[Any] = controller.limit(limits=1)
    return limited


@cache
def _openmp() -> Any:
    """The OpenMP libraries of this process, after torch is imported; None without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it ships no types
    except ImportError:
        return None
    return ThreadpoolController().select(user_api="openmp")

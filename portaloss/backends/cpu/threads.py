"""The pool that tiles run on.

NumPy's ufuncs release the GIL on large arrays, so plain threads use all cores. The thread that calls takes part: small
work never leaves it, and a pool that is busy or gone cannot make it wait.
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
    """Use that many threads from now on. Results do not depend on it, to the last bit.

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

    Indexes are taken in order, so that low ones are never left for last. The first exception is raised after all
    running calls have ended.
    """
    threads = min(get_num_threads(), count, most or count)
    if threads <= 1:
        with np.errstate(all="ignore"):
            return [function(index) for index in range(count)]

    results: list[T | None] = [None] * count
    next_index = itertools.count()
    errors: list[BaseException] = []

    def work() -> None:
        # overflow and invalid are part of the answer (inf, nan), not news; NumPy keeps this state for each thread
        with np.errstate(all="ignore"), _alone():
            while not errors and (index := next(next_index)) < count:
                try:
                    results[index] = function(index)
                except BaseException as error:
                    errors.append(error)

    pool = _workers(get_num_threads() - 1)
    try:
        futures = [pool.submit(work) for _ in range(threads - 1)]
    except RuntimeError:  # set_num_threads retired the pool in between
        futures = []
    work()
    for future in futures:
        if not future.cancel():  # one that never started has nothing left to do
            future.result()
    if errors:
        raise errors[0]
    return results  # type: ignore[return-value]  # every index was filled


def _alone() -> AbstractContextManager[Any]:
    """Keeps what PyTorch does on this thread from starting threads of its own: all cores have work already.

    OpenMP's number of threads is each thread's own, so that no other notices. Without threadpoolctl nothing changes.
    """
    torch = sys.modules.get("torch")
    controller = None if torch is None else _openmp()
    if torch is None or controller is None:
        return nullcontext()
    torch.get_num_threads()  # PyTorch sets a thread up when first asked there, and would do so after us
    limited: AbstractContextManager[Any] = controller.limit(limits=1)
    return limited


@cache
def _openmp() -> Any:
    """The OpenMP libraries of this process, once torch is loaded; None where no one can tell."""
    try:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it ships no types
    except ImportError:
        return None
    return ThreadpoolController().select(user_api="openmp")

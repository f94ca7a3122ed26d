"""The threads that tiles run on.

NumPy's ufuncs release Python's lock on large arrays, so threads use all cores. The calling thread takes tiles as all
others do, and does them all where nobody helps: the others are helpers, which may come late, or not at all. So no tile
depends on a pool that is busy, shut down or not allowed another thread.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_chosen: int | None = None  #: what set_num_threads was given

#: Seconds after which a thread that waits looks whether it does so in vain, in the child of a fork.
_PATIENCE = 1.0


def get_num_threads() -> int:
    """How many threads the CPU backend uses for NumPy arrays.

    What ``set_num_threads`` chose holds for arrays and tensors. Without a choice, arrays have a thread for each core
    that this process may run on, but no more than the environment variable OMP_NUM_THREADS says; and tensors have as
    many as PyTorch uses for its own operators, ``torch.get_num_threads()``.
    """
    return _chosen or _of_process()


def set_num_threads(threads: int | None) -> None:
    """Use this many threads from now on, for arrays and tensors. It does not change a single bit of the results.

    Args:
        threads: how many; None takes an earlier choice back, so that arrays follow OMP_NUM_THREADS and the cores that
            this process may run on, and tensors follow ``torch.get_num_threads()``.

    Raises:
        TypeError: threads is neither an int nor None.
        ValueError: threads is less than 1.
    """
    global _pool, _chosen
    if isinstance(threads, bool) or not isinstance(threads, (int, type(None))):
        raise TypeError(f"threads must be an int or None, got {threads!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    with _lock:
        pool, _pool, _chosen = _pool, None, threads
    if pool is not None:
        pool.shutdown(wait=False)


@contextmanager
def use_num_threads(threads: int | None) -> Iterator[None]:
    """What ``set_num_threads`` does, until the block ends."""
    before = _chosen
    set_num_threads(threads)
    try:
        yield
    finally:
        set_num_threads(before)


def num_threads(*, tensors: bool) -> int:
    """How many threads a call uses; ``tensors``: whether its operands are tensors."""
    if _chosen is None and tensors:
        number: int = sys.modules["torch"].get_num_threads()
        return number
    return get_num_threads()


def most_threads() -> int:
    """How many threads a call uses, whether its operands are arrays or tensors."""
    return max(num_threads(tensors=tensors) for tensors in (False, "torch" in sys.modules))


def _of_process() -> int:
    """The cores of this process, or OMP_NUM_THREADS where that is less: a number, or one for each level of nesting."""
    cores = _cores()
    try:
        wanted = int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0])
    except ValueError:  # not set, or no number: OpenMP ignores it too
        return cores
    return min(cores, wanted) if wanted > 0 else cores


def _cores() -> int:
    count = getattr(os, "process_cpu_count", None)  # since Python 3.13
    if count is not None:
        return count() or 1
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def _forget_pool() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # threads do not survive a fork


def parallel(function: Callable[[int], T], count: int, *, most: int | None = None, tensors: bool = False) -> list[T]:
    """``[function(0), ..., function(count - 1)]``, the calls spread over the threads, or over no more than ``most``.

    Calls start in the order of the indexes. An exception of any of them is raised after all running calls have ended;
    no call starts after it.

    Args:
        function: what is called.
        count: how often.
        most: the most threads.
        tensors: whether it works for operands that are tensors, with as many threads as PyTorch has.
    """
    threads = min(num_threads(tensors=tensors), count, most or count)
    if threads <= 1:
        with np.errstate(all="ignore"):
            return [function(index) for index in range(count)]
    job = _Job(function, count)
    try:
        _ask(job.help, threads - 1)
        job.work()
    finally:
        job.end()
    return job.collected()


def _ask(help: Callable[[], None], threads: int) -> None:
    """Have threads of the pool call ``help``: as many as there are, since one who is not there is not missed."""
    # shut down by set_num_threads, or at the end of the process; or the system refuses to start a thread
    with contextlib.suppress(RuntimeError):
        pool = _workers(threads)
        for _ in range(threads):
            pool.submit(help)


def _workers(count: int) -> ThreadPoolExecutor:
    """The pool, of at least so many threads."""
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < count:
            if _pool is not None:
                _pool.shutdown(wait=False)  # it still does what it was asked
            _pool, _pool_size = ThreadPoolExecutor(count, thread_name_prefix="portaloss"), count
        return _pool


class _Job(Generic[T]):
    """The calls of one ``parallel``, for several threads to take from.

    An interrupt may hit the calling thread between any two steps, so that nothing depends on a count that it keeps: it
    waits for helpers by what these say themselves. Helpers come first and then take, and it looks for them when there
    is nothing left to take. So one that comes later, perhaps long after the end, finds nothing.
    """

    def __init__(self, function: Callable[[int], T], count: int) -> None:
        self._function: Callable[[int], T] | None = function
        # lists and deques whose single steps are atomic, rather than a lock: a fork could leave that locked forever
        self._open = deque(range(count))
        self._results: list[Any] = [_MISSING] * count
        self._errors: list[BaseException] = []
        self._came: list[None] = []
        self._left: list[None] = []
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._process = os.getpid()

    def work(self) -> None:
        """Take calls until there are none."""
        # overflow and invalid give inf and nan, as they should, without warnings; NumPy's setting is per thread
        with np.errstate(all="ignore"), _alone():
            while self._open:
                try:
                    index = self._open.popleft()
                except IndexError:  # another thread was quicker
                    return
                function = self._function
                assert function is not None, "it is there while there are calls"
                self._results[index] = function(index)

    def help(self) -> None:
        """As ``work``, on another thread than the one that waits."""
        self._came.append(None)
        try:
            self.work()
        except BaseException as error:
            self._open.clear()
            self._errors.append(error)
        finally:
            self._left.append(None)
            self._news.put(None)

    def end(self) -> None:
        """Wait until no helper is at work. An interrupt is raised after that."""
        self._open.clear()  # where the calling thread failed, nobody is to start another call
        interrupt: BaseException | None = None
        while len(self._left) < len(self._came) and os.getpid() == self._process:
            try:
                self._news.get(timeout=_PATIENCE)
            except queue.Empty:
                pass
            except BaseException as error:
                interrupt = error
        self._function = None  # a helper that comes late must not keep the operands alive
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt  # its traceback refers to this frame

    def collected(self) -> list[T]:
        """The results, after the end."""
        results, self._results = self._results, []
        if self._errors:
            raise self._errors.pop(0)
        if any(result is _MISSING for result in results):
            raise RuntimeError("the process was forked in the middle of a loss, whose other threads the child lacks")
        return results


_MISSING = object()


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

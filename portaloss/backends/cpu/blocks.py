"""A cache of large blocks of memory, which are reused for later results of about the same size.

A new large array comes from the system, which clears each page at the first write: one more pass over memory, where
most losses need two or three. A training step frees its gradients before the next step needs as many, so freed blocks
are kept, as PyTorch's allocators do on GPUs. The system may take the pages of a kept block whenever it needs memory
(madvise(2), MADV_FREE); until then they count as memory of this process.
"""

from __future__ import annotations

import contextlib
import mmap
import operator
import os
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

#: Bytes of the smallest block. The C library keeps smaller ones, once ``tiles`` has set it to.
LEAST = 1 << 24

#: The advice for kept blocks, and the advice to use huge pages, as NumPy gives it; None where the system has neither.
_FREE: int | None = getattr(mmap, "MADV_FREE", None)
_HUGE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)

_limit = 1 << 30
_kept: list[_Block] = []  # in the order in which they were freed
_lock = threading.RLock()  # reentrant: a block may be freed wherever Python collects garbage, also in this module


def set_cache_limit(limit: int) -> None:
    """Set how many bytes of freed results are kept for reuse, on the CPU; 1 GiB by default.

    This concerns results of 16 MiB and more, and linear cross-entropy's logits. The system takes kept memory when it
    needs some; until then it counts as the process's (on Linux and macOS; elsewhere nothing is kept).

    Args:
        limit: in bytes. Memory kept beyond it is returned to the system at once; 0 keeps nothing.

    Raises:
        TypeError: limit is not an int.
        ValueError: limit is negative.
    """
    global _limit
    if isinstance(limit, bool):
        raise TypeError("limit must be an int, got bool")
    try:
        wanted = operator.index(limit)
    except TypeError:
        raise TypeError(f"limit must be an int, got {type(limit).__name__}") from None
    if wanted < 0:
        raise ValueError(f"limit must be at least 0, got {wanted}")
    _limit = wanted
    _trim()


def empty_cache() -> None:
    """Return the kept memory to the system, for example before memory is measured or needed elsewhere."""
    with _lock:
        _kept.clear()


def kept() -> int:
    """How many bytes are kept now."""
    return sum(block.size for block in list(_kept))


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> npt.NDArray[Any] | None:
    """An array of ``size`` bytes, not cleared; None where blocks of this size are not kept."""
    if _FREE is None or size > _limit:
        return None
    block = _take(size)
    if block is None:
        try:
            block = _Block(size)
        except (OSError, ValueError):  # no memory: NumPy will raise its usual error
            return None
    return np.asarray(_Loan(block, size)).view(dtype).reshape(shape)


def _forget_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)  # the thread that held it does not exist after the fork


class _Block:
    """Memory from the system, returned when this object is deleted."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if _HUGE is not None:
            with contextlib.suppress(OSError):  # a system without huge pages
                self._map.madvise(_HUGE)
        self.address = np.frombuffer(self._map, np.uint8).__array_interface__["data"][0]

    def may_go(self) -> bool:
        """Tell the system that it may take the pages; returns whether it supports that."""
        try:
            self._map.madvise(_FREE or 0)
        except OSError:
            return False
        return True


class _Loan:
    """The base object of an array on a block, and of its views: when it is deleted, the block is given back."""

    def __init__(self, block: _Block, size: int) -> None:
        self.__array_interface__ = {"version": 3, "shape": (size,), "typestr": "|u1", "data": (block.address, False)}
        weakref.finalize(self, _give_back, block).atexit = False


def _take(size: int) -> _Block | None:
    """The smallest kept block that is large enough, but at most an eighth larger."""
    with _lock:
        fitting = [block for block in _kept if size <= block.size <= size + size // 8]
        block = min(fitting, key=lambda block: block.size, default=None)
        if block is not None:
            _kept.remove(block)
        return block


def _give_back(block: _Block) -> None:
    if block.size <= _limit and block.may_go():
        with _lock:
            _kept.append(block)
    _trim()


def _trim() -> None:
    with _lock:
        while _kept and kept() > _limit:
            _kept.pop(0)

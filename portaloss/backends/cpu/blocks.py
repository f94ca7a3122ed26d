"""Large blocks of memory that are used again: a gradient as large as the last one lies where that one lay.

A large array is fresh from the system, which clears each page as it is first written: one more pass over memory, where
most losses take two or three. A training step frees its gradients before the next step wants as many, so blocks that
are freed are kept, like those of PyTorch's allocators on GPUs. The system is told that it may have a kept block's pages
whenever it needs them (madvise(2), MADV_FREE): they count as this process's memory until then, and stand in nobody's
way.
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

#: Bytes of the smallest block. What is smaller, the C library keeps, once it has been told to (``tiles``).
LEAST = 1 << 24

#: What the system may take back, and where it is to use huge pages, as NumPy has it; None on systems without.
_FREE: int | None = getattr(mmap, "MADV_FREE", None)
_HUGE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)

_limit = 1 << 30
_kept: list[_Block] = []  # those freed first come first
_lock = threading.RLock()  # a block may be freed wherever Python collects garbage, in here too


def set_cache_limit(limit: int) -> None:
    """How many bytes of freed results are kept to be used again, on the CPU; 1 GiB by default.

    Results of 16 MiB and more are concerned, and linear cross-entropy's logits. The system takes what is kept when it
    needs memory, though until then it counts as the process's (on Linux and macOS; elsewhere nothing is kept).

    Args:
        limit: in bytes. What is kept beyond that is given back at once; 0 keeps nothing.

    Raises:
        TypeError: limit is no int.
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
    """Give what is kept of freed results back to the system: for one who measures memory, or is about to need all."""
    with _lock:
        _kept.clear()


def kept() -> int:
    """Bytes that are kept now."""
    return sum(block.size for block in list(_kept))


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> npt.NDArray[Any] | None:
    """An array of that many bytes, not cleared; None where blocks cannot be kept, or are not to be."""
    if _FREE is None or size > _limit:
        return None
    block = _take(size)
    if block is None:
        try:
            block = _Block(size)
        except (OSError, ValueError):  # no room: NumPy raises what it always does
            return None
    return np.asarray(_Loan(block, size)).view(dtype).reshape(shape)


def _forget_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)  # whoever held it did not survive the fork


class _Block:
    """Memory from the system, which gets it back when nobody refers to this any more."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if _HUGE is not None:
            with contextlib.suppress(OSError):  # a system without them
                self._map.madvise(_HUGE)
        self.address = np.frombuffer(self._map, np.uint8).__array_interface__["data"][0]

    def may_go(self) -> bool:
        """Tell the system that it may have the pages; whether it has understood."""
        try:
            self._map.madvise(_FREE or 0)
        except OSError:
            return False
        return True


class _Loan:
    """What an array on a block refers to, and every view of it: once it is gone, so are they, and the block is free."""

    def __init__(self, block: _Block, size: int) -> None:
        self.__array_interface__ = {"version": 3, "shape": (size,), "typestr": "|u1", "data": (block.address, False)}
        weakref.finalize(self, _give_back, block).atexit = False


def _take(size: int) -> _Block | None:
    """The smallest kept block that is large enough, and not an eighth larger."""
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

"""Launch configurations, and all that depends on the vendor.

Tables are short and chosen by shape and dtype; nothing is tuned at import or at the first call. What a device is asked
for: its warp size (CDNA has 64 lanes, RDNA and NVIDIA 32), its number of multiprocessors and its shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched."""

    block: int  #: elements a program handles at a time
    num_warps: int


#: The most threads a program may have, on either vendor.
MAX_THREADS = 1024


@lru_cache
def warp_size(device: torch.device) -> int:
    """Lanes in a warp, from the device's own properties."""
    if device.type != "cuda":
        return 32  # the interpreter has no warps; a number is all that is asked for
    return int(getattr(torch.cuda.get_device_properties(device), "warp_size", 32))


def warps(threads: int, lanes: int) -> int:
    """The number of warps, a power of two, for about that many threads."""
    count = max(1, min(threads, MAX_THREADS) // lanes)
    return 1 << (count.bit_length() - 1)


def pointwise(itemsize: int, lanes: int, *, interpret: bool) -> Launch:
    """A program of 256 threads moves 16 bytes a thread and operand at a time: the widest load there is."""
    if interpret:
        return Launch(1 << 16, 1)  # the interpreter's time goes into calls, so it gets few and large ones
    return Launch(256 * max(4, 16 // itemsize), warps(256, lanes))


def rowwise(classes: int, itemsize: int, lanes: int, *, interpret: bool) -> Launch:
    """A block of classes a step: the whole row if it fits the registers of a program, else pieces of it."""
    if interpret:
        return Launch(1 << min(15, max(4, (classes - 1).bit_length())), 1)
    widest = 4096 if itemsize <= 2 else 2048 if itemsize == 4 else 1024
    block = min(widest, 1 << max(4, (classes - 1).bit_length()))
    return Launch(block, warps(block // 8 * 2, lanes))

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
        return Launch(1 << 12, 1)  # few calls, for in calls its time goes; and yet several in parity's samples
    return Launch(256 * max(4, 16 // itemsize), warps(256, lanes))


@dataclass(frozen=True)
class RowLaunch:
    """How a kernel over rows is launched."""

    rows: int  #: rows a program handles
    classes: int  #: classes it handles at a time
    num_warps: int


def rows(classes: int, itemsize: int, contiguous: bool, lanes: int, *, interpret: bool) -> RowLaunch:
    """Rows and classes of a block.

    Contiguous classes: whole short rows, several to a program, or long rows in pieces that keep 16 bytes or more a
    thread in flight. Strided classes (K-dimensional logits): neighbouring rows are neighbours in memory, so a block is
    wide in rows, and narrow in classes.

    Each element costs a thread the registers of half a dozen intermediate values, and each row those of its 64-bit
    offsets and running values. With twice the elements in float64, or in strided blocks, or with several rows a thread,
    they do not fit: gfx942 and sm_90 then keep tens of them in memory. Nor do they in a program of 1024 threads, which
    on NVIDIA has 64 registers for each: 512 is the most.
    """
    whole = 1 << max(0, (classes - 1).bit_length())
    if interpret:
        block = min(whole, 256)
        return RowLaunch((1 << 12) // block, block, 1)
    if not contiguous:
        return RowLaunch(128, min(whole, 8), warps(256, lanes))
    each = 8 if itemsize <= 4 else 2  # float64: 16 bytes a thread, and its functions take many registers
    if whole <= 512:
        return RowLaunch(min(256, 256 * each // whole), whole, warps(256, lanes))
    block = min(whole, 512 * each)
    return RowLaunch(1, block, warps(block // each, lanes))


def gather(lanes: int, *, interpret: bool) -> RowLaunch:
    """One row a thread: 64-bit offsets for more would not fit the registers of a thread."""
    return RowLaunch(1 << 10 if interpret else 256, 1, warps(256, lanes))

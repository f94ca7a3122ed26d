"""Launch configurations, and everything that depends on the vendor.

A few rules choose a configuration by shape and dtype; nothing is tuned at import or at the first call. The only
property of a device that matters is its warp size: CDNA has 64 lanes, RDNA and NVIDIA 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from portaloss import emulator


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched."""

    block: int  #: elements that a program handles at a time
    num_warps: int


#: Compiler options of every launch. Products and sums are not fused: a compiler that fuses some of them makes a result
#: depend on the vendor and on which lane computes it, and inf - inf may become inf. A kernel that means a fused product
#: asks for it by name.
COMPILER: dict[str, Any] = {"enable_fp_fusion": False}

#: The most threads of a program, for both vendors.
MAX_THREADS = 1024


def warp_size(device: torch.device) -> int:
    """Lanes in a warp: of an emulated chip, or by the device's properties."""
    emulated = emulator.active()
    return _lanes(device) if emulated is None else emulated.chip.lanes


@lru_cache
def _lanes(device: torch.device) -> int:
    return int(getattr(torch.cuda.get_device_properties(device), "warp_size", 32))


def warps(threads: int, lanes: int) -> int:
    """The number of warps, a power of two, for about this many threads."""
    count = max(1, min(threads, MAX_THREADS) // lanes)
    return 1 << (count.bit_length() - 1)


def pointwise(itemsize: int, lanes: int) -> Launch:
    """A program of 256 threads, each of which loads 16 bytes of each operand at a time: the widest load."""
    return Launch(256 * max(4, 16 // itemsize), warps(256, lanes))


@dataclass(frozen=True)
class RowLaunch:
    """How a kernel over rows is launched."""

    rows: int  #: rows that a program handles
    classes: int  #: classes that it handles at a time
    num_warps: int


def rows(classes: int, itemsize: int, contiguous: bool, lanes: int, threads: int = 512) -> RowLaunch:
    """Rows and classes of a block.

    Contiguous classes: several whole short rows in a program, or pieces of a long row, with loads of at least 16 bytes
    for each thread. Strided classes (K-dimensional logits): adjacent rows are adjacent in memory, so a block has many
    rows and few classes.

    Each element takes the registers of about six intermediate values, and each row those of its 64-bit offsets and
    running values. With twice the elements in float64 or in strided blocks, or with several rows in a thread, they do
    not fit: gfx942 and sm_90 then spill tens of registers. They do not fit with 1024 threads in a program either, which
    leaves 64 registers for each thread on NVIDIA: hence at most 512 threads, or fewer where a kernel needs more.
    """
    whole = 1 << max(0, (classes - 1).bit_length())
    if not contiguous:
        return RowLaunch(128, min(whole, 8), warps(256, lanes))
    each = 8 if itemsize <= 4 else 2  # float64: 16 bytes for each thread, since its functions need many registers
    if whole <= 512:
        return RowLaunch(min(256, 256 * each // whole), whole, warps(256, lanes))
    block = min(whole, threads * each)
    return RowLaunch(1, block, warps(block // each, lanes))


def gather(lanes: int) -> RowLaunch:
    """One row for each thread: the 64-bit offsets of more rows would not fit its registers."""
    return RowLaunch(256, 1, warps(256, lanes))

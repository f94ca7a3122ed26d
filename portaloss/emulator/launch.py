"""A launch of a compiled kernel, and the loop over its blocks.

An executor is what runs the program of one instruction set. It gets a batch of blocks, whose threads are NumPy lanes:

    class Executor(Protocol):
        text: str
        def run(self, batch: Batch) -> None: ...

``Batch`` has the launch (arguments, grid, settings), the lanes, global memory and the batch's own shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from portaloss.emulator.ledger import Ledger
from portaloss.emulator.memory import GlobalMemory, Lanes, SharedMemory, lanes_of
from portaloss.emulator.models import Model

#: Lanes that run together: enough that NumPy's steps outweigh Python's, few enough for the processor's cache.
LANES = 1 << 13


@dataclass(frozen=True)
class Settings:
    """How kernels are emulated."""

    model: Model = field(default_factory=Model)
    races: bool = False  #: whether to look for races: several times slower
    uninitialised: bool = True  #: whether to look for reads of memory that was never written
    lanes: int = LANES
    counter: Ledger | None = None  #: what counts instructions and accesses


@dataclass(frozen=True)
class Argument:
    """A kernel's argument: its bits, and how many bytes it takes."""

    bits: int
    size: int


@dataclass(frozen=True)
class Launch:
    """A kernel, and what it is launched with."""

    name: str
    arguments: Sequence[Argument]
    grid: tuple[int, int, int]
    num_warps: int
    warp_size: int
    shared: int  #: bytes of shared memory of a block
    settings: Settings = field(default_factory=Settings)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.num_warps * self.warp_size


@dataclass
class Batch:
    """Blocks that run together."""

    launch: Launch
    lanes: Lanes
    memory: GlobalMemory
    shared: SharedMemory

    def block_index(self, axis: int) -> Any:
        """Of each lane: its block's index along an axis of the grid, as uint32."""
        x, y, _ = self.launch.grid
        block = self.lanes.block
        index = (block % x, block // x % y, block // (x * y))[axis]
        return index.astype(np.uint32)


class Executor(Protocol):
    """Runs a program of some instruction set."""

    text: str  #: the assembly

    def run(self, batch: Batch) -> None:
        """Run the program in all lanes of a batch, to its end."""


def run(launch: Launch, executor: Executor, memory: GlobalMemory) -> None:
    """Run all blocks of a launch, some at a time."""
    x, y, z = launch.grid
    count = x * y * z
    settings = launch.settings
    together = max(1, settings.lanes // launch.threads)
    if settings.counter is not None:
        settings.counter.launched(launch, executor.text)
    with np.errstate(all="ignore"):
        for first in range(0, count, together):
            blocks = min(together, count - first)
            shared = SharedMemory(
                blocks,
                launch.shared,
                uninitialised=settings.uninitialised,
                aligned=memory.aligned,
                races=settings.races,
                counter=settings.counter,
            )
            executor.run(Batch(launch, lanes_of(first, blocks, launch.threads, launch.warp_size), memory, shared))

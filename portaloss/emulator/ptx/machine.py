"""Runs a decoded program: registers, divergence, and waiting at barriers.

A register is an array of raw bits, one element for each lane; of one element, where all lanes have the same value. A
program is cut into blocks of instructions, at the targets of branches and before what waits for other lanes. While all
lanes are at the same block, it runs without a mask. Otherwise the first block in the program at which there are lanes
runs for these lanes, and lanes at a later block wait, which is where they meet again.

A block that begins with a barrier, a shuffle or a vote runs only when the other lanes of the block or warp have
arrived; until then, later blocks run. Without that rule, rotated loops would hang or mix values:
the compiler may put the code where lanes meet before the code of the lanes that have not arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.emulator.errors import BarrierError, Site
from portaloss.emulator.launch import Batch
from portaloss.emulator.models import Model

Array = npt.NDArray[Any]

#: What an instruction does to a machine.
Step = Callable[["Machine"], None]

#: The number of the block after the last: lanes that have ended are there.
END = 1 << 30


@dataclass
class Block:
    """Instructions that run one after another."""

    steps: list[Step] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    waits: str = ""  #: for what the first instruction waits: the warp, the block, or nothing
    predicate: int = -1  #: the register that decides which block follows; -1: ``taken`` does in all lanes
    negated: bool = False
    taken: int = END
    otherwise: int = END


@dataclass
class Program:
    """A decoded kernel."""

    name: str
    blocks: list[Block]
    registers: list[Array]  #: their values at the start, constants included
    parameters: list[tuple[int, int]]  #: for each parameter: its register, and its size in bytes


class Machine:
    """The state of a batch that runs."""

    def __init__(self, program: Program, batch: Batch, model: Model) -> None:
        self.model = model
        self.batch = batch
        self.lanes = batch.lanes
        self.memory = batch.memory
        self.shared = batch.shared
        self.registers = list(program.registers)
        for (register, size), argument in zip(program.parameters, batch.launch.arguments, strict=False):
            self.registers[register] = np.array([argument.bits & ((1 << 8 * size) - 1)], f"u{size}")
        self.mask: Array | None = None  #: the lanes that run; None for all
        self.cache: dict[Any, Any] = {}  #: what steps keep for this batch
        self._program = program
        self._counter = batch.launch.settings.counter
        #: of each block: how many warps ran it, and in how many lanes
        self._ran = np.zeros((2, len(program.blocks)), np.int64)
        self._at = np.zeros(len(self.lanes), np.int32)  #: the block that each lane is at, while lanes diverge

    def put(self, register: int, value: Array) -> None:
        """Write a register in the lanes that run."""
        mask = self.mask
        self.registers[register] = value if mask is None else np.where(mask, value, self.registers[register])

    def full(self, register: int) -> Array:
        """A register's value with one element for each lane."""
        value = self.registers[register]
        return value if len(value) == len(self.lanes) else np.repeat(value, len(self.lanes))

    def run(self) -> None:
        """Run all lanes to the end."""
        blocks = self._program.blocks
        current = 0
        while current < len(blocks):
            block = blocks[current]
            if self._counter is not None:
                self._count(current)
            for step in block.steps:
                step(self)
            if block.predicate < 0:
                current = block.taken
                continue
            holds = self.registers[block.predicate]
            if block.negated:
                holds = ~holds
            if holds.all():
                current = block.taken
            elif not holds.any():
                current = block.otherwise
            else:
                self._at = np.where(holds, block.taken, block.otherwise).astype(np.int32)
                current = self._diverged()
        if self._counter is not None:
            for block, (warps, lanes) in zip(blocks, self._ran.T.tolist(), strict=True):
                for site in block.sites:
                    self._counter.issued(site.text, warps, lanes)
                if block.predicate >= 0:
                    self._counter.issued("bra", warps, lanes)

    def _count(self, number: int) -> None:
        warp = self.lanes.warp if self.mask is None else self.lanes.warp[self.mask]
        self._ran[:, number] += len(np.unique(warp)), len(warp)

    def _diverged(self) -> int:
        """Run until all lanes are at one block again; returns that block."""
        blocks = self._program.blocks
        while True:
            first = int(self._at.min())
            if first == int(self._at.max()):
                self.mask = None
                return first
            number, mask = self._next(first)
            block = blocks[number]
            self.mask = mask
            if self._counter is not None:
                self._count(number)
            for step in block.steps:
                step(self)
            if block.predicate < 0:
                self._at[mask] = block.taken
            else:
                holds = self.registers[block.predicate]
                if block.negated:
                    holds = ~holds
                to = np.where(holds, block.taken, block.otherwise)
                self._at[mask] = to if len(to) == 1 else to[mask]

    def _next(self, first: int) -> tuple[int, Array]:
        """The first block that can run, and the lanes that can run it."""
        number = first
        while number < END:
            mask = self._at == number
            waits = self._program.blocks[number].waits
            if waits:
                mask &= self._complete(mask, waits)
            if not waits or mask.any():
                return number, mask
            later = self._at[self._at > number]
            number = int(later.min()) if len(later) else END
        block = self._program.blocks[first]
        lane = int(np.flatnonzero(self._at == first)[0])
        raise BarrierError(
            f"{block.sites[0]}: {self.lanes.name(lane)} waits here for other threads of its {block.waits}, "
            "which wait elsewhere: none can continue"
        )

    def _complete(self, here: Array, waits: str) -> Array:
        """The lanes of warps, or blocks, of which all lanes that have not ended are here."""
        groups = self.lanes.warp if waits == "warp" else self.lanes.local
        missing = np.bincount(groups, weights=~here & (self._at != END))
        complete: Array = (missing == 0)[groups]
        return complete


def guarded(step: Step, predicate: int, negated: bool) -> Step:
    """A step that runs in the lanes whose predicate holds."""

    def run(machine: Machine) -> None:
        holds = machine.registers[predicate]
        if negated:
            holds = ~holds
        outer = machine.mask
        if outer is not None:
            holds = holds & outer
        if not holds.any():
            return
        if outer is None and holds.all():
            step(machine)
            return
        machine.mask = holds if len(holds) > 1 else np.repeat(holds, len(machine.lanes))
        step(machine)
        machine.mask = outer

    return run

"""The registers of the waves that run together, and which of the waves currently execute.

Waves are ordered by their number in the block, then by block, so that the same wave of all blocks is one slice. All
waves of a group are at the same instruction; registers of a group are read and written through ``group``, a slice where
the waves are adjacent, otherwise an array of their numbers.

A vector register is an array [waves, lanes], a scalar register one of [waves]. Registers hold 32 bits; ``vector`` and
``scalar`` are views of the same memory by type. A value of 64 bits is a pair of registers. A mask of lanes is a scalar
register (32 lanes) or a pair (64 lanes), a bit for each lane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.emulator.amd.assembly import EXEC, NULL, SCALARS
from portaloss.emulator.amd.visibility import Stores
from portaloss.emulator.amd.waits import Tracker
from portaloss.emulator.memory import GlobalMemory, Lanes, SharedMemory

Array = npt.NDArray[Any]

#: The type of a value by its name in instructions: bits, and what they mean.
DTYPES: dict[str, Any] = {
    "u8": np.uint8, "i8": np.int8,
    "u16": np.uint16, "i16": np.int16, "f16": np.float16,
    "u32": np.uint32, "i32": np.int32, "f32": np.float32,
    "u64": np.uint64, "i64": np.int64, "f64": np.float64,
}  # fmt: skip

#: What registers hold before they are written: nothing that a kernel could mean.
GARBAGE = 0xA5A5A5A5


class Waves:
    """Registers of ``per_block`` waves of each of ``blocks`` blocks."""

    def __init__(
        self, registers: int, lanes: int, per_block: int, blocks: int, first: int = 0, private: int = 0
    ) -> None:
        count = per_block * blocks
        self.lanes, self.count, self.per_block, self.blocks = lanes, count, per_block, blocks
        bits = np.full((registers, count, lanes), GARBAGE, np.uint32)
        #: by kind, [register, wave, lane]; of 16 bits, the lower halves
        self.vector: dict[str, Array] = {kind: bits.view(DTYPES[kind]) for kind in ("u32", "i32", "f32")}
        self.vector |= {kind: bits.view(DTYPES[kind])[..., ::2] for kind in ("u16", "i16", "f16")}
        scalars = np.full((count, SCALARS), GARBAGE, np.uint32)
        #: by kind, [wave, register]; of 64 bits [wave, register / 2], of 16 bits the lower halves
        self.scalar: dict[str, Array] = {kind: scalars.view(dtype) for kind, dtype in DTYPES.items() if kind[1] in "36"}
        self.scalar |= {kind: scalars.view(DTYPES[kind])[:, ::2] for kind in ("u16", "i16", "f16")}
        self._bytes = scalars.view(np.uint8)
        scalars[:, NULL] = 0
        scalars[:, EXEC : EXEC + lanes // 32] = 0xFFFFFFFF
        self.scc = np.zeros(count, bool)
        self.who = self._lanes(first)
        self.group: Any = slice(0, count)
        self.size = count  #: waves in the group
        self.full = True  #: whether all lanes of the group are active
        self.active: Array = np.ones((count, lanes), bool)  #: the active lanes of the group, if not full
        self._own: Lanes | None = None
        self._first: Lanes | None = None
        #: memory of each lane's own, [word, wave, lane]
        self.private: Array = np.full((private // 4, count, lanes), GARBAGE, np.uint32)
        self.memory: GlobalMemory
        self.shared: SharedMemory
        #: of each wave: the next instruction, whether it has ended or waits at a barrier, how many barriers it has
        #: arrived at, and how many it has passed
        self.places = np.zeros(count, np.int64)
        self.ended = np.zeros(count, bool)
        self.waiting = np.zeros(count, bool)
        self.arrived = np.zeros(count, np.int64)
        self.passed = np.zeros(count, np.int64)
        self.tracker = Tracker()
        self.stores = Stores()

    def release(self) -> None:
        """Let waves go on that wait at a barrier that all waves of their block have arrived at, or have ended."""
        shape = (self.per_block, self.blocks)
        arrived = np.where(self.ended, np.iinfo(np.int64).max, self.arrived).reshape(shape).min(axis=0)
        free = self.waiting & (np.tile(arrived, self.per_block) > self.passed)
        if free.any():
            self.waiting[free] = False
            self.passed[free] += 1
            self.who.epoch.reshape(self.count, self.lanes)[free] += 1
            self.stores.leave(self, free)

    def _lanes(self, first: int) -> Lanes:
        """The lanes in the order of the waves, as the memory's checkers know them."""
        shape = (self.per_block, self.blocks, self.lanes)
        wave, local, lane = (np.ascontiguousarray(part).ravel() for part in np.indices(shape, np.int32))
        return Lanes(
            block=local.astype(np.int64) + first, local=local, thread=wave * self.lanes + lane,
            warp=local * self.per_block + wave, warp_size=self.lanes, blocks=self.blocks,
        )  # fmt: skip

    def select(self, waves: Array) -> None:
        """Execute these waves (sorted numbers) from now on."""
        first, last = int(waves[0]), int(waves[-1])
        self.group = slice(first, last + 1) if last - first + 1 == len(waves) else waves
        self.size = len(waves)
        self._own = self._first = None
        self.masked()

    @property
    def numbers(self) -> Array:
        """The numbers of the waves in the group."""
        found: Array = np.arange(self.count)[self.group]
        return found

    @property
    def own(self) -> Lanes:
        """The lanes of the group."""
        if self._own is None:
            self._own = self._part(self.group, slice(None))
        return self._own

    @property
    def first_lanes(self) -> Lanes:
        """The first lane of each wave of the group: who a scalar load is done by."""
        if self._first is None:
            self._first = self._part(self.group, slice(1))
        return self._first

    def lanes_of(self, waves: Array) -> Lanes:
        """The lanes of some waves."""
        return self._part(waves, slice(None))

    def _part(self, waves: Any, lanes: slice) -> Lanes:
        every = self.who
        part = {
            name: getattr(every, name).reshape(self.count, self.lanes)[waves, lanes].reshape(-1)
            for name in ("block", "local", "thread", "warp", "epoch")
        }
        epoch = part.pop("epoch")
        found = Lanes(**part, warp_size=every.warp_size, blocks=every.blocks)
        found.epoch = epoch
        return found

    def masked(self) -> None:
        """EXEC has changed."""
        bits = self.scalar["u64" if self.lanes == 64 else "u32"][self.group, EXEC * 32 // self.lanes]
        self.full = bool((bits == bits.dtype.type(-1 & (1 << self.lanes) - 1)).all())
        if not self.full:
            self.active = self.mask(EXEC)

    def mask(self, register: int) -> Array:
        """A mask of lanes as bools, [waves of the group, lanes]."""
        part = self._bytes[self.group, 4 * register : 4 * register + self.lanes // 8]
        return np.unpackbits(part, axis=1, bitorder="little").view(bool)

    def set_mask(self, register: int, mask: Array) -> None:
        """Write a mask of lanes; lanes that are not active get 0."""
        if not self.full:
            mask = mask & self.active
        elif mask.shape != (self.size, self.lanes):
            mask = np.broadcast_to(mask, (self.size, self.lanes))
        if register != NULL:
            part = slice(4 * register, 4 * register + self.lanes // 8)
            self._bytes[self.group, part] = np.packbits(mask, axis=1, bitorder="little")
            if register == EXEC:
                self.masked()

    def write(self, kind: str, register: int, value: Any) -> None:
        """Write a vector register in the active lanes."""
        into = self.vector[kind]
        if self.full:
            into[register, self.group] = value
        elif isinstance(self.group, slice):
            np.copyto(into[register, self.group], value, where=self.active)
        else:
            rows = into[register, self.group]
            np.copyto(rows, value, where=self.active)
            into[register, self.group] = rows

    def read_pair(self, register: int) -> Array:
        """Two vector registers as 64 bits."""
        low = self.vector["u32"][register, self.group]
        both = np.empty((*low.shape, 2), np.uint32)
        both[..., 0] = low
        both[..., 1] = self.vector["u32"][register + 1, self.group]
        return both.view(np.uint64)[..., 0]

    def write_pair(self, register: int, value: Any) -> None:
        """Write 64 bits to two vector registers in the active lanes."""
        value = np.asarray(value)
        both = np.ascontiguousarray(value).view(np.uint32).reshape(*value.shape, 2)
        self.write("u32", register, both[..., 0])
        self.write("u32", register + 1, both[..., 1])

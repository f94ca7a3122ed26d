"""Looks for accesses of different warps to one address, of which one is a write, with no barrier between them.

For each granule of a region (an element, or a byte of shared memory) the last writer and the last two readers are kept:
block, warp and epoch, the number of barriers that the block had passed. Two accesses are ordered if they are of one
warp, or of one block in different epochs. Two blocks of one launch are never ordered.

Two readers are enough: if both are of the writer's warp, or in earlier epochs, so is every one that they replaced,
since a reader is replaced by one of another warp only after it has been compared with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from portaloss.emulator.errors import RaceError, Site

if TYPE_CHECKING:
    from portaloss.emulator.memory import Lanes

Array = npt.NDArray[Any]

_NOBODY = -1


class _Last:
    """The last access to each granule: block, thread's warp in the block and epoch."""

    def __init__(self, count: int) -> None:
        self.block = np.full(count, _NOBODY, np.int32)
        self.warp = np.zeros(count, np.int32)
        self.epoch = np.zeros(count, np.int32)

    def unordered(self, at: Array, block: Array, warp: Array, epoch: Array) -> Array:
        """Which accesses are not ordered with the last one."""
        last = self.block[at]
        unordered: Array = (last != _NOBODY) & ((last != block) | ((self.warp[at] != warp) & (self.epoch[at] == epoch)))
        return unordered

    def note(self, at: Array, block: Array, warp: Array, epoch: Array) -> None:
        self.block[at], self.warp[at], self.epoch[at] = block, warp, epoch


class Races:
    """The accesses to one region."""

    def __init__(self, name: str, size: int, granule: int) -> None:
        self._name = name
        self._granule = granule
        count = -(-size // granule)
        self._writer, self._reader, self._other = _Last(count), _Last(count), _Last(count)

    def read(self, lanes: Lanes, who: Array, offset: Array, size: int, site: Site) -> None:
        """Lanes read some bytes."""
        key = self._key(lanes, who)
        for at in self._granules(offset, size):
            self._check(self._writer, "written", at, key, lanes, who, site)
            # of two readers of other warps in one epoch, a write by either races with the other: keep both
            other = self._reader.unordered(at, *key)
            kept = at[other]
            self._other.note(kept, self._reader.block[kept], self._reader.warp[kept], self._reader.epoch[kept])
            self._reader.note(at, *key)
            # lanes of different warps that read one address in this very instruction
            beaten = (self._reader.block[at] != key[0]) | (self._reader.warp[at] != key[1])
            self._other.note(at[beaten], *(part[beaten] for part in key))

    def write(self, lanes: Lanes, who: Array, offset: Array, size: int, changed: Array, site: Site) -> None:
        """Lanes write some bytes; two writes of one value are in order, so ``changed`` says which values are new."""
        key = self._key(lanes, who)
        for at in self._granules(offset, size):
            self._check(self._reader, "read", at, key, lanes, who, site)
            self._check(self._other, "read", at, key, lanes, who, site)
            self._check(self._writer, "written", at, key, lanes, who, site, changed)
            self._writer.note(at, *key)

    @staticmethod
    def _key(lanes: Lanes, who: Array) -> tuple[Array, Array, Array]:
        return lanes.block[who].astype(np.int32), lanes.thread[who] // lanes.warp_size, lanes.epoch[who]

    def _granules(self, offset: Array, size: int) -> list[Array]:
        first = offset // self._granule
        return [first + k for k in range(max(1, size // self._granule))]

    def _check(
        self,
        last: _Last,
        what: str,
        at: Array,
        key: tuple[Array, Array, Array],
        lanes: Lanes,
        who: Array,
        site: Site,
        only: Array | None = None,
    ) -> None:
        bad = last.unordered(at, *key)
        if only is not None:
            bad &= only
        if bad.any():
            k = int(np.flatnonzero(bad)[0])
            where = at[k]
            raise RaceError(
                f"{site}: {lanes.name(who[k])}: byte {where * self._granule} of {self._name} was {what} by "
                f"warp {last.warp[where]} of block {last.block[where]}, and no barrier orders the two"
            )

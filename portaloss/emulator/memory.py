"""Global and shared memory of an emulated GPU, with the checks on every access.

A lane is a thread of a batch of blocks that run together; an access is one instruction in all lanes at once:

    values = memory.load(lanes, address, mask, size, count, site)    # one array of uint{8 size} for each of count
    memory.store(lanes, address, mask, values, site)

``address`` is an integer array with one element for each lane, or of one element for all; ``mask`` is a bool array of
the lanes that take part, or None for all. Element k of a lane lies at address + k size. Lanes that do not take part
load 0. ``site`` is the instruction, for messages.

Each tensor has an address range of its own, ``SPACING`` bytes apart from the next, so that no stray access lands in
another tensor. The lowest 12 bits of addresses are those of the host, so that alignment is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.emulator.errors import MisalignedError, OutOfBoundsError, Site, StoreConflictError, UnwrittenError
from portaloss.emulator.ledger import Ledger
from portaloss.emulator.races import Races

Array = npt.NDArray[Any]

#: Bytes between the beginnings of two tensors' address ranges.
SPACING = 1 << 42

#: The addresses of a page are kept as on the host.
PAGE = 1 << 12

#: size in bytes -> the type of raw bits.
RAW: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass
class Lanes:
    """The threads that run together, in the order of blocks, then threads."""

    block: Array  #: of each lane: its block's number in the grid
    local: Array  #: of each lane: its block's number in the batch
    thread: Array  #: of each lane: its number in the block
    warp: Array  #: of each lane: its warp's number in the batch
    warp_size: int
    blocks: int  #: in the batch
    epoch: Array = field(init=False)  #: of each lane: how many barriers it has passed

    def __post_init__(self) -> None:
        self.epoch = np.zeros(len(self.block), np.int32)

    def __len__(self) -> int:
        return len(self.block)

    def name(self, lane: int) -> str:
        """A lane in words."""
        return f"block {self.block[lane]}, thread {self.thread[lane]}"


def lanes_of(first: int, blocks: int, threads: int, warp_size: int) -> Lanes:
    """The lanes of some consecutive blocks of a grid."""
    local = np.repeat(np.arange(blocks, dtype=np.int32), threads)
    thread = np.tile(np.arange(threads, dtype=np.int32), blocks)
    warps = -(-threads // warp_size)
    return Lanes(local.astype(np.int64) + first, local, thread, local * warps + thread // warp_size, warp_size, blocks)


@dataclass
class Region:
    """The memory of a tensor."""

    name: str
    base: int  #: its first address
    data: Array  #: its bytes
    written: Array | None = None  #: which bytes were written; None where all count as written
    granule: int = 4  #: bytes that races are looked for in: the size of an element
    host: int = 0  #: where the data lie in the host's memory
    races: Races | None = None
    _views: dict[int, tuple[int, Array]] = field(default_factory=dict)

    def view(self, size: int) -> tuple[int, Array]:
        """The data as elements of a size, and the address of the first whole one."""
        found = self._views.get(size)
        if found is None:
            skip = -self.base % size
            end = skip + max(0, len(self.data) - skip) // size * size
            found = self._views[size] = self.base + skip, self.data[skip:end].view(RAW[size])
        return found


class Memory:
    """What global and shared memory have in common: checked loads and stores within regions."""

    space = "global"

    def __init__(self, *, aligned: bool = True, races: bool = False, counter: Ledger | None = None) -> None:
        self.aligned = aligned  #: whether an access must be a multiple of its size, count included
        self.races = races
        self.counter = counter
        self.regions: list[Region] = []

    def load(self, lanes: Lanes, address: Array, mask: Array | None, size: int, count: int, site: Site) -> list[Array]:
        """``count`` adjacent elements for each lane, as raw bits."""
        who, where = self._who(lanes, address, mask)
        results = [np.zeros(len(lanes), RAW[size]) for _ in range(count)]
        scalar = site.text.startswith("s_")  # of AMD's scalar loads, which have a cache of their own
        if self.counter is not None and len(who) and not scalar:
            self.counter.access(self.space, lanes, who, where, size * count, store=False)
        for region, some in self._split(lanes, who, where, size * count, site):
            at = where if some is None else where[some]
            by = who if some is None else who[some]
            self._check_read(region, lanes, by, at, size * count, site)
            for k, values in enumerate(self._gather(region, at, size, count)):
                results[k][by] = values
        return results

    def store(self, lanes: Lanes, address: Array, mask: Array | None, values: list[Array], site: Site) -> None:
        """Adjacent elements for each lane, as raw bits."""
        who, where = self._who(lanes, address, mask)
        size, count = values[0].itemsize, len(values)
        if self.counter is not None and len(who):
            self.counter.access(self.space, lanes, who, where, size * count, store=True)
        values = [value[who] if len(value) == len(lanes) else np.broadcast_to(value, len(who)) for value in values]
        for region, some in self._split(lanes, who, where, size * count, site):
            at = where if some is None else where[some]
            by = who if some is None else who[some]
            mine = values if some is None else [value[some] for value in values]
            if self.races:
                before = self._gather(region, at, size, count)
                changed = np.logical_or.reduce([old != new for old, new in zip(before, mine, strict=True)])
                self._races(region).write(lanes, by, at - region.base, size * count, changed, site)
            if region.written is not None:
                for k in range(size * count):
                    region.written[at - region.base + k] = True
            self._scatter(region, at, mine)
            for stored, value in zip(self._gather(region, at, size, count), mine, strict=True):
                if not np.array_equal(stored, value) and _differ(stored, value).any():
                    self._conflict(region, lanes, by, at, stored, value, site)

    def store_again(self, lanes: Lanes, address: Array, mask: Array, size: int, site: Site) -> None:
        """To the race detector only: a store that was made earlier is done now."""
        who, where = self._who(lanes, address, mask)
        for region, some in self._split(lanes, who, where, size, site):
            at, by = (where, who) if some is None else (where[some], who[some])
            self._races(region).write(lanes, by, at - region.base, size, np.ones(len(by), bool), site)

    def _who(self, lanes: Lanes, address: Array, mask: Array | None) -> tuple[Array, Array]:
        """The lanes that take part, and their addresses as int64."""
        address = address.astype(np.int64, copy=False)
        if len(address) != len(lanes):
            address = np.broadcast_to(address, len(lanes))
        if mask is None:
            return np.arange(len(lanes)), address
        who = np.flatnonzero(np.broadcast_to(mask, len(lanes)))
        return who, address[who]

    def _split(
        self, lanes: Lanes, who: Array, where: Array, size: int, site: Site
    ) -> list[tuple[Region, Array | None]]:
        """The regions that addresses lie in, and which of the addresses; None for all."""
        if not len(where):
            return []
        if self.aligned and size > 1:
            odd = where & (size - 1)
            if odd.any():
                k = int(np.flatnonzero(odd)[0])
                raise MisalignedError(
                    f"{site}: {lanes.name(who[k])}: address {where[k]:#x} is no multiple of {size}, "
                    f"{self._nearest(int(where[k]))}"
                )
        low, high = int(where.min()), int(where.max())
        region = self._region(low)
        if region is not None and region.base <= low and high + size <= region.base + len(region.data):
            return [(region, None)]
        found: list[tuple[Region, Array | None]] = []
        tags = where // SPACING
        for tag in np.unique(tags):
            some = np.flatnonzero(tags == tag)
            region = self._region(int(tag) * SPACING)
            at = where[some]
            outside = (
                np.ones(len(some), bool)
                if region is None
                else (at < region.base) | (at + size > region.base + len(region.data))
            )
            if outside.any():
                k = int(some[np.flatnonzero(outside)[0]])
                raise OutOfBoundsError(
                    f"{site}: {lanes.name(who[k])}: {size} bytes at {where[k]:#x} lie outside of every tensor, "
                    f"{self._nearest(int(where[k]))}"
                )
            assert region is not None
            found.append((region, some))
        return found

    def _region(self, address: int) -> Region | None:
        tag = address // SPACING
        return self.regions[tag - 1] if 1 <= tag <= len(self.regions) else None

    def _nearest(self, address: int) -> str:
        def away(region: Region) -> int:
            return max(region.base - address, address - region.base - len(region.data) + 1, 0)

        if not self.regions:
            return "and there is no tensor"
        region = min(self.regions, key=away)
        offset = address - region.base
        return f"{offset} bytes after the beginning of {region.name}, which has {len(region.data)} bytes"

    @staticmethod
    def _gather(region: Region, at: Array, size: int, count: int) -> list[Array]:
        first, view = region.view(size)
        offset = at - first
        if size > 1 and (offset & (size - 1)).any():  # unaligned, where the hardware allows it
            bytes_at = (at - region.base)[:, None] + np.arange(size * count)
            loaded = region.data[bytes_at].reshape(len(at), count, size).view(RAW[size])
            return [loaded[:, k, 0] for k in range(count)]
        index = offset // size if size > 1 else offset
        return [view[index + k] if k else view[index] for k in range(count)]

    @staticmethod
    def _scatter(region: Region, at: Array, values: list[Array]) -> None:
        size = values[0].itemsize
        first, view = region.view(size)
        offset = at - first
        if size > 1 and (offset & (size - 1)).any():
            for k, value in enumerate(values):
                bytes_at = (at - region.base)[:, None] + np.arange(k * size, (k + 1) * size)
                region.data[bytes_at] = np.ascontiguousarray(value).view(np.uint8).reshape(-1, size)
            return
        index = offset // size
        for k, value in enumerate(values):
            view[index + k] = value

    def _check_read(self, region: Region, lanes: Lanes, who: Array, at: Array, size: int, site: Site) -> None:
        offset = at - region.base
        if region.written is not None:
            for k in range(size):
                written = region.written[offset + k]
                if not written.all():
                    bad = int(np.flatnonzero(~written)[0])
                    raise UnwrittenError(
                        f"{site}: {lanes.name(who[bad])}: reads byte {offset[bad] + k} of {region.name}, "
                        "which was never written"
                    )
        if self.races:
            self._races(region).read(lanes, who, offset, size, site)

    def _races(self, region: Region) -> Races:
        if region.races is None:
            region.races = Races(region.name, len(region.data), region.granule)
        return region.races

    def _conflict(
        self, region: Region, lanes: Lanes, who: Array, at: Array, stored: Array, value: Array, site: Site
    ) -> None:
        k = int(np.flatnonzero(_differ(stored, value))[0])
        other = int(np.flatnonzero(at == at[k])[-1])
        raise StoreConflictError(
            f"{site}: {lanes.name(who[k])} and {lanes.name(who[other])} store different values "
            f"({int(value[k]):#x} and {int(stored[k]):#x}) at byte {int(at[k]) - region.base} of {region.name}"
        )


def _differ(one: Array, other: Array) -> Array:
    """Which raw bits differ, and are not both nan: the order of operands decides which nan a sum of two is."""
    different: Array = one != other
    if one.itemsize > 1:
        kind = f"f{one.itemsize}"
        different &= ~(np.isnan(one.view(kind)) & np.isnan(other.view(kind)))
    return different


class GlobalMemory(Memory):
    """The tensors that a kernel was given."""

    def add(
        self, name: str, data: Array, host_address: int, *, written: Array | None = None, granule: int = 4
    ) -> Region:
        """A tensor's bytes. Its address has the lowest bits of that on the host.

        Args:
            name: of the tensor, for messages.
            data: its bytes, which loads and stores refer to; not a copy.
            host_address: where it lies in the host's memory.
            written: which bytes were written; None where all count as written.
            granule: the size of an element.
        """
        base = (len(self.regions) + 1) * SPACING + PAGE + host_address % PAGE
        region = Region(name, base, data, written, granule, host_address)
        self.regions.append(region)
        return region


class SharedMemory(Memory):
    """The shared memory of the blocks of a batch; addresses begin at 0 in every block. Nothing in it is written yet."""

    space = "shared"

    def __init__(self, blocks: int, size: int, *, uninitialised: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.size = size
        #: between two blocks' beginnings, so that offsets keep their alignment and no access crosses
        self.stride = -(-size // 16) * 16
        whole = self.stride * blocks
        written = np.zeros(whole, bool) if uninitialised else None
        self._all = Region("shared memory", 0, np.zeros(whole, np.uint8), written, granule=1)

    def _who(self, lanes: Lanes, address: Array, mask: Array | None) -> tuple[Array, Array]:
        who, where = super()._who(lanes, address, mask)
        self._within = where
        return who, where + lanes.local[who].astype(np.int64) * self.stride

    def _split(
        self, lanes: Lanes, who: Array, where: Array, size: int, site: Site
    ) -> list[tuple[Region, Array | None]]:
        if not len(where):
            return []
        within = self._within
        if int(within.min()) < 0 or int(within.max()) + size > self.size:
            k = int(np.flatnonzero((within < 0) | (within + size > self.size))[0])
            raise OutOfBoundsError(
                f"{site}: {lanes.name(who[k])}: {size} bytes at {within[k]} lie outside of the block's "
                f"{self.size} bytes of shared memory"
            )
        if self.aligned and size > 1 and (within & (size - 1)).any():
            k = int(np.flatnonzero(within & (size - 1))[0])
            raise MisalignedError(f"{site}: {lanes.name(who[k])}: address {within[k]} is no multiple of {size}")
        return [(self._all, None)]

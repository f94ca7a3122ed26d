"""Stores to global memory that are still under way at a barrier.

A barrier orders the instructions of waves, but not memory: what a wave stored is there for the others only if the wave
waited for the store before the barrier. To the race detector, a store that was under way at a barrier is therefore one
that is done after it: a wave that reads the address then races with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from portaloss.emulator.errors import Site

if TYPE_CHECKING:
    from portaloss.emulator.amd.waves import Array, Waves


@dataclass(frozen=True)
class Store:
    """One store of some waves."""

    waves: Array  #: their numbers
    address: Array  #: [wave, lane]
    active: Array  #: which lanes store
    size: int  #: bytes
    site: Site


@dataclass
class Stores:
    """The stores that may be under way, in the order of issue."""

    issued: list[Store] = field(default_factory=list)
    _late: list[Store] = field(default_factory=list)  #: under way when their waves came to a barrier

    def add(self, waves: Waves, address: Array, mask: Array | None, size: int, site: Site) -> None:
        """The group stores."""
        shape = (waves.size, waves.lanes)
        active = np.ones(shape, bool) if mask is None else mask.reshape(shape)
        self.issued.append(Store(waves.numbers, address.reshape(shape), active, size, site))

    def arrive(self, waves: Waves, under_way: int) -> None:
        """The group comes to a barrier: of each wave, only this many of the last stores are under way."""
        here = np.zeros(waves.count, bool)
        here[waves.group] = True
        seen = np.zeros(waves.count, np.int64)
        others = []
        for store in reversed(self.issued):
            mine = here[store.waves]
            late = mine & (seen[store.waves] < under_way)
            seen[store.waves[mine]] += 1
            if late.any():
                self._late.append(_some(store, late))
            if not mine.all():
                others.append(_some(store, ~mine))
        self.issued = others[::-1]

    def leave(self, waves: Waves, free: Array) -> None:
        """Some waves go on after a barrier: their stores that were under way then are done now, or later."""
        late, self._late = self._late, []
        for store in late:
            going = free[store.waves]
            if going.any():
                part = _some(store, going)
                waves.memory.store_again(
                    waves.lanes_of(part.waves), part.address.reshape(-1), part.active.reshape(-1), part.size, part.site
                )
                self.issued.append(part)
            if not going.all():
                self._late.append(_some(store, ~going))


def _some(store: Store, which: Array) -> Store:
    return Store(store.waves[which], store.address[which], store.active[which], store.size, store.site)

"""Counts what emulated launches do: instructions by class, sectors of global memory, wavefronts of shared memory.

    ledger = Ledger()
    with emulating("sm_90", counter=ledger):
        kernel[grid](...)
    ledger.entries[0].instructions["float"]

An instruction is counted once for each warp that issues it. What is counted are the instructions of the text that the
emulator runs: PTX has moves and conversions of addresses that NVIDIA's assembler removes.
"""

from __future__ import annotations

import re
from collections import Counter as Tally
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from portaloss.emulator.launch import Launch
    from portaloss.emulator.memory import Lanes

Array = npt.NDArray[Any]

#: Banks of shared memory, each 4 bytes wide, on both vendors' chips.
BANKS = 32

#: Bits of a key below the number of a warp: there are more than enough for a sector's or a word's number.
_BELOW = 52

#: Classes of instructions, and what their texts begin with, in PTX or in AMD's assembly. The first that fits counts.
_CLASSES = {
    "memory": r"""(ld|st|ldmatrix|stmatrix|cp|atom|red)\.
        | (global|buffer|flat|scratch)_ | s_(buffer_)?load | ds_(read|write|load|store)""",
    "barrier": r"(bar|barrier|membar|fence)\b | s_barrier",
    "shuffle": r"""(shfl|vote|redux)\.
        | ds_(bpermute|permute|swizzle) | v_(permlane|readlane|writelane|readfirstlane) | \S+_dpp\b""",
    "special": r"""(ex2|lg2|rcp|rsqrt|sqrt|sin|cos|tanh|div)\.(?!\S*f64)
        | v_(s_)?(exp|log|rcp|rsq|sqrt|sin|cos)_(iflag_)?(f16|f32)""",
    "control": r"(bra|ret|exit)\b | s_(cbranch|branch|endpgm|wait|nop|delay|clause|set|code_end|sleep|inst)",
    "scalar": r"s_",
    "double": r"\S+\.f64 | v_\w*f64",
    "float": r"""(add|sub|mul|fma|mad|min|max|neg|abs|copysign)\.(\S*\.)?(f32|f16|bf16)(x2)?\b
        | v_(dual_|pk_)?(add|sub|subrev|mul|mac|mad|fma|fmac|fmaak|fmamk|max|min|med3|div|ldexp|fract|floor|ceil|rndne
        |trunc)\w*_(f32|f16|bf16)""",
}
_PATTERNS = [(name, re.compile(pattern, re.VERBOSE)) for name, pattern in _CLASSES.items()]

#: All classes. An instruction of no other class is ``integer``: addresses, comparisons, selections, conversions, moves.
CLASSES = (*_CLASSES, "integer")


@cache
def class_of(text: str) -> str:
    """The class of an instruction, from its text."""
    for name, pattern in _PATTERNS:
        if pattern.match(text):
            return name
    return "integer"


@dataclass
class Entry:
    """The counts of one launch."""

    kernel: str
    blocks: int
    threads: int  #: of a block
    warp_size: int
    shared: int  #: bytes of shared memory of a block
    text: str  #: the assembly
    instructions: Tally[str] = field(default_factory=Tally)  #: class -> how often warps issued one
    lanes: int = 0  #: lanes that took part in them
    requested: int = 0  #: bytes of global memory that lanes loaded or stored
    sectors: int = 0  #: of global memory: for each instruction and warp, the sectors that it touches
    wavefronts: int = 0  #: of shared memory: steps that its banks take
    least_wavefronts: int = 0  #: the same, if no two lanes met in a bank
    _touched: dict[bool, list[Array]] = field(default_factory=lambda: {False: [], True: []})

    @property
    def sector(self) -> int:
        """Bytes that global memory moves at least: NVIDIA's caches fetch 32, AMD's ask memory for 64."""
        return 32 if "\n.target" in self.text else 64

    @property
    def moved(self) -> int:
        """Bytes of the sectors that the launch reads, and of those that it writes, each counted once."""
        return sum(len(self._distinct(store)) for store in (False, True)) * self.sector

    @property
    def issued(self) -> int:
        """Instructions that warps issued."""
        return sum(self.instructions.values())

    @property
    def divergence(self) -> float:
        """The share of lanes that did not take part in what their warp issued."""
        return 1.0 - self.lanes / (self.issued * self.warp_size) if self.issued else 0.0

    def _distinct(self, store: bool) -> Array:
        parts = self._touched[store]
        if len(parts) > 1:
            self._touched[store] = parts = [np.unique(np.concatenate(parts))]
        return parts[0] if parts else np.zeros(0, np.int64)


class Ledger:
    """The counts of all launches, in their order. It is the ``counter`` of the emulator's settings."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def launched(self, launch: Launch, text: str) -> None:
        """A launch begins."""
        x, y, z = launch.grid
        self.entries.append(Entry(launch.name, x * y * z, launch.threads, launch.warp_size, launch.shared, text))

    def issued(self, text: str, warps: int, lanes: int) -> None:
        """Warps issued an instruction, in so many lanes together."""
        if warps:
            entry = self.entries[-1]
            entry.instructions[class_of(text)] += warps
            entry.lanes += lanes

    def access(self, space: str, lanes: Lanes, who: Array, address: Array, size: int, *, store: bool) -> None:
        """Some lanes access ``size`` bytes each, at addresses of global or shared memory."""
        entry = self.entries[-1]
        warp = lanes.warp[who].astype(np.int64)
        if space == "shared":
            lane = lanes.thread[who] % lanes.warp_size
            used, least = wavefronts(warp, lane, address, size)
            entry.wavefronts += used
            entry.least_wavefronts += least
            return
        first, last = address // entry.sector, (address + size - 1) // entry.sector
        sectors = first if np.array_equal(first, last) else np.concatenate([first, last])
        by = warp if len(sectors) == len(warp) else np.concatenate([warp, warp])
        entry.requested += len(who) * size
        entry.sectors += len(np.unique(sectors | by << _BELOW))
        entry._touched[store].append(np.unique(sectors))


def wavefronts(warp: Array, lane: Array, address: Array, size: int) -> tuple[int, int]:
    """The steps that shared memory takes for one instruction, and the least it could take.

    A step serves 128 bytes of one warp: 32 lanes of 4 bytes, 16 of 8, 8 of 16. In a step each bank gives one word, to
    any number of lanes: further words of the same bank take further steps.

    Args:
        warp: of each lane that takes part, its warp's number.
        lane: its number in the warp.
        address: the first byte that it accesses.
        size: how many bytes.
    """
    words = max(1, size // 4)
    group = warp * 64 + lane // max(1, BANKS // words)
    word = (address // 4)[:, None] + np.arange(words)
    distinct = np.unique((word | (group << 32)[:, None]).reshape(-1))
    group, bank = distinct >> 32, distinct % BANKS
    places, counts = np.unique(group * BANKS + bank, return_counts=True)
    group = places // BANKS
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return int(np.maximum.reduceat(counts, starts).sum()), len(starts)


__all__ = ["BANKS", "CLASSES", "Entry", "Ledger", "class_of", "wavefronts"]

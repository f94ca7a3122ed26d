"""Loads that are under way, and the waits that end them.

A load writes its registers some time after it was issued. Here the value is in the register at once, but until an
``s_waitcnt`` has waited for the load, an instruction that reads or writes the register is an error.

A wait names a counter and how many operations may still be under way. Operations of one counter end in the order in
which they were issued, except for scalar loads, which end in any order.

Waves that come together after a branch may have issued different operations. The state of such a group has several
alternatives, and a register is under way if it is in any of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from portaloss.emulator.amd.assembly import Instruction

#: Registers under way: vector registers by their number, scalar ones with this added.
SCALAR = 1000

#: Counters of the kinds of operations, by generation.
COUNTERS: dict[int, dict[str, str]] = {
    9: {"load": "vmcnt", "store": "vmcnt", "shared": "lgkmcnt", "scalar": "lgkmcnt"},
    11: {"load": "vmcnt", "store": "vscnt", "shared": "lgkmcnt", "scalar": "lgkmcnt"},
    12: {"load": "loadcnt", "store": "storecnt", "shared": "dscnt", "scalar": "kmcnt"},
}


@dataclass(frozen=True)
class Operation:
    """A memory operation under way."""

    counter: str
    registers: frozenset[int]  #: that it will write
    ordered: bool = True
    stores: bool = False
    stores_shared: bool = False


#: The operations under way, in the order of issue; and several alternatives of that.
Alternative = tuple[Operation, ...]
State = tuple[Alternative, ...]
NOTHING: State = ((),)


@dataclass
class Tracker:
    """What is under way in the waves of the current group. Steps are remembered, since programs repeat them."""

    state: State = NOTHING
    pending: frozenset[int] = frozenset()
    _steps: dict[object, tuple[State, frozenset[int]]] = field(default_factory=dict)

    def issue(self, operation: Operation) -> None:
        """An operation begins."""
        self._step((self.state, operation), lambda path: (*path, operation))

    def wait(self, limits: tuple[tuple[str, int], ...]) -> None:
        """Wait until at most so many operations of each counter are under way."""
        if self.state != NOTHING:
            self._step((self.state, limits), lambda path: _after(path, limits))

    def join(self, states: list[State]) -> None:
        """Continue with waves in any of these states."""
        self.state = states[0] if len(states) == 1 else tuple(dict.fromkeys(path for state in states for path in state))
        self.pending = _registers(self.state)

    def stores_shared(self) -> bool:
        """Whether a store to shared memory is under way."""
        return self.state != NOTHING and any(operation.stores_shared for path in self.state for operation in path)

    def stores(self) -> int:
        """How many stores to global memory are under way at most."""
        return max(sum(operation.stores and not operation.stores_shared for operation in path) for path in self.state)

    def _step(self, key: object, change: object) -> None:
        found = self._steps.get(key)
        if found is None:
            state = tuple(dict.fromkeys(change(path) for path in self.state))  # type: ignore[operator]
            found = self._steps[key] = state, _registers(state)
        self.state, self.pending = found


def _registers(state: State) -> frozenset[int]:
    return frozenset().union(*(operation.registers for path in state for operation in path))


def _after(path: Alternative, limits: tuple[tuple[str, int], ...]) -> Alternative:
    for counter, limit in limits:
        mine = [operation for operation in path if operation.counter == counter]
        unordered = sum(not operation.ordered for operation in mine)
        ended = len(mine) - limit if limit == 0 else len(mine) - limit - unordered
        if ended <= 0:
            continue
        candidates = mine if limit == 0 else [operation for operation in mine if operation.ordered]
        done = {id(operation): 0 for operation in candidates[:ended]}
        left = []
        remaining = ended
        for operation in path:
            if remaining and id(operation) in done and operation.counter == counter:
                remaining -= 1
            else:
                left.append(operation)
        path = tuple(left)
    return path


def limits(instruction: Instruction) -> tuple[tuple[str, int], ...] | None:
    """The counters and limits of a wait; None if the instruction is none."""
    name, text = instruction.name, instruction.text
    if name == "s_waitcnt":
        return tuple((counter, int(limit)) for counter, limit in re.findall(r"(\w+cnt)\((\d+)\)", text))
    if name == "s_waitcnt_vscnt":
        return (("vscnt", int(instruction.operands[-1].value)),)
    if name.startswith("s_wait_") and name.endswith("cnt"):
        value = int(instruction.operands[-1].value)
        counters = name.removeprefix("s_wait_").split("_")
        if len(counters) == 2:  # the first counter is in bits 8 to 13
            return ((counters[0], value >> 8 & 63), (counters[1], value & 63))
        return ((counters[0], value),)
    return None

"""What lanes do together: barriers, shuffles, votes and reductions over a warp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.emulator.arithmetic import maximum, minimum
from portaloss.emulator.errors import Site, UnwrittenError
from portaloss.emulator.ptx.decode import TYPES, Decoder, instruction, raw
from portaloss.emulator.ptx.floating import canonical
from portaloss.emulator.ptx.machine import Machine, Step
from portaloss.emulator.ptx.syntax import Instruction

Array = npt.NDArray[Any]

_WARP = 32


@instruction("bar", "barrier")
def barrier(decoder: Decoder, one: Instruction) -> Step:
    """A barrier of a block, of all its threads; or of a warp, which has met already. It begins a new epoch."""
    if "warp" in one.modifiers:
        return lambda machine: None
    if set(one.modifiers) - {"sync", "cta", "aligned"} or len(one.operands) != 1:
        raise one.unknown()

    def step(machine: Machine) -> None:
        machine.lanes.epoch += 1 if machine.mask is None else machine.mask

    return step


@instruction("membar", "fence", "griddepcontrol")
def fence(decoder: Decoder, one: Instruction) -> Step:
    """Nothing: every access is complete before the next instruction."""
    return lambda machine: None


@instruction("shfl")
def shuffle(decoder: Decoder, one: Instruction) -> Step:
    """The value of another lane of the warp; the lane's own where there is no such lane in its segment."""
    if one.modifiers[0] != "sync" or one.modifiers[-1] != "b32":
        raise one.unknown()
    mode = one.modifiers[1]
    first, _, second = one.operands[0].partition("|")
    target = decoder.target(first.strip())
    found = decoder.target(second.strip()) if second else None
    value, by, clamp = (decoder.source(operand, "b32") for operand in one.operands[1:4])
    known = decoder.value(by), decoder.value(clamp)
    fixed = known if None not in known else None
    site = one.site

    def step(machine: Machine) -> None:
        key = ("shfl", mode, fixed)
        source = machine.cache.get(key) if fixed else None
        if source is None:
            source = _source(machine, mode, machine.registers[by], machine.registers[clamp])
            if fixed:
                machine.cache[key] = source
        lane, inside = source
        if machine.mask is not None:
            _take_part(machine, lane, site)
        held = machine.registers[value]
        machine.put(target, held if len(held) == 1 else held[lane])
        if found is not None:
            machine.put(found, inside)

    return step


def _take_part(machine: Machine, lane: Array, site: Site) -> None:
    """Check that lanes that run read only from lanes that run: others give an undefined value."""
    mask = machine.mask
    assert mask is not None
    absent = mask & ~mask[lane]
    if absent.any():
        reader = int(np.flatnonzero(absent)[0])
        other = machine.lanes.name(int(lane[reader]))
        raise UnwrittenError(f"{site}: {machine.lanes.name(reader)}: reads from {other}, which does not take part")


def _source(machine: Machine, mode: str, by: Array, clamp: Array) -> tuple[Array, Array]:
    """For each lane, the number of the lane that it reads; and whether that lies in its segment."""
    everyone = np.arange(len(machine.lanes))
    lane = everyone % _WARP
    by, clamp = by.astype(np.int64) & 31, clamp.astype(np.int64)
    segment, limit = clamp >> 8 & 31, clamp & 31
    most = (lane & segment) | (limit & ~segment & 31)
    if mode == "bfly":
        other = lane ^ by
    elif mode == "idx":
        other = (lane & segment) | (by & ~segment & 31)
    elif mode == "up":
        other = lane - by
    else:
        other = lane + by
    inside = other >= most if mode == "up" else other <= most
    return everyone - lane + np.where(inside, other, lane), inside


@instruction("redux")
def reduce_warp(decoder: Decoder, one: Instruction) -> Step:
    """The sum, the least or the greatest of the lanes of a warp that are in a mask; of floats, from sm_100 on."""
    sync, how, *more, kind = one.modifiers
    dtype, bits = TYPES[kind], raw(kind)
    floats = kind == "f32" and how in ("min", "max")
    if sync != "sync" or how not in _REDUCE or (dtype.kind == "f" and not floats) or set(more) - {"NaN", "abs"}:
        raise one.unknown()
    if more and not floats:
        raise one.unknown()
    target = decoder.target(one.operands[0])
    value, members = (decoder.source(operand, "b32") for operand in one.operands[1:])
    function, start = _REDUCE[how]
    choose = minimum if how == "min" else maximum

    def least(held: Array, here: Array) -> Array:
        """By halves, since -0 is less than 0. Lanes outside of the mask hold what does not change the result."""
        held = np.abs(held) if "abs" in more else held
        unlike = np.float32(np.inf if how == "min" else -np.inf) if "NaN" in more else np.float32(np.nan)
        rows = np.where(here, held, unlike).reshape(-1, _WARP)
        while rows.shape[1] > 1:
            half = rows.shape[1] // 2
            rows = choose(rows[:, :half], rows[:, half:], nan="NaN" in more)
        return canonical(rows[:, 0], kind)

    def step(machine: Machine) -> None:
        held, here = machine.full(value).view(dtype), _members(machine, members)
        if floats:
            total = least(held, here)
        else:
            held = np.where(here, held, np.array(start(np.iinfo(dtype))).astype(dtype))
            total = function.reduce(held.reshape(-1, _WARP), axis=1, dtype=dtype)
        machine.put(target, np.repeat(total, _WARP).view(bits))

    return step


#: name -> the operation, and what does not change its result.
_REDUCE: dict[str, tuple[Any, Callable[[Any], int]]] = {
    "add": (np.add, lambda info: 0),
    "min": (np.minimum, lambda info: int(info.max)),
    "max": (np.maximum, lambda info: int(info.min)),
    "and": (np.bitwise_and, lambda info: -1),
    "or": (np.bitwise_or, lambda info: 0),
    "xor": (np.bitwise_xor, lambda info: 0),
}


def _members(machine: Machine, register: int) -> Array:
    """The lanes that take part: those in the mask of members, which run."""
    members = machine.registers[register].astype(np.uint32)
    lane = (machine.lanes.thread % _WARP).astype(np.uint32)
    here: Array = (members >> lane) & 1 == 1
    return here if machine.mask is None else here & machine.mask


@instruction("vote")
def vote(decoder: Decoder, one: Instruction) -> Step:
    """Whether a predicate holds in all or any lanes of a warp, or in which."""
    sync, how, _kind = one.modifiers
    if sync != "sync" or how not in ("all", "any", "ballot"):
        raise one.unknown()
    target = decoder.target(one.operands[0])
    negated = one.operands[1].startswith("!")
    value, members = decoder.source(one.operands[1].lstrip("!"), "pred"), decoder.source(one.operands[2], "b32")

    def step(machine: Machine) -> None:
        here = _members(machine, members).reshape(-1, _WARP)
        holds = (machine.full(value) ^ negated).reshape(-1, _WARP)
        if how == "all":
            result = (holds | ~here).all(axis=1)
        elif how == "any":
            result = (holds & here).any(axis=1)
        else:
            result = (
                ((holds & here).astype(np.uint64) << np.arange(_WARP, dtype=np.uint64)).sum(axis=1).astype(np.uint32)
            )
        machine.put(target, np.repeat(result, _WARP))

    return step

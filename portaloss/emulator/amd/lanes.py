"""Instructions that move values between the lanes of a wave, or between lanes and scalar registers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from portaloss.emulator.amd.assembly import EXEC, Instruction, Operand
from portaloss.emulator.amd.operands import (
    Context,
    Source,
    scalar_sink,
    scalar_source,
    unknown,
    vector_sink,
    vector_source,
)
from portaloss.emulator.amd.vector import Run, sources
from portaloss.emulator.amd.waves import Array, Waves


def _lane_number(operand: Operand, context: Context) -> Source:
    return scalar_source(operand, "u32", context)


def read_first_lane(instruction: Instruction, context: Context) -> Run:
    """The value of the first active lane; of lane 0 where none is active."""
    target, operand = instruction.operands
    write, read = scalar_sink(target, "u32"), vector_source(operand, "u32", context)

    def run(waves: Waves) -> None:
        value = read(waves)
        if waves.full or value.shape[1] == 1:
            write(waves, value[:, 0])
        else:
            write(waves, value[np.arange(waves.size), waves.active.argmax(axis=1)])

    return run


def read_lane(instruction: Instruction, context: Context) -> Run:
    """The value of a lane, active or not."""
    target, operand, number = instruction.operands
    write, read = scalar_sink(target, "u32"), vector_source(operand, "u32", context)
    lane, lanes = _lane_number(number, context), context.program.lanes

    def run(waves: Waves) -> None:
        which = np.broadcast_to(lane(waves), waves.size) % lanes
        write(waves, read(waves)[np.arange(waves.size), which])

    return run


def write_lane(instruction: Instruction, context: Context) -> Run:
    """Write a lane, active or not."""
    target, operand, number = instruction.operands
    read, lane, lanes = scalar_source(operand, "u32", context), _lane_number(number, context), context.program.lanes

    def run(waves: Waves) -> None:
        which = np.broadcast_to(lane(waves), waves.size) % lanes
        waves.vector["u32"][target.index, waves.numbers, which] = read(waves)

    return run


def permute_across_rows(instruction: Instruction, context: Context) -> Run:
    """v_permlane16, v_permlanex16: each lane of a row reads a lane of its own or the other row of a pair.

    The two scalar sources hold four bits for each lane of a row: the lane that it reads.
    """
    target, operand, low, high = instruction.operands
    crossed = "x16" in instruction.name
    inactive, zero = (instruction.numbers("op_sel") or [0, 0])[:2]
    write, read = vector_sink(instruction, target, "u32", context), vector_source(operand, "u32", context)
    parts = [scalar_source(part, "u32", context) for part in (low, high)]
    lane = np.arange(context.program.lanes)
    place, row = lane % 16, lane - lane % 16

    def run(waves: Waves) -> None:
        low, high = (np.broadcast_to(part(waves), waves.size).astype(np.uint64) for part in parts)
        chosen = ((low | (high << 32))[:, None] >> (place * 4).astype(np.uint64) & 15).astype(np.intp)
        origin = (row ^ 16 if crossed else row) + chosen
        value = np.take_along_axis(np.broadcast_to(read(waves), (waves.size, len(lane))), origin, axis=1)
        if waves.full or inactive:
            write(waves, value)
            return
        valid = np.take_along_axis(waves.active, origin, axis=1)
        if not zero:
            value = np.where(valid, value, waves.vector["u32"][target.index, waves.group])
        write(waves, np.where(valid, value, 0) if zero else value)

    return run


def swap_rows(instruction: Instruction, context: Context) -> Run:
    """v_permlane16_swap, v_permlane32_swap: odd rows of one register change places with even ones of another."""
    first, second = (operand.index for operand in instruction.operands)
    size = 16 if "16" in instruction.name else 32
    lane = np.arange(context.program.lanes)
    odd = lane // size % 2 == 1
    over = lane ^ size

    def run(waves: Waves) -> None:
        a, b = (np.array(waves.vector["u32"][index, waves.group]) for index in (first, second))
        waves.write("u32", first, np.where(odd, b[:, over], a))
        waves.write("u32", second, np.where(odd, b, a[:, over]))

    return run


def count_lower_lanes(instruction: Instruction, context: Context) -> Run:
    """v_mbcnt: how many bits of a mask belong to lanes below, plus a value; of the lower or upper 32 lanes."""
    target, *operands = instruction.operands
    write = vector_sink(instruction, target, "u32", context)
    mask, added = sources(instruction, operands, ("u32", "u32"), context)
    lane = np.arange(context.program.lanes)
    below = np.clip(lane - (32 if "_hi_" in instruction.name else 0), 0, 32).astype(np.uint64)
    lower = ((np.uint64(1) << below) - np.uint64(1)).astype(np.uint32)

    def run(waves: Waves) -> None:
        bits = np.ascontiguousarray(np.broadcast_to(mask(waves) & lower, (waves.size, len(lane))))
        ones = np.unpackbits(bits.view(np.uint8).reshape(*bits.shape, 4), axis=2).sum(axis=2, dtype=np.uint32)
        write(waves, ones + added(waves))

    return run


def _from_active(waves: Waves, value: Array, origin: Array) -> Array:
    """The values of other lanes of the wave; 0 from lanes that are not active."""
    value = np.broadcast_to(value, (waves.size, waves.lanes))
    if origin.ndim == 1:
        moved = value[:, origin]
        return moved if waves.full else np.where(waves.active[:, origin], moved, np.uint32(0))
    moved = np.take_along_axis(value, origin, axis=1)
    return moved if waves.full else np.where(np.take_along_axis(waves.active, origin, axis=1), moved, np.uint32(0))


def backward_permute(instruction: Instruction, context: Context) -> Run:
    """ds_bpermute: each lane reads the lane whose number is a byte address divided by 4."""
    target, address, operand = instruction.operands
    write = vector_sink(instruction, target, "u32", context)
    where, read = vector_source(address, "u32", context), vector_source(operand, "u32", context)
    offset, lanes = int(instruction.modifiers.get("offset", "0"), 0), context.program.lanes

    def run(waves: Waves) -> None:
        origin = ((where(waves) + np.uint32(offset)) >> 2) % lanes
        if lanes == 32:
            origin = origin % 32
        write(waves, _from_active(waves, read(waves), np.broadcast_to(origin, (waves.size, lanes)).astype(np.intp)))

    return run


def swizzle(instruction: Instruction, context: Context) -> Run:
    """ds_swizzle: lanes of each 32 (or of each four) change places by a fixed pattern."""
    target, operand = instruction.operands
    write, read = vector_sink(instruction, target, "u32", context), vector_source(operand, "u32", context)
    origin = _swizzled(instruction, context)
    return lambda waves: write(waves, _from_active(waves, read(waves), origin))


def _swizzled(instruction: Instruction, context: Context) -> Array:
    text = instruction.modifiers.get("offset", "")
    lane = np.arange(context.program.lanes)
    half, place = lane - lane % 32, lane % 32
    found = re.fullmatch(r"swizzle\((\w+),\s*(.*)\)", text)
    if found is None:
        raise unknown(context, instruction, f"swizzle {text!r}")
    mode, rest = found[1], [part.strip().strip('"') for part in found[2].split(",")]
    if mode == "SWAP":
        return lane ^ int(rest[0])
    if mode == "REVERSE":
        return lane ^ (int(rest[0]) - 1)
    if mode == "BROADCAST":
        size, which = (int(part) for part in rest)
        return lane - lane % size + which
    if mode == "QUAD_PERM":
        return np.asarray(lane - lane % 4 + np.array([int(part) for part in rest])[lane % 4])
    if mode == "BITMASK_PERM":  # a letter for each bit: 0, 1, p to keep it, i to invert it
        result = np.zeros_like(place)
        for k, letter in enumerate(rest[0]):
            bit = place >> (4 - k) & 1
            result = result << 1 | {"0": bit * 0, "1": bit * 0 + 1, "p": bit, "i": 1 - bit}[letter]
        return half + result
    raise unknown(context, instruction, f"swizzle mode {mode}")


def any_lane(waves: Waves) -> Array:
    """Which waves of the group have an active lane."""
    bits = waves.scalar["u64" if waves.lanes == 64 else "u32"][waves.group, EXEC * 32 // waves.lanes]
    return np.asarray(bits != 0)


SPECIAL: dict[str, Any] = {
    "v_readfirstlane_b32": read_first_lane,
    "v_readlane_b32": read_lane,
    "v_writelane_b32": write_lane,
    "v_permlane16_b32": permute_across_rows,
    "v_permlanex16_b32": permute_across_rows,
    "v_permlane16_swap_b32": swap_rows,
    "v_permlane32_swap_b32": swap_rows,
    "v_mbcnt_lo_u32_b32": count_lower_lanes,
    "v_mbcnt_hi_u32_b32": count_lower_lanes,
    "ds_bpermute_b32": backward_permute,
    "ds_swizzle_b32": swizzle,
}

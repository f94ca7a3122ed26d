"""Vector instructions that convert between types, and those that mix or pack types of 16 and 32 bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from portaloss.emulator.amd.assembly import Instruction
from portaloss.emulator.amd.operands import Context, Sink, Source, unknown, vector_sink, vector_source
from portaloss.emulator.amd.vector import Entry, Run, Step
from portaloss.emulator.amd.vector_float import fused
from portaloss.emulator.amd.waves import DTYPES, Waves
from portaloss.emulator.arithmetic import to_bfloat16, to_integer


def _convert(kind: str) -> Any:
    dtype = DTYPES[kind]
    return lambda x: x.astype(dtype)


def _whole(kind: str, mode: str = "z") -> Any:
    """To an integer, saturated; nan is 0."""
    dtype = DTYPES[kind]
    return lambda x: to_integer(np.asarray(x), dtype, mode)


def _halves(low: Any, high: Any) -> Any:
    """Two values of 16 bits in one register."""
    low, high = (np.asarray(x).view(np.uint16).astype(np.uint32) for x in (low, high))
    return low | (high << 16)


def _bfloat16_pair(a: Any, b: Any) -> Any:
    return _halves(to_bfloat16(np.asarray(a)), to_bfloat16(np.asarray(b)))


def _toward_zero(x: Any) -> Any:
    near = x.astype(np.float16)
    return np.where(np.abs(near.astype(np.float32)) > np.abs(x), np.nextafter(near, np.float16(0)), near)


def _dot2(a: Any, b: Any, c: Any) -> Any:
    """Two products of halves, added to a float one after the other; the products are exact."""
    for shift in (0, 16):
        x, y = (((part >> shift) & 0xFFFF).astype(np.uint16).view(np.float16).astype(np.float32) for part in (a, b))
        c = c + x * y
    return c


TABLE: dict[str, Entry] = {
    "v_cvt_f32_f16": ("f32", ("f16",), _convert("f32")),
    "v_cvt_f16_f32": ("f16", ("f32",), _convert("f16")),
    "v_cvt_f32_f64": ("f32", ("f64",), _convert("f32")),
    "v_cvt_f64_f32": ("f64", ("f32",), _convert("f64")),
    "v_cvt_f32_i32": ("f32", ("i32",), _convert("f32")),
    "v_cvt_f32_u32": ("f32", ("u32",), _convert("f32")),
    "v_cvt_f64_i32": ("f64", ("i32",), _convert("f64")),
    "v_cvt_f64_u32": ("f64", ("u32",), _convert("f64")),
    "v_cvt_f16_i16": ("f16", ("i16",), _convert("f16")),
    "v_cvt_f16_u16": ("f16", ("u16",), _convert("f16")),
    "v_cvt_i32_f32": ("i32", ("f32",), _whole("i32")),
    "v_cvt_u32_f32": ("u32", ("f32",), _whole("u32")),
    "v_cvt_i32_f64": ("i32", ("f64",), _whole("i32")),
    "v_cvt_u32_f64": ("u32", ("f64",), _whole("u32")),
    "v_cvt_i16_f16": ("i16", ("f16",), _whole("i16")),
    "v_cvt_u16_f16": ("u16", ("f16",), _whole("u16")),
    "v_cvt_rpi_i32_f32": ("i32", ("f32",), lambda x: to_integer(np.floor(x + x.dtype.type(0.5)), np.int32, "n")),
    "v_cvt_flr_i32_f32": ("i32", ("f32",), _whole("i32", "m")),
    "v_pack_b32_f16": ("u32", ("f16", "f16"), _halves),
    "v_cvt_pkrtz_f16_f32": ("u32", ("f32", "f32"), lambda a, b: _halves(_toward_zero(a), _toward_zero(b))),
    "v_cvt_pk_rtz_f16_f32": ("u32", ("f32", "f32"), lambda a, b: _halves(_toward_zero(a), _toward_zero(b))),
    "v_cvt_pk_f16_f32": ("u32", ("f32", "f32"), lambda a, b: _halves(a.astype(np.float16), b.astype(np.float16))),
    "v_cvt_pk_bf16_f32": ("u32", ("f32", "f32"), _bfloat16_pair),
    "v_dot2_f32_f16": ("f32", ("u32", "u32", "f32"), _dot2),
    **{f"v_cvt_f32_ubyte{k}": ("f32", ("u32",), lambda x, k=k: ((x >> 8 * k) & 0xFF).astype(np.float32))
       for k in range(4)},
}  # fmt: skip


def _known(instruction: Instruction, context: Context, names: set[str]) -> None:
    strange = set(instruction.modifiers) - names
    if strange:
        raise unknown(context, instruction, f"unknown modifiers {', '.join(sorted(strange))}")


def mixed(instruction: Instruction, context: Context) -> Step:
    """A fused product and sum in 32 bits. Of each source, op_sel_hi says whether it has 16 bits, op_sel which half."""
    _known(instruction, context, {"op_sel", "op_sel_hi", "clamp"})
    operands = instruction.operands[1:]
    halves = instruction.numbers("op_sel") or [0, 0, 0]
    narrow = instruction.numbers("op_sel_hi") or [0, 0, 0]
    read: list[Source] = []
    for operand, half, small in zip(operands, halves, narrow, strict=True):
        if small:
            source = vector_source(operand, "f16", context, high=bool(half))
            read.append(lambda waves, source=source: source(waves).astype(np.float32))  # type: ignore[misc]
        else:
            read.append(vector_source(operand, "f32", context))

    def compute(waves: Waves) -> Any:
        value = fused(*(source(waves) for source in read))
        return value if instruction.name == "v_fma_mix_f32" else value.astype(np.float16)

    return Step(compute, _mixed_sink(instruction, context))


def _mixed_sink(instruction: Instruction, context: Context) -> Sink:
    target = instruction.operands[0]
    if instruction.name == "v_fma_mix_f32":
        return vector_sink(instruction, target, "f32", context)
    if instruction.name == "v_fma_mixhi_f16":
        return vector_sink(instruction, target, "f16", context, high=True)
    plain = vector_sink(instruction, target, "f16", context)
    if context.keeps_high_half:
        return plain
    if "clamp" in instruction.modifiers:
        raise unknown(context, instruction, "clamp")
    return lambda waves, value: waves.write("f16", target.index, value)  # it keeps the other half on every chip


_PACKED: dict[str, Any] = {
    "v_pk_add_f32": np.add,
    "v_pk_mul_f32": np.multiply,
    "v_pk_fma_f32": fused,
    "v_pk_mov_b32": lambda a, b: a,
}


def packed(instruction: Instruction, context: Context) -> Run:
    """Two operations of 32 bits on pairs of registers.

    For the lower result, op_sel says which register of each source is read, for the upper one op_sel_hi. v_pk_mov_b32
    takes the lower result from the first source and the upper one from the second.
    """
    _known(instruction, context, {"op_sel", "op_sel_hi", "neg_lo", "neg_hi"})
    target, *operands = instruction.operands
    moves = instruction.name == "v_pk_mov_b32"
    function, kind = _PACKED[instruction.name], "u32" if moves else "f32"
    count = len(operands)
    parts = []
    for selected, negated, default in (("op_sel", "neg_lo", 0), ("op_sel_hi", "neg_hi", 1)):
        which = instruction.numbers(selected) or [default] * count
        negative = instruction.numbers(negated) or [0] * count
        parts.append([
            _half_of_pair(instruction, operand, kind, context, half, bool(sign))
            for operand, half, sign in zip(operands, which, negative, strict=True)
        ])  # fmt: skip
    if moves:
        which = [(instruction.numbers("op_sel") or [0, 0])[0], (instruction.numbers("op_sel") or [0, 0])[1]]
        low, high = (
            [_half_of_pair(instruction, operand, kind, context, half, False)] * 2
            for operand, half in zip(operands, which, strict=True)
        )
        parts = [low, high]
    index = target.index

    def run(waves: Waves) -> None:
        first = function(*(source(waves) for source in parts[0]))
        second = function(*(source(waves) for source in parts[1]))
        if moves:
            second = np.array(second)
        waves.write(kind, index, first)
        waves.write(kind, index + 1, second)

    return run


def _half_of_pair(
    instruction: Instruction, operand: Any, kind: str, context: Context, half: int, negative: bool
) -> Source:
    if operand.file == "constant":
        if half and operand.value:
            raise unknown(context, instruction, "the upper half of a constant")
        return vector_source(replace(operand, negative=negative), kind, context)
    return vector_source(replace(operand, index=operand.index + half, count=1, negative=negative), kind, context)


SPECIAL: dict[str, Any] = {
    "v_fma_mix_f32": mixed,
    "v_fma_mixlo_f16": mixed,
    "v_fma_mixhi_f16": mixed,
    **dict.fromkeys(_PACKED, packed),
}

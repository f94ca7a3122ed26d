"""Scalar instructions: one value for each wave, and the condition bit SCC."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from portaloss.emulator.amd.assembly import EXEC, Instruction, Operand
from portaloss.emulator.amd.comparisons import RELATIONS
from portaloss.emulator.amd.operands import Context, scalar_sink, scalar_source, unknown
from portaloss.emulator.amd.vector import Run
from portaloss.emulator.amd.vector_float import APPROXIMATE, fused
from portaloss.emulator.amd.vector_integer import reverse_bits
from portaloss.emulator.amd.waves import Waves
from portaloss.emulator.arithmetic import maximum, minimum, to_integer

#: What SCC becomes: nothing, whether the result is not 0, or what the function returns beside the result.
KEEP, NONZERO, RETURNED = "keep", "nonzero", "returned"

Entry = tuple[str, tuple[str, ...], Callable[..., Any], str]


def _unsigned_sum(a: Any, b: Any) -> Any:
    total = a + b
    return total, total < a


def _unsigned_difference(a: Any, b: Any) -> Any:
    return a - b, b > a


def _signed(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The result, and whether it overflows."""

    def run(a: Any, b: Any) -> Any:
        wide = operation(a.astype(np.int64), b.astype(np.int64))
        result = wide.astype(np.int32)
        return result, result != wide

    return run


def _shift_add(amount: int) -> Callable[[Any, Any], Any]:
    def run(a: Any, b: Any) -> Any:
        wide = (a.astype(np.uint64) << amount) + b.astype(np.uint64)
        return wide.astype(np.uint32), wide >> 32 != 0

    return run


def _extract(a: Any, b: Any) -> Any:
    """A field of bits: the offset is in bits 0 to 4 (5), the width in bits 16 to 22 of the second source."""
    width64 = a.dtype.itemsize == 8
    offset, width = (b & (63 if width64 else 31)).astype(np.uint64), ((b >> 16) & 127).astype(np.uint64)
    mask = np.where(width >= 64, np.uint64(2**64 - 1), (np.uint64(1) << (width & np.uint64(63))) - np.uint64(1))
    if a.dtype.kind == "u":
        return ((a.astype(np.uint64) >> offset) & mask).astype(a.dtype)
    field = ((a.astype(np.int64) >> offset.astype(np.int64)).view(np.uint64)) & mask
    sign = np.where(width == 0, np.uint64(0), np.uint64(1) << ((width - np.uint64(1)) & np.uint64(63)))
    return ((field ^ sign) - sign).view(np.int64).astype(a.dtype)


def _high(a: Any, b: Any) -> Any:
    wide: Any = np.int64 if a.dtype == np.int32 else np.uint64
    return ((a.astype(wide) * b.astype(wide)) >> 32).astype(a.dtype)


def _size(a: Any) -> Any:
    return np.abs(a)


_B, _BB, _II, _FF = ("u32",), ("u32", "u32"), ("i32", "i32"), ("f32", "f32")
_Q, _QQ = ("u64",), ("u64", "u64")

TABLE: dict[str, Entry] = {
    "s_mov_b32": ("u32", _B, lambda a: a, KEEP),
    "s_mov_b64": ("u64", _Q, lambda a: a, KEEP),
    "s_not_b32": ("u32", _B, np.invert, NONZERO),
    "s_not_b64": ("u64", _Q, np.invert, NONZERO),
    "s_brev_b32": ("u32", _B, reverse_bits, KEEP),
    "s_abs_i32": ("i32", ("i32",), _size, NONZERO),
    "s_sext_i32_i8": ("i32", ("i32",), lambda a: (a << 24) >> 24, KEEP),
    "s_sext_i32_i16": ("i32", ("i32",), lambda a: (a << 16) >> 16, KEEP),
    "s_add_u32": ("u32", _BB, _unsigned_sum, RETURNED),
    "s_sub_u32": ("u32", _BB, _unsigned_difference, RETURNED),
    "s_add_i32": ("i32", _II, _signed(np.add), RETURNED),
    "s_sub_i32": ("i32", _II, _signed(np.subtract), RETURNED),
    "s_add_u64": ("u64", _QQ, np.add, KEEP),
    "s_sub_u64": ("u64", _QQ, np.subtract, KEEP),
    "s_mul_i32": ("u32", _BB, np.multiply, KEEP),
    "s_mul_u64": ("u64", _QQ, np.multiply, KEEP),
    "s_mul_hi_u32": ("u32", _BB, _high, KEEP),
    "s_mul_hi_i32": ("i32", _II, _high, KEEP),
    "s_bfe_u32": ("u32", _BB, _extract, NONZERO),
    "s_bfe_i32": ("i32", ("i32", "u32"), _extract, NONZERO),
    "s_bfe_u64": ("u64", ("u64", "u32"), _extract, NONZERO),
    "s_bfe_i64": ("i64", ("i64", "u32"), _extract, NONZERO),
    "s_bfm_b32": ("u32", _BB, lambda a, b: ((np.uint32(1) << (a & 31)) - np.uint32(1)) << (b & 31), KEEP),
    "s_lshl_b32": ("u32", _BB, lambda a, b: a << (b & 31), NONZERO),
    "s_lshr_b32": ("u32", _BB, lambda a, b: a >> (b & 31), NONZERO),
    "s_ashr_i32": ("i32", ("i32", "u32"), lambda a, b: a >> (b & 31).astype(np.int32), NONZERO),
    "s_lshl_b64": ("u64", ("u64", "u32"), lambda a, b: a << (b & 63).astype(np.uint64), NONZERO),
    "s_lshr_b64": ("u64", ("u64", "u32"), lambda a, b: a >> (b & 63).astype(np.uint64), NONZERO),
    "s_ashr_i64": ("i64", ("i64", "u32"), lambda a, b: a >> (b & 63).astype(np.int64), NONZERO),
    "s_min_i32": ("i32", _II, lambda a, b: (np.minimum(a, b), a <= b), RETURNED),
    "s_max_i32": ("i32", _II, lambda a, b: (np.maximum(a, b), a >= b), RETURNED),
    "s_min_u32": ("u32", _BB, lambda a, b: (np.minimum(a, b), a <= b), RETURNED),
    "s_max_u32": ("u32", _BB, lambda a, b: (np.maximum(a, b), a >= b), RETURNED),
    "s_pack_ll_b32_b16": ("u32", _BB, lambda a, b: (a & 0xFFFF) | (b << 16), KEEP),
    "s_pack_lh_b32_b16": ("u32", _BB, lambda a, b: (a & 0xFFFF) | (b & np.uint32(0xFFFF0000)), KEEP),
    "s_pack_hh_b32_b16": ("u32", _BB, lambda a, b: (a >> 16) | (b & np.uint32(0xFFFF0000)), KEEP),
    **{f"s_lshl{k}_add_u32": ("u32", _BB, _shift_add(k), RETURNED) for k in (1, 2, 3, 4)},
    # RDNA 4: floats in scalar registers
    "s_add_f32": ("f32", _FF, np.add, KEEP),
    "s_sub_f32": ("f32", _FF, np.subtract, KEEP),
    "s_mul_f32": ("f32", _FF, np.multiply, KEEP),
    "s_min_f32": ("f32", _FF, minimum, KEEP),
    "s_max_f32": ("f32", _FF, maximum, KEEP),
    "s_fmaak_f32": ("f32", ("f32",) * 3, fused, KEEP),
    "s_fmamk_f32": ("f32", ("f32",) * 3, fused, KEEP),
    "s_floor_f32": ("f32", ("f32",), np.floor, KEEP),
    "s_ceil_f32": ("f32", ("f32",), np.ceil, KEEP),
    "s_trunc_f32": ("f32", ("f32",), np.trunc, KEEP),
    "s_rndne_f32": ("f32", ("f32",), np.rint, KEEP),
    "s_cvt_f32_i32": ("f32", ("i32",), lambda a: a.astype(np.float32), KEEP),
    "s_cvt_f32_u32": ("f32", ("u32",), lambda a: a.astype(np.float32), KEEP),
    "s_cvt_i32_f32": ("i32", ("f32",), lambda a: to_integer(np.asarray(a), np.int32), KEEP),
    "s_cvt_u32_f32": ("u32", ("f32",), lambda a: to_integer(np.asarray(a), np.uint32), KEEP),
    "s_cvt_f32_f16": ("f32", ("f16",), lambda a: a.astype(np.float32), KEEP),
    "s_cvt_f16_f32": ("f16", ("f32",), lambda a: a.astype(np.float16), KEEP),
    "s_add_f16": ("f16", ("f16", "f16"), np.add, KEEP),
    "s_sub_f16": ("f16", ("f16", "f16"), np.subtract, KEEP),
    "s_mul_f16": ("f16", ("f16", "f16"), np.multiply, KEEP),
    "s_min_f16": ("f16", ("f16", "f16"), minimum, KEEP),
    "s_max_f16": ("f16", ("f16", "f16"), maximum, KEEP),
}  # fmt: skip

_LOGIC: dict[str, Callable[[Any, Any], Any]] = {
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "andn2": lambda a, b: a & ~b,
    "orn2": lambda a, b: a | ~b,
    "nand": lambda a, b: ~(a & b),
    "nor": lambda a, b: ~(a | b),
    "xnor": lambda a, b: ~(a ^ b),
}
for _name, _function in _LOGIC.items():
    TABLE[f"s_{_name}_b32"] = ("u32", _BB, _function, NONZERO)
    TABLE[f"s_{_name}_b64"] = ("u64", _QQ, _function, NONZERO)


def decode(instruction: Instruction, entry: Entry, context: Context) -> Run:
    """An instruction of the table."""
    result, kinds, function, scc = entry
    target, *operands = instruction.operands
    if len(operands) != len(kinds) or instruction.modifiers:
        raise unknown(context, instruction, "unexpected operands or modifiers")
    write = scalar_sink(target, result)
    read = [scalar_source(operand, kind, context) for operand, kind in zip(operands, kinds, strict=True)]

    def run(waves: Waves) -> None:
        value = function(*(source(waves) for source in read))
        if scc == RETURNED:
            value, flag = value
            write(waves, value)
            waves.scc[waves.group] = flag
        else:
            write(waves, value)
            if scc == NONZERO:
                waves.scc[waves.group] = value != 0

    return run


def compare(instruction: Instruction, context: Context) -> Run:
    """s_cmp: SCC is the relation of two sources. s_bitcmp: of a bit to 0 or 1."""
    first, second = instruction.operands
    if found := re.fullmatch(r"s_bitcmp([01])_b(32|64)", instruction.name):
        wanted, kind = int(found[1]), f"u{found[2]}"
        value, place = scalar_source(first, kind, context), scalar_source(second, "u32", context)

        def bit(waves: Waves) -> None:
            whole = value(waves)
            shift = (place(waves) & (int(kind[1:]) - 1)).astype(whole.dtype)
            waves.scc[waves.group] = (whole >> shift & 1) == wanted

        return bit
    found = re.fullmatch(r"s_cmpk?_(\w+)_([fiu]\d\d)", instruction.name)
    if found is None or found[1] not in RELATIONS:
        raise unknown(context, instruction)
    relation = found[1]
    if relation == "lg" and found[2][0] != "f":
        relation = "ne"
    function, kind = RELATIONS[relation], found[2]
    a, b = scalar_source(first, kind, context), scalar_source(second, kind, context)

    def run(waves: Waves) -> None:
        waves.scc[waves.group] = function(a(waves), b(waves))

    return run


def with_carry(instruction: Instruction, context: Context) -> Run:
    """s_addc, s_subb: with SCC as the carry in and out."""
    target, *operands = instruction.operands
    write = scalar_sink(target, "u32")
    first, second = (scalar_source(operand, "u32", context) for operand in operands)
    sign = 1 if "addc" in instruction.name else -1

    def run(waves: Waves) -> None:
        carry = waves.scc[waves.group].astype(np.int64)
        wide = first(waves).astype(np.int64) + sign * (second(waves).astype(np.int64) + carry)
        write(waves, wide.astype(np.uint32))
        waves.scc[waves.group] = (wide < 0) | (wide >> 32 != 0)

    return run


def choose(instruction: Instruction, context: Context) -> Run:
    """s_cselect: the first source where SCC is set. s_cmov: the source where it is set."""
    target, *operands = instruction.operands
    kind = f"u{instruction.name[-2:]}"
    if "cmov" in instruction.name:
        operands.append(target)
    write = scalar_sink(target, kind)
    yes, no = (scalar_source(operand, kind, context) for operand in operands)
    return lambda waves: write(waves, np.where(waves.scc[waves.group], yes(waves), no(waves)))


def save_exec(instruction: Instruction, context: Context) -> Run:
    """s_and_saveexec and others: the old EXEC is saved, and combined with the source."""
    target, operand = instruction.operands
    found = re.fullmatch(r"s_(\w+?)_saveexec_b(32|64)", instruction.name)
    if found is None or found[1] not in (*_LOGIC, "andn1"):
        raise unknown(context, instruction)
    kind = f"u{found[2]}"
    name = found[1]
    write, read = scalar_sink(target, kind), scalar_source(operand, kind, context)
    mask = Operand("exec", "s", EXEC, 2 if kind == "u64" else 1)
    old, new = scalar_source(mask, kind, context), scalar_sink(mask, kind)
    function = _LOGIC["andn2" if name == "andn1" else name]

    def run(waves: Waves) -> None:
        before = old(waves).copy()
        source = np.array(read(waves))
        # andn2: the source and not EXEC; andn1: EXEC and not the source
        after = function(before, source) if name == "andn1" else function(source, before)
        write(waves, before)
        new(waves, np.broadcast_to(after, before.shape))
        waves.scc[waves.group] = after != 0

    return run


def with_constant(instruction: Instruction, context: Context) -> Run:
    """s_movk, s_addk, s_mulk: a signed constant of 16 bits."""
    target, operand = instruction.operands
    value = int(operand.value) & 0xFFFF
    constant = np.int32(value - (value >> 15 << 16))
    write, read = scalar_sink(target, "i32"), scalar_source(target, "i32", context)

    def run(waves: Waves) -> None:
        if "movk" in instruction.name:
            write(waves, constant)
        elif "mulk" in instruction.name:
            write(waves, read(waves) * constant)
        else:
            wide = read(waves).astype(np.int64) + int(constant)
            result = wide.astype(np.int32)
            write(waves, result)
            waves.scc[waves.group] = result != wide

    return run


def fused_accumulate(instruction: Instruction, context: Context) -> Run:
    """s_fmac_f32: the product of two sources is added to the destination."""
    target, *operands = instruction.operands
    write = scalar_sink(target, "f32")
    read = [scalar_source(operand, "f32", context) for operand in (*operands, target)]
    return lambda waves: write(waves, fused(*(source(waves) for source in read)))


def approximate(instruction: Instruction, context: Context) -> Run:
    """v_s_exp_f32 and others: an approximate vector instruction of scalars."""
    target, operand = instruction.operands
    function, model = APPROXIMATE[instruction.name.replace("v_s_", "v_")], context.model
    write, read = scalar_sink(target, "f32"), scalar_source(operand, "f32", context)
    return lambda waves: write(waves, function(model, read(waves)))


SPECIAL: dict[str, Any] = {
    "s_addc_u32": with_carry,
    "s_subb_u32": with_carry,
    "s_movk_i32": with_constant,
    "s_addk_i32": with_constant,
    "s_mulk_i32": with_constant,
    "s_fmac_f32": fused_accumulate,
    **{f"v_s_{name}_f32": approximate for name in ("exp", "log", "rcp", "rsq", "sqrt")},
    **{f"s_{name}_b{width}": choose for name in ("cselect", "cmov") for width in (32, 64)},
    **{f"s_{name}_saveexec_b{width}": save_exec for name in (*_LOGIC, "andn1") for width in (32, 64)},
}

"""Turns a program into Python functions of the waves, one for each instruction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from portaloss.emulator.amd import (
    comparisons,
    control,
    conversions,
    division,
    lanes,
    memory_operations,
    scalar,
    vector,
    vector_float,
    vector_integer,
)
from portaloss.emulator.amd.assembly import NULL, VCC, Instruction, Operand
from portaloss.emulator.amd.operands import Context, unknown
from portaloss.emulator.amd.vector import Run, Step
from portaloss.emulator.amd.waits import COUNTERS, SCALAR, Operation, limits

#: Names of RDNA 3 and 4 for instructions that older chips have too: parts of names, replaced in this order.
_RENAMED = (
    ("_max_num_", "_max_"), ("_min_num_", "_min_"), ("_max3_num_", "_max3_"), ("_min3_num_", "_min3_"),
    ("_med3_num_", "_med3_"), ("_maxmin_num_", "_maxmin_"), ("_minmax_num_", "_minmax_"),
    ("v_add_co_ci_", "v_addc_co_"), ("v_sub_co_ci_", "v_subb_co_"), ("v_subrev_co_ci_", "v_subbrev_co_"),
    ("s_add_co_ci_u32", "s_addc_u32"), ("s_sub_co_ci_u32", "s_subb_u32"),
    ("s_add_co_", "s_add_"), ("s_sub_co_", "s_sub_"), ("s_addk_co_", "s_addk_"),
    ("s_add_nc_u64", "s_add_u64"), ("s_sub_nc_u64", "s_sub_u64"),
    ("_nc_", "_"), ("v_mad_co_u64_", "v_mad_u64_"), ("v_mad_co_i64_", "v_mad_i64_"),
    ("s_and_not1_", "s_andn2_"), ("s_or_not1_", "s_orn2_"), ("s_and_not0_", "s_andn1_"),
    ("v_clz_i32_u32", "v_ffbh_u32"), ("v_ctz_i32_b32", "v_ffbl_b32"),
    ("v_dot2c_f32_f16", "v_dot2acc_f32_f16"), ("v_ashrrev_b16", "v_ashrrev_i16"),
)  # fmt: skip

_TABLES: dict[str, vector.Entry] = {
    **vector_integer.TABLE, **vector_float.TABLE, **conversions.TABLE, **division.TABLE,
}  # fmt: skip
_SPECIAL: dict[str, Any] = {
    **vector_integer.SPECIAL, **conversions.SPECIAL, **division.SPECIAL, **comparisons.SPECIAL, **lanes.SPECIAL,
    **scalar.SPECIAL,
}  # fmt: skip


@dataclass(frozen=True)
class Decoded:
    """An instruction that is ready to run."""

    run: Run | None  #: None if it does nothing
    control: bool  #: whether ``run`` says where to continue
    touched: frozenset[int]  #: registers that must not be under way: those that it reads or writes
    operation: Operation | None  #: what it starts, if it is a load or a store
    waits: tuple[tuple[str, int], ...] | None
    text: str  #: as in the assembly


def decode(instruction: Instruction, place: int, context: Context) -> Decoded:
    """An instruction of a program.

    Args:
        instruction: as parsed.
        place: its number in the program.
        context: the program and the model of approximate instructions.
    """
    key = (context.key, instruction.text)
    found = _DECODED.get(key)
    if found is None:
        found = _decode(instruction, place, context)
        # a branch depends on its place, and what accesses memory on its source line
        if not found.control and found.operation is None:
            _DECODED[key] = found
    return found


#: What was decoded, by everything that it depends on: programs have many instructions in common.
_DECODED: dict[tuple[object, str], Decoded] = {}


def _decode(instruction: Instruction, place: int, context: Context) -> Decoded:
    waits = limits(instruction)
    operation = _operation(instruction, context)
    touched = _touched(instruction, operation)
    if waits is not None or instruction.name in control.IGNORED:
        return Decoded(None, False, frozenset(), None, waits, instruction.text)
    jump = control.control(instruction, place, context)
    if jump is not None:
        return Decoded(jump, True, touched, None, None, instruction.text)
    return Decoded(_run(instruction, context), False, touched, operation, None, instruction.text)


def _run(instruction: Instruction, context: Context) -> Run:
    if instruction.pair is not None:
        first, second = (_function(half, context) for half in (instruction, instruction.pair))
        if not isinstance(first, Step) or not isinstance(second, Step):
            raise unknown(context, instruction, "unknown pair")
        return vector.pair(first, second)
    found = _function(instruction, context)
    return found.run if isinstance(found, Step) else found


def _renamed(instruction: Instruction) -> Instruction:
    name = instruction.name
    for new, old in _RENAMED:
        name = name.replace(new, old)
    return instruction if name == instruction.name else replace(instruction, name=name)


def _function(instruction: Instruction, context: Context) -> Step | Run:
    instruction = _renamed(instruction)
    name = instruction.name
    if name in _SPECIAL:
        found: Step | Run = _SPECIAL[name](instruction, context)
        return found
    if name in _TABLES:
        return vector.decode(instruction, _TABLES[name], context)
    if name in vector_float.APPROXIMATE:
        return _approximate(instruction, context)
    if name.startswith(("v_fmac_", "v_dot2acc_")):
        return _accumulate(instruction, context)
    if name.startswith(("v_cmp_", "v_cmpx_")):
        return comparisons.compare(instruction, context)
    if name in scalar.TABLE:
        return scalar.decode(instruction, scalar.TABLE[name], context)
    if name.startswith(("s_cmp_", "s_cmpk_", "s_bitcmp")):
        return scalar.compare(instruction, context)
    if name.startswith(("global_", "flat_", "buffer_")):
        return memory_operations.vector_memory(instruction, context)
    if name.startswith("scratch_"):
        return memory_operations.private_memory(instruction, context)
    if name.startswith("s_load_"):
        return memory_operations.scalar_load(instruction, context)
    if name.startswith("ds_"):
        return memory_operations.shared_memory(instruction, context)
    raise unknown(context, instruction)


def _approximate(instruction: Instruction, context: Context) -> Step:
    kind = instruction.name[-3:]
    function, model = vector_float.APPROXIMATE[instruction.name], context.model
    return vector.decode(instruction, (kind, (kind,), lambda x: function(model, x)), context)


def _accumulate(instruction: Instruction, context: Context) -> Step:
    """The destination is also the last source."""
    target = replace(instruction.operands[0], negative=False, absolute=False)
    whole = replace(instruction, operands=[*instruction.operands, target])
    if instruction.name.startswith("v_dot2acc"):
        entry = conversions.TABLE["v_dot2_f32_f16"]
    else:
        kind = instruction.name[-3:]
        entry = kind, (kind,) * 3, vector_float.fused
    return vector.decode(whole, entry, context)


def _operation(instruction: Instruction, context: Context) -> Operation | None:
    """The memory operation that an instruction starts."""
    name = instruction.name
    if name in control.IGNORED or not name.startswith(("global_", "flat_", "buffer_", "scratch_", "ds_", "s_load_")):
        return None
    stores = "_store" in name or "_write" in name
    if name.startswith("ds_"):
        kind = "shared"
    elif name.startswith("s_load_"):
        kind = "scalar"
    else:
        kind = "store" if stores else "load"
    counters = COUNTERS.get(context.program.generation)
    if counters is None:
        raise unknown(context, instruction, f"unknown waits of {context.program.arch}")
    written = frozenset() if stores else _registers(instruction.operands[:1])
    return Operation(counters[kind], written, kind != "scalar", stores, stores and kind == "shared")


def _registers(operands: list[Operand]) -> frozenset[int]:
    found: set[int] = set()
    for operand in operands:
        if operand.file == "v":
            found.update(operand.registers)
        elif operand.file == "s" and operand.index != NULL:
            found.update(SCALAR + register for register in operand.registers)
    return frozenset(found)


def _touched(instruction: Instruction, operation: Operation | None) -> frozenset[int]:
    operands = list(instruction.operands)
    if instruction.pair is not None:
        operands += instruction.pair.operands
    if operation is not None and operation.registers:
        operands = operands[1:]  # a second load into a register ends after the first, if it is of the same counter
    found = _registers(operands)
    if "vcc" in instruction.name or "div_fmas" in instruction.name or "cndmask" in instruction.text:
        found |= {SCALAR + VCC, SCALAR + VCC + 1}
    return found

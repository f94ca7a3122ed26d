"""Comparisons, which write a mask of lanes, and the choice between two values by a mask."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from portaloss.emulator.amd.assembly import EXEC, VCC, Instruction
from portaloss.emulator.amd.operands import Context, unknown, vector_sink
from portaloss.emulator.amd.vector import Run, Step, sources
from portaloss.emulator.amd.waves import Waves

#: The relations of the manual; those with an n are the negation, which is true where one side is nan.
RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "lt": np.less,
    "eq": np.equal,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "ne": np.not_equal,
    "lg": lambda a, b: (a < b) | (a > b),
    "o": lambda a, b: (a == a) & (b == b),
    "u": lambda a, b: (a != a) | (b != b),
    "nge": lambda a, b: ~(a >= b),
    "nlg": lambda a, b: ~((a < b) | (a > b)),
    "ngt": lambda a, b: ~(a > b),
    "nle": lambda a, b: ~(a <= b),
    "neq": np.not_equal,
    "nlt": lambda a, b: ~(a < b),
}

_SHAPE = {"f16": (np.int16, 10, 0x1F), "f32": (np.int32, 23, 0xFF), "f64": (np.int64, 52, 0x7FF)}


def in_class(x: Any, classes: Any) -> Any:
    """Whether a float is of one of the classes, a bit for each.

    0 signalling nan, 1 quiet nan, 2 -inf, 3 -normal, 4 -subnormal, 5 -0, 6 +0, 7 +subnormal, 8 +normal, 9 +inf.
    """
    x = np.ascontiguousarray(x)
    integer, fraction, most = _SHAPE[f"f{8 * x.itemsize}"]
    bits = x.view(integer)
    exponent, rest = (bits >> fraction) & most, bits & ((1 << fraction) - 1)
    quiet = (bits >> (fraction - 1)) & 1
    size = np.where(exponent == most, 3, np.where(exponent != 0, 2, np.where(rest != 0, 1, 0)))
    place = np.where(bits < 0, 5 - size, 6 + size)
    place = np.where((exponent == most) & (rest != 0), quiet, place)
    return ((classes >> place.astype(np.uint32)) & 1).astype(bool)


def compare(instruction: Instruction, context: Context) -> Run:
    """v_cmp writes a mask; v_cmpx also EXEC, and on RDNA only that."""
    found = re.fullmatch(r"v_cmp(x?)_(\w+)_([fiu]\d\d)", instruction.name)
    if found is None or (found[2] not in RELATIONS and found[2] != "class"):
        raise unknown(context, instruction)
    exec_too, relation, kind = found.groups()
    kinds = (kind, "u32") if relation == "class" else (kind, kind)
    function = in_class if relation == "class" else RELATIONS[relation]
    *targets, a, b = instruction.operands
    registers = [operand.index for operand in targets]
    if exec_too and EXEC not in registers:
        registers.append(EXEC)
    first, second = sources(instruction, [a, b], kinds, context)
    if len(registers) == 1:
        (register,) = registers
        return lambda waves: waves.set_mask(register, function(first(waves), second(waves)))

    def run(waves: Waves) -> None:
        mask = function(first(waves), second(waves))
        for register in registers:
            waves.set_mask(register, mask)

    return run


def choose(instruction: Instruction, context: Context) -> Step:
    """v_cndmask: of two values, the second where the mask is set. Signs apply to the bits."""
    target, *operands = instruction.operands
    register = operands.pop().index if len(operands) > 2 else VCC
    kind = "u16" if instruction.name.endswith("b16") else "u32"
    write = vector_sink(instruction, target, kind, context)
    no, yes = sources(instruction, operands, (kind, kind), context)
    return Step(lambda waves: np.where(waves.mask(register), yes(waves), no(waves)), write)


SPECIAL: dict[str, Any] = {"v_cndmask_b32": choose, "v_cndmask_b16": choose}

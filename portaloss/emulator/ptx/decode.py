"""Turns the instructions of a kernel into steps: Python functions that know their registers and types.

An instruction's module registers a decoder under the opcode's name. It gets a ``Decoder``, which gives registers
numbers and makes constants registers as well, and the instruction; it returns the step.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.emulator.errors import UnknownInstructionError
from portaloss.emulator.ptx.machine import END, Block, Machine, Program, Step, guarded
from portaloss.emulator.ptx.syntax import Instruction, Kernel

Array = npt.NDArray[Any]

#: PTX's types -> NumPy's; bf16 and packed types are handled where they occur.
TYPES: dict[str, Any] = {
    **{f"{letter}{bits}": np.dtype(f"u{bits // 8}") for letter in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    "bf16": np.dtype("u2"),
    "pred": np.dtype(bool),
}

#: Types of several numbers in one register -> the type of each, and the register's bits.
PACKED = {"f16x2": ("f16", 32), "bf16x2": ("bf16", 32), "f32x2": ("f32", 64)}


def raw(name: str) -> Any:
    """NumPy's type for the bits of a PTX type."""
    if name in PACKED:
        return np.dtype(f"u{PACKED[name][1] // 8}")
    kind = TYPES[name]
    return kind if kind.kind == "b" else np.dtype(f"u{kind.itemsize}")


Make = Callable[["Decoder", Instruction], Step]
_DECODERS: dict[str, Make] = {}


def instruction(*names: str) -> Callable[[Make], Make]:
    """Register a decoder for opcodes that begin with these names."""

    def register(make: Make) -> Make:
        _DECODERS.update(dict.fromkeys(names, make))
        return make

    return register


_NUMBER = re.compile(r"(-?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]+)|(\d+))[uU]?$")


class Decoder:
    """Gives the registers and constants of one kernel their numbers."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.values: list[Array] = []
        self._numbers: dict[str, int] = {}
        self._constants: dict[tuple[int, Any], int] = {}
        self._sinks = 0

    def register(self, name: str) -> int:
        """A register's number."""
        number = self._numbers.get(name)
        if number is None:
            declared = self.kernel.register_type(name)
            if declared is None:
                raise UnknownInstructionError(f"{self.kernel.name}: {name} is no register")
            number = self._numbers[name] = self._add(np.zeros(1, raw(declared)))
        return number

    def target(self, name: str) -> int:
        """The register that an instruction writes; ``_`` is a register that nobody reads."""
        if name == "_":
            return self._add(np.zeros(1, np.uint32))
        return self.register(name)

    def width(self, register: int) -> int:
        """A register's size in bytes."""
        return int(self.values[register].itemsize)

    def source(self, operand: str, kind: str) -> int:
        """The register that holds an operand of a type; for a constant, one that is made for it.

        A register may be wider or narrower than the type; what reads it converts it.
        """
        if self.kernel.register_type(operand) is not None:
            return self.register(operand)
        return self.constant(self._bits(operand, kind), raw(kind))

    def constant(self, bits: int, dtype: Any) -> int:
        """A register that always has a value."""
        dtype = np.dtype(dtype)
        if dtype.kind != "b":
            bits &= (1 << 8 * dtype.itemsize) - 1
        key = (bits, dtype)
        if key not in self._constants:
            self._constants[key] = self._add(np.array([bits], dtype))
        return self._constants[key]

    def value(self, register: int) -> int | None:
        """A constant's value; None for a register that instructions write."""
        return int(self.values[register][0]) if register in self._constants.values() else None

    def _bits(self, operand: str, kind: str) -> int:
        if operand in self.kernel.symbols:
            return self.kernel.symbols[operand]
        if re.fullmatch(r"0[fFdD][0-9a-fA-F]+", operand):
            return int(operand[2:], 16)
        if found := _NUMBER.match(operand):
            sign, hexadecimal, octal, decimal = found.groups()
            number = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
            return -number if sign else number
        if kind == "pred" and operand in ("true", "false"):
            return int(operand == "true")
        raise UnknownInstructionError(f"{self.kernel.name}: operand {operand} is not implemented")

    def _add(self, value: Array) -> int:
        self.values.append(value)
        return len(self.values) - 1


#: Instructions before which lanes of a warp, or a block, wait for each other.
_WAITS = {"shfl": "warp", "vote": "warp", "redux": "warp", "match": "warp", "ldmatrix": "warp", "stmatrix": "warp"}


def _waits(one: Instruction) -> str:
    if one.name in ("bar", "barrier"):
        return "warp" if "warp" in one.modifiers else "block"
    return _WAITS.get(one.name, "")


def decode(kernel: Kernel) -> Program:
    """The program of a kernel.

    Raises:
        UnknownInstructionError: an instruction is not implemented.
    """
    decoder = Decoder(kernel)
    parameters = {name: (decoder._add(np.zeros(1, f"u{size}")), size) for name, size in kernel.parameters.items()}
    decoder._numbers.update({f"[{name}]": number for name, (number, _) in parameters.items()})
    branches = [one.operands[-1] for one in kernel.instructions if one.name == "bra"]
    starts = {0, *(kernel.labels[label] for label in branches)}
    for k, one in enumerate(kernel.instructions):
        if one.name in ("bra", "ret", "exit"):
            starts.add(k + 1)
        if _waits(one):
            starts.add(k)
    order = sorted(start for start in starts if start < len(kernel.instructions))
    numbers = {start: number for number, start in enumerate(order)}
    numbers[len(kernel.instructions)] = END
    blocks = []
    for start, end in zip(order, [*order[1:], len(kernel.instructions)], strict=True):
        block = Block(waits=_waits(kernel.instructions[start]), taken=numbers[end])
        for one in kernel.instructions[start:end]:
            if one.name in ("bra", "ret", "exit"):
                block.taken = END if one.name != "bra" else numbers[kernel.labels[one.operands[-1]]]
                if one.guard:
                    block.predicate, block.negated = decoder.register(one.guard), one.negated
                    block.otherwise = numbers[end]
                continue
            make = _DECODERS.get(one.name)
            if make is None:
                raise one.unknown()
            step = make(decoder, one)
            block.steps.append(guarded(step, decoder.register(one.guard), one.negated) if one.guard else step)
            block.sites.append(one.site)
        blocks.append(block)
    return Program(kernel.name, blocks, decoder.values, list(parameters.values()))


def elementwise(target: int, sources: list[int], function: Callable[..., Array]) -> Step:
    """A step that computes a register from others, lane by lane; the function takes and gives raw bits."""
    if len(sources) == 1:
        (first,) = sources
        return lambda machine: machine.put(target, function(machine.registers[first]))
    if len(sources) == 2:
        first, second = sources

        def binary(machine: Machine) -> None:
            registers = machine.registers
            machine.put(target, function(registers[first], registers[second]))

        return binary

    def step(machine: Machine) -> None:
        registers = machine.registers
        machine.put(target, function(*[registers[source] for source in sources]))

    return step

"""Reads PTX: a kernel's parameters, registers and instructions, with the source line of each.

Only what Triton writes is understood: one entry, no functions, registers declared by the range. An instruction is

    @!%p1 ld.global.v2.b32 {%r1, %r2}, [%rd1 + 8];

a guard, an opcode of parts separated by dots, and operands: a register, a number, a symbol, a vector in braces, an
address in brackets, or two registers joined by a bar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from portaloss.emulator.errors import Site, UnknownInstructionError


@dataclass(frozen=True)
class Instruction:
    """An instruction as it is written."""

    opcode: str
    operands: tuple[str, ...]
    guard: str  #: the predicate's register; empty where there is none
    negated: bool  #: whether it runs where the predicate does not hold
    site: Site

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def modifiers(self) -> tuple[str, ...]:
        """The parts of the opcode after its name."""
        return tuple(self.opcode.split(".")[1:])

    def unknown(self, why: str = "") -> UnknownInstructionError:
        """The error that says that the emulator does not have it."""
        return UnknownInstructionError(
            f"{self.site}: PTX instruction {self.opcode} is not implemented{why and ': '}{why}"
        )


@dataclass
class Kernel:
    """A kernel of a PTX text."""

    name: str = ""
    parameters: dict[str, int] = field(default_factory=dict)  #: names -> sizes in bytes, in their order
    registers: dict[str, str] = field(default_factory=dict)  #: prefixes or names -> types, such as b32
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  #: names -> the instruction that follows
    symbols: dict[str, int] = field(default_factory=dict)  #: shared arrays -> their address

    def register_type(self, name: str) -> str | None:
        """The type that a register was declared with; None where the name is no register."""
        if name in self.registers:
            return self.registers[name]
        return self.registers.get(name.rstrip("0123456789") + "<>")


_PARAMETER = re.compile(r"\.param\s+\.(\w+)(?:\s+\.ptr.*)?\s+([\w$]+)\s*,?$")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+([^;]+);")
_LOCATION = re.compile(r"\.loc\s+(\d+)\s+(\d+)")
_FILE = re.compile(r'\.file\s+(\d+)\s+"([^"]+)"')
_ENTRY = re.compile(r"\.visible\s+\.entry\s+([\w$]+)")
_LABEL = re.compile(r"([\w$]+):\s*")
_SHARED = re.compile(r"\.shared\s+.*\.b8\s+([\w$]+)\s*\[(\d*)\]")

#: Directives that say nothing about what a kernel computes.
_IGNORED = (
    ".version", ".target", ".address_size", ".reqntid", ".maxntid", ".minnctapersm", ".maxnreg", ".pragma", ".global",
    ".requires", ".noreturn", ".blocksareclusters", ".explicitcluster", ".reqnctapercluster",
)  # fmt: skip


def parse(text: str) -> Kernel:
    """The kernel of a PTX text.

    Raises:
        UnknownInstructionError: a line is not understood.
    """
    files = dict(_FILE.findall(text))
    code, _, _ = text.partition("\t.section")
    kernel = Kernel()
    source = ""
    for line in code.splitlines():
        line = line.partition("//")[0].strip()
        if not line or line.startswith((".file", *_IGNORED)) or line in ("(", ")", "{", "}"):
            continue
        if found := _LOCATION.match(line):
            if found[2] != "0":
                source = f"{PurePath(files.get(found[1], '?')).name}:{found[2]}"
        elif found := _ENTRY.match(line):
            kernel.name = found[1]
        elif found := _PARAMETER.match(line):
            kernel.parameters[found[2]] = int(found[1][1:]) // 8
        elif found := _SHARED.search(line):
            if found[2]:
                raise UnknownInstructionError(f"{kernel.name}: shared arrays of a fixed size are not implemented")
            kernel.symbols[found[1]] = 0
        else:
            for statement in _statements(kernel, line):
                kernel.instructions.append(_instruction(kernel.name, statement, source))
    if not kernel.name:
        raise UnknownInstructionError("the PTX text has no entry")
    return kernel


def _statements(kernel: Kernel, line: str) -> Iterator[str]:
    """The instructions of a line, whose labels and registers go to the kernel."""
    while found := _LABEL.match(line):
        kernel.labels[found[1]] = len(kernel.instructions)
        line = line[found.end() :]
    for declared in _REGISTERS.finditer(line):
        for name in declared[2].split(","):
            name = name.strip()
            kernel.registers[name.partition("<")[0] + "<>" if "<" in name else name] = declared[1]
    line = _REGISTERS.sub("", line)
    if line.startswith("{") and line.endswith("}"):  # a scope of inline assembly
        line = line[1:-1]
    for statement in line.split(";"):
        statement = statement.strip()
        if statement and statement not in ("{", "}"):
            yield statement


def _instruction(kernel: str, text: str, source: str) -> Instruction:
    guard, negated, rest = "", False, text
    if text.startswith("@"):
        guard, _, rest = text[1:].partition(" ")
        negated = guard.startswith("!")
        guard = guard.lstrip("!")
    opcode, *operands = rest.strip().split(None, 1)
    text = " ".join(text.split())
    return Instruction(
        opcode, tuple(_operands(operands[0])) if operands else (), guard, negated, Site(kernel, text, source)
    )


def _operands(text: str) -> Iterator[str]:
    """Operands, split at the commas outside of braces and brackets."""
    depth, start = 0, 0
    for k, character in enumerate(text):
        if character in "{[(":
            depth += 1
        elif character in "}])":
            depth -= 1
        elif character == "," and depth == 0:
            yield text[start:k].strip()
            start = k + 1
    yield text[start:].strip()


def vector(operand: str) -> list[str]:
    """The parts of an operand: those in braces, or itself."""
    return [part.strip() for part in operand.strip("{} ").split(",")] if operand.startswith("{") else [operand]

"""Reads the AMD assembly text that Triton emits: instructions, labels, source lines and the kernel's descriptor.

One instruction is one line: a mnemonic, operands separated by commas, and modifiers separated by spaces. Some modifiers
are single words (``offen``), others have values (``offset:16``, ``quad_perm:[1,0,3,2]``). RDNA pairs two instructions
in one line with ``::``; here they are an instruction with a second one in ``pair``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from portaloss.emulator.errors import UnknownInstructionError

#: Places of the special scalar registers in the array of scalar registers. Ordinary ones are 0 to 105.
VCC, TTMP, M0, NULL, EXEC = 106, 108, 124, 125, 126
SCALARS = 128

_SPECIAL = {
    "vcc": (VCC, 2), "vcc_lo": (VCC, 1), "vcc_hi": (VCC + 1, 1),
    "exec": (EXEC, 2), "exec_lo": (EXEC, 1), "exec_hi": (EXEC + 1, 1),
    "m0": (M0, 1), "null": (NULL, 1),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operand:
    """A register, a constant, or a word that only the instruction understands."""

    text: str
    file: str  #: "v" vector, "s" scalar, "constant", "word"
    index: int = 0  #: of the first register
    count: int = 1  #: of registers
    value: int | float = 0  #: of a constant; a float where the text is one
    literal: bool = False  #: whether the constant is written in hexadecimal: 32 bits, as they are
    negative: bool = False
    absolute: bool = False
    signed: bool = False  #: SDWA: the selected part is sign-extended

    @property
    def registers(self) -> range:
        """The places of its registers."""
        return range(self.index, self.index + self.count)


@dataclass(slots=True)
class Instruction:
    """One line of assembly."""

    name: str  #: without the suffix that names the encoding
    encoding: str  #: the suffix: "e32", "e64", "dpp", "sdwa" or nothing
    operands: list[Operand]
    modifiers: dict[str, str]
    text: str
    line: int  #: in the assembly text
    source: str  #: file and line of the Python source, or nothing
    pair: Instruction | None = None

    def numbers(self, modifier: str) -> list[int] | None:
        """The values of a modifier that is a list, such as op_sel:[0,1]."""
        text = self.modifiers.get(modifier)
        return None if text is None else [int(part) for part in text.strip("[]").split(",")]


@dataclass
class Argument:
    """A kernel argument: where it lies in the argument segment."""

    offset: int
    size: int
    pointer: bool


@dataclass
class Program:
    """A kernel's instructions and what its descriptor says."""

    name: str
    arch: str
    instructions: list[Instruction]
    labels: dict[str, int]  #: the index of the instruction that follows
    descriptor: dict[str, int]  #: the .amdhsa_ directives without that prefix
    arguments: list[Argument]

    @property
    def lanes(self) -> int:
        """Lanes in a wave: 32 or 64."""
        return 32 if self.descriptor.get("wavefront_size32") else 64

    @property
    def generation(self) -> int:
        """9 for CDNA (gfx9xx), 11 for RDNA 3, 12 for RDNA 4."""
        return int(self.arch[3:-2])


def parse(text: str) -> Program:
    """Read the assembly text of one kernel."""
    arch = re.search(r'\.amdgcn_target\s+"[^"]*--(gfx\w+)', text)
    kernel = re.search(r"^\s*\.amdhsa_kernel\s+(\S+)", text, re.M)
    if arch is None or kernel is None:
        raise UnknownInstructionError(
            "this is no AMD assembly of one kernel: .amdgcn_target or .amdhsa_kernel is missing"
        )
    descriptor = {name: int(value, 0) for name, value in re.findall(r"^\s*\.amdhsa_(\w+)\s+(\w+)\s*$", text, re.M)
                  if re.fullmatch(r"\d+|0x[0-9a-f]+", value)}  # fmt: skip
    program = Program(kernel[1], arch[1], [], {}, descriptor, _arguments(text))
    lines = text.split("\n")
    start = lines.index(next(line for line in lines if line.startswith(f"{kernel[1]}:")))
    files: dict[str, str] = {}
    source = ""
    for number, whole in enumerate(lines[start + 1 :], start + 2):
        line = whole.split(";", 1)[0].strip()
        if not line:
            continue
        if line.endswith(":"):
            program.labels[line[:-1]] = len(program.instructions)
        elif line.startswith(".file"):
            found = re.match(r'\.file\s+(\d+)\s+(?:"[^"]*"\s+)?"([^"]*)"', line)
            if found:
                files[found[1]] = found[2]
        elif line.startswith(".loc"):
            _, file, row, *_ = line.split()
            source = f"{files.get(file, file)}:{row}" if int(row) else source
        elif line.startswith((".section", ".end_amdhsa", ".amdhsa_kernel")):
            break
        elif not line.startswith("."):
            program.instructions.append(_instruction(line, number, source))
    return program


def _arguments(text: str) -> list[Argument]:
    block = re.search(r"^[ -]+\.args:\s*\n((?: {6}.*\n)*)", text, re.M)  # the list is indented by six spaces
    found: list[Argument] = []
    for item in re.split(r"^\s+- ", block[1], flags=re.M)[1:] if block else []:
        keys = dict(re.findall(r"\.(\w+):\s+(\S+)", item))
        if not keys["value_kind"].startswith("hidden"):
            pointer = keys["value_kind"] == "global_buffer"
            found.append(Argument(int(keys["offset"]), int(keys["size"]), pointer))
    return found


_ENCODINGS = ("_e64_dpp", "_e32", "_e64", "_dpp", "_sdwa")


def _instruction(line: str, number: int, source: str) -> Instruction:
    if " :: " in line:
        first, second = (_instruction(part.strip(), number, source) for part in line.split(" :: "))
        first.pair, first.text = second, line
        return first
    name, _, rest = line.partition(" ")
    name, encoding = name.removeprefix("v_dual_") if name.startswith("v_dual_") else name, ""
    if line.startswith("v_dual_"):
        name = f"v_{name}"
    for suffix in _ENCODINGS:
        if name.endswith(suffix):
            name, encoding = name.removesuffix(suffix), suffix.rsplit("_", 1)[-1]
            break
    texts, modifiers = _split(rest)
    return Instruction(name, encoding, [_operand(text) for text in texts], modifiers, line, number, source)


def _split(rest: str) -> tuple[list[str], dict[str, str]]:
    """Operands and modifiers. The last operand is followed by the modifiers, with no comma between."""
    if rest.startswith(("depctr", "instid", "sendmsg", "vmcnt", "lgkmcnt", "expcnt", "vscnt")):
        return [rest], {}
    parts = [part.strip() for part in re.split(r",(?![^\[(]*[\])])", rest) if part.strip()]
    if not parts:
        return [], {}
    last, *words = re.split(r"\s+(?![^\[(]*[\])])", parts[-1])
    modifiers = {}
    for word in words:
        key, _, value = word.partition(":")
        modifiers[key] = value
    operands = [*parts[:-1], last]
    if re.match(
        r"(offset\d?|quad_perm|row_\w+|scope|th|offen|gds|nt|sc\d|glc|slc):?", last
    ):  # an instruction without operands
        key, _, value = operands.pop().partition(":")
        modifiers[key] = value
    return operands, modifiers


@cache
def _operand(text: str) -> Operand:
    body, negative, absolute, signed = text, False, False, False
    if body.startswith("-") and not re.match(r"-[\d.]", body):
        body, negative = body[1:], True
    if body.startswith("neg("):
        body, negative = body[4:-1], True
    if body.startswith("sext("):
        body, signed = body[5:-1], True
    if body.startswith(("|", "abs(")):
        body, absolute = body.strip("|") if body[0] == "|" else body[4:-1], True
    flags = {"negative": negative, "absolute": absolute, "signed": signed}
    if body in _SPECIAL:
        index, count = _SPECIAL[body]
        return Operand(text, "s", index, count, **flags)
    if found := re.fullmatch(r"(v|s|a|ttmp)(?:(\d+)|\[(\d+)(?::(\d+))?\])", body):
        kind, single, first, last = found.groups()
        index = int(single if single is not None else first)
        count = int(last) - int(first) + 1 if last else 1
        if kind == "a":
            raise UnknownInstructionError(f"accumulation registers: {text}")
        return Operand(
            text, kind[0] if kind != "ttmp" else "s", index + (TTMP if kind == "ttmp" else 0), count, **flags
        )
    if re.fullmatch(r"-?0x[0-9a-fA-F]+", body):
        return Operand(text, "constant", value=int(body, 16), literal=True, **flags)
    if re.fullmatch(r"-?\d+", body):
        return Operand(text, "constant", value=int(body), **flags)
    if re.fullmatch(r"-?\d+\.\d*(e[-+]?\d+)?", body):
        return Operand(text, "constant", value=float(body), **flags)
    return Operand(text, "word", **flags)


_FLOATS = {"f16": (np.float16, np.uint16), "f32": (np.float32, np.uint32), "f64": (np.float64, np.uint64)}


def constant_bits(operand: Operand, kind: str) -> int:
    """The bits of a constant where the instruction reads a value of this kind: b16, u32, i64, f64 and so on.

    A float in the text is converted to the width of the operand (to 32 bits where it is an integer). An integer is its
    two's complement. A hexadecimal literal holds 32 bits: the upper half of a double, an extended 64-bit integer.
    """
    width = int(kind[1:])
    value = operand.value
    if isinstance(value, float):
        if value == 0.15915494:  # how the assembler writes the constant 1 / (2 pi)
            value = 1 / (2 * np.pi)
        dtype, bits = _FLOATS[kind if kind in _FLOATS else {16: "f16", 32: "f32", 64: "f64"}[width]]
        return int(np.array(value, dtype).view(bits))
    if operand.literal and width == 64 and value < 1 << 32:
        if kind[0] == "f":
            return value << 32
        if kind[0] == "i" and value >> 31:
            return value | 0xFFFFFFFF00000000
    return value & ((1 << width) - 1)

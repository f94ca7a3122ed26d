"""The result of compiling a launch, and how results are shown: a table, problems, the last line, and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from portaloss.console import console
from portaloss.reports import write_text

#: Increased when the meaning of a field changes.
FORMAT = 1


@dataclass(frozen=True)
class Compiled:
    """One line of the report: a launch, compiled for a chip."""

    kernel: str
    variant: str  #: the constexprs that are not the default
    layout: str  #: of the operands it was recorded from
    kind: str  #: the first that launches it
    dtype: str
    chip: str
    seconds: float
    registers: int = 0  #: of each thread
    spills: int = 0  #: registers that are kept in memory
    scalar_spills: int = 0  #: AMD's scalar registers that are kept elsewhere
    stack: int = 0  #: bytes for each thread
    shared: int = 0  #: bytes for each program
    shared_limit: int = 0
    widest_load: int = 0  #: bits
    vector: bool = False  #: whether vector loads are possible: operands are aligned and contiguous
    matrix: bool = False  #: whether the code has matrix instructions
    num_warps: int = 0
    problem: str = ""
    excuse: str = ""  #: why something that looks like a problem is not one

    def __str__(self) -> str:
        return f"{self.chip} {self.kernel} {self.kind} {self.dtype} ({self.layout}: {self.variant})"


def print_table(lines: Sequence[Compiled], *, file: Any = None) -> None:
    """Print the worst of the launches of each chip and kernel; then what was excused, and why.

    Raises:
        MissingExtraError: rich is not installed.
    """
    out = console(file, "parity", 120)
    from rich.table import Table

    table = Table(title="the worst of each kernel's launches", title_justify="left")
    table.add_column("chip", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    for name in "launches", "failed", "registers", "spills", "stack", "shared\nKiB", "load\nbits", "matrix", "seconds":
        table.add_column(name, justify="right")
    groups: dict[tuple[str, str], list[Compiled]] = {}
    chips = list(dict.fromkeys(line.chip for line in lines))
    for line in lines:
        groups.setdefault((line.chip, line.kernel), []).append(line)
    above = ""
    for (chip, kernel), group in sorted(groups.items(), key=lambda item: chips.index(item[0][0])):
        failed = sum(bool(line.problem) for line in group)
        shared = f"{max(line.shared for line in group) / 1024:.1f} / {max(line.shared_limit for line in group) >> 10}"
        loads = [line.widest_load for line in group if line.vector]
        cells = (
            len(group),
            failed,
            max(line.registers for line in group),
            max(line.spills for line in group),
            max(line.stack for line in group),
            shared,
            min(loads, default="–"),
            sum(line.matrix for line in group) or "–",
            f"{sum(line.seconds for line in group):.1f}",
        )
        style = "bold red" if failed else None
        table.add_row("" if chip == above else chip, kernel, *map(str, cells), style=style)
        above = chip
    out.print(table)
    for excuse, count in excuses(lines).items():
        print(f"excused, {count} launches: {excuse}", file=out.file)


def excuses(lines: Sequence[Compiled]) -> Mapping[str, int]:
    """What was excused -> in how many launches."""
    counts: dict[str, int] = {}
    for line in lines:
        for excuse in filter(None, line.excuse.split("; ")):
            text = f"{line.kernel}, {excuse}"
            counts[text] = counts.get(text, 0) + 1
    return counts


def print_problems(lines: Sequence[Compiled], *, file: Any = None) -> None:
    """Print a line for each launch that failed."""
    for line in lines:
        if line.problem:
            print(f"FAILED {line}: {line.problem}", file=file or sys.stderr)


def summary(lines: Sequence[Compiled]) -> str:
    """The last line."""
    failed = sum(bool(line.problem) for line in lines)
    return f"targets: {len(lines) - failed} passed, {failed} failed"


def write(lines: Sequence[Compiled], versions: Mapping[str, str | None], path: Path) -> None:
    """Write the report as JSON."""
    made = [{**asdict(line), "passed": not line.problem} for line in lines]
    write_text(path, json.dumps({"format": FORMAT, "versions": versions, "rows": made}, indent=1) + "\n")

"""What compiling a launch gave, and how it is shown: a table, problems, the last line, and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from portaloss.console import console
from portaloss.reports import write_text

#: Raised when the meaning of a field changes.
FORMAT = 1


@dataclass(frozen=True)
class Compiled:
    """One row of the report: a launch, compiled for a chip."""

    kernel: str
    variant: str  #: the constexprs that are not the default
    layout: str  #: of the operands it was recorded from
    kind: str  #: the first that launches it
    dtype: str
    chip: str
    seconds: float
    registers: int = 0  #: of a thread
    spills: int = 0  #: registers that are kept in memory
    scalar_spills: int = 0  #: AMD's scalar registers that are kept elsewhere
    stack: int = 0  #: bytes of a thread
    shared: int = 0  #: bytes of a program
    shared_limit: int = 0
    widest_load: int = 0  #: bits
    vector: bool = False  #: whether vector loads are possible: operands are aligned and contiguous
    matrix: bool = False  #: whether it has matrix instructions
    num_warps: int = 0
    problem: str = ""
    excuse: str = ""  #: why something that would be a problem is none

    def __str__(self) -> str:
        return f"{self.chip} {self.kernel} {self.kind} {self.dtype} ({self.layout}: {self.variant})"


def print_table(rows: Sequence[Compiled], *, file: Any = None) -> None:
    """Chips x kernels: the worst of their launches; then what was excused, and why.

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
    chips = list(dict.fromkeys(row.chip for row in rows))
    for row in rows:
        groups.setdefault((row.chip, row.kernel), []).append(row)
    above = ""
    for (chip, kernel), group in sorted(groups.items(), key=lambda item: chips.index(item[0][0])):
        failed = sum(bool(row.problem) for row in group)
        shared = f"{max(row.shared for row in group) / 1024:.1f} / {max(row.shared_limit for row in group) >> 10}"
        loads = [row.widest_load for row in group if row.vector]
        cells = (
            len(group),
            failed,
            max(row.registers for row in group),
            max(row.spills for row in group),
            max(row.stack for row in group),
            shared,
            min(loads, default="–"),
            sum(row.matrix for row in group) or "–",
            f"{sum(row.seconds for row in group):.1f}",
        )
        style = "bold red" if failed else None
        table.add_row("" if chip == above else chip, kernel, *map(str, cells), style=style)
        above = chip
    out.print(table)
    for excuse, count in excuses(rows).items():
        print(f"excused, {count} launches: {excuse}", file=out.file)


def excuses(rows: Sequence[Compiled]) -> Mapping[str, int]:
    """What was excused, and how many launches."""
    counts: dict[str, int] = {}
    for row in rows:
        for excuse in filter(None, row.excuse.split("; ")):
            text = f"{row.kernel}, {excuse}"
            counts[text] = counts.get(text, 0) + 1
    return counts


def print_problems(rows: Sequence[Compiled], *, file: Any = None) -> None:
    """One line a launch that failed."""
    for row in rows:
        if row.problem:
            print(f"FAILED {row}: {row.problem}", file=file or sys.stderr)


def summary(rows: Sequence[Compiled]) -> str:
    """The last line."""
    failed = sum(bool(row.problem) for row in rows)
    return f"targets: {len(rows) - failed} passed, {failed} failed"


def write(rows: Sequence[Compiled], versions: Mapping[str, str | None], path: Path) -> None:
    """Write the report as JSON, as a whole or not at all."""
    made = [{**asdict(row), "passed": not row.problem} for row in rows]
    write_text(path, json.dumps({"format": FORMAT, "versions": versions, "rows": made}, indent=1) + "\n")

"""How a ledger is shown: a table in the terminal or as Markdown, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from portaloss.console import console
from portaloss.ledger.run import Line
from portaloss.reports import write_text

#: Increased when the meaning of a field changes.
FORMAT = 1

_COLUMNS = (
    "GPU", "loss", "operands", "ideal MB", "moved MB", "asked MB", "float", "integer", "special", "other", "divergence",
    "registers", "occupancy", "memory ms", "at least ms", "limit",
)  # fmt: skip


def _cells(line: Line) -> Iterator[str]:
    yield line.gpu
    yield line.kind + (f" {line.dtype}" if line.dtype != "float32" else "")
    yield " x ".join(map(str, line.shape))
    yield "–" if line.ideal_bytes is None else f"{line.ideal_bytes / 1e6:.0f}"
    yield f"{line.moved_bytes / 1e6:.0f}"
    yield f"{line.sector_bytes / 1e6:.0f}"
    named = {name: line.instructions[name] for name in ("integer", "special")}
    floats = line.instructions["float"] + line.instructions["double"]
    yield f"{floats:.1f}"
    yield from (f"{count:.1f}" for count in named.values())
    yield f"{sum(line.instructions.values()) - floats - sum(named.values()):.1f}"
    yield f"{line.divergence:.0%}"
    yield str(line.registers)
    yield f"{line.occupancy:.0%}"
    yield f"{1e3 * line.seconds['memory']:.3f}"
    yield f"{1e3 * line.predicted:.3f}"
    yield line.limit


def print_table(lines: Sequence[Line], *, markdown: bool = False, file: Any = None) -> None:
    """Print a line for each kind, dtype and GPU: bytes of the whole shape, instructions for each element.

    Raises:
        MissingExtraError: rich is not installed, and the table is not Markdown.
    """
    if markdown:
        print(f"| {' | '.join(_COLUMNS)} |")
        print(f"|{'|'.join([' --- '] * 3 + [' ---: '] * (len(_COLUMNS) - 4) + [' --- '])}|")
        for line in lines:
            print(f"| {' | '.join(_cells(line))} |")
        return
    out = console(file, "parity", 170)
    from rich.table import Table

    table = Table(title="forward and backward, counted on emulated chips; times are bounds from below, not measured")
    for number, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if number < 3 or name == "limit" else "right", no_wrap=number < 2)
    for line in lines:
        table.add_row(*_cells(line))
    out.print(table)


def write(lines: Sequence[Line], versions: Mapping[str, str | None], path: Path) -> None:
    """Write the report as JSON."""
    made = [{**asdict(line), "limit": line.limit, "predicted": line.predicted} for line in lines]
    write_text(path, json.dumps({"format": FORMAT, "versions": versions, "rows": made}, indent=1) + "\n")

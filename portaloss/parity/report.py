"""How a parity report is shown: tables and failures in the terminal, and a page with a heat map."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portaloss.console import MissingExtraError, console
from portaloss.kinds import DTYPES, Direction, LossKind, LossReduction
from portaloss.parity.lines import Line
from portaloss.reports import write_text

if TYPE_CHECKING:
    from rich.table import Table


def groups(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """The lines of each backend on each device; the device of an absent backend is empty."""
    result: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        result.setdefault((line.backend, line.device), []).append(line)
    return result


def worst(lines: Sequence[Line]) -> Line | None:
    """The line to show for several: the worst of those whose backend is present."""
    present = [line for line in lines if line.status != "absent"]
    return max(present, key=lambda line: line.badness, default=None)


def cell(lines: Sequence[Line]) -> str:
    """The text of a cell: the worst error in ulp, and how many failed."""
    line = worst(lines)
    if line is None:
        return "absent" if lines else ""
    failed = sum(one.status == "failed" for one in lines)
    error = "wrong" if line.worst_ulp is None else f"{line.worst_ulp:.2f}"
    return f"FAILED {failed}/{len(lines)} ({error})" if failed else error


def print_tables(lines: Sequence[Line], *, file: Any = None) -> None:
    """Print a table for each backend and device: for each kind and dtype, the worst error in ulp.

    Raises:
        MissingExtraError: rich is not installed.
    """
    out = console(file, "parity", 120)
    for (backend, device), group in groups(lines).items():
        if all(line.status == "absent" for line in group):
            out.print(f"{backend}: absent, {group[0].reason}", markup=False)
        else:
            out.print(_table(backend, device, group))


def _table(backend: str, device: str, lines: Sequence[Line]) -> Table:
    from rich.table import Table

    title = f"{backend} on {device}: worst error in ulp"
    table = Table(title=title, title_justify="left")
    table.add_column("kind")
    dtypes = [dtype for dtype in DTYPES if any(line.dtype == dtype for line in lines)]
    for dtype in dtypes:
        table.add_column(dtype, justify="right")
    for kind in _kinds(lines):
        cells = []
        for dtype in dtypes:
            text = cell([line for line in lines if line.kind == kind and line.dtype == dtype])
            style = "bold red" if text.startswith("FAILED") else "dim" if text == "absent" else "green"
            cells.append(f"[{style}]{text}[/]")
        table.add_row(kind, *cells)
    return table


def _kinds(lines: Sequence[Line]) -> list[str]:
    present = {line.kind for line in lines}
    known = [kind.name.lower() for kind in LossKind]
    return [kind for kind in known if kind in present] + sorted(present.difference(known))


def print_failures(lines: Sequence[Line], *, file: Any = None) -> None:
    """Print each failed SKU with its failures, and the command that replays its worst case."""
    out = file or sys.stderr
    for line in lines:
        if line.status == "failed":
            print(f"FAILED {line.sku} on {line.backend}: {line.failed_cases} of {line.cases} cases", file=out)
            for failure in line.failures:
                print(f"    {failure}", file=out)
            print(f"    {replay(line)}", file=out)


def replay(line: Line) -> str:
    """The command that runs a line's worst case again."""
    where = f"--backend {line.backend}"
    if line.device.startswith("emulated "):
        chip, _, model = line.device.removeprefix("emulated ").partition(", ")
        where = f"--emulate {chip}" + (f" --model {model.removesuffix(' errors')}" if model else "")
    return f"python -m portaloss parity {where} --replay '{line.sku}:{line.worst_case}'"


def require_page() -> None:
    """Raise MissingExtraError unless a page can be written; also called before the matrix runs."""
    try:
        import jinja2  # noqa: F401  # only whether it can be imported matters here
    except ImportError as error:
        raise MissingExtraError("jinja2", "--html", "parity") from error


def write_page(lines: Sequence[Line], path: Path, last_line: str) -> None:
    """Write the report as one self-contained HTML file.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    require_page()
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(ulp=_ulp_text, step=_step, replay=replay)
    template = environment.from_string((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    sections = []
    for (backend, device), group in groups(lines).items():
        by_sku = {(line.kind, line.dtype, line.reduction, line.direction): line for line in group}
        sections.append(
            {
                "backend": backend,
                "device": device,
                "architecture": group[0].architecture,
                "versions": group[0].versions,
                "absent": all(line.status == "absent" for line in group),
                "reason": group[0].reason,
                "kinds": _kinds(group),
                "dtypes": [dtype for dtype in DTYPES if any(line.dtype == dtype for line in group)],
                "cells": by_sku,
                "lines": group,
                "failed": [line for line in group if line.status == "failed"],
            }
        )
    page = template.render(
        sections=sections,
        last_line=last_line,
        failed=any(line.status == "failed" for line in lines),
        reductions=[reduction.name.lower() for reduction in LossReduction],
        directions=[direction.name.lower() for direction in Direction],
    )
    write_text(path, page)


def _ulp_text(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 1e4:
        return f"{value:.0e}"
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _step(line: Line) -> int:
    """Which of the nine shades an error has: 0 for no error, 8 for the bound."""
    if line.worst_ulp is None:
        return 8
    return min(8, round(8 * line.worst_ulp / line.bound_ulp))

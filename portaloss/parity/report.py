"""What a person sees: a table in the terminal, a page with a heat map, and the failures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portaloss.console import MissingExtraError, console
from portaloss.kinds import DTYPES, Direction, LossKind, LossReduction
from portaloss.parity.rows import Row
from portaloss.reports import write_text

if TYPE_CHECKING:
    from rich.table import Table


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each backend on each device; absent ones have no device."""
    result: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        result.setdefault((row.backend, row.device), []).append(row)
    return result


def worst(rows: Sequence[Row]) -> Row | None:
    """The row to show for several: a failed one before a passed one, then the largest error."""
    present = [row for row in rows if row.status != "absent"]
    return max(present, key=lambda row: (row.status == "failed", _error(row)), default=None)


def _error(row: Row) -> float:
    return float("inf") if row.worst_ulp is None else row.worst_ulp


def cell(rows: Sequence[Row]) -> str:
    """The text of a cell: whether all passed, and the worst error in ulp."""
    row = worst(rows)
    if row is None:
        return "absent" if rows else ""
    failed = sum(one.status == "failed" for one in rows)
    error = "wrong" if row.worst_ulp is None else f"{row.worst_ulp:.2f}"
    return f"FAILED {failed}/{len(rows)} ({error})" if failed else error


def print_tables(rows: Sequence[Row], *, file: Any = None) -> None:
    """For each backend and device, kinds x dtypes: the worst error in ulp over reductions and directions.

    Raises:
        MissingExtraError: rich is not installed.
    """
    out = console(file, "parity", 120)
    for (backend, device), group in groups(rows).items():
        if all(row.status == "absent" for row in group):
            out.print(f"{backend}: absent, {group[0].reason}", markup=False)
        else:
            out.print(_table(backend, device, group))


def _table(backend: str, device: str, rows: Sequence[Row]) -> Table:
    from rich.table import Table

    title = f"{backend} on {device}: worst error in ulp"
    table = Table(title=title, title_justify="left")
    table.add_column("kind")
    dtypes = [dtype for dtype in DTYPES if any(row.dtype == dtype for row in rows)]
    for dtype in dtypes:
        table.add_column(dtype, justify="right")
    for kind in _kinds(rows):
        cells = []
        for dtype in dtypes:
            text = cell([row for row in rows if row.kind == kind and row.dtype == dtype])
            style = "bold red" if text.startswith("FAILED") else "dim" if text == "absent" else "green"
            cells.append(f"[{style}]{text}[/]")
        table.add_row(kind, *cells)
    return table


def _kinds(rows: Sequence[Row]) -> list[str]:
    present = {row.kind for row in rows}
    known = [kind.name.lower() for kind in LossKind]
    return [kind for kind in known if kind in present] + sorted(present.difference(known))


def print_failures(rows: Sequence[Row], *, file: Any = None) -> None:
    """One line a failed SKU, with what to type to see more."""
    out = file or sys.stderr
    for row in rows:
        if row.status == "failed":
            print(f"FAILED {row.sku} on {row.backend}: {row.failed_cases} of {row.cases} cases", file=out)
            for failure in row.failures:
                print(f"    {failure}", file=out)
            print(f"    python -m portaloss parity --backend {row.backend} --replay {replay(row)}", file=out)


def replay(row: Row) -> str:
    """The argument of ``--replay`` for a row's worst case."""
    return f"'{row.sku}:{row.worst_case}'"


def require_page() -> None:
    """Raise MissingExtraError unless a page can be written: called before the matrix runs, too."""
    try:
        import jinja2  # noqa: F401  # only whether it can be imported matters here
    except ImportError as error:
        raise MissingExtraError("jinja2", "--html", "parity") from error


def write_page(rows: Sequence[Row], path: Path, last_line: str) -> None:
    """Write the report as one HTML file that needs nothing else.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    require_page()
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(ulp=_ulp_text, step=_step, replay=replay)
    template = environment.from_string((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    sections = []
    for (backend, device), group in groups(rows).items():
        by_sku = {(row.kind, row.dtype, row.reduction, row.direction): row for row in group}
        sections.append(
            {
                "backend": backend,
                "device": device,
                "architecture": group[0].architecture,
                "versions": group[0].versions,
                "absent": all(row.status == "absent" for row in group),
                "reason": group[0].reason,
                "kinds": _kinds(group),
                "dtypes": [dtype for dtype in DTYPES if any(row.dtype == dtype for row in group)],
                "cells": by_sku,
                "rows": group,
                "failed": [row for row in group if row.status == "failed"],
            }
        )
    page = template.render(
        sections=sections,
        last_line=last_line,
        failed=any(row.status == "failed" for row in rows),
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


def _step(row: Row) -> int:
    """Which of the nine shades an error has: 0 is none, 8 is the bound."""
    if row.worst_ulp is None:
        return 8
    return min(8, round(8 * row.worst_ulp / row.bound_ulp))

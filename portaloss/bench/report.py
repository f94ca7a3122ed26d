"""A benchmark in the terminal: a table for each size and dtype, the means, the failures and the last line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from portaloss.bench.contenders import MEANINGS, NAMES, WIDENED
from portaloss.bench.lines import MEANS, Line, Report, failed, geometric_means
from portaloss.console import console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: The width of tables in a pipe; and in Markdown, where the lines of a table must not be broken.
WIDTH, _PAGE = 140, 1000


def print_tables(report: Report, *, markdown: bool = False, file: Any = None) -> None:
    """Print a table for each size and dtype, and one of geometric means; as Markdown with ``markdown``.

    Raises:
        MissingExtraError: rich is not installed.
    """
    out = console(file, "bench", _PAGE if markdown else WIDTH, fixed=markdown)
    draw = _drawing(out, markdown)
    about = report.about
    torch, version = (about["versions"][name] for name in ("torch", "portaloss"))
    out.print(f"mean reduction on {report.place}; torch {torch}, portaloss {version}", markup=False)
    if about.get("copy_gb_s"):
        out.print(f"a copy on the device: {max(about['copy_gb_s']):.0f} GB/s")
    for size, dtype in dict.fromkeys((line.size, line.dtype) for line in report.lines):
        _print_table(out, [line for line in report.lines if (line.size, line.dtype) == (size, dtype)], about, draw)
    _print_means(out, report.lines, draw)


def _drawing(out: Console, markdown: bool) -> Callable[[str], Table]:
    """A function that makes an empty table with a title."""
    from rich import box
    from rich.table import Table

    def draw(title: str) -> Table:
        if not markdown:
            return Table(title=title, title_justify="left")
        out.print(f"\n{title}")  # rich prints an empty line before a table of this kind
        return Table(box=box.MARKDOWN)

    return draw


def _print_table(out: Console, lines: Sequence[Line], about: dict[str, Any], draw: Callable[[str], Table]) -> None:
    names = [name for name in NAMES if any(line.median(name) for line in lines)]
    others = [name for name in names if any(line.speedup(name) for line in lines)]
    copy = max(about.get("copy_gb_s") or [0.0])
    table = draw(f"{lines[0].dtype}, {lines[0].size}: forward + backward; the last columns are times faster")
    for name in "loss", "operands":
        table.add_column(name, no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for name in others:
        table.add_column(f"× {name}", justify="right")
    table.add_column("forward × eager", justify="right")
    table.add_column("memory / eager", justify="right")
    if copy:
        table.add_column("of copy", justify="right")
    for line in lines:
        if line.direction != "forward_backward":
            continue
        forward = next((one for one in lines if one.kind == line.kind and one.direction == "forward"), line)
        widened = "*" if line.contenders.get("eager", {}).get("note") == WIDENED else ""
        cells = [line.kind + widened, " x ".join(map(str, line.shape))]
        if line.error:
            table.add_row(*cells, "FAILED", style="bold red")
            continue
        cells += [time_text(line.median(name)) for name in names]
        cells += [number_text(line.speedup(name)) for name in others]
        cells += [number_text(forward.speedup()), number_text(line.memory())]
        if copy:
            moved = line.contenders.get("portaloss", {}).get("gb_s")
            cells.append("–" if moved is None else f"{moved / copy:.0%}")
        slower = (line.speedup() or 1.0) < 1.0
        table.add_row(*cells, style="yellow" if slower else None)
    out.print(table)
    if any(one.get("note") == WIDENED for line in lines for one in line.contenders.values()):
        out.print(f"* PyTorch's {WIDENED}", markup=False)


def _print_means(out: Console, lines: Sequence[Line], draw: Callable[[str], Table]) -> None:
    means = geometric_means(lines)
    columns = [name for name in MEANS if any(mean[name] is not None for mean in means)]
    if not columns:
        return
    table = draw("geometric means over the kinds")
    for name in "size", "dtype", "direction":
        table.add_column(name, no_wrap=True)
    for name in ("kinds", *columns):
        table.add_column(name.replace("_", " "), justify="right")
    for mean in means:
        direction = mean["direction"].replace("_", " + ")
        cells = [number_text(mean[name]) for name in columns]
        table.add_row(mean["size"], mean["dtype"], direction, str(mean["kinds"]), *cells)
    out.print(table)


def time_text(seconds: float | None) -> str:
    """Seconds as text, in s, ms or µs."""
    if seconds is None:
        return "–"
    unit, name = next((one for one in ((1.0, "s"), (1e-3, "ms")) if seconds >= one[0]), (1e-6, "µs"))
    value = seconds / unit
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {name}"


def number_text(value: float | None) -> str:
    """A ratio, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def print_failures(lines: Sequence[Line], *, file: Any = None) -> None:
    """Print the lines that failed, and the contenders that could not run, which is not a failure of portaloss."""
    out = file or sys.stderr
    for line in failed(lines):
        print(f"FAILED {line}: {line.error}", file=out)
    said = {
        f"portaloss: {MEANINGS[name]}, {line.kind} {line.dtype} {line.size}: {about['error']}"
        for line in lines
        for name, about in line.contenders.items()
        if "error" in about and not line.error
    }
    for text in sorted(said):
        print(text, file=out)


def summary(lines: Sequence[Line]) -> str:
    """The last line."""
    return f"bench: {len(lines) - len(failed(lines))} measured, {len(failed(lines))} failed"

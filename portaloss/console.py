"""The terminal, for parity, bench and targets: a progress bar, tables, and the error that names a missing extra."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class MissingExtraError(ImportError):
    """A package of an extra is not installed."""

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'portaloss[{extra}]'")


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; none where stderr is not a terminal or rich is not installed.

    Yields:
        A function to call with the number of steps done since the last call.
    """
    if not sys.stderr.isatty() or find_spec("rich") is None:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)


def console(file: Any, extra: str, width: int, *, fixed: bool = False) -> Console:
    """Where tables are printed.

    Args:
        file: the stream; None for stdout.
        extra: the extra of portaloss that installs rich for this command.
        width: of the tables where the stream is not a terminal, which has a width of its own.
        fixed: whether to use this width on a terminal too.

    Raises:
        MissingExtraError: rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError as error:
        raise MissingExtraError("rich", "the table", extra) from error
    out = file or sys.stdout
    return Console(file=out, width=None if out.isatty() and not fixed else width)


def show(print_tables: Callable[[], None]) -> None:
    """Print tables, or the reason why that is not possible: the command goes on without them."""
    try:
        print_tables()
    except MissingExtraError as error:
        print(f"portaloss: {error}", file=sys.stderr)
    sys.stdout.flush()

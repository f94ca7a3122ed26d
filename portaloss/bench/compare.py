"""What got slower, or takes more memory, between two reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from portaloss.bench.contenders import OURS
from portaloss.bench.lines import Line, Report
from portaloss.bench.report import WIDTH, number_text, time_text
from portaloss.console import console

#: Growth of a median by less is ignored: two runs of the same code on the same machine differ by as much.
THRESHOLD = 0.05

#: Bytes by which a peak may differ between two runs, from threads' stacks and allocators' arenas.
_MEMORY_NOISE = 2 << 20


@dataclass(frozen=True)
class Change:
    """A line in which a result of portaloss got worse."""

    line: str
    contender: str
    what: str  #: time, memory or result
    before: float | None
    after: float | None

    @property
    def factor(self) -> float | None:
        """After over before."""
        return self.after / self.before if self.before and self.after is not None else None


def compare(before: Report, after: Report, threshold: float = THRESHOLD) -> list[Change]:
    """What got worse, the worst first."""
    old = {line.key: line for line in before.lines}
    changes = []
    for line in after.lines:
        if line.key in old:
            changes += _changes(old[line.key], line, threshold)
    return sorted(changes, key=lambda change: -(change.factor or float("inf")))


def _changes(old: Line, new: Line, threshold: float) -> list[Change]:
    if new.error:
        return [] if old.error else [Change(str(new), "portaloss", "result", None, None)]
    changes = []
    for name in OURS:
        a, b = old.contenders.get(name, {}), new.contenders.get(name, {})
        if _slower(old, new, name, threshold):
            changes.append(Change(str(new), name, "time", a["median_s"], b["median_s"]))
        x, y = a.get("peak_extra_bytes"), b.get("peak_extra_bytes")
        if x is not None and y is not None and y > x * (1 + threshold) + _MEMORY_NOISE:
            changes.append(Change(str(new), name, "memory", x, y))
    return changes


def _slower(old: Line, new: Line, name: str, threshold: float) -> bool:
    """Whether a contender got slower. Three conditions must hold.

    Its median grew by more than the threshold. The middle halves of the two runs do not overlap. And where PyTorch was
    timed in both runs, the ratio to PyTorch's time grew too: a machine that is slower today is slower for both.
    """
    a, b = old.contenders.get(name, {}), new.contenders.get(name, {})
    if "median_s" not in a or "median_s" not in b:
        return False
    grown = b["median_s"] > (1 + threshold) * a["median_s"]
    apart = bool(b["q1_s"] > a["q3_s"])
    then, now = old.speedup("eager", name), new.speedup("eager", name)
    relatively = then is None or now is None or then > (1 + threshold) * now
    return grown and apart and relatively


def differences(before: Report, after: Report) -> list[str]:
    """What else differs between the two reports: times of different machines say little about the code."""
    notes = []
    for name in "machine", "versions", "threads", "device":
        a, b = before.about.get(name), after.about.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            fields = [key for key in {**a, **b} if a.get(key) != b.get(key)]
            notes += [f"{key} differs: {a.get(key)} and {b.get(key)}" for key in fields]
        elif a != b:
            notes.append(f"{name} differs: {a} and {b}")
    missing = len({line.key for line in before.lines}) - common(before, after)
    return [*notes, f"{missing} lines of the first report are not in the second"] if missing else notes


def common(before: Report, after: Report) -> int:
    """How many lines are in both reports."""
    return len({line.key for line in before.lines} & {line.key for line in after.lines})


def print_table(changes: list[Change], *, file: Any = None) -> None:
    """Print a line for each change.

    Raises:
        MissingExtraError: rich is not installed.
    """
    out = console(file, "bench", WIDTH)
    if not changes:
        return
    from rich.table import Table

    table = Table(title="what got worse", title_justify="left")
    for name in "line", "who", "what":
        table.add_column(name, no_wrap=True)
    for name in "before", "after", "times":
        table.add_column(name, justify="right")
    for change in changes:
        shown = time_text if change.what == "time" else _mebibytes
        table.add_row(
            change.line,
            change.contender,
            change.what,
            shown(change.before),
            shown(change.after),
            number_text(change.factor),
        )
    out.print(table)


def _mebibytes(value: float | None) -> str:
    return "–" if value is None else f"{value / 2**20:.1f} MiB"


def summary(before: Report, after: Report, changes: list[Change]) -> str:
    """The last line."""
    return f"bench compare: {common(before, after)} lines compared, {len({change.line for change in changes})} worse"

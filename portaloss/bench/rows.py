"""A row of the results and a report of them, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from portaloss.bench.contenders import OURS
from portaloss.parity.rows import write_text

#: Raised when the meaning of a field changes: reports of another format are not compared.
FORMAT = 1


@dataclass(frozen=True)
class Row:
    """A case in a direction, and what each contender took for it."""

    kind: str
    dtype: str
    size: str
    shape: list[int]  #: of the case, as the table of sizes has it
    shapes: dict[str, list[int]]  #: of the operands
    direction: str  #: forward or forward_backward
    gradients: list[str]  #: of which operands; a forward pass alone computes none
    gradient_bytes: int
    moved_bytes: int | None  #: that can't but be read and written; None where it is not they that limit
    contenders: dict[str, dict[str, Any]]  #: median_s, q1_s, q3_s, ..., peak_extra_bytes; or an error
    speedups: dict[str, dict[str, float]]  #: ours -> another -> that one's median over ours
    error: str = ""  #: why the row is a failure: portaloss is wrong, or did not run

    @property
    def key(self) -> tuple[Any, ...]:
        """Rows that agree in it measure the same thing."""
        return (self.kind, self.dtype, tuple(self.shape), self.direction)

    def __str__(self) -> str:
        return f"{self.kind} {self.dtype} {' x '.join(map(str, self.shape))} {self.direction}"

    def median(self, name: str) -> float | None:
        """A contender's seconds, where it has any."""
        return self.contenders.get(name, {}).get("median_s")

    def speedup(self, other: str = "eager", ours: str = "portaloss") -> float | None:
        """How many times another contender's time is ours."""
        return self.speedups.get(ours, {}).get(other)

    def memory(self, other: str = "eager", ours: str = "portaloss") -> float | None:
        """Our peak extra memory over another's; None where one of them is unknown or nothing."""
        mine, theirs = (self.contenders.get(name, {}).get("peak_extra_bytes") for name in (ours, other))
        return mine / theirs if mine is not None and theirs else None


def speedups(contenders: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Ours -> another -> that one's median over ours."""
    medians = {name: found["median_s"] for name, found in contenders.items() if "median_s" in found}
    return {
        ours: {name: medians[name] / medians[ours] for name in medians if name not in OURS}
        for ours in OURS
        if ours in medians
    }


def geometric_means(
    rows: Iterable[Row], value: Callable[[Row], float | None] = Row.speedup
) -> dict[tuple[str, str, str], tuple[float, int]]:
    """(size, dtype, direction) -> the geometric mean of a value over kinds, and of how many."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        found = None if row.error else value(row)
        if found:
            groups.setdefault((row.size, row.dtype, row.direction), []).append(found)
    return {key: (math.exp(sum(map(math.log, of)) / len(of)), len(of)) for key, of in groups.items()}


class ReportError(ValueError):
    """A file that is no benchmark report of this format."""


@dataclass(frozen=True)
class Report:
    """What ran where, and the rows."""

    about: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write it as JSON. A reader finds the whole report or none: it is renamed into place."""
        means = {" ".join(key): round(mean, 3) for key, (mean, _) in geometric_means(self.rows).items()}
        report = {
            "format": FORMAT,
            **self.about,
            "speedup_over_eager": means,
            "rows": [asdict(row) for row in self.rows],
        }
        write_text(path, json.dumps(report, indent=1) + "\n")


def read(path: Path) -> Report:
    """A report from its file.

    Raises:
        ReportError: it is no report, or one of another format.
        OSError: it cannot be read.
    """
    known = {one.name for one in fields(Row)}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report.pop("format") != FORMAT:
            raise ReportError(f"{path}: a report of another format; this release reads {FORMAT}")
        rows = [Row(**{name: value for name, value in row.items() if name in known}) for row in report.pop("rows")]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path}: not a benchmark report ({type(error).__name__}: {error})") from error
    return Report(report, rows)


def failed(rows: Sequence[Row]) -> list[Row]:
    """The rows in which portaloss was wrong or did not run."""
    return [row for row in rows if row.error]

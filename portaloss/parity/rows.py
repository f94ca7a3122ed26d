"""A row of the matrix, and a report: rows of one machine or of several. As JSON, and merged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from portaloss import reports

#: Raised when the meaning of a field changes: reports of another format are not merged.
FORMAT = 1


@dataclass(frozen=True)
class Row:
    """One SKU on one backend of one machine."""

    sku: str
    kind: str
    dtype: str
    reduction: str
    direction: str
    backend: str
    architecture: str
    device: str
    versions: dict[str, str | None]
    cases: int
    bound_ulp: float  #: the largest error that passes
    worst_ulp: float | None  #: None where the worst is no number: an exception, another shape or another pattern of nan
    worst_relative: float
    worst_case: str
    worst_seed: int | None
    torch_ulp: float | None  #: PyTorch's worst error; None where it is not installed or supports no case
    torch_relative: float | None
    torch_cases: int  #: the cases that PyTorch supports
    torch_mismatches: int  #: those in which PyTorch's nan, inf, shape or dtype differ from the truth
    status: str  #: passed, failed or absent
    reason: str = ""  #: why it is absent
    failed_cases: int = 0
    failures: list[str] = field(default_factory=list)
    ulp_beside_torch: float | None = None  #: our worst error in the cases that make up torch_ulp

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return self.status == "passed"

    @property
    def where(self) -> tuple[str, str, str, str]:
        """What ran where: rows that agree in it measure the same thing."""
        return (self.sku, self.backend, self.device, json.dumps(self.versions, sort_keys=True))


def write(rows: Sequence[Row], path: Path) -> None:
    """Write a report as JSON."""
    report = {"format": FORMAT, "rows": [{**asdict(row), "passed": row.passed} for row in rows]}
    reports.write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> list[Row]:
    """The rows of a report.

    Raises:
        ReportError: it is no report, or one of another format.
        OSError: it cannot be read.
    """
    return reports.read(path, Row, FORMAT, "parity")[1]


def merge(reports: Iterable[Sequence[Row]]) -> tuple[list[Row], list[str]]:
    """The rows of several reports, and notes about those that contradict each other.

    Of two measurements of the same SKU, backend, device and versions the worse is kept: a failure before a pass, then
    the larger error. A row that says absent goes where another machine has the backend.
    """
    kept: dict[tuple[str, str, str, str], Row] = {}
    notes = []
    for rows in reports:
        for row in rows:
            other = kept.get(row.where)
            if other is None:
                kept[row.where] = row
            elif other != row:
                worse = max(other, row, key=_badness)
                kept[row.where] = worse
                if other.status != row.status:
                    notes.append(
                        f"{row.sku} on {row.backend} ({row.device or 'no device'}): {other.status} in one report, "
                        f"{row.status} in another; kept: {worse.status}"
                    )
    present = {(row.sku, row.backend) for row in kept.values() if row.status != "absent"}
    rows, absent = [], set()
    for row in kept.values():
        key = (row.sku, row.backend)
        if row.status == "absent":
            if key in present or key in absent:
                continue
            absent.add(key)
        rows.append(row)
    return rows, notes


def _badness(row: Row) -> tuple[int, float]:
    error = float("inf") if row.worst_ulp is None else row.worst_ulp
    return ({"absent": 0, "passed": 1, "failed": 2}[row.status], error)


def summary(rows: Sequence[Row]) -> str:
    """The last line."""
    counts = {status: sum(row.status == status for row in rows) for status in ("passed", "failed", "absent")}
    return "parity: " + ", ".join(f"{number} {status}" for status, number in counts.items())


def as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for a template."""
    return [asdict(row) for row in rows]

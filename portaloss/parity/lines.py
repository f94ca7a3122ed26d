"""A line of a parity report, and reports: lines of one or more machines, written as JSON, read and merged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from portaloss import reports

#: Increased when the meaning of a field changes: reports of another format are refused.
FORMAT = 1


@dataclass(frozen=True)
class Line:
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
    worst_ulp: float | None  #: None where the worst case has no number: an exception, a wrong shape, a wrong nan
    worst_relative: float
    worst_case: str
    worst_seed: int | None
    torch_ulp: float | None  #: PyTorch's worst error; None where it is not installed or supports no case
    torch_relative: float | None
    torch_cases: int  #: the cases that PyTorch supports
    torch_mismatches: int  #: the cases in which PyTorch's nan, inf, shape or dtype differ from the truth
    status: str  #: passed, failed or absent
    reason: str = ""  #: why the backend is absent
    failed_cases: int = 0
    failures: list[str] = field(default_factory=list)
    ulp_beside_torch: float | None = None  #: our worst error in the cases that torch_ulp covers

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return self.status == "passed"

    @property
    def badness(self) -> tuple[int, float]:
        """The larger, the worse: a failure is worse than a pass, then the larger error is worse."""
        error = float("inf") if self.worst_ulp is None else self.worst_ulp
        return ({"absent": 0, "passed": 1, "failed": 2}[self.status], error)

    @property
    def where(self) -> tuple[str, str, str, str]:
        """What ran where: lines for which this is equal measure the same thing."""
        return (self.sku, self.backend, self.device, json.dumps(self.versions, sort_keys=True))


def write(lines: Sequence[Line], path: Path) -> None:
    """Write a report as JSON."""
    report = {"format": FORMAT, "rows": [{**asdict(line), "passed": line.passed} for line in lines]}
    reports.write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> list[Line]:
    """The lines of a report.

    Raises:
        ReportError: the file is not a report, or a report of another format.
        OSError: the file cannot be read.
    """
    return reports.read(path, Line, FORMAT, "parity")[1]


def merge(reports: Iterable[Sequence[Line]]) -> tuple[list[Line], list[str]]:
    """The lines of several reports, and notes about those that contradict each other.

    Of two measurements of the same SKU, backend, device and versions, the worse is kept: a failure rather than a pass,
    then the larger error. A line of an absent backend is dropped where another machine has the backend.
    """
    kept: dict[tuple[str, str, str, str], Line] = {}
    notes = []
    for lines in reports:
        for line in lines:
            other = kept.get(line.where)
            if other is None:
                kept[line.where] = line
            elif other != line:
                worse = max(other, line, key=lambda one: one.badness)
                kept[line.where] = worse
                if other.status != line.status:
                    notes.append(
                        f"{line.sku} on {line.backend} ({line.device or 'no device'}): {other.status} in one report, "
                        f"{line.status} in another; kept: {worse.status}"
                    )
    present = {(line.sku, line.backend) for line in kept.values() if line.status != "absent"}
    lines, absent = [], set()
    for line in kept.values():
        key = (line.sku, line.backend)
        if line.status == "absent":
            if key in present or key in absent:
                continue
            absent.add(key)
        lines.append(line)
    return lines, notes


def summary(lines: Sequence[Line]) -> str:
    """The last line of the output."""
    counts = {status: sum(line.status == status for line in lines) for status in ("passed", "failed", "absent")}
    return "parity: " + ", ".join(f"{number} {status}" for status, number in counts.items())

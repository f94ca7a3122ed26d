"""A line of a benchmark's results, and a report: lines, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from portaloss import reports
from portaloss.bench.contenders import OURS

#: Increased when the meaning of a field changes: reports of another format are refused.
FORMAT = 1


@dataclass(frozen=True)
class Line:
    """A case in a direction, and the time and memory of each contender."""

    kind: str
    dtype: str
    size: str
    shape: list[int]  #: of the case, as in the table of sizes
    shapes: dict[str, list[int]]  #: of the operands
    direction: str  #: forward or forward_backward
    gradients: list[str]  #: of these operands; a forward pass alone computes none
    gradient_bytes: int
    moved_bytes: int | None  #: the bytes that must be read and written; None where something else limits the speed
    contenders: dict[str, dict[str, Any]]  #: median_s, q1_s, q3_s, ..., peak_extra_bytes; or an error
    speedups: dict[str, dict[str, float]]  #: name of ours -> name of another -> its median over ours
    error: str = ""  #: why the line is a failure: portaloss was wrong, or did not run

    @property
    def key(self) -> tuple[Any, ...]:
        """Lines with the same key measure the same thing."""
        return (self.kind, self.dtype, tuple(self.shape), self.direction)

    def __str__(self) -> str:
        return f"{self.kind} {self.dtype} {' x '.join(map(str, self.shape))} {self.direction}"

    def median(self, name: str) -> float | None:
        """A contender's median time in seconds, where it was timed."""
        return self.contenders.get(name, {}).get("median_s")

    def speedup(self, other: str = "eager", ours: str = "portaloss") -> float | None:
        """Another contender's time over ours."""
        return self.speedups.get(ours, {}).get(other)

    def memory(self, other: str = "eager", ours: str = "portaloss") -> float | None:
        """Our peak extra memory over another's; None where one is unknown or the other's is 0."""
        mine, theirs = (self.contenders.get(name, {}).get("peak_extra_bytes") for name in (ours, other))
        return mine / theirs if mine is not None and theirs else None

    def memory_beyond_gradients(self, other: str = "eager", ours: str = "portaloss") -> float | None:
        """The same without the gradients, which all allocate; None where the other needs almost nothing else."""
        mine, theirs = (self.contenders.get(name, {}).get("peak_extra_bytes") for name in (ours, other))
        if mine is None or theirs is None:
            return None
        mine, theirs = (max(0, peak - self.computed_gradient_bytes) for peak in (mine, theirs))
        # the rest of a peak that is almost only gradients is noise
        return mine / theirs if theirs > max(0.05 * self.computed_gradient_bytes, 1 << 20) else None

    @property
    def computed_gradient_bytes(self) -> int:
        """The size of the gradients; 0 for a forward pass alone."""
        return 0 if self.direction == "forward" else self.gradient_bytes


#: The values whose geometric means over the kinds are reported.
MEANS: Mapping[str, Callable[[Line], float | None]] = {
    "times_faster_than_eager": Line.speedup,
    "arrays_times_faster_than_eager": lambda line: line.speedup(ours="arrays"),
    "times_faster_than_compile": lambda line: line.speedup("compile"),
    "memory_over_eager": Line.memory,
}


def speedups(contenders: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Name of ours -> name of another -> its median over ours."""
    medians = {name: found["median_s"] for name, found in contenders.items() if "median_s" in found}
    return {
        ours: {name: medians[name] / medians[ours] for name in medians if name not in OURS}
        for ours in OURS
        if ours in medians
    }


def geometric_means(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """For each size, dtype and direction: the geometric means over its kinds, and the number of kinds."""
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        if not line.error:
            groups.setdefault((line.size, line.dtype, line.direction), []).append(line)
    means = []
    for (size, dtype, direction), group in groups.items():
        mean: dict[str, Any] = {"size": size, "dtype": dtype, "direction": direction, "kinds": len(group)}
        for name, value in MEANS.items():
            found = [math.log(one) for one in map(value, group) if one]
            mean[name] = math.exp(sum(found) / len(found)) if found else None
        means.append(mean)
    return means


@dataclass(frozen=True)
class Report:
    """The machine and settings, and the lines."""

    about: dict[str, Any]
    lines: list[Line] = field(default_factory=list)

    @property
    def place(self) -> str:
        """The GPU; on the CPU, the processor and the number of threads."""
        machine = self.about["machine"]
        return str(machine.get("gpu") or f"{machine['processor']}, {self.about['threads']} threads")

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        lines = [
            {
                **asdict(line),
                "memory_over_eager": line.memory(),
                "memory_over_eager_beyond_gradients": line.memory_beyond_gradients(),
            }
            for line in self.lines
        ]
        report = {"format": FORMAT, **self.about, "geometric_means": geometric_means(self.lines), "rows": lines}
        reports.write_text(path, json.dumps(report, indent=1) + "\n")


def read(path: Path) -> Report:
    """A report from its file.

    Raises:
        ReportError: the file is not a report, or a report of another format.
        OSError: the file cannot be read.
    """
    return Report(*reports.read(path, Line, FORMAT, "benchmark"))


def failed(lines: Sequence[Line]) -> list[Line]:
    """The lines in which portaloss was wrong or did not run."""
    return [line for line in lines if line.error]

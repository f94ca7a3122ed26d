"""A line of the results and a report of them, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from portaloss import reports
from portaloss.bench.contenders import OURS

#: Raised when the meaning of a field changes: reports of another format are not compared.
FORMAT = 1


@dataclass(frozen=True)
class Line:
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
    error: str = ""  #: why the line is a failure: portaloss is wrong, or did not run

    @property
    def key(self) -> tuple[Any, ...]:
        """Lines that agree in it measure the same thing."""
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

    def memory_beyond_gradients(self, other: str = "eager", ours: str = "portaloss") -> float | None:
        """The same without the gradients, which no one can do without; None where the other needs nothing else."""
        mine, theirs = (self.contenders.get(name, {}).get("peak_extra_bytes") for name in (ours, other))
        if mine is None or theirs is None:
            return None
        mine, theirs = (max(0, peak - self.computed_gradient_bytes) for peak in (mine, theirs))
        # what is left of a peak that is almost all gradients is noise
        return mine / theirs if theirs > max(0.05 * self.computed_gradient_bytes, 1 << 20) else None

    @property
    def computed_gradient_bytes(self) -> int:
        """Of the gradients, of which a forward pass alone has none."""
        return 0 if self.direction == "forward" else self.gradient_bytes


#: What a geometric mean over the kinds is taken of.
MEANS: Mapping[str, Callable[[Line], float | None]] = {
    "times_faster_than_eager": Line.speedup,
    "arrays_times_faster_than_eager": lambda line: line.speedup(ours="arrays"),
    "times_faster_than_compile": lambda line: line.speedup("compile"),
    "memory_over_eager": Line.memory,
}


def speedups(contenders: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Ours -> another -> that one's median over ours."""
    medians = {name: found["median_s"] for name, found in contenders.items() if "median_s" in found}
    return {
        ours: {name: medians[name] / medians[ours] for name in medians if name not in OURS}
        for ours in OURS
        if ours in medians
    }


def geometric_means(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One of a size, dtype and direction: the geometric means over its kinds, and how many there are."""
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
    """What ran where, and the lines."""

    about: dict[str, Any]
    lines: list[Line] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
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
        ReportError: it is no report, or one of another format.
        OSError: it cannot be read.
    """
    return Report(*reports.read(path, Line, FORMAT, "benchmark"))


def failed(lines: Sequence[Line]) -> list[Line]:
    """The lines in which portaloss was wrong or did not run."""
    return [line for line in lines if line.error]

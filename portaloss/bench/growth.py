"""How time grows with size: elements, steps of CTC, classes of a vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from portaloss.bench.cases import Shape, Spec
from portaloss.bench.lines import Line
from portaloss.bench.report import WIDTH, number_text
from portaloss.catalogue import LOSSES, Family
from portaloss.console import console
from portaloss.kinds import LossKind

#: The pointwise kinds measured by default; all pointwise kinds share one driver, so a few are enough.
POINTWISE = (LossKind.MSE, LossKind.KL_DIV, LossKind.BCE_WITH_LOGITS)

_ELEMENTS = (10**5, 316_228, 10**6, 3_162_278, 10**7, 31_622_777, 10**8)
_STEPS = (50, 100, 200, 400, 800, 1600)
_CLASSES = (1000, 4000, 16_000, 64_000, 256_000)

#: The sizes that do not grow: rows of cross-entropy; samples, classes and labels of CTC.
_ROWS = 256
_SEQUENCES = (16, 40, 20)


@dataclass(frozen=True)
class Curve:
    """A contender's forward and backward over the sizes of a sweep."""

    sweep: str
    kind: str
    dtype: str
    contender: str
    sizes: list[int]  #: elements, steps or classes
    per_unit: list[float]  #: seconds for each element of the first operand

    @property
    def exponent(self) -> float:
        """The slope of log time over log size, by least squares, in the upper half of the sizes: 1 is linear.

        In the lower half, the fixed cost of a call would make the exponent too small.
        """
        half = len(self.sizes) // 2
        x = [math.log(size) for size in self.sizes[half:]]
        y = [math.log(unit * size) for size, unit in zip(self.sizes, self.per_unit, strict=True)][half:]
        if len(x) < 2:
            return math.nan
        middle = sum(x) / len(x)
        spread = sum((one - middle) ** 2 for one in x)
        return sum((one - middle) * other for one, other in zip(x, y, strict=True)) / spread

    @property
    def worst(self) -> float:
        """The time per element at the largest size, over the smallest time per element."""
        return self.per_unit[-1] / min(self.per_unit)


def specs(kinds: Sequence[LossKind], dtypes: Sequence[str], device: str, most: int) -> list[Spec]:
    """What to measure: the sizes of each kind whose operands have at most ``most`` elements."""
    return [
        Spec(kind, dtype, str(size), shape, device)
        for dtype in dtypes
        for kind in kinds
        for size, shape in _shapes(kind)
        if math.prod(shape[:3]) <= most
    ]


def can_grow(kind: LossKind) -> bool:
    """Whether growth can be measured for a kind."""
    return bool(_shapes(kind))


def _shapes(kind: LossKind) -> list[tuple[int, Shape]]:
    if LOSSES[kind].family is Family.POINTWISE:
        return [(size, (size,)) for size in _ELEMENTS]
    if kind is LossKind.CTC:
        return [(size, (size, *_SEQUENCES)) for size in _STEPS]
    if kind in (LossKind.CROSS_ENTROPY, LossKind.NLL):
        return [(size, (_ROWS, size)) for size in _CLASSES]
    return []


def _sweep(kind: LossKind) -> str:
    if LOSSES[kind].family is Family.POINTWISE:
        return "elements"
    return "steps" if kind is LossKind.CTC else "classes"


def curves(lines: Iterable[Line]) -> list[Curve]:
    """A curve for each kind, dtype and contender, from the lines of a sweep."""
    found: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for line in lines:
        if line.direction != "forward_backward" or line.error:
            continue
        elements = math.prod(next(iter(line.shapes.values())))
        for name in line.contenders:
            median = line.median(name)
            if median is not None:
                found.setdefault((line.kind, line.dtype, name), []).append((int(line.size), median / elements))
    return [
        Curve(_sweep(LossKind[kind.upper()]), kind, dtype, name, [size for size, _ in points], [u for _, u in points])
        for (kind, dtype, name), points in ((key, sorted(value)) for key, value in found.items())
    ]


def print_table(made: Sequence[Curve], *, file: Any = None) -> None:
    """Print a line for each curve.

    Raises:
        MissingExtraError: rich is not installed.
    """
    out = console(file, "bench", WIDTH)
    from rich.table import Table

    table = Table(title="growth of forward + backward: time ~ size ^ exponent", title_justify="left")
    for name in "loss", "dtype", "who", "sizes":
        table.add_column(name, no_wrap=True)
    for name in "first, ns\nper element", "best", "last", "last /\nbest", "exponent":
        table.add_column(name, justify="right")
    for curve in made:
        sizes = f"{curve.sizes[0]:.0e} to {curve.sizes[-1]:.0e} {curve.sweep}"
        times = (curve.per_unit[0], min(curve.per_unit), curve.per_unit[-1])
        cells = [f"{1e9 * one:.3g}" for one in times] + [number_text(curve.worst), number_text(curve.exponent)]
        table.add_row(curve.kind, curve.dtype, curve.contender, sizes, *cells)
    out.print(table)


def as_dicts(made: Sequence[Curve]) -> list[dict[str, Any]]:
    """The curves for a report."""
    return [
        {
            "sweep": curve.sweep,
            "kind": curve.kind,
            "dtype": curve.dtype,
            "contender": curve.contender,
            "sizes": curve.sizes,
            "seconds_per_element": curve.per_unit,
            "exponent": None if math.isnan(curve.exponent) else curve.exponent,
            "last_over_best": curve.worst,
        }
        for curve in made
    ]

"""Pictures of a benchmark: how many times faster each kind is in each dtype, and how time grows with size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from portaloss.bench.growth import Curve
from portaloss.bench.lines import Report
from portaloss.console import MissingExtraError
from portaloss.kinds import DTYPES


def require(path: Path) -> None:
    """Find out before the work whether a picture can be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ValueError: matplotlib cannot write this kind of file.
    """
    known = _figure()().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in known:
        raise ValueError(f"--picture {path}: a picture's name must end in one of .{', .'.join(sorted(known))}")


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "--picture", "bench") from error
    return Figure  # not pyplot, which has global state and may open windows


def speedups(report: Report, path: Path) -> None:
    """Speedups of forward and backward over PyTorch eager, as bars.

    Each size is a panel, each kind a group of bars, and each dtype a colour.
    """
    lines = [line for line in report.lines if line.direction == "forward_backward" and line.speedup() is not None]
    sizes = list(dict.fromkeys(line.size for line in lines))
    kinds = list(dict.fromkeys(line.kind for line in lines))
    dtypes = [dtype for dtype in DTYPES if any(line.dtype == dtype for line in lines)]
    width = 0.8 / max(1, len(dtypes))
    figure = _figure()(figsize=(3 + 0.55 * len(kinds), 2 + 3 * max(1, len(sizes))), layout="constrained")
    panels = figure.subplots(max(1, len(sizes)), 1, squeeze=False, sharex=True)[:, 0]
    for panel, size in zip(panels, sizes, strict=False):
        for i, dtype in enumerate(dtypes):
            found = {line.kind: line.speedup() for line in lines if (line.size, line.dtype) == (size, dtype)}
            places = [j + (i - (len(dtypes) - 1) / 2) * width for j, kind in enumerate(kinds) if kind in found]
            # bars start at 1, not at 0: a slower kind hangs below the line
            heights = [(found[kind] or 1.0) - 1.0 for kind in kinds if kind in found]
            panel.bar(places, heights, width, bottom=1.0, label=dtype)
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.axhline(1.0, color="black", linewidth=0.8)
        panel.set(title=size, ylabel="times faster than PyTorch")
    if dtypes:
        panels[0].legend(ncols=len(dtypes))
    panels[-1].set_xticks(range(len(kinds)), kinds, rotation=60, ha="right")
    figure.suptitle(f"forward + backward, mean: {report.place}")
    figure.savefig(path)


def growth(curves: Sequence[Curve], path: Path) -> None:
    """Time per element over size, a panel for each sweep; a flat curve is linear growth."""
    sweeps = list(dict.fromkeys(curve.sweep for curve in curves))
    figure = _figure()(figsize=(8, 3.4 * max(1, len(sweeps))), layout="constrained")
    for panel, sweep in zip(figure.subplots(max(1, len(sweeps)), 1, squeeze=False)[:, 0], sweeps, strict=False):
        for curve in curves:
            if curve.sweep == sweep:
                line = "-" if curve.contender == "portaloss" else ":"
                label = f"{curve.kind}, {curve.contender}"
                panel.loglog(curve.sizes, [1e9 * one for one in curve.per_unit], line, marker=".", label=label)
        panel.set(xlabel=sweep, ylabel="ns per element")
        panel.legend(fontsize="small")
        panel.grid(alpha=0.3)
    figure.savefig(path)

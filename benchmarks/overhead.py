"""What a tiny call costs: forward and backward of [32, 10] or 64 elements on the CPU, ours beside PyTorch eager.

    python benchmarks/overhead.py [--rounds R] [--json FILE] [--markdown docs/overhead.md] [kind ...]

All ways take turns in short bursts, so that whatever else the machine does meets each of them; a burst's time is
divided by its calls, and the medians of the rounds are shown. float32, mean, one thread. What a model would compute
takes a gradient: the input, both or all three where a loss compares several, the variance, the linear layer.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import rich
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import portaloss
from portaloss import functional as ours
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind
from portaloss.parity.machine import processor
from portaloss.torch_ops import composites

warnings.filterwarnings("ignore", message="reduction: 'mean' divides the total loss by both")  # of kl_div, from both

#: Calls in a burst: a fraction of a millisecond, so that few bursts meet another process.
BURST = 5

_random = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=_random)


def classes(*shape: int) -> torch.Tensor:
    return torch.randint(10, shape, generator=_random)


def signs(*shape: int) -> torch.Tensor:
    return torch.randint(2, shape, generator=_random) * 2.0 - 1.0


def unit(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=_random)


def confident() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a model that has learnt: the target leads by 8, and its probability is above 99 %."""
    target = classes(32)
    return normal(32, 10) + 8.0 * torch.nn.functional.one_hot(target, 10), target


#: Kind, what is particular about the row, how many operands take a gradient, and the operands.
ROWS: Sequence[tuple[LossKind, str, int, Callable[[], tuple[torch.Tensor, ...]]]] = (
    (LossKind.MSE, "", 1, lambda: (normal(64), normal(64))),
    (LossKind.NLL, "", 1, lambda: (normal(32, 10).log_softmax(1), classes(32))),
    (LossKind.CROSS_ENTROPY, "", 1, lambda: (normal(32, 10), classes(32))),
    (LossKind.CROSS_ENTROPY, "confident", 1, confident),
    (LossKind.BCE, "", 1, lambda: (unit(64), unit(64))),
    (LossKind.KL_DIV, "", 1, lambda: (normal(32, 10).log_softmax(1), normal(32, 10).softmax(1))),
    (LossKind.L1, "", 1, lambda: (normal(64), normal(64))),
    (LossKind.SMOOTH_L1, "", 1, lambda: (normal(64), normal(64))),
    (LossKind.HINGE_EMBEDDING, "", 1, lambda: (normal(64).abs(), signs(64))),
    (LossKind.MARGIN_RANKING, "", 2, lambda: (normal(64), normal(64), signs(64))),
    (LossKind.TRIPLET_MARGIN, "", 3, lambda: (normal(32, 10), normal(32, 10), normal(32, 10))),
    (LossKind.CTC, "", 1, lambda: (normal(12, 4, 10).log_softmax(2), 1 + classes(4, 3) % 9, lengths(12), lengths(3))),
    (LossKind.POISSON_NLL, "", 1, lambda: (normal(64), classes(64).float())),
    (LossKind.HUBER, "", 1, lambda: (normal(64), normal(64))),
    (LossKind.BCE_WITH_LOGITS, "", 1, lambda: (normal(64), unit(64))),
    (LossKind.GAUSSIAN_NLL, "", 3, lambda: (normal(64), normal(64), normal(64).exp())),
    (LossKind.COSINE_EMBEDDING, "", 2, lambda: (normal(32, 10), normal(32, 10), signs(32))),
    (LossKind.MULTI_MARGIN, "", 1, lambda: (normal(32, 10), classes(32))),
    (LossKind.MULTILABEL_MARGIN, "", 1, lambda: (normal(32, 10), label_sets())),
    (LossKind.MULTILABEL_SOFT_MARGIN, "", 1, lambda: (normal(32, 10), (unit(32, 10) < 0.3).float())),
    (LossKind.FUSED_LINEAR_CROSS_ENTROPY, "", 2, lambda: (normal(32, 16), normal(10, 16), classes(32))),
)


def lengths(each: int) -> torch.Tensor:
    return torch.full((4,), each)


def label_sets() -> torch.Tensor:
    """Three classes a row, and then -1."""
    sets = torch.full((32, 10), -1)
    for row in sets:
        row[:3] = torch.randperm(10, generator=_random)[:3]
    return sets


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Time, print, write; returns a row a loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="kind", help="as in portaloss.LossKind; all by default")
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")
    args = parser.parse_args(argv)
    known = {kind.name.lower() for kind, *_ in ROWS}
    for name in args.kinds:
        if name.lower() not in known:
            parser.error(f"there is no kind {name!r}; there are: {', '.join(sorted(known))}")
    torch.set_num_threads(1)
    portaloss.set_num_threads(1)

    chosen = [row for row in ROWS if not args.kinds or row[0].name.lower() in {name.lower() for name in args.kinds}]
    progress = track(chosen, "timing", console=Console(stderr=True))
    rows = [row_of(*row, rounds=args.rounds) for row in progress]
    about = {
        "rounds": args.rounds,
        "processor": processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "portaloss": portaloss.__version__,
    }
    show(rows, about)
    if args.json:
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(markdown(rows, about))
    return rows


def row_of(
    kind: LossKind, note: str, wanted: int, draw: Callable[[], tuple[torch.Tensor, ...]], *, rounds: int
) -> dict[str, Any]:
    """The times of a kind in microseconds."""
    loss = LOSSES[kind]
    operands = draw()
    plain = [operand.numpy() for operand in operands]
    for operand in operands[:wanted]:
        operand.requires_grad_()
    mine, theirs = getattr(ours, loss.function), pytorchs(kind)
    plan = portaloss.select(kind, dtype="float32")
    named = dict(zip((row.name for row in loss.operands), plain, strict=False))
    ways: dict[str, Callable[[], object]] = {
        "torch_us": lambda: torch.autograd.grad(theirs(*operands), operands[:wanted]),
        "tensors_us": lambda: torch.autograd.grad(mine(*operands), operands[:wanted]),
        "arrays_us": partial(portaloss.value_and_grad(mine, tuple(range(wanted)) if wanted > 1 else 0), *plain),
        "plan_us": partial(plan.forward_with_gradients, named, tuple(named)[:wanted]),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        burst(way)
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(burst(way))
    row = {name: median(kept) for name, kept in times.items()}
    return {"loss": loss.function, "note": note, **row, "ratio": row["tensors_us"] / row["torch_us"]}


def pytorchs(kind: LossKind) -> Callable[..., torch.Tensor]:
    """PyTorch's function; of linear cross-entropy the two that it fuses, as older releases have no other."""
    if kind is not LossKind.FUSED_LINEAR_CROSS_ENTROPY:
        function: Callable[..., torch.Tensor] = getattr(torch.nn.functional, LOSSES[kind].function)
        return function
    names = ("input", "linear_weight", "target")
    return lambda *given: composites.linear_cross_entropy(dict(zip(names, given, strict=True)), {}, "mean")


def burst(way: Callable[[], object]) -> float:
    """Microseconds a call."""
    start = perf_counter()
    for _ in range(BURST):
        way()
    return 1e6 * (perf_counter() - start) / BURST


NOTE = (
    "Small tensors are given to PyTorch's own operators where those keep our bounds",
    "(`portaloss/torch_ops/small.py`). What is more than PyTorch's is Python on the way to them, and in",
    "`cross_entropy` the question whether a target is so certain that p - 1, as PyTorch computes it, has lost its",
    "digits (*confident*: then it is computed in float64). PyTorch's gradients of `ctc_loss` and of the margin losses",
    "of several classes cannot be differentiated again, as ours can: a graph of theirs lies inside a node of ours.",
)

COLUMNS = ("loss", "PyTorch", "tensors", "tensors / PyTorch", "arrays", "plan")


def cells(row: dict[str, Any]) -> list[str]:
    name = f"{row['loss']} ({row['note']})" if row["note"] else row["loss"]
    micro = [f"{row[key]:.1f}" for key in ("torch_us", "tensors_us", "arrays_us", "plan_us")]
    return [name, micro[0], micro[1], f"{row['ratio']:.2f}", *micro[2:]]


def show(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> None:
    table = Table(*COLUMNS, title=f"forward + backward, µs; {summary(about)}")
    for row in rows:
        table.add_row(*cells(row))
    rich.print(table)


def summary(about: dict[str, Any]) -> str:
    libraries = ", ".join(f"{name} {about[name]}" for name in ("torch", "numpy", "python"))
    return f"{libraries}, {about['processor']}; medians of {about['rounds']} rounds"


def markdown(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    lines = [
        "# What a tiny call costs",
        "",
        "Made by `python benchmarks/overhead.py --markdown docs/overhead.md`: microseconds of a forward and a backward",
        "pass on the CPU, [32, 10] or 64 elements (CTC: 12 steps, 4 samples, 10 classes), float32, mean, one thread.",
        "*PyTorch* is eager PyTorch and *tensors* is portaloss on the same tensors, `torch.autograd.grad` included in",
        "both; *arrays* is `portaloss.value_and_grad` on NumPy arrays and *plan* `plan.forward_with_gradients`.",
        "",
        *NOTE,
        "",
        f"{summary(about)}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

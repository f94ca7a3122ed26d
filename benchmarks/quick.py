"""Forward and backward of four losses on torch CPU tensors, beside PyTorch eager at the same number of threads.

    python benchmarks/quick.py [--size N] [--rounds R] [--threads T] [--json FILE]

Both run in one process and take turns, so that whatever else the machine does meets both; times are medians. Values
and gradients are checked against PyTorch in float64 before anything is timed. The reduction is mean; the input takes a
gradient, and so does the variance of the Gaussian.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

import portaloss
from portaloss import functional as ours

theirs = torch.nn.functional
warnings.filterwarnings("ignore", message="reduction: 'mean' divides the total loss by both")  # of kl_div, from both

#: Name -> (function, what its operands are drawn from, how many of them take a gradient: the first, then the last).
LOSSES: dict[str, tuple[str, tuple[str, ...], int]] = {
    "mse": ("mse_loss", ("real", "real"), 1),
    "kl_div": ("kl_div", ("log_probability", "probability"), 1),
    "bce_with_logits": ("binary_cross_entropy_with_logits", ("real", "probability"), 1),
    "gaussian_nll": ("gaussian_nll_loss", ("real", "real", "positive"), 2),
}


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Check, time, print; returns a row a loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="operands are N x N, float32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    portaloss.set_num_threads(args.threads)

    print(f"forward + backward, {args.size} x {args.size} float32, mean, {args.threads} threads, {processor()}")
    print(f"torch {torch.__version__}, portaloss {portaloss.__version__}, median of {args.rounds} rounds")
    print(f"{'loss':<16} {'PyTorch ms':>11} {'portaloss ms':>13} {'times faster':>13}")
    rows = []
    for name, (function, domains, grads) in LOSSES.items():
        operands = draw(domains, args.size)
        wanted = [operands[0], operands[-1]][:grads]
        mine, other = getattr(ours, function), getattr(theirs, function)
        check(name, mine, other, operands, wanted)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(args.rounds):
            for kept, loss in zip(times, (other, mine), strict=True):
                kept.append(seconds(loss, operands, wanted))
        theirs_ms, ours_ms = (1e3 * median(kept) for kept in times)
        print(f"{name:<16} {theirs_ms:>11.1f} {ours_ms:>13.1f} {theirs_ms / ours_ms:>13.2f}", flush=True)
        rows.append({"loss": name, "torch_ms": theirs_ms, "portaloss_ms": ours_ms, "ratio": theirs_ms / ours_ms})

    if args.json:
        about = {
            "size": args.size,
            "dtype": "float32",
            "reduction": "mean",
            "threads": args.threads,
            "rounds": args.rounds,
            "processor": processor(),
            "torch": torch.__version__,
            "portaloss": portaloss.__version__,
        }
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    return rows


def draw(domains: Sequence[str], size: int) -> list[torch.Tensor]:
    """Operands, the same every time."""
    generator = torch.Generator().manual_seed(0)
    operands = []
    for domain in domains:
        values = torch.randn(size, size, generator=generator)
        if domain == "probability":
            values = values.sigmoid()
        elif domain == "log_probability":
            values = values.log_softmax(1)
        elif domain == "positive":
            values = values.exp()
        operands.append(values)
    return operands


def seconds(
    loss: Callable[..., torch.Tensor], operands: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
) -> float:
    """One forward and one backward pass."""
    for operand in wanted:
        operand.requires_grad_(True)
    start = perf_counter()
    torch.autograd.grad(loss(*operands), wanted)
    return perf_counter() - start


def check(
    name: str,
    mine: Callable[..., torch.Tensor],
    other: Callable[..., torch.Tensor],
    operands: Sequence[torch.Tensor],
    wanted: Sequence[torch.Tensor],
) -> None:
    """The loss and its gradients are PyTorch's float64 ones, rounded; warms both up on the way."""
    seconds(other, operands, wanted)
    loss = mine(*operands)
    gradients = torch.autograd.grad(loss, wanted)
    exact = [operand.detach().double().requires_grad_(operand.requires_grad) for operand in operands]
    exact_loss = other(*exact)
    exact_gradients = torch.autograd.grad(exact_loss, [operand for operand in exact if operand.requires_grad])
    for what, value, truth in zip(
        ("loss", "first gradient", "last gradient"), (loss, *gradients), (exact_loss, *exact_gradients), strict=False
    ):
        # 1e-6 is 8 roundings of float32, of the largest term where terms cancel
        worst = (value.detach() - truth.detach()).abs().max() / truth.detach().abs().max()
        if not worst <= 1e-6:
            raise SystemExit(f"{name}: {what} is off by {float(worst):.1e}; nothing was timed")


def processor() -> str:
    """The processor's name, as far as this system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()

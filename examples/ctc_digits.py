"""Learn to read strips of handwritten digits without being told where each digit is, by CTC.

    python examples/ctc_digits.py [--array torch] [--out DIR]

A strip is three to six digits of scikit-learn's bundled set, side by side with gaps of 0 to 3 pixels. The model is
given only the strip and its digits in order; ``ctc_loss`` sums over every way to align the two. The model sees windows
of 8 columns, one at every second column: window -> tanh layer -> log-probabilities of blank and ten digits.
``value_and_grad`` gives the gradient with respect to the log-probabilities; the chain rule through the layers takes a
few lines. Strips for the error rate are drawn from images that are not used in training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import portaloss
from portaloss.functional import ctc_loss

matplotlib.use("Agg")  # pictures go to files: no screen needed
import matplotlib.pyplot as plt

BLANK = 0  # digit d is label d + 1
LABELS = 11
WINDOW = 8
STRIDE = 2
LONGEST = 6
COLUMNS = LONGEST * (8 + 3) + WINDOW
HIDDEN = 96
BATCH = 32
RATE = 3e-3


def main(argv: Sequence[str] | None = None) -> tuple[float, float]:
    """Train, print, draw; returns the label error rate before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--array", choices=("numpy", "torch"), default="numpy", help="what the arrays are")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where ctc_digits.png goes")
    args = parser.parse_args(argv)

    xp: Any = np  # the array library; the functions used here have the same names in both
    array: Callable[[Any], Any] = np.asarray
    if args.array == "torch":
        import torch

        xp, array = torch, torch.from_numpy

    rng = np.random.default_rng(0)
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32), digits.target
    order = rng.permutation(len(labels))
    held_out, training = order[:360], order[360:]
    test_strips, test_targets, *test_lengths = strips(rng, images[held_out], labels[held_out], 200)
    test_windows = array(windows(test_strips))

    model = Model(rng, xp, array)
    before = label_error_rate(decode(model.log_probs(test_windows), test_lengths[0]), test_targets, test_lengths[1])

    losses = []
    loss_and_gradient = portaloss.value_and_grad(ctc_loss)
    for step in range(args.steps):
        batch, targets, frames, lengths = strips(rng, images[training], labels[training], BATCH)
        log_probs = model.log_probs(array(windows(batch)))
        loss, gradient = loss_and_gradient(log_probs, array(targets), array(frames), array(lengths), blank=BLANK)
        model.learn(gradient)
        losses.append(float(loss))
        if step % 250 == 249:
            print(f"step {step + 1}: loss {np.mean(losses[-250:]):.4f}")

    read = decode(model.log_probs(test_windows), test_lengths[0])
    after = label_error_rate(read, test_targets, test_lengths[1])
    for i in range(8):
        truth = test_targets[i, : test_lengths[1][i]]
        print(f"strip {i}: shows {text(truth):<{LONGEST}}  reads {text(read[i])}")
    draw(losses, test_strips[:6], read, before, after, args.out / "ctc_digits.png")
    print(f"label error rate on held-out digits: {100 * before:.1f}% before, {100 * after:.1f}% after ({args.array})")
    return before, after


def strips(rng: np.random.Generator, images: Any, labels: Any, count: int) -> tuple[Any, Any, Any, Any]:
    """Draw strips (count, 8, COLUMNS), their padded labels, and the number of frames and of labels of each."""
    pictures = np.zeros((count, 8, COLUMNS), np.float32)
    targets = np.zeros((count, LONGEST), np.int64)
    lengths = rng.integers(3, LONGEST + 1, count)
    frames = np.empty(count, np.int64)
    for i in range(count):
        column = int(rng.integers(0, 4))
        for k in range(lengths[i]):
            chosen = rng.integers(len(labels))
            pictures[i, :, column : column + 8] = images[chosen]
            targets[i, k] = labels[chosen] + 1
            column += 8 + int(rng.integers(0, 4))
        frames[i] = min(column, COLUMNS - WINDOW) // STRIDE + 1
    return pictures, targets, frames, lengths


def windows(pictures: Any) -> Any:
    """The model's inputs: (frames, count, 8 * WINDOW), time first as in CTC."""
    seen = np.lib.stride_tricks.sliding_window_view(pictures, WINDOW, axis=2)[:, :, ::STRIDE]
    return np.ascontiguousarray(seen.transpose(2, 0, 1, 3)).reshape(seen.shape[2], len(pictures), -1)


class Model:
    """Window -> tanh layer -> log-softmax, with its gradient written out, and Adam."""

    def __init__(self, rng: np.random.Generator, xp: Any, array: Callable[[Any], Any]) -> None:
        inputs = 8 * WINDOW
        shapes = [(inputs, HIDDEN), (HIDDEN,), (HIDDEN, LABELS), (LABELS,)]
        scales = [inputs**-0.5, 0.0, HIDDEN**-0.5, 0.0]
        self.xp = xp
        self.parameters = [
            array((scale * rng.standard_normal(shape)).astype(np.float32))
            for shape, scale in zip(shapes, scales, strict=True)
        ]
        self.moments = [(0 * parameter, 0 * parameter) for parameter in self.parameters]
        self.steps = 0

    def log_probs(self, seen: Any) -> Any:
        """Log-probabilities (frames, count, LABELS) of the inputs; kept for ``learn``."""
        weight, bias, weight_out, bias_out = self.parameters
        hidden = self.xp.tanh(seen @ weight + bias)
        logits = hidden @ weight_out + bias_out
        logits = logits - self.xp.amax(logits, -1)[..., None]
        log_probs = logits - self.xp.log(self.xp.exp(logits).sum(-1))[..., None]
        self.seen, self.hidden, self.last = seen, hidden, log_probs
        return log_probs

    def learn(self, gradient: Any) -> None:
        """One step of Adam, given the gradient of the loss with respect to the last log-probabilities."""
        weight_out = self.parameters[2]
        # log-softmax subtracts log(sum) from each logit, and the derivative of log(sum) is softmax
        d_logits = gradient - self.xp.exp(self.last) * gradient.sum(-1)[..., None]
        d_hidden = (d_logits @ weight_out.T) * (1 - self.hidden * self.hidden)  # tanh' = 1 - tanh²
        seen, hidden, d_logits, d_hidden = (
            values.reshape(-1, values.shape[-1]) for values in (self.seen, self.hidden, d_logits, d_hidden)
        )
        gradients = (seen.T @ d_hidden, d_hidden.sum(0), hidden.T @ d_logits, d_logits.sum(0))

        self.steps += 1
        rate = RATE * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for i, slope in enumerate(gradients):
            mean, square = self.moments[i]
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope * slope
            self.moments[i] = mean, square
            self.parameters[i] = self.parameters[i] - rate * mean / (square**0.5 + 1e-8)


def decode(log_probs: Any, frames: Any) -> list[list[int]]:
    """The most probable label of each frame, with repeats merged and blanks removed."""
    best = np.asarray(log_probs.argmax(-1))
    read = []
    for i, length in enumerate(frames):
        path = best[:length, i]
        starts = np.concatenate([[True], path[1:] != path[:-1]])
        read.append(path[starts & (path != BLANK)].tolist())
    return read


def label_error_rate(read: Sequence[Sequence[int]], targets: Any, lengths: Any) -> float:
    """Insertions, deletions and substitutions needed, over the number of labels."""
    wrong = sum(edits(labels, target[:n].tolist()) for labels, target, n in zip(read, targets, lengths, strict=True))
    return wrong / int(lengths.sum())


def edits(a: Sequence[int], b: Sequence[int]) -> int:
    """Levenshtein's distance, row by row."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]


def text(labels: Sequence[int]) -> str:
    """Labels as the digits they stand for."""
    return "".join(str(label - 1) for label in labels)


def draw(losses: Sequence[float], pictures: Any, read: Any, before: float, after: float, path: Path) -> None:
    """Save the loss curve, and some strips with what was read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure: Any = plt.figure(figsize=(9, 7), layout="constrained")
    top, *rows = figure.subplots(1 + len(pictures), 1, height_ratios=[4] + [1] * len(pictures))
    top.semilogy(losses, linewidth=0.8)
    top.set(xlabel="step", ylabel="CTC loss a label")
    top.set_title(f"label error rate on held-out digits: {100 * before:.0f}% before, {100 * after:.1f}% after")
    top.grid(alpha=0.3)
    for axes, picture, labels in zip(rows, pictures, read, strict=False):
        axes.imshow(picture, cmap="gray_r", aspect="equal")
        axes.set_title(text(labels), loc="left", fontsize=9, pad=2)
        axes.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"loss curve and strips: {path}")


if __name__ == "__main__":
    main()

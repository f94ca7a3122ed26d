"""A softmax classifier of handwritten digits, trained with portaloss in plain NumPy.

    python examples/digits.py [--array torch] [--out DIR]

scikit-learn's bundled digits are 1797 images of 8 x 8 pixels. The model is one matrix and one bias, trained by gradient
descent with momentum. ``value_and_grad`` gives the loss and its gradient with respect to the logits; the rest of the
chain rule is two lines. With ``--array torch`` the arrays are tensors, and nothing else changes: autograd is not used.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import portaloss
from portaloss.functional import cross_entropy

matplotlib.use("Agg")  # pictures go to files: no screen needed
import matplotlib.pyplot as plt

CLASSES = 10
BATCH = 64
RATE = 0.2
MOMENTUM = 0.9


def main(argv: Sequence[str] | None = None) -> float:
    """Train, print, draw; returns the accuracy on held-out digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--array", choices=("numpy", "torch"), default="numpy", help="what the arrays are")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where digits.png goes")
    args = parser.parse_args(argv)

    if args.array == "torch":
        import torch

        array = torch.from_numpy
    else:
        array = np.asarray

    rng = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int64)
    held_out = len(labels) // 5
    x, y = array(images[held_out:]), array(labels[held_out:])
    test_x, test_y = array(images[:held_out]), array(labels[:held_out])

    weight = array(np.zeros((images.shape[1], CLASSES), np.float32))
    bias = array(np.zeros(CLASSES, np.float32))
    weight_step, bias_step = 0 * weight, 0 * bias
    loss_and_gradient = portaloss.value_and_grad(cross_entropy)

    losses = []
    for epoch in range(args.epochs):
        order = array(rng.permutation(len(y)))
        for start in range(0, len(y), BATCH):
            batch = order[start : start + BATCH]
            inputs = x[batch]
            loss, d_logits = loss_and_gradient(inputs @ weight + bias, y[batch])
            weight_step = MOMENTUM * weight_step - RATE * (inputs.T @ d_logits)
            bias_step = MOMENTUM * bias_step - RATE * d_logits.sum(0)
            weight, bias = weight + weight_step, bias + bias_step
            losses.append(float(loss))
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {np.mean(losses[-len(y) // BATCH :]):.4f}")

    right = (test_x @ weight + bias).argmax(1) == test_y
    accuracy = float(right.sum()) / len(test_y)
    draw(losses, accuracy, args.out / "digits.png")
    print(f"{100 * accuracy:.1f}% of {len(test_y)} held-out digits are read right ({args.array})")
    return accuracy


def draw(losses: Sequence[float], accuracy: float, path: Path) -> None:
    """Save the loss curve."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure: Any
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.semilogy(losses, linewidth=0.8)
    axes.set(xlabel="step", ylabel="cross-entropy of the batch", title=f"held out: {100 * accuracy:.1f}% right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"loss curve: {path}")


if __name__ == "__main__":
    main()

"""Checks an installed portaloss with only NumPy and SciPy: ``nox -s build`` runs it outside of the source tree."""

from __future__ import annotations

import importlib.util
from importlib.resources import files

import numpy as np

import portaloss
from portaloss.functional import cross_entropy, ctc_loss, huber_loss, linear_cross_entropy

for name in ("torch", "triton", "ml_dtypes"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed, but this test needs an environment without it"

# By hand: equal logits give log 2, and the gradient is softmax - onehot.
value, gradient = portaloss.value_and_grad(cross_entropy)(np.zeros((1, 2)), np.array([0]))
assert abs(value - np.log(2.0)) < 1e-15, value
assert gradient.tolist() == [[-0.5, 0.5]], gradient

assert float(huber_loss(np.array([3.0]), np.array([0.0]))) == 2.5

# One step, one label: the only path is the label itself, so the loss is its -log probability.
log_probs = np.log(np.full((1, 1, 4), 0.25))
assert abs(ctc_loss(log_probs, np.array([[1]]), [1], [1]) - np.log(4.0)) < 1e-15

# No features: the logits are the bias, and equal.
loss = linear_cross_entropy(np.zeros((3, 5)), np.ones((7, 5)), np.array([0, 3, 6]))
assert abs(loss - np.log(7.0)) < 1e-15, loss

plan = portaloss.select(portaloss.LossKind.MSE, dtype="float32", reduction="none")
assert plan.forward(input=np.ones(3, np.float32), target=np.zeros(3, np.float32)).tolist() == [1.0, 1.0, 1.0]

assert files("portaloss").joinpath("py.typed").is_file()
assert files("portaloss.parity").joinpath("report.html").is_file()
assert files("portaloss.reference").joinpath("README.md").is_file()
print(f"portaloss {portaloss.__version__} computes losses and gradients with numpy {np.__version__} and nothing else")

r"""Smooth L1 loss: absolute error with its corner rounded off.

Where it comes from
-------------------
Girshick (2015) trained a network to place boxes around objects. Under a squared error, boxes that are far off made
gradients so large that the learning rate had to be tuned to them; under an absolute error, the gradient never fades and
a box that is nearly right keeps shaking. Smooth L1 has the slope of the one far away and of the other near zero. It is
the Huber loss divided by its δ, here called β (``beta``): the slope far away is 1 whatever β is, and as β goes to 0 the
loss becomes L1, while Huber's becomes nothing.

The formula
-----------
With e = x - t, x the input and t the target::

    ℓ(x, t) = e² / (2β)       where |e| < β
              |e| - β/2       where |e| ≥ β

The derivative, step by step
----------------------------
1. Inside, d(e²/(2β))/de = e/β.
2. Outside, d(|e| - β/2)/de = sign(e).
3. At |e| = β both give ±1: the derivative is continuous, so one expression serves everywhere::

       ∂ℓ/∂e = min(max(e, -β), β) / β

4. e = x - t, so ∂ℓ/∂x = ∂ℓ/∂e and ∂ℓ/∂t = -∂ℓ/∂e.

Kinks and conventions
---------------------
For β > 0 there is no kink. β = 0 is L1, with L1's corner: 0 at e = 0, and where e is nan. For β > 0 a nan has a nan for
a derivative.

What overflows or cancels
-------------------------
With c = clip(e, -β, β), both branches are one product, as in the Huber loss::

    ℓ = (c/β) (e - c/2)

For |e| ≤ β it is e/β · e/2; beyond, ±(e ∓ β/2). c/β is the derivative and never above 1, so that no square is formed:
e²/β would overflow for a large β, and its e² underflow for a small one. Nothing cancels: |c/2| is at most half of |e|.

A β so small that the dtype rounds it to 0 would make c/β = 0/0. It is computed as L1; and β = 1, the default, as the
Huber loss of δ = 1, which is the same and divides nothing.

Source: Ross Girshick, "Fast R-CNN", International Conference on Computer Vision (2015);
``torch.nn.functional.smooth_l1_loss``.

>>> import numpy as np
>>> x = np.array([1.0, 3.0, -3.0])
>>> t = np.zeros(3)

β = 2. By hand: 1²/(2·2) = 0.25; 3 - 2/2 = 2, on both sides of zero. The derivative is e/2, cut to [-1, 1].

>>> items, derivatives = smooth_l1(x, t, beta=2.0, wants=("input", "target"))
>>> items.tolist()
[0.25, 2.0, 2.0]
>>> derivatives["input"].tolist()
[0.5, 1.0, -1.0]
>>> derivatives["target"].tolist()
[-0.5, -1.0, 1.0]
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.huber import huber
from portaloss.reference.l1 import l1
from portaloss.reference.lazy import LazyProduct
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np


def definition(input: Any, target: Any, *, beta: float = 1.0, xp: Any = np) -> Any:
    """A parabola up to β, and its tangent beyond, of slope 1; without a parabola, L1."""
    e = xp.abs(input - target)
    return xp.where(e < beta, e**2 / (2 * beta), e - beta / 2) if beta > 0 else e


def smooth_l1(input: Array, target: Array, *, beta: float = 1.0, wants: Wants = ()) -> Terms:
    """Items of the smooth L1 loss, and their derivatives; operands broadcast together.

    Args:
        input: x, any shape.
        target: t.
        beta: β ≥ 0 and finite, where the square becomes a line; 0 for L1.
        wants: which of input, target to differentiate.
    """
    if input.dtype.type(beta) == 0:
        return l1(input, target, wants=wants)
    if beta == 1:
        return huber(input, target, wants=wants)

    derivatives: Derivatives = {}
    e = input - target
    c = np.clip(e, -beta, beta)
    slope = c / beta

    if "input" in wants:
        derivatives["input"] = slope
    if "target" in wants:
        derivatives["target"] = LazyProduct(slope, -1.0)

    e -= 0.5 * c  # in place: a new array would push another out of the cache
    return LazyProduct(e, slope), derivatives


__all__ = ["definition", "smooth_l1"]

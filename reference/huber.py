r"""Huber loss: squared near zero, absolute far away.

Where it comes from
-------------------
Huber (1964) asked for the estimator of a location that does best when a fraction of the data is contaminated by
anything at all. The answer weighs small errors as least squares does and large ones as least absolute deviations
does: an outlier pulls with a bounded force. The force is bounded by δ (``delta``), the error at which the two meet.

The formula
-----------
With e = x - t, x the input and t the target::

    ℓ(x, t) = e²/2              where |e| ≤ δ
              δ (|e| - δ/2)     where |e| > δ

An optional weight w multiplies ℓ.

The derivative, step by step
----------------------------
1. Inside, d(e²/2)/de = e.
2. Outside, d(δ|e| - δ²/2)/de = δ sign(e).
3. At |e| = δ both give ±δ: the derivative is continuous, so one expression serves everywhere::

       ∂ℓ/∂e = min(max(e, -δ), δ)

4. e = x - t, so ∂ℓ/∂x = ∂ℓ/∂e and ∂ℓ/∂t = -∂ℓ/∂e.
5. ℓ is linear in w, so ∂(wℓ)/∂w = ℓ.

Kinks and conventions
---------------------
There is no kink: ℓ has a continuous first derivative (its second jumps at ±δ). δ must be positive. Smooth L1 is this
loss divided by δ. A nan in x or t gives nan.

What overflows or cancels
-------------------------
Both branches are evaluated and one is kept, so e² must not spoil the other branch when it overflows. With
c = clip(e, -δ, δ), which is also the derivative, one expression covers both branches without a choice::

    ℓ = c (e - c/2)

For |e| ≤ δ it is e·e/2; beyond, ±δ(e ∓ δ/2). No square larger than δ|e| is formed. Nothing cancels: |c/2| is at most
half of |e|. To halve c is exact, but for the last digit of the least subnormal numbers.

Source: Peter J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35 (1964);
``torch.nn.functional.huber_loss``.

>>> import numpy as np
>>> x = np.array([0.5, 3.0, -3.0])
>>> t = np.zeros(3)

δ = 1. By hand: 0.5²/2 = 0.125; 1·(3 - 0.5) = 2.5, on both sides of zero. The derivative is e, cut to [-1, 1].

>>> items, derivatives = huber(x, t, delta=1.0, wants=("input", "target"))
>>> items.tolist()
[0.125, 2.5, 2.5]
>>> derivatives["input"].tolist()
[0.5, 1.0, -1.0]
>>> derivatives["target"].tolist()
[-0.5, -1.0, 1.0]
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np


def definition(input: Any, target: Any, weight: Any = 1, *, delta: float = 1.0, xp: Any = np) -> Any:
    """A parabola up to δ, and its tangent beyond."""
    e = xp.abs(input - target)
    return weight * xp.where(e <= delta, e**2 / 2, delta * (e - delta / 2))


def huber(input: Array, target: Array, weight: Array | None = None, *, delta: float = 1.0, wants: Wants = ()) -> Terms:
    """Items of the Huber loss, and their derivatives; operands broadcast together.

    Args:
        input: x, any shape.
        target: t.
        weight: w, multiplies each item.
        delta: δ > 0, where the square becomes a line.
        wants: which of input, target, weight to differentiate.
    """
    derivatives: Derivatives = {}
    # ℓ = (e - c/2) (c/2) · 2: two arrays. They are computed in place, since fewer arrays fit into the cache for longer.
    e = input - target
    half_c = np.clip(e, -delta, delta)
    half_c *= 0.5
    rest = e
    rest -= half_c  # e - c/2
    if weight is None:
        loss = LazyProduct(rest, half_c, 0.5)
    else:
        unweighted = rest
        unweighted *= half_c
        unweighted *= 2
        loss = LazyProduct(unweighted, weight)
        if "weight" in wants:
            derivatives["weight"] = unweighted

    if "input" in wants or "target" in wants:
        # c is twice c/2: the caller, who multiplies by a number anyway, doubles it for nothing
        slope = half_c if weight is None else half_c * weight
        if "input" in wants:
            derivatives["input"] = LazyProduct(slope, 2.0)
        if "target" in wants:
            derivatives["target"] = LazyProduct(slope, -2.0)

    return loss, derivatives

r"""L1 loss: the absolute error, and the one the median minimises.

Where it comes from
-------------------
Boscovich (1757) fitted the figure of the Earth to five measured arcs by making the sum of the absolute errors as small
as it could be, half a century before least squares; Laplace took the method up. Every error pulls with the same force,
however large it is: the best constant is the one that has as many observations above it as below, the median, and an
outlier counts for no more than its neighbour.

The formula
-----------
With e = x - t, x the input and t the target::

    ℓ(x, t) = |e|

An optional weight w multiplies ℓ.

The derivative, step by step
----------------------------
1. For e > 0, |e| = e, with the derivative 1. For e < 0, |e| = -e, with the derivative -1. That is sign(e).
2. e = x - t, so with the weight ∂ℓ/∂x = w sign(e) and ∂ℓ/∂t = -w sign(e).
3. wℓ is linear in w, so ∂(wℓ)/∂w = |e|.

Kinks and conventions
---------------------
At e = 0 the graph has a corner: any slope from -1 to 1 lies below it. PyTorch takes 0, the middle, so that an exact
answer is left where it is. It defines the sign by comparing, sign(e) = [e > 0] - [e < 0], and neither comparison holds
for a nan: the item is nan, but its derivative is 0. The same goes for two equal infinities.

What overflows or cancels
-------------------------
Nothing. x - t is rounded once, and the rest is exact.

Source: Stephen M. Stigler, "The History of Statistics: The Measurement of Uncertainty before 1900" (1986), on Boscovich
and Laplace; ``torch.nn.functional.l1_loss``.

>>> import numpy as np
>>> x = np.array([3.0, -1.0, 2.0])
>>> t = np.array([1.0, 0.5, 2.0])

By hand: e = 2, -1.5 and 0, a tie.

>>> items, derivatives = l1(x, t, wants=("input",))
>>> items.tolist()
[2.0, 1.5, 0.0]
>>> derivatives["input"].tolist()
[1.0, -1.0, 0.0]
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np, sign


def definition(input: Any, target: Any, weight: Any = 1, *, xp: Any = np) -> Any:
    """w |x - t|."""
    return weight * xp.abs(input - target)


def l1(input: Array, target: Array, weight: Array | None = None, *, wants: Wants = ()) -> Terms:
    """Items of the absolute error, and their derivatives; operands broadcast together.

    Args:
        input: x, any shape.
        target: t.
        weight: w, multiplies each item.
        wants: which of input, target, weight to differentiate.
    """
    derivatives: Derivatives = {}
    e = input - target

    if "input" in wants or "target" in wants:
        way = sign(e)
        slope = way if weight is None else way * weight
        if "input" in wants:
            derivatives["input"] = slope
        if "target" in wants:
            derivatives["target"] = LazyProduct(slope, -1.0)

        if weight is None and "weight" not in wants:
            return LazyProduct(e, way), derivatives  # |e| = e sign(e): a caller who adds it up need not write it

    loss = np.abs(e)
    if "weight" in wants:
        derivatives["weight"] = loss
    return (loss if weight is None else LazyProduct(loss, weight)), derivatives


__all__ = ["definition", "l1"]

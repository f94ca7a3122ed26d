r"""Mean squared error: the oldest loss, and the one the mean minimises.

Where it comes from
-------------------
Legendre (1805) had more observations of a comet than unknowns in its orbit, and proposed the orbit whose squared errors
add up to least: the equations that this leads to are linear. Gauss (1809) gave the reason that lasted: if errors follow
the bell curve exp(-e²/2), the most probable orbit is the one with the least squares. Of all constants, the mean has the
least squared error; one wild observation drags it as far as it likes, since the pull of an error grows with the error.

The formula
-----------
With e = x - t, x the input and t the target::

    ℓ(x, t) = e²

An optional weight w multiplies ℓ. There is no 1/2 in front.

The derivative, step by step
----------------------------
1. d(e²)/de = 2e.
2. e = x - t, so ∂e/∂x = 1 and ∂e/∂t = -1: with the weight, ∂ℓ/∂x = 2we and ∂ℓ/∂t = -2we.
3. wℓ is linear in w, so ∂(wℓ)/∂w = e².

Kinks and conventions
---------------------
None: ℓ is smooth. A nan in x or t gives nan, and so do two equal infinities, whose difference is nan.

What overflows or cancels
-------------------------
x - t is rounded once, so that e is right to half a unit in the last place however close x and t are: nothing cancels
that was not lost before. e² overflows for |e| beyond 1.8e19 in float32, as it should; but w e² may be an ordinary
number even then. With w = 1e-30 and e = 1e20 it is 1e10. So the weight goes first::

    wℓ = (w e) e

and w e is also half of the derivative.

Source: Adrien-Marie Legendre, "Nouvelles méthodes pour la détermination des orbites des comètes" (1805); Carl Friedrich
Gauss, "Theoria motus corporum coelestium" (1809); ``torch.nn.functional.mse_loss``.

>>> import numpy as np
>>> x = np.array([3.0, -1.0])
>>> t = np.array([1.0, 0.5])
>>> w = np.array([1.0, 4.0])

By hand: e = 2 and -1.5, so e² = 4 and 2.25; with the weights 4 and 9. The derivative is 2we.

>>> items, derivatives = mse(x, t, w, wants=("input", "target", "weight"))
>>> items.tolist()
[4.0, 9.0]
>>> derivatives["input"].tolist()
[4.0, -12.0]
>>> derivatives["target"].tolist()
[-4.0, 12.0]
>>> derivatives["weight"].tolist()
[4.0, 2.25]
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np


def definition(input: Any, target: Any, weight: Any = 1, *, xp: Any = np) -> Any:
    """w (x - t)²."""
    return weight * (input - target) ** 2


def mse(input: Array, target: Array, weight: Array | None = None, *, wants: Wants = ()) -> Terms:
    """Items of the squared error, and their derivatives; operands broadcast together.

    Args:
        input: x, any shape.
        target: t.
        weight: w, multiplies each item.
        wants: which of input, target, weight to differentiate.
    """
    derivatives: Derivatives = {}
    e = input - target
    half_slope = e if weight is None else weight * e

    if "input" in wants:
        derivatives["input"] = LazyProduct(half_slope, 2.0)
    if "target" in wants:
        derivatives["target"] = LazyProduct(half_slope, -2.0)
    if "weight" in wants:
        derivatives["weight"] = e * e
    return LazyProduct(half_slope, e), derivatives


__all__ = ["definition", "mse"]

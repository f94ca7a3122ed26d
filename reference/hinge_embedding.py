r"""Hinge embedding loss: those who belong together come close, others keep their distance.

Where it comes from
-------------------
Bromley and others (1993) compared signatures with two copies of one network, which they called siamese: what matters is
not what an output means but how far two outputs are apart. Trained on pairs that match alone, such a network would map
everything to one point. Hadsell, Chopra and LeCun (2006) pushed the pairs that do not match apart, but only up to a
margin: beyond it they are different enough, and exert no force. They squared both parts. This loss is the same without
the squares.

The formula
-----------
With x the distance of a pair, t = 1 where it matches and t = -1 where it does not, and m the ``margin``::

    ℓ(x, t) = x                        where t = 1
              max(0, m - x)            where t = -1

The derivative, step by step
----------------------------
1. Where t = 1, dx/dx = 1.
2. Where t = -1, d(m - x)/dx = -1 as long as m - x ≥ 0, and 0 beyond.
3. Together::

       ∂ℓ/∂x = [t ≠ -1] - [t ≠ 1] [m - x ≥ 0]

t is a choice and is not differentiated.

Kinks and conventions
---------------------
At x = m the derivative is that of the slope: -1. What is neither 1 nor -1 (0, 2, nan) is not refused; PyTorch asks
whether t ≠ 1 and whether t ≠ -1, both hold, and the two parts are added, max(x, m) in all. An infinite or nan x does
not reach the part that t has not chosen, and the derivative is never nan.

What overflows or cancels
-------------------------
m - x is one rounding, and one of m in float32: ``magnitudes`` counts both where x takes most of m away. To choose by a
product with [t ≠ 1], 0 or 1, is several times faster than by a branch, but 0 · inf is nan. An m - x that is not finite
is rare, and then the choice is made by branches. The derivative is made of zeros and ones alone.

Source: Jane Bromley and others, "Signature Verification Using a Siamese Time Delay Neural Network", Advances in Neural
Information Processing Systems 6 (1993); Raia Hadsell, Sumit Chopra and Yann LeCun, "Dimensionality Reduction by
Learning an Invariant Mapping", Conference on Computer Vision and Pattern Recognition (2006);
``torch.nn.functional.hinge_embedding_loss``.

>>> import numpy as np
>>> x = np.array([0.25, 0.25, 1.0, 3.0])
>>> t = np.array([1.0, -1.0, -1.0, -1.0])

m = 1. By hand: 0.25; 1 - 0.25; at the margin 0, still with the slope of -1; beyond it nothing.

>>> items, derivatives = hinge_embedding(x, t, margin=1.0, wants=("input",))
>>> items.tolist()
[0.25, 0.75, 0.0, 0.0]
>>> derivatives["input"].tolist()
[1.0, -1.0, -1.0, 0.0]
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct, LazySum, in_place
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np, step


def definition(input: Any, target: Any, *, margin: float = 1.0, xp: Any = np) -> Any:
    """x for those who match, and max(0, m - x) for those who do not; the sum of both where t is neither 1 nor -1."""
    near = xp.where(target != -1, input, 0)
    far = xp.where(target != 1, xp.clip(margin - input, 0, None), 0)
    return near + far


def hinge_embedding(input: Array, target: Array, *, margin: float = 1.0, wants: Wants = ()) -> Terms:
    """Items of the hinge embedding loss, and their derivatives; operands broadcast together.

    Args:
        input: x, distances, any shape.
        target: t, 1 or -1.
        margin: m, the distance at which those that do not match cost nothing.
        wants: whether to differentiate input.
    """
    derivatives: Derivatives = {}
    gap = margin - input
    # 1 or 0: a product with them chooses between the two parts, several times faster than np.where
    near = step(target != -1, input)
    far = step(target != 1, input)

    if "input" in wants:
        # [t ≠ -1] - [t ≠ 1] [m - x ≥ 0], in one array from the product on
        slope = in_place(np.multiply, step(gap >= 0, input), far)
        slope = in_place(np.negative, slope)
        derivatives["input"] = in_place(np.add, slope, near)

    finite = np.isfinite(gap).all()
    hinge = in_place(np.clip, gap, 0, np.inf)
    if not finite:
        # 0 · inf is nan: here np.where has to choose
        return np.where(target != -1, input, 0) + np.where(target != 1, hinge, 0), derivatives
    return LazySum((LazyProduct(near, input), LazyProduct(far, hinge))), derivatives


def magnitudes(input: Array, target: Array, *, margin: float = 1.0) -> tuple[Array, Derivatives]:
    """The sum of |terms| of an item: m is rounded before x takes most of it away. The derivative is no difference."""
    near, far = step(target != -1, input), step(target != 1, input)
    room = np.where(margin > input, abs(margin) + np.abs(input), 0.0)
    size = np.where(near != 0, np.abs(input), 0.0) + np.where(far != 0, room, 0.0)
    return size, {"input": near + far}


__all__ = ["definition", "hinge_embedding", "magnitudes"]

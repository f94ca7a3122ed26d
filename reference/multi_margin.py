r"""Multi-margin loss: the right class should beat every other by a margin.

Where it comes from
-------------------
A support vector machine separates two classes with a margin: a sample that is right by less than the margin costs its
shortfall, the hinge. Weston and Watkins (1999) carried this to many classes: the score of the right class is compared
with that of each other class, and each comparison has a hinge of its own. Squared (p = 2), a hinge is smooth and
punishes large shortfalls more.

The formula
-----------
With x the row's C scores, t its class, w[t] the weight of that class (1 where none are given) and margin m::

    z[j] = m - x[t] + x[j]

    ℓ(x, t) = (w[t] / C) Σ max(0, z[j])^p        over j ≠ t, p = 1 or 2

The sum is divided by C, not by the C - 1 terms it has.

The derivative, step by step
----------------------------
1. d max(0, z)^p / dz = g(z), where g is [z > 0] for p = 1 and 2 max(0, z) for p = 2.
2. z[j] grows with x[j], so for j ≠ t::

       ∂ℓ/∂x[j] = (w[t] / C) g(z[j])

3. Every z[j] falls with x[t]::

       ∂ℓ/∂x[t] = -(w[t] / C) Σ g(z[j])          over j ≠ t

   The derivatives of a row sum to 0: only differences of scores matter.

Kinks and conventions
---------------------
For p = 1 there is a kink at z = 0, where the winner leads by exactly the margin: the derivative there is 0. A
comparison counts only if z > 0 holds; z = nan does not, so a nan among the scores costs nothing, as in PyTorch.

What overflows or cancels
-------------------------
z is a sum of three terms that nearly cancel exactly where it matters: at the kink, where its sign decides. a = m - x[t]
is rounded once a row; two-sum finds what that lost, b, exactly, and b takes in as well what m itself lost in becoming
a float32. z = (x[j] + a) + b then has the right sign and full precision: where x[j] and a cancel, their sum is exact
(Sterbenz). The sum over classes has no signs to cancel, and the count of classes at the target is exact.

Source: Jason Weston and Chris Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", ESANN 1999;
``torch.nn.functional.multi_margin_loss``.

>>> import numpy as np
>>> x = np.array([[1.0, 0.0, 0.5, 3.0]])
>>> t = np.array([[0]])

By hand: z = 0, 0.5, 3 for classes 1, 2, 3; (0 + 0.5 + 3) / 4. Class 1 trails by exactly the margin: no derivative.

>>> items, derivatives = multi_margin(x, t, wants=("input",))
>>> items.tolist(), derivatives["input"].tolist()
([[0.875]], [[-0.5, 0.0, 0.25, 0.25]])

Squared: (0.25 + 9) / 4, and the derivative of class j is 2 z / 4.

>>> items, derivatives = multi_margin(x, t, p=2, wants=("input",))
>>> items.tolist(), derivatives["input"].tolist()
([[2.3125]], [[-1.75, 0.0, 0.25, 1.5]])
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, class_numbers, np
from portaloss.reference.rows import places, rows, sum_rows, unrows


def definition(input: Any, target: Any, weight: Any = 1, *, p: int = 1, margin: float = 1.0, xp: Any = np) -> Any:
    """w[t] / C times the sum of max(0, m - x[t] + x[j])^p over j ≠ t."""
    own = class_numbers(input, xp) == target
    z = margin - xp.sum(xp.where(own, input, 0), axis=1, keepdims=True) + input
    hinges = xp.sum(xp.where((z > 0) & ~own, z**p, 0), axis=1, keepdims=True)
    return xp.sum(own * weight, axis=1, keepdims=True) * hinges / input.shape[1]


def multi_margin(
    input: Array, target: Array, weight: Array | None = None, *, p: int = 1, margin: float = 1.0, wants: Wants = ()
) -> Terms:
    """Items of the multi-margin loss, (N, 1, ...), and their derivatives.

    Args:
        input: x, scores, (N, C, ...).
        target: t, a class a row, (N, 1, ...), integers.
        weight: w, one a class, (1, C, 1, ...).
        p: 1, or 2 to square each hinge.
        margin: m, by how much the target's score should lead.
        wants: whether to differentiate input.
    """
    (x,) = rows(input)
    t = target.reshape(-1, 1).astype(np.intp, copy=False)
    place = places(x, t)
    share: Any = 1.0 / x.shape[1]  # w[t] / C
    if weight is not None:
        share = weight.reshape(-1)[t] / x.shape[1]

    z = hinges(x, x.reshape(-1, order="A")[place], margin)
    z.reshape(-1, order="A")[place] = 0.0  # the target is not compared with itself
    loss = sum_rows(z if p == 1 else z * z) * share

    derivatives: Derivatives = {}
    if "input" in wants:
        if p == 1:
            slope = np.greater(z, 0.0, out=z, casting="unsafe")  # in place: a tile and its temporaries share the cache
        else:
            slope, share = z, 2.0 * share
        slope.reshape(-1, order="A")[place] = -sum_rows(slope)
        if weight is not None:
            share = share.reshape(target.shape)
        derivatives["input"] = LazyProduct(unrows(slope, input), share)

    return loss.reshape(target.shape), derivatives


def hinges(x: Array, lead: Array, margin: float) -> Array:
    """max(0, margin - lead + x), where lead (R, 1) is the score that each row (R, C) is compared with; 0 for nan."""
    m = x.dtype.type(margin)
    a = m - lead
    taken = a - m  # -lead, as far as it went in; two-sum gets back exactly what a lacks of m - lead
    b = (m - (a - taken)) - (lead + taken)
    b += margin - float(m)
    np.copyto(b, 0.0, where=np.isnan(b))  # infinities have no rounding error

    z = x + a
    if b.any():
        z += b
    # fmax, since nan > 0 is false; of runs of zeros, since with a scalar NumPy takes three times as long
    zeros = np.zeros_like(z[:1] if z.flags.c_contiguous else z[:, :1])
    hinged: Array = np.fmax(z, zeros, out=z)
    return hinged


__all__ = ["definition", "hinges", "multi_margin"]

r"""Margin ranking loss: which of two ranks higher, and by how much at least.

Where it comes from
-------------------
Some judgments come as comparisons: this page suits the query better than that one, this wine is the better of the two.
Herbrich, Graepel and Obermayer (2000) learned scores from them: the better is to score higher by a margin, as in a
support vector machine, whose classes are here the two orders of a pair. Joachims (2002) found such pairs in the log of
a search engine: a page that was clicked, and one above it that was not.

The formula
-----------
With x₁ and x₂ the scores, t = 1 where the first is to be the higher and t = -1 where the second is, and m the
``margin``::

    ℓ(x₁, x₂, t) = max(0, m - t e)               e = x₁ - x₂

t e is the lead of the one that should lead.

The derivative, step by step
----------------------------
With the lead short of the margin, d(m - t e)/de = -t and d(m - t e)/dt = -e; else both are 0. With
a = [m - t e ≥ 0]::

    ∂ℓ/∂x₁ = -t a                      ∂ℓ/∂x₂ = t a                     ∂ℓ/∂t = -e a

Kinks and conventions
---------------------
At t e = m the derivative is that of the slope. With the default margin of 0 that includes each tie x₁ = x₂, and a loss
of 0 there still pulls the two apart. PyTorch multiplies by a after the gradient has passed the corner: where a is 0, an
infinite e or t makes 0 · inf = nan of what it is a factor of. t is differentiated, though it is seldom a parameter; it
may be any number, and scales the lead.

What overflows or cancels
-------------------------
Around the margin, m - t e is a difference of what has been rounded before, e: it has an error in units of e. That is
inherent, and ``magnitudes`` measures it. With m = 0 nothing cancels, and ties are found exactly: e is 0 only where
x₁ = x₂.

Source: Ralf Herbrich, Thore Graepel and Klaus Obermayer, "Large Margin Rank Boundaries for Ordinal Regression",
Advances in Large Margin Classifiers (MIT Press, 2000); Thorsten Joachims, "Optimizing Search Engines Using Clickthrough
Data", Conference on Knowledge Discovery and Data Mining (2002); ``torch.nn.functional.margin_ranking_loss``.

>>> import numpy as np
>>> first = np.array([3.0, 3.0, 2.5, 2.0])
>>> second = np.array([2.0, 2.0, 2.0, 2.0])
>>> t = np.array([1.0, -1.0, 1.0, 1.0])

m = 1/2. By hand: a lead of 1 is enough; of -1 it falls short by 1.5; of 1/2 it is at the margin, with the slope of what
falls short; a tie falls short by 1/2.

>>> items, derivatives = margin_ranking(first, second, t, margin=0.5, wants=("input1", "input2", "target"))
>>> items.tolist()
[0.0, 1.5, 0.0, 0.5]
>>> (derivatives["input1"] + 0).tolist()  # + 0: no zero of either sign, but of one
[0.0, 1.0, -1.0, -1.0]
>>> (derivatives["input2"] + 0).tolist()
[0.0, -1.0, 1.0, 1.0]
>>> (derivatives["target"] + 0).tolist()
[0.0, -1.0, -0.5, 0.0]
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct, in_place
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np, step


def definition(input1: Any, input2: Any, target: Any, *, margin: float = 0.0, xp: Any = np) -> Any:
    """max(0, m - t (x₁ - x₂))."""
    return xp.clip(margin - target * (input1 - input2), 0, None)


def margin_ranking(input1: Array, input2: Array, target: Array, *, margin: float = 0.0, wants: Wants = ()) -> Terms:
    """Items of the margin ranking loss, and their derivatives; operands broadcast together.

    Args:
        input1: x₁, scores, any shape.
        input2: x₂.
        target: t, 1 where input1 is to be the higher, -1 where input2 is.
        margin: m, the lead that is enough.
        wants: which of input1, input2, target to differentiate.
    """
    derivatives: Derivatives = {}
    # x₂ - x₁ = -e, so that t times it only has to be added to m: the sign costs nothing
    minus_e = input2 - input1
    short = minus_e * target if "target" in wants else in_place(np.multiply, minus_e, target)
    short += margin  # m - t e

    if wants:
        active = step(short >= 0, short)  # a
        if "target" in wants:
            derivatives["target"] = minus_e * active
        slope = active
        slope *= target  # t a
        if "input1" in wants:
            derivatives["input1"] = LazyProduct(slope, -1.0)
        if "input2" in wants:
            derivatives["input2"] = slope

    return in_place(np.clip, short, 0, np.inf), derivatives


def magnitudes(input1: Array, input2: Array, target: Array, *, margin: float = 0.0) -> tuple[Array, Derivatives]:
    """The sum of |terms| of an item: e is rounded before the margin takes most of it away. No derivative is a sum."""
    e, t = np.abs(input1 - input2), np.abs(target)
    return abs(margin) + t * e, {"input1": t, "input2": t, "target": e}


__all__ = ["definition", "magnitudes", "margin_ranking"]

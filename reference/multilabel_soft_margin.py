r"""Multilabel soft-margin loss: one logistic regression a class, averaged over the classes.

Where it comes from
-------------------
A photograph shows a beach, a sunset, both or neither: labels that do not exclude one another, so that a softmax, whose
probabilities compete for a total of 1, is the wrong model. The simplest right one asks C independent yes-or-no
questions and answers each by logistic regression (Cox, 1958); Boutell and others (2004) found that hard to beat for
scenes. The loss of a row is the mean of its C costs. "Soft margin" tells it from the multilabel hinge: the cost of a
right answer falls with its margin, but never reaches zero.

The formula
-----------
With x the row's C logits, t the labels (0 or 1, or a probability between them), σ(x) = 1 / (1 + exp(-x)) and w optional
weights, which broadcast::

    ℓ(x, t) = 1/C Σ w[i] c(x[i], t[i])          c(x, t) = -t log σ(x) - (1 - t) log σ(-x)

c is binary cross-entropy with logits. What differs is the item: here a row, there an element.

The derivative, step by step
----------------------------
1. d log σ(x) / dx = σ(-x), and d log σ(-x) / dx = -σ(x).
2. Hence dc/dx = -t σ(-x) + (1 - t) σ(x). With σ(-x) = 1 - σ(x) the products cancel::

       dc/dx = σ(x) - t          what the model says, less what is so

3. log σ(x) - log σ(-x) = log(σ(x) / σ(-x)) = x, so c is linear in t with the slope -x: ∂c/∂t = -x.
4. Each class enters the mean once, with its weight::

       ∂ℓ/∂x[i] = w[i] (σ(x[i]) - t[i]) / C          ∂ℓ/∂t[i] = -w[i] x[i] / C          ∂ℓ/∂w[i] = c(x[i], t[i]) / C

Kinks and conventions
---------------------
None: c is smooth. C counts the classes of the input; weights do not enter the divisor. A certainty that is right,
x = +inf with t = 1, gives 0 · inf = nan, as in PyTorch; one that is wrong gives inf. A row without classes gives 0/0,
nan.

What overflows or cancels
-------------------------
exp(-x) overflows for very negative x. -log σ(x) = log1p(exp(-x)), but for x < 0 it is also -x + log1p(exp(x)), whose
exponential is never above 1. Written for both signs at once, with [x ≥ 0] for 1 or 0::

    c(x, t) = x ([x ≥ 0] - t) + log1p(e)          e = exp(-|x|)

For t between 0 and 1 both terms are positive: nothing cancels, and a sure right answer costs e, not 0. In the
derivative σ(x) - t the same step takes out the 1 or 0 that σ saturates at::

    σ(x) - t = ([x ≥ 0] - t) ∓ e / (1 + e)          - where x ≥ 0, + where x < 0

At t = 1 and x = 20 the bracket is exactly 0 and -2e-9 is left, where float32's σ(20) = 1 would have left nothing. For a
fractional t the difference is what it is: ``magnitudes`` measures it.

In float32, exp and log1p together are off by up to 3.2 units in the last place. In the derivative by w, the sum, the
factor 1/C, the product with it and one with an upstream gradient round by half a unit each: 5.2 units at worst.

Σ adds all classes of a row. One after another in float32, thousands of terms lose several bits: ``sum_products`` adds
blocks, and then the blocks.

Source: D. R. Cox, "The Regression Analysis of Binary Sequences", Journal of the Royal Statistical Society B 20 (1958);
Matthew R. Boutell, Jiebo Luo, Xipeng Shen and Christopher M. Brown, "Learning Multi-Label Scene Classification",
Pattern Recognition 37 (2004); ``torch.nn.functional.multilabel_soft_margin_loss``.

>>> import numpy as np
>>> x = np.array([[np.log(3.0), 0.0]])
>>> t = np.array([[1.0, 0.0]])

By hand: σ(log 3) = 3/4 and σ(0) = 1/2, so ℓ = (log(4/3) + log 2) / 2, and exp(2ℓ) = 8/3. The derivatives are
(3/4 - 1, 1/2 - 0) / 2, and -x / 2.

>>> items, derivatives = multilabel_soft_margin(x, t, wants=("input", "target"))
>>> np.exp(2 * items).round(12).tolist()
[[2.666666666667]]
>>> derivatives["input"].round(12).tolist()
[[-0.125, 0.25]]
>>> bool((derivatives["target"] == -x / 2).all())
True
"""

from __future__ import annotations

from typing import Any

from portaloss.reference import bce_with_logits
from portaloss.reference.bce_with_logits import other_side, tails
from portaloss.reference.lazy import LazyProduct
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np, step
from portaloss.reference.rows import sum_products


def definition(input: Any, target: Any, weight: Any = 1, *, xp: Any = np) -> Any:
    """The mean of the binary cross-entropies of the classes."""
    costs = bce_with_logits.definition(input, target, weight, xp=xp)
    return xp.sum(costs, axis=1, keepdims=True) / input.shape[1]


def multilabel_soft_margin(input: Array, target: Array, weight: Array | None = None, *, wants: Wants = ()) -> Terms:
    """Items of the multilabel soft-margin loss, (N, 1, ...), and their derivatives; operands broadcast together.

    Args:
        input: x, logits, (N, C, ...).
        target: t, labels, 0 or 1 or between.
        weight: w, multiplies each class's cost; by default 1.
        wants: which of input, target, weight to differentiate.
    """
    derivatives: Derivatives = {}
    classes = input.shape[1]
    positive, tail, log_tail = tails(input)  # [x ≥ 0], e and log(1 + e)
    gap = positive - target
    if weight is None and "weight" not in wants and gap.shape == input.shape:
        # Σ x gap + Σ log(1 + e), each in one pass: the array of costs is never written
        items = sum_products(input, gap) + sum_products(log_tail)
    else:
        costs = input * gap
        costs += log_tail
        items = sum_products(costs) if weight is None else sum_products(costs, weight)
        if "weight" in wants:
            derivatives["weight"] = LazyProduct(costs, 1.0, classes or 1)

    if "input" in wants:
        gap += other_side(tail, positive)  # now σ(x) - t
        derivatives["input"] = LazyProduct(gap, 1.0, classes or 1) if weight is None else gap * (weight / classes)
    if "target" in wants:
        derivatives["target"] = (
            LazyProduct(input, -1.0, classes or 1) if weight is None else input * (weight / -classes)
        )

    return (items / classes).astype(input.dtype, copy=False), derivatives


def magnitudes(input: Array, target: Array, weight: Array | None = None) -> tuple[Array, Derivatives]:
    """The sums of |terms|: σ(x) - t is a difference wherever t is not 0 or 1, and so is c where t is beyond them."""
    classes = input.shape[1]
    w = np.abs(np.ones_like(input) if weight is None else weight) / classes
    gap = np.abs(step(input >= 0, input) - target)
    tail = np.exp(-np.abs(input))
    costs = np.abs(input) * gap + np.log1p(tail)
    slope = gap + tail / (1 + tail)
    return sum_products(costs, w), {"input": slope * w, "target": np.abs(input) * w, "weight": costs / classes}


__all__ = ["definition", "magnitudes", "multilabel_soft_margin"]

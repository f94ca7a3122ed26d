r"""Binary cross-entropy with logits: logistic regression, in one stable step.

Where it comes from
-------------------
Berkson (1944) fitted doses to deaths with the logistic curve and named its inverse, the log odds x = log(p / (1 - p)),
the logit. Cox (1958) made it the regression for yes-or-no data. A model that ends in logits is free to give any real
number, and the loss turns it into a probability and that into a cost at one stroke: with the exponential and the
logarithm apart, as in binary cross-entropy, whatever the exponential rounds to 0 or 1 is lost before the logarithm sees
it.

The formula
-----------
With x the logit, σ(x) = 1 / (1 + exp(-x)), t the target, 0 or 1 or a probability between, and p the weight of the
positive answers (``pos_weight``), by default 1::

    ℓ(x, t) = -p t log σ(x) - (1 - t) log σ(-x)

p > 1 makes a missed yes dearer than a false alarm, which is how a rare class is kept from being ignored. An optional
weight w multiplies ℓ. Neither w nor p is differentiated.

The derivative, step by step
----------------------------
1. d log σ(x) / dx = σ(-x), and d log σ(-x) / dx = -σ(x).
2. Hence, with a = 1 - t and b = p t for what is said for no and for yes::

       ∂ℓ/∂x = a σ(x) - b σ(-x)

   For p = 1, σ(-x) = 1 - σ(x) makes it σ(x) - t: what the model says, less what is so.
3. ℓ is linear in t::

       ∂ℓ/∂t = log σ(-x) - p log σ(x)

   For p = 1 it is log(σ(-x) / σ(x)) = -x.

Kinks and conventions
---------------------
None: ℓ is smooth. At infinite logits PyTorch's sum, (1 - t) x + (a + b) (log1p(exp(-|x|)) + max(-x, 0)), decides. At
x = inf and t = 1 it has 0 · inf, and at x = -inf and t ≤ 1, inf - inf or 0 · inf: nan. The derivatives are what the
formulas give, and with respect to x they are finite.

What overflows or cancels
-------------------------
exp(-x) overflows for very negative x, and PyTorch's sum takes (1 - t)|x| from |x| there, so that what a sure right
answer costs, exp(-|x|), is rounded away beside |x|. Let e = exp(-|x|), which is never above 1. Then::

    -log σ(x)  = log1p(e)        where x ≥ 0         -log σ(-x) = log1p(e) + x     where x ≥ 0
                 log1p(e) - x    where x < 0                      log1p(e)         where x < 0

Put in, and with k = a where x ≥ 0 and k = -b where x < 0::

    ℓ = k x + (a + b) log1p(e)

For t between 0 and 1 both terms are positive: nothing cancels. The same two cases for the sigmoids, of which
q = e / (1 + e) is the smaller and 1 - q the larger, give::

    ∂ℓ/∂x = k ∓ (a + b) q                                    - where x ≥ 0, + where x < 0
    ∂ℓ/∂t = -x ([x ≥ 0] + p [x < 0]) + (p - 1) log1p(e)

For p = 1, a + b = 1 and k = [x ≥ 0] - t. With t = 1 and x = 20, k is exactly 0 and -2e-9 is left of ∂ℓ/∂x, where
σ(x) - t in float32 is 1 - 1. For a fractional t, ∂ℓ/∂x has a zero at σ(x) = t, around which the difference is what it
is; so has ∂ℓ/∂t for p ≠ 1. ``magnitudes`` measures both. a + b is also 1 + (p - 1) t, in which a small p is lost.

In float32, exp and log1p together are off by up to 3.1 units in the last place, and each of two weights rounds again:
with both, some elements in a million are off by more than 4 units, at worst by 5.6.

Source: Joseph Berkson, "Application of the Logistic Function to Bio-Assay", Journal of the American Statistical
Association 39 (1944); D. R. Cox, "The Regression Analysis of Binary Sequences", Journal of the Royal Statistical
Society B 20 (1958); ``torch.nn.functional.binary_cross_entropy_with_logits``.

>>> import numpy as np
>>> x = np.array([np.log(3.0), np.log(3.0), 1000.0])
>>> t = np.array([1.0, 0.0, 0.0])

By hand: σ(log 3) = 3/4, so ℓ = log(4/3) and log 4; no exponential overflows in log(1 + exp(1000)) = 1000. The
derivatives are 3/4 - 1, 3/4 - 0 and 1 - 0.

>>> items, derivatives = bce_with_logits(x, t, wants=("input", "target"))
>>> np.exp(-items).round(12).tolist(), items[2].item()
([0.75, 0.25, 0.0], 1000.0)
>>> derivatives["input"].round(12).tolist()
[-0.25, 0.75, 1.0]
>>> bool((derivatives["target"] == -x).all())
True

With p = 3 a yes counts three times.

>>> items, derivatives = bce_with_logits(x, t, None, np.array(3.0), wants=("input",))
>>> np.exp(-items).round(12).tolist()  # (3/4)³
[0.421875, 0.25, 0.0]
>>> derivatives["input"].round(12).tolist()
[-0.75, 0.75, 1.0]
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct, LazySum, in_place
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np, step


def definition(input: Any, target: Any, weight: Any = 1, pos_weight: Any = 1, *, xp: Any = np) -> Any:
    """-p t log σ(x) - (1 - t) log σ(-x)."""
    yes, no = 1 / (1 + xp.exp(-input)), 1 / (1 + xp.exp(input))
    return -weight * (pos_weight * target * xp.log(yes) + (1 - target) * xp.log(no))


def bce_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    *,
    wants: Wants = (),
) -> Terms:
    """Items of binary cross-entropy with logits, and their derivatives; operands broadcast together.

    Args:
        input: x, logits, any shape.
        target: t, probabilities; often 0 or 1.
        weight: w, multiplies each item.
        pos_weight: p, multiplies what a positive answer counts.
        wants: which of input, target to differentiate.
    """
    derivatives: Derivatives = {}
    positive, tail, log_tail = tails(input)
    gap, both = _gap_and_both(positive, target, pos_weight)

    loss: Any = LazySum((LazyProduct(input, gap), log_tail if pos_weight is None else both * log_tail))
    lost = input == -np.inf
    if lost.any():
        loss = np.where(lost, (1 - target) * input - both * input, loss)  # the infinite terms of PyTorch's sum

    if "target" in wants:
        slope = -input if pos_weight is None else (pos_weight - 1) * log_tail - input * _turn(positive, pos_weight)
        derivatives["target"] = slope if weight is None else slope * weight
    if "input" in wants:
        tail = other_side(tail, positive)
        slope = in_place(np.add, tail if pos_weight is None else both * tail, gap)
        derivatives["input"] = slope if weight is None else slope * weight

    return (loss if weight is None else np.asarray(loss) * weight), derivatives


def tails(x: Array) -> tuple[Array, Array, Array]:
    """[x ≥ 0], e = exp(-|x|), and log(1 + e)."""
    tail = np.abs(x)
    tail *= -1  # in place, as below: a tile and its temporaries share the cache
    tail = in_place(np.exp, tail)
    return step(x >= 0, x), tail, np.log1p(tail)


def other_side(tail: Array, positive: Array) -> Array:
    """σ(x) - [x ≥ 0]: e / (1 + e), with a minus where x ≥ 0. Written over both."""
    tail /= 1 + tail
    positive *= -2
    positive += 1
    tail *= positive
    return tail


def magnitudes(
    input: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None
) -> tuple[Array, Derivatives]:
    """The sums of |terms|: σ(x) - t is a difference wherever t is not 0 or 1, and so is ℓ where t is beyond them."""
    w = np.abs(np.ones_like(input) if weight is None else weight)
    p = np.ones_like(input) if pos_weight is None else pos_weight
    positive = step(input >= 0, input)
    tail = np.exp(-np.abs(input))
    gap, both = _gap_and_both(positive, target, pos_weight)

    items = np.abs(input * gap) + np.abs(both) * np.log1p(tail)
    slope = np.abs(gap) + np.abs(both) * (tail / (1 + tail))
    share = np.abs(input) * _turn(positive, p) + np.abs(p - 1) * np.log1p(tail)
    return items * w, {"input": slope * w, "target": share * w}


def _gap_and_both(positive: Array, target: Array, pos_weight: Array | None) -> tuple[Array, Array | int]:
    """The factors k of x and a + b of log1p(e)."""
    if pos_weight is None:
        return positive - target, 1
    no, yes = 1 - target, pos_weight * target
    return positive * no - (1 - positive) * yes, no + yes


def _turn(positive: Array, pos_weight: Array) -> Array:
    """1 where x ≥ 0, p where x < 0."""
    turn = (1 - positive) * pos_weight
    return turn + positive


__all__ = ["bce_with_logits", "definition", "magnitudes", "other_side", "tails"]

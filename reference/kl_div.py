r"""Kullback-Leibler divergence: what it costs to believe a model when something else is true.

Where it comes from
-------------------
Kullback and Leibler (1951) watched someone who draws from one of two distributions and asked how fast the draws tell
which. If t is true, an outcome i speaks for t over q by log(tᵢ/qᵢ), and on the average by

    D(t ‖ q) = Σᵢ tᵢ log(tᵢ/qᵢ)

an outcome. That is never negative, and 0 only where q is t. In Shannon's terms it is the price of a wrong code book:
what a message from t costs in a code made for q, beyond what it must. It is no distance: D(t ‖ q) and D(q ‖ t) differ,
and q pays without limit for calling impossible what happens. A constant away, it is the cross-entropy: Σ tᵢ log tᵢ does
not depend on the model. So it is the loss for targets that are distributions themselves, as in distillation, where a
small network learns what a large one believes.

The formula
-----------
The model comes as log-probabilities x = log q, since that is what log-softmax gives. The target t is a probability, or
with ``log_target`` its logarithm. An item is one outcome's share of the sum::

    ℓ(x, t) = t (log t - x)            0 log 0 = 0
              exp(t) (t - x)           with log_target

Items may be negative; a divergence, their sum over all outcomes, may not. Which sum to take is a matter of reduction
and not of this chapter, but a trap: for a batch of N distributions over C outcomes, PyTorch's ``"mean"`` divides the
sum of the N·C items by N·C, which is 1/C of the divergence. ``"batchmean"`` divides it by N, the length of the first
axis, and is the mean divergence.

The derivative, step by step
----------------------------
1. ℓ is linear in x::

       ∂ℓ/∂x = -t                      -exp(t) with log_target

2. d(t log t)/dt = log t + t/t, by the product rule, so::

       ∂ℓ/∂t = log t + 1 - x

3. With log_target both factors depend on t, and d exp(t)/dt = exp(t)::

       ∂ℓ/∂t = exp(t) (t - x) + exp(t) = ℓ + exp(t)

Kinks and conventions
---------------------
t log t goes to 0 with t, and 0 is its value there. Its slope goes to -inf; but PyTorch differentiates the two t of
xlogy(t, t) one after the other, the first to 0 by convention and the second to t/t = 0/0: ∂ℓ/∂t is nan at t = 0. So it
is at t = inf. 0 · x is computed too: t = 0 and x = -inf is nan, though an outcome that neither expects costs nothing.
With log_target, t = -inf is exp(-inf) · -inf = nan, where ``0 log 0`` would be 0. A negative t gives nan.

What overflows or cancels
-------------------------
Nothing overflows, for probabilities. To get log t when t = 0 without an infinity, 1 is added to t where it is 0: log 1
is 0. For ∂ℓ/∂t, the 1 is computed as t/t, which is 1 exactly, and nan at 0 and at infinity without a case for either.

log t and x cancel where the model is right. That loss is inherent: log t has to be rounded before x is taken from it;
``magnitudes`` measures it. Where they do not cancel, an item is as good as its logarithm, and NumPy's in float32 is off
by up to 4 units in the last place for t between 1/2 and 2. Its logarithm to the base 2 is off by little more than 2,
and no slower, so that log t = log₂ t · log 2 is better in spite of one rounding more. With log_target, a derivative is
exp(t) and nothing else: as NumPy's float32 exp is off by up to 2.4, it is taken in float64 and rounded.

Source: S. Kullback and R. A. Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22 (1951);
``torch.nn.functional.kl_div``.

>>> import numpy as np
>>> t = np.array([0.5, 0.5, 0.0])
>>> q = np.array([0.25, 0.25, 0.5])

By hand: (1/2) log(2) twice, and 0: the divergence is log 2. The derivatives are -t, and log 2 + 1.

>>> with np.errstate(invalid="ignore"):  # 0/0
...     items, derivatives = kl_div(np.log(q), t, wants=("input", "target"))
>>> np.exp(items.sum()).round(12).item()
2.0
>>> (-derivatives["input"]).tolist()
[0.5, 0.5, 0.0]
>>> np.exp(derivatives["target"] - 1).round(12).tolist()
[2.0, 2.0, nan]

The same two outcomes, with the logarithms of t given: the derivative is (1/2) log 2 + 1/2, of log t.

>>> items, derivatives = kl_div(np.log(q[:2]), np.log(t[:2]), log_target=True, wants=("target",))
>>> np.exp(items.sum()).round(12).item()
2.0
>>> np.exp(2 * derivatives["target"] - 1).round(12).tolist()
[2.0, 2.0]
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct, in_place
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, exp, log, np


def definition(input: Any, target: Any, *, log_target: bool = False, xp: Any = np) -> Any:
    """t (log t - x), and 0 where t is 0; or with t in logarithms."""
    if log_target:
        return xp.exp(target) * (target - input)
    log_t = xp.log(xp.where(target == 0, 1, target))
    return target * (log_t - input)


def kl_div(input: Array, target: Array, *, log_target: bool = False, wants: Wants = ()) -> Terms:
    """Items of the Kullback-Leibler divergence, and their derivatives; operands broadcast together.

    Args:
        input: x, log-probabilities, any shape.
        target: t, probabilities, or with log_target their logarithms.
        log_target: whether target is in logarithms.
        wants: which of input, target to differentiate.
    """
    derivatives: Derivatives = {}
    if log_target:
        probability = exp(target)
        loss = LazyProduct(target - input, probability)
        if "input" in wants:
            derivatives["input"] = LazyProduct(probability, -1.0)
        if "target" in wants:
            derivatives["target"] = loss + probability
        return loss, derivatives

    zero = target == 0
    log_t = log(target + zero if zero.any() else target)  # the sum with a mask takes as long as the logarithm
    if "input" in wants:
        derivatives["input"] = LazyProduct(target, -1.0)
    if "target" in wants:
        slope = target / target  # 1, or nan at 0
        slope += log_t
        derivatives["target"] = slope - input

    if np.isinf(log_t).any():
        return log_t * target - target * input, derivatives  # nan where both are infinite
    return LazyProduct(in_place(np.subtract, log_t, input), target), derivatives


def magnitudes(input: Array, target: Array, *, log_target: bool = False) -> tuple[Array, Derivatives]:
    """The sums of |terms|: log t and x cancel where the model is right."""
    if log_target:
        probability = exp(target)
        item = probability * np.abs(target - input)
        return item, {"input": probability, "target": item + probability}
    size = np.abs(log(target + (target == 0)))
    t, x = np.abs(target), np.abs(input)
    return t * size + t * x, {"input": t, "target": size + 1 + x}


__all__ = ["definition", "kl_div", "magnitudes"]

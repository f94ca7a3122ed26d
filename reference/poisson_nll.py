r"""Poisson negative log-likelihood: counts, and the rate at which they come.

Where it comes from
-------------------
Things that happen seldom and one without regard to the other (Poisson, 1837) are counted with the probability
λᵗ exp(-λ) / t!, where λ is how many are expected. Bortkiewicz (1898) made the law famous with the Prussian cavalrymen
whom their own horses kicked to death: 122 in 200 corps-years, and no more years of 3 or 4 than chance alone would have.
The variance of a count is λ itself, so that least squares heeds large counts too much. Nelder and Wedderburn (1972)
gave such data a regression of their own: log λ is a function of what is known, and the likelihood is maximised.

The formula
-----------
The negative logarithm of that probability is λ - t log λ + log t!. The input x is the rate λ or, with ``log_input``,
its logarithm, which may be any number; ε (``eps``) keeps log 0 away::

    ℓ(x, t) = exp(x) - t x             with log_input
              x - t log(x + ε)         without

log t! does not depend on x and is left out, unless ``full`` asks for it. Then Stirling's approximation stands in::

    log t! ≈ t log t - t + log(2πt)/2            where t > 1, else 0

At t = 2 that is 0.652, where log 2! is 0.693.

The derivative, step by step
----------------------------
1. With log_input, d exp(x)/dx = exp(x)::

       ∂ℓ/∂x = exp(x) - t              ∂ℓ/∂t = -x

   The first is what is expected less what came: 0 at x = log t.
2. Without::

       ∂ℓ/∂x = 1 - t/(x + ε)           ∂ℓ/∂t = -log(x + ε)

3. Of Stirling's terms, d(t log t)/dt = log t + 1, d(-t)/dt = -1, d(log(2πt)/2)/dt = 1/(2t). Where t > 1, ∂ℓ/∂t has
   another::

       log t + 1/(2t)

Kinks and conventions
---------------------
With full, ℓ jumps by log(2π)/2 - 1 = -0.081 at t = 1, where the approximation starts; at t = 1 itself it has not.
PyTorch computes it everywhere and masks it where t ≤ 1, the gradient too; what remains there is 0 · log t, which is 0
for 0 < t ≤ 1, but nan at t = 0: with full, a count of zero has ∂ℓ/∂t = nan. So have negative and infinite t. ∂ℓ/∂x has
no such trouble. Without log_input, a rate of less than -ε has a nan for a logarithm.

What overflows or cancels
-------------------------
exp(x) overflows when it should: the item is beyond the dtype. exp(x) - t and exp(x) - t x cancel around the best x,
and Stirling's terms around t = 1.15; ``magnitudes`` measures these, for there is no way around them. In float32, where
NumPy's exp is off by up to 2.4 units in the last place, it is taken in float64 and rounded.

Without log_input there is. 1 - t/(x + ε) would keep no digits near x = t, but on the common denominator::

    ∂ℓ/∂x = (x - t + ε) / (x + ε)

x - t is right to its last place. Where that is not finite, as inf/inf at an infinite x, 1 - t/(x + ε) serves.

x + ε in float32 is x, unless x is very small. That is harmless but for x near 1, where ε is all that is left of the
logarithm: log(1 + 1e-8) is 1e-8, not 0. With s for the rounded sum, what rounding took is r = (x - s) + ε, exactly, if
ε is the smaller of the two (Dekker, 1971), and the logarithm takes it back to first order::

    log(x + ε) = log s + r/s

The logarithm itself is that of the chapter on KL divergence.

Source: J. A. Nelder and R. W. M. Wedderburn, "Generalized Linear Models", Journal of the Royal Statistical Society A
135 (1972); T. J. Dekker, "A Floating-Point Technique for Extending the Available Precision", Numerische Mathematik 18
(1971); ``torch.nn.functional.poisson_nll_loss``.

>>> import numpy as np
>>> x = np.log(np.array([2.0, 2.0]))
>>> t = np.array([0.0, 3.0])

By hand: 2 - 0 and 2 - 3 log 2, so that exp(2 - ℓ) is 2⁰ and 2³. The derivatives are 2 - 0 and 2 - 3, and -log 2.

>>> items, derivatives = poisson_nll(x, t, wants=("input", "target"))
>>> np.exp(2 - items).round(12).tolist()
[1.0, 8.0]
>>> derivatives["input"].round(12).tolist()
[2.0, -1.0]
>>> np.exp(-derivatives["target"]).round(12).tolist()
[2.0, 2.0]

The rate itself for an input: the same items, and 1 - t/2.

>>> items, derivatives = poisson_nll(np.exp(x), t, log_input=False, eps=0.0, wants=("input",))
>>> np.exp(2 - items).round(12).tolist()
[1.0, 8.0]
>>> derivatives["input"].round(12).tolist()
[1.0, -0.5]

Stirling's approximation of 3! = 6 is 3³ exp(-3) √(6π) = 5.836; of 0! it is 1.

>>> (np.exp(poisson_nll(x, t, full=True)[0] - poisson_nll(x, t)[0])).round(3).tolist()
[1.0, 5.836]
"""

from __future__ import annotations

import math
from typing import Any

from portaloss.reference.lazy import LazyProduct, LazySum
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, exp, log, np, step

#: log(2π)/2.
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def definition(
    input: Any, target: Any, *, log_input: bool = True, full: bool = False, eps: float = 1e-8, xp: Any = np
) -> Any:
    """λ - t log λ, and Stirling's approximation of log t!."""
    rate, log_rate = (xp.exp(input), input) if log_input else (input, xp.log(input + eps))
    loss = rate - target * log_rate
    if not full:
        return loss
    stirling = target * xp.log(target) - target + xp.log(2 * xp.pi * target) / 2
    return loss + xp.where(target > 1, stirling, 0)


def poisson_nll(
    input: Array,
    target: Array,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    wants: Wants = (),
) -> Terms:
    """Items of the Poisson negative log-likelihood, and their derivatives; operands broadcast together.

    Args:
        input: x, the rate's logarithm or, without log_input, the rate; any shape.
        target: t, counts.
        log_input: whether input is a logarithm.
        full: whether to add Stirling's approximation of log t!.
        eps: ε ≥ 0, added to a rate before its logarithm is taken.
        wants: which of input, target to differentiate.
    """
    derivatives: Derivatives = {}
    if log_input:
        rate, log_rate = exp(input), input
    else:
        rate, log_rate = input, _log_sum(input, eps)

    if "input" in wants:
        derivatives["input"] = rate - target if log_input else _slope_in_rate(input, target, eps)
    if "target" in wants:
        derivatives["target"] = -log_rate

    loss = LazySum((rate, LazyProduct(target, log_rate, -1.0)))
    if full:
        large, count, log_count = _large(target)
        if "target" in wants:
            slope = 0.5 / count
            slope += log_count
            slope *= large
            slope += 0 * np.log(target)  # nan at 0 and at infinity, as in PyTorch
            derivatives["target"] = derivatives["target"] + slope
        log_count *= count + 0.5
        log_count -= count
        log_count += HALF_LOG_TAU
        log_count *= large
        loss = LazySum((*loss.parts, log_count))
    return loss, derivatives


def _log_sum(x: Array, eps: float) -> Array:
    """log(x + ε), exact near 1."""
    total = x + eps
    lost = x - total
    lost += eps
    lost /= total
    logarithm = log(total)
    logarithm += np.fmin(lost, 1)  # of no effect but on nan, which is inf - inf at an infinite x
    return logarithm


def _slope_in_rate(x: Array, t: Array, eps: float) -> Array:
    """1 - t/(x + ε), exact near x = t."""
    total = x + eps
    slope: Array = x - t
    slope += eps
    slope /= total
    finite = np.isfinite(slope)
    if not finite.all():
        slope = np.where(finite, slope, 1 - t / total)
    return slope


def _large(t: Array) -> tuple[Array, Array, Array]:
    """[t > 1], and t and log t where they are wanted; 1 and 0 elsewhere, since what is masked has to be finite."""
    count = np.clip(t, 1, np.inf)
    return step(t > 1, t), count, log(count)


def magnitudes(
    input: Array, target: Array, *, log_input: bool = True, full: bool = False, eps: float = 1e-8
) -> tuple[Array, Derivatives]:
    """The sums of |terms|: what is expected and what came cancel, and the sum x + ε has to be rounded."""
    t = np.abs(target)
    if log_input:
        rate, log_rate = exp(input), np.abs(input)
        slope, share = rate + t, log_rate
    else:
        total = np.abs(input + eps)
        rate, log_rate = np.abs(input), np.abs(_log_sum(input, eps))
        slope, share = (np.abs(input - target) + eps) / total, log_rate + eps / total
    item = rate + t * log_rate
    if full:
        large, count, log_count = _large(target)
        item = item + large * ((count + 0.5) * log_count + count + HALF_LOG_TAU)
        share = share + large * (log_count + 0.5 / count)
    return item, {"input": slope, "target": share}


__all__ = ["HALF_LOG_TAU", "definition", "magnitudes", "poisson_nll"]

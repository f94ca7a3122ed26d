r"""Binary cross-entropy: what a forecast of a yes or no costs, once it is known which.

Where it comes from
-------------------
Good (1952) asked how to pay a forecaster who says that it will rain with probability x, so that saying what she
believes is her best policy. Pay her log x if it rains and log(1 - x) if it does not: among rules that look only at the
probability given to what happened, only the logarithm is honest. Its negative is also the length in bits, up to a
factor, that Shannon's code (1948) spends on the news. Solla, Levin and Fleisher (1988) took it into neural networks,
where it learns faster than squared error: an answer that is sure and wrong keeps a strong gradient.

The formula
-----------
With x the predicted probability and t the target, 0 or 1, or a probability between them::

    ℓ(x, t) = -t log x - (1 - t) log(1 - x)          each log at least -100

An optional weight w multiplies ℓ; it is not differentiated.

The derivative, step by step
----------------------------
1. d(-log x)/dx = -1/x and d(-log(1 - x))/dx = 1/(1 - x). On the common denominator::

       ∂ℓ/∂x = -t/x + (1 - t)/(1 - x) = (x - t) / (x (1 - x))

2. ℓ is linear in t, with the slope log(1 - x) - log x, the log odds against::

       ∂ℓ/∂t = log((1 - x) / x)

Kinks and conventions
---------------------
At x = 0 or 1 one logarithm is -inf, and 0 · inf would make even a right answer nan. PyTorch's conventions: a logarithm
in ℓ is at least -100, so that an item is at most 100; the denominator of ∂ℓ/∂x is at least ε = 1e-12, so that a
gradient is at most 1e12; ∂ℓ/∂t is cut off nowhere and reaches ±inf. They do not fit each other: where log x is cut off,
ℓ is flat but the gradient is not 0. That is wanted, for an answer that is sure and wrong must find its way back. ε is a
float in PyTorch's code even where it computes in doubles: as a double it is 9.999999960041972e-13.

What overflows or cancels
-------------------------
log(1 - x) for a small x: 1 - x rounds x away. log1p(-x) does not. Likewise log x near 1 is more exact as log1p of
x - 1, which is -(1 - x), and for x ≥ 1/2 that difference has no rounding error. Both at once, with m the smaller of x
and 1 - x, and g the share of the target that goes with it::

    ℓ = -(g log m + (1 - g) log1p(-m))          m = min(x, 1 - x),  g = |[x ≥ 1/2] - t|

Both terms are positive: nothing cancels. Neither does x - t: it is one rounding of what is given.

log(1 - x) - log x loses all its digits near x = 1/2, where both are -log 2. One logarithm keeps them::

    ∂ℓ/∂t = ±log((1 - m) / m) = ±log1p((1 - 2m) / m)          + where x < 1/2, - where x ≥ 1/2

1 - 2m is small near 1/2 and right to its last place. For a subnormal m, 1/m overflows: there the derivative is -log m.

Source: I. J. Good, "Rational Decisions", Journal of the Royal Statistical Society B 14 (1952); Sara A. Solla, Esther
Levin and Michael Fleisher, "Accelerated Learning in Layered Neural Networks", Complex Systems 2 (1988);
``torch.nn.functional.binary_cross_entropy``.

>>> import numpy as np
>>> x = np.array([0.25, 0.25])
>>> t = np.array([1.0, 0.0])

By hand: -log(1/4) and -log(3/4). The derivatives are (x - t) / (3/16), that is -4 and 4/3, and log 3.

>>> items, derivatives = bce(x, t, wants=("input", "target"))
>>> np.exp(-items).round(12).tolist()
[0.25, 0.75]
>>> derivatives["input"].round(12).tolist()
[-4.0, 1.333333333333]
>>> np.exp(derivatives["target"]).round(12).tolist()
[3.0, 3.0]

Sure, and wrong: -100 stands for log 0, and ε for 0 · 1. NumPy would warn of the logarithm.

>>> with np.errstate(divide="ignore"):
...     items, derivatives = bce(np.array([0.0]), np.array([1.0]), wants=("input",))
>>> items.tolist()
[100.0]
>>> bool(derivatives["input"][0] == -1 / EPSILON)
True
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct, LazySum, in_place
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np

#: The least that a logarithm in an item may be.
LOG_FLOOR = -100.0
#: The least that x (1 - x) may be in ∂ℓ/∂x: 1e-12 as a float32.
EPSILON = 9.999999960041972e-13


def definition(input: Any, target: Any, weight: Any = 1, *, xp: Any = np) -> Any:
    """-t log x - (1 - t) log(1 - x), with logarithms of at least -100."""
    log_yes = xp.clip(xp.log(input), -100, None)
    log_no = xp.clip(xp.log(1 - input), -100, None)
    return -weight * (target * log_yes + (1 - target) * log_no)


def bce(input: Array, target: Array, weight: Array | None = None, *, wants: Wants = ()) -> Terms:
    """Items of binary cross-entropy, and their derivatives; operands broadcast together.

    Args:
        input: x, probabilities, any shape.
        target: t, probabilities; often 0 or 1.
        weight: w, multiplies each item.
        wants: which of input, target to differentiate.
    """
    derivatives: Derivatives = {}
    # from here on in place where that can be: a tile and its temporaries share the cache
    rest = 1 - input
    smaller = np.minimum(input, rest)
    upper = np.rint(input)  # 1/2 may count as either

    if "input" in wants:
        slope = input - target
        rest *= input
        slope /= in_place(np.clip, rest, EPSILON, 1)  # np.clip takes a third of the time of np.maximum
        derivatives["input"] = slope if weight is None else slope * weight
    if "target" in wants:
        slope = _log_odds_against(input, smaller, upper)
        derivatives["target"] = slope if weight is None else slope * weight

    share = in_place(np.subtract, upper, target)
    share = in_place(np.abs, share)
    gain = in_place(np.clip, np.log(smaller), LOG_FLOOR, 0)
    rest_gain = in_place(np.log1p, in_place(np.negative, smaller))
    loss = LazySum((LazyProduct(gain, share, -1.0), LazyProduct(rest_gain, share - 1)))
    return (loss if weight is None else loss.times(weight)), derivatives


def _log_odds_against(x: Array, smaller: Array, upper: Array) -> Array:
    """log((1 - x) / x), exact near x = 1/2."""
    odds = -2 * smaller
    odds += 1
    odds /= smaller
    slope: Array = np.log1p(odds)
    slope *= 1 - 2 * upper
    subnormal = x < np.finfo(x.dtype).tiny  # 1/x may overflow
    if subnormal.any():
        slope = np.where(subnormal, -np.log(x), slope)
    return slope


__all__ = ["EPSILON", "LOG_FLOOR", "bce", "definition"]

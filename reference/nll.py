r"""Negative log-likelihood: minus the log-probability of the class that was observed.

Where it comes from
-------------------
Fisher's maximum likelihood: of all parameters, take those under which what was observed was most probable.
Probabilities of independent observations multiply; their logarithms add; a minus sign turns the largest into the
smallest. So a row of log-probabilities x, one a class, and the class t that came up cost -x[t]. The loss itself does no
normalising: that x is a log-softmax, say, is the caller's promise. Cross-entropy keeps the promise itself.

The formula
-----------
With x the row's C log-probabilities, t its class and w the weights of the classes (1 where none are given)::

    ℓ(x, t) = -w[t] x[t]          0 where t is ignore_index

The mean is one over the classes' weights, not over the rows: Σ ℓ / Σ w[t], both sums over the rows that count.
``divisor`` below is that denominator.

The derivative, step by step
----------------------------
1. ℓ depends on one element of the row, linearly::

       ∂ℓ/∂x[j] = -w[t]   where j = t
                  0       elsewhere

   All but one a row are 0, and stay it where an upstream gradient is inf or nan: a ``OneHot`` has the one.
2. An ignored row has a loss of 0 whatever x is, so all its derivatives are 0.

Kinks and conventions
---------------------
None: ℓ is linear. ``ignore_index`` may be any integer, a class among them. Where every row is ignored the mean is 0/0:
nan. So it is where all weights are 0, and ∂ℓ/∂x[t] with it. An ignored row gives 0 even where x is nan. A weight of 0
is not the same as ignoring: at x[t] = -inf it gives 0 · inf = nan.

What overflows or cancels
-------------------------
Nothing here: a product, exact but for one rounding. The accuracy of -x[t] was decided when x was made. For a confident
row log-softmax subtracts two almost equal numbers, and in float32 the loss of a class with probability 0.99999999 comes
out as 0. That is why cross-entropy is a chapter of its own and not this one after a log-softmax.

Source: R. A. Fisher, "On the Mathematical Foundations of Theoretical Statistics", Philosophical Transactions of the
Royal Society A 222 (1922); ``torch.nn.functional.nll_loss``.

>>> import numpy as np
>>> x = np.log([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.25, 0.5, 0.25]])
>>> t = np.array([[0], [1], [-100]])
>>> w = np.array([[1.0, 2.0, 5.0]])

In units of log 2: the first row costs 1 · 1, the second 2 · 3, and the third is ignored.

>>> items, derivatives = nll(x, t, w, wants=("input",))
>>> np.round(items[:, 0] / np.log(2), 12).tolist()
[1.0, 6.0, 0.0]
>>> np.asarray(derivatives["input"]).tolist()
[[-1.0, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, 0.0]]

The mean divides by the weights of classes 0 and 1.

>>> divisor(t, w)
3.0
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import OneHot
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, class_numbers, np


def definition(input: Any, target: Any, weight: Any = 1, *, ignore_index: int = -100, xp: Any = np) -> Any:
    """-w[t] x[t], and 0 in an ignored row."""
    own = (class_numbers(input, xp) == target) & (target != ignore_index)
    return xp.sum(xp.where(own, -weight * input, 0), axis=1, keepdims=True)


def nll(
    input: Array, target: Array, weight: Array | None = None, *, ignore_index: int = -100, wants: Wants = ()
) -> Terms:
    """Items of the negative log-likelihood, (N, 1, ...), and their derivatives.

    Args:
        input: x, log-probabilities, (N, C, ...).
        target: t, a class a row, (N, 1, ...), integers.
        weight: w, one a class, (1, C, 1, ...).
        ignore_index: rows with this target cost nothing.
        wants: whether to differentiate input.
    """
    derivatives: Derivatives = {}
    if input.shape[1] == 0:  # no classes, so all rows are ignored
        return np.zeros(target.shape, input.dtype), {name: np.zeros_like(input) for name in wants}
    counted = target != ignore_index
    some_ignored = not counted.all()
    # an ignored row looks up class 0, and what it found is dropped
    t = (np.where(counted, target, 0) if some_ignored else target).astype(np.intp, copy=False)

    loss = -np.take_along_axis(input, t, axis=1)
    slope = None if weight is None else -weight.reshape(-1)[t]
    if slope is not None:
        loss = loss * -slope  # not in place: a 16-bit input is not widened for the one class of a row that is read
    if some_ignored:
        np.copyto(loss, 0.0, where=~counted)

    if "input" in wants:
        values = np.full(t.shape, -1, input.dtype) if slope is None else slope
        derivatives["input"] = OneHot(np.where(counted, t, -1) if some_ignored else t, values, input.shape)

    return loss, derivatives


def divisor(target: Array, weight: Array | None = None, *, ignore_index: int = -100) -> float:
    """What the mean divides by where targets are classes: the sum of the counted rows' weights, or their number.

    Summed in float64 whatever the weights' dtype: in a narrow one the sum stops growing. 0 where no row counts.
    """
    counted = target != ignore_index
    if weight is None:
        return float(np.count_nonzero(counted))
    return float(weight.reshape(-1).astype(np.float64)[target[counted].astype(np.intp)].sum())

r"""Multilabel margin loss: every right class should beat every wrong one by a margin.

Where it comes from
-------------------
A sample may have several right classes at once. What one then asks of the scores is a ranking: right classes above
wrong ones. Elisseeff and Weston (2001) trained for that directly, with a hinge for each pair of a right and a wrong
class. This loss is that sum of hinges, divided by the number of classes.

The formula
-----------
With x the row's C scores and Y the set of its right classes::

    ℓ(x, Y) = (1/C) Σ Σ max(0, 1 - x[y] + x[i])        over y ∈ Y and i ∉ Y

The target is a row of C integers: the classes of Y in any order, then -1. Whatever follows the first -1 is not read.

The derivative, step by step
----------------------------
1. A pair with z = 1 - x[y] + x[i] > 0 contributes 1/C to the slope at i and -1/C at y.
2. So with n[i, y] = [z > 0]::

       ∂ℓ/∂x[i] =  (1/C) Σ n[i, y]   over y ∈ Y          for i ∉ Y
       ∂ℓ/∂x[y] = -(1/C) Σ n[i, y]   over i ∉ Y          for y ∈ Y

   Each is a count over C.

Kinks and conventions
---------------------
At z = 0 the derivative is 0. With no right classes, or no wrong ones, the loss is 0. A pair counts only if z > 0 holds,
so a nan among the scores costs nothing, as in PyTorch. A class that is listed twice counts twice.

What overflows or cancels
-------------------------
Each z is computed as in ``multi_margin``: the sign is right and the precision full. Each label's hinges are summed in
pairs along the classes, and the labels' sums in pairs again. Sorting the scores would turn the double sum into prefix
sums, but of differences that cancel; a pass over the row for each label does not, and costs what PyTorch's loop does.

Source: André Elisseeff and Jason Weston, "A Kernel Method for Multi-Labelled Classification", NIPS 14 (2001);
``torch.nn.functional.multilabel_margin_loss``.

>>> import numpy as np
>>> x = np.array([[0.0, 0.5, 1.0, 2.0]])
>>> y = np.array([[3, 1, -1, 0]])

Right are 3 and 1. Class 3 leads class 0 by 2 and class 2 by exactly the margin: z is -1 and 0. Class 1 leads class 0 by
0.5 and trails class 2 by 0.5: z is 0.5 and 1.5. Together 2 / 4.

>>> items, derivatives = multilabel_margin(x, y, wants=("input",))
>>> items.tolist(), derivatives["input"].tolist()
([[0.5]], [[0.25, -0.5, 0.25, 0.0]])
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.multi_margin import hinges
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, class_numbers, np
from portaloss.reference.rows import places, rows, sum_rows, unrows


def definition(input: Any, target: Any, *, xp: Any = np) -> Any:
    """The sum of max(0, 1 - x[y] + x[i]) over right classes y and wrong classes i, over C."""
    listed = xp.cumsum(target < 0, axis=1)[:, :, None] == 0  # before the first -1
    pairs = (target[:, :, None] == class_numbers(input, xp)[:, None]) & listed  # (N, labels y, classes i, ...)
    right = xp.sum(pairs, axis=1, keepdims=True) > 0
    z = 1 - xp.sum(xp.where(pairs, input[:, None], 0), axis=2, keepdims=True) + input[:, None]
    hinges = xp.where((z > 0) & listed & ~right, z, 0)
    return xp.sum(hinges, axis=(1, 2))[:, None] / input.shape[1]


def multilabel_margin(input: Array, target: Array, *, wants: Wants = ()) -> Terms:
    """Items of the multilabel margin loss, (N, 1, ...), and their derivatives.

    Args:
        input: x, scores, (N, C, ...).
        target: the right classes of each row, then -1, (N, C, ...), integers.
        wants: whether to differentiate input.
    """
    (scores,) = rows(input)
    count, classes = scores.shape
    listed = np.moveaxis(target, 1, -1).reshape(count, classes)
    ended = listed < 0
    labels = np.where(ended.any(axis=1), np.argmax(ended, axis=1), classes)  # how many each row has

    # The k-th labels of all rows are compared with all classes in one step, for k = 0, 1, ... For the rows that have a
    # k-th label to be the first ones, a plain slice, rows are sorted by how many labels they have.
    order = np.argsort(-labels, kind="stable") if (labels[1:] > labels[:-1]).any() else np.arange(count)
    labels = labels[order]
    most = int(labels[0]) if count else 0
    x = np.asarray(scores[order], order="C" if scores.flags.c_contiguous else "F")  # a copy, to be written to
    place = places(x, listed[order, :most].astype(np.intp))
    real = np.arange(most) < labels[:, None]
    lead = np.zeros((count, most), x.dtype)
    lead[real] = x.reshape(-1, order="A")[place[real]]
    # A right class is compared with wrong ones only: at -inf it is never within the margin of another right one.
    x.reshape(-1, order="A")[place[real]] = -np.inf

    sums = np.zeros((count, most))  # one number a label, so that float64 costs nothing and the loss is rounded once
    slope = np.zeros_like(x)
    for k in range(most):
        some = int(np.count_nonzero(labels > k))
        z = hinges(x[:some], lead[:some, k : k + 1], 1.0)
        sums[:some, k : k + 1] = sum_rows(z)
        if "input" in wants:
            counted = np.greater(z, 0.0, out=z, casting="unsafe")  # n[i, y], over z, which is not needed again
            slope[:some] += counted
            slope.reshape(-1, order="A")[place[:some, k]] -= sum_rows(counted)[:, 0]

    loss = np.empty((count, 1), input.dtype)  # and back into the order that was given
    loss[order] = np.add.reduce(sums, axis=1, keepdims=True) / classes

    derivatives: Derivatives = {}
    if "input" in wants:
        slope /= classes
        x[order] = slope
        derivatives["input"] = unrows(x, input)

    return loss.reshape(input.shape[0], 1, *input.shape[2:]), derivatives

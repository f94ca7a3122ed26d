"""Triplets of integers and complex numbers, which PyTorch accepts too: their distances become those of real vectors."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from portaloss import arrays, dispatch
from portaloss.arrange.rowwise import triplet_shape
from portaloss.functional._arrays import are_complex, are_integers, floating, has_shape, named, zero
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import as_reduction


def triplet_loss(
    reduction: Any, anchor: Any, positive: Any, negative: Any, *, eps: float, swap: bool, **options: Any
) -> Any:
    """The loss of triplets of any dtype."""
    triplet = (anchor, positive, negative)
    if are_integers(*triplet) or are_complex(*triplet):
        triplet_shape(*triplet)
        return _of_gaps(reduction, *triplet, eps=eps, swap=swap, **options)
    pairs = [(anchor, positive), (anchor, negative), *([(positive, negative)] if swap else [])]
    if has_shape(*triplet) and any(are_integers(*pair) for pair in pairs):
        triplet = tuple(map(floating, triplet))  # the distance of two integer vectors is float32
    operands = dict(zip(("anchor", "positive", "negative"), triplet, strict=True))
    return dispatch.loss(LossKind.TRIPLET_MARGIN, reduction, operands, eps=eps, swap=swap, **options)


def _of_gaps(
    reduction: Any, anchor: Any, positive: Any, negative: Any, *, eps: float, swap: bool, **options: Any
) -> Any:
    """The loss from the moduli |x - y + ε| of the differences, which are computed in the operands' own dtype.

    The distance of the moduli from 0 is that of x from y. With swap, the negative has two distances and the smaller one
    counts; since the loss falls with the distance, the item is the larger of the two losses.
    """

    def gap(**pair: Any) -> Any:
        with np.errstate(over="ignore"):  # unsigned integers wrap around, as in PyTorch
            return named(lambda x, y: abs(floating(x - y) + eps), **pair)

    near = gap(anchor=anchor, positive=positive)
    fars = [gap(anchor=anchor, negative=negative), *([gap(positive=positive, negative=negative)] if swap else [])]
    losses = [
        dispatch.loss(
            LossKind.TRIPLET_MARGIN,
            "none" if swap else reduction,
            {"anchor": zero(near, near.ndim), "positive": near, "negative": far},
            eps=0.0,
            **options,
        )
        for far in fars
    ]
    if not swap:
        return losses[0]
    maximum = sys.modules["torch"].maximum if arrays.is_tensor(near) else np.maximum
    items = maximum(*losses)
    meant = as_reduction(reduction)
    return items if meant is LossReduction.NONE else items.mean() if meant is LossReduction.MEAN else items.sum()

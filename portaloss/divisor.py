"""What a mean divides by. It is data: a count, a sum of weights, or one length an item."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.arrange import Arranged
from portaloss.catalogue import Divisor, Loss
from portaloss.checks import is_floating
from portaloss.reference import nll


def divisor(loss: Loss, options: Mapping[str, Any], arranged: Arranged) -> float | npt.NDArray[np.float64]:
    """The divisor of a mean, in float64: a number, or for CTC one for each item.

    It may be 0, where there are no items or none counts: that mean is nan.
    """
    operands = arranged.operands
    if "normalizer" in operands:
        return float(operands["normalizer"])
    if loss.divisor is Divisor.TARGET_LENGTHS:
        lengths = operands["target_lengths"]
        each: npt.NDArray[np.float64] = np.maximum(lengths, 1).astype(np.float64) * len(lengths)
        return each
    if loss.divisor is Divisor.WEIGHT_SUM and "weight" in operands:
        return float(operands["weight"].astype(np.float64).sum())
    if "token_weight" in operands:
        return _token_weight_sum(options["ignore_index"], operands)
    if loss.divisor is Divisor.CLASS_WEIGHT_SUM and not is_floating(operands["target"]):
        return nll.divisor(operands["target"], operands.get("weight"), ignore_index=options["ignore_index"])
    if options.get("batchmean"):
        shape = operands["input"].shape
        return float(shape[0]) if shape else 1.0
    return float(prod(arranged.items_shape))


def _token_weight_sum(ignore_index: int, operands: Mapping[str, npt.NDArray[Any]]) -> float:
    """Tokens count as much as they weigh, times their class's weight; those that are ignored don't."""
    each, target = operands["token_weight"].astype(np.float64), operands["target"]
    if not is_floating(target):
        counted = target != ignore_index
        each = each * counted
        if "weight" in operands:
            each *= operands["weight"].reshape(-1)[np.where(counted, target, 0)]
    return float(each.sum())


def is_data(loss: Loss, arranged: Arranged) -> bool:
    """Whether the divisor depends on the operands' values, and not on their shapes and dtypes alone."""
    operands = arranged.operands
    if "normalizer" in operands or "token_weight" in operands:
        return True
    if loss.divisor is Divisor.WEIGHT_SUM:
        return "weight" in operands
    if loss.divisor is Divisor.CLASS_WEIGHT_SUM:
        return not is_floating(operands["target"])
    return loss.divisor is Divisor.TARGET_LENGTHS


def counts(loss: Loss, options: Mapping[str, Any], arranged: Arranged) -> npt.NDArray[np.bool_] | None:
    """Which items count at all, in the chapter's shape of items; None where all do.

    An item that doesn't has a gradient of exactly 0, even where the divisor is 0 too and 0/0 would be nan.
    """
    if loss.divisor is not Divisor.CLASS_WEIGHT_SUM or is_floating(arranged.operands["target"]):
        return None
    counted: npt.NDArray[np.bool_] = arranged.operands["target"] != options["ignore_index"]
    return counted

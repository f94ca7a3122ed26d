"""What a mean divides by. It is data: a count, a sum of weights, or one length an item. Kernels never know of it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from portaloss.catalogue import Divisor, Loss
from portaloss.checks import Shape, is_floating

Array = Any  # of either library


def divisor(
    loss: Loss, options: Mapping[str, Any], operands: Mapping[str, Array], items_shape: Shape, xp: Any
) -> float | Array:
    """The divisor of a mean, in float64: a number, or for CTC one for each item.

    It may be 0, where there are no items or none counts: that mean is nan. It stays on the operands' device.

    Args:
        loss: an entry of the catalogue.
        options: by name.
        operands: in the chapter's shapes, all on one device.
        items_shape: of the result with reduction none.
        xp: the operands' library, numpy or torch.
    """
    if "normalizer" in operands:
        return operands["normalizer"].reshape(()).sum(dtype=xp.float64)
    if loss.divisor is Divisor.TARGET_LENGTHS:
        lengths = operands["target_lengths"]
        return xp.where(lengths > 1, lengths, 1) * xp.asarray(float(len(lengths)), dtype=xp.float64)
    if loss.divisor is Divisor.WEIGHT_SUM and "weight" in operands:
        return operands["weight"].sum(dtype=xp.float64)
    if loss.divisor is Divisor.CLASS_WEIGHT_SUM and not is_floating(operands["target"]):
        target = operands["target"]
        counted = target != options["ignore_index"]
        each = counted
        if "token_weight" in operands:
            each = each * xp.asarray(operands["token_weight"], dtype=xp.float64)
        if "weight" in operands:
            weight = xp.asarray(operands["weight"].reshape(-1), dtype=xp.float64)
            within = counted & (target >= 0) & (target < len(weight))  # on a GPU a target may be out of range
            if len(weight):
                weight = weight[xp.asarray(xp.where(within, target, 0), dtype=xp.int64)]
                each = each * xp.where(within, weight, 0.0)
        return each.sum(dtype=xp.float64)
    if loss.divisor is Divisor.CLASS_WEIGHT_SUM and not prod(operands["target"].shape):
        return 0.0  # soft targets of no classes: PyTorch counts the items by dividing by the number of classes
    if "token_weight" in operands:
        return operands["token_weight"].sum(dtype=xp.float64)
    if options.get("batchmean"):
        shape = operands["input"].shape
        return float(shape[0]) if len(shape) else 1.0
    return float(prod(items_shape))


def is_data(loss: Loss, operands: Mapping[str, Any]) -> bool:
    """Whether the divisor depends on the operands' values, and not on their shapes and dtypes alone."""
    if "normalizer" in operands or "token_weight" in operands:
        return True
    if loss.divisor is Divisor.WEIGHT_SUM:
        return "weight" in operands
    if loss.divisor is Divisor.CLASS_WEIGHT_SUM:
        return not is_floating(operands["target"])
    return loss.divisor is Divisor.TARGET_LENGTHS


def counts(loss: Loss, options: Mapping[str, Any], operands: Mapping[str, Array]) -> Array | None:
    """Which items count at all, in the chapter's shape of items; None where all do.

    An item that doesn't has a gradient of exactly 0, even where the divisor is 0 too and 0/0 would be nan.
    """
    if loss.divisor is not Divisor.CLASS_WEIGHT_SUM or is_floating(operands["target"]):
        return None
    return operands["target"] != options["ignore_index"]

"""What a mean divides by, on the device: data, never brought to the host."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch

from portaloss.arrange import Arranged
from portaloss.catalogue import Divisor, Loss


def divisor(
    loss: Loss, options: Mapping[str, Any], arranged: Arranged, operands: Mapping[str, torch.Tensor]
) -> torch.Tensor | float:
    """A float64 scalar on the device where the divisor depends on data, else a number; for CTC one for each item."""
    if "normalizer" in operands:
        return operands["normalizer"].reshape(()).double()
    if loss.divisor is Divisor.TARGET_LENGTHS:
        lengths = operands["target_lengths"].reshape(-1).to(operands["log_probs"].device)  # an unbatched one is 0-D
        return lengths.clamp(min=1).double() * len(lengths)
    if loss.divisor is Divisor.WEIGHT_SUM and "weight" in operands:
        return operands["weight"].sum(dtype=torch.float64)
    if loss.divisor is Divisor.CLASS_WEIGHT_SUM and not operands["target"].is_floating_point():
        target = operands["target"]
        counted = target != options["ignore_index"]
        each = counted.double() if "token_weight" not in operands else counted * operands["token_weight"].double()
        if "weight" in operands:
            weight = operands["weight"].reshape(-1).double()
            valid = counted & (target >= 0) & (target < len(weight))
            each = each * torch.where(valid, weight[torch.where(valid, target, 0).long()], 0.0)
        return each.sum()
    if "token_weight" in operands:
        return operands["token_weight"].sum(dtype=torch.float64)
    if options.get("batchmean"):
        shape = operands["input"].shape
        return float(shape[0]) if len(shape) else 1.0
    return float(prod(arranged.items_shape))

"""Allocates results and scratch in one place, so that tests can fill them with nan."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from portaloss.backends.poison import is_poisoned


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor that the caller fills completely; full of nan while ``poisoned``."""
    tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
    return tensor.fill_(float("nan")) if is_poisoned() and dtype.is_floating_point else tensor

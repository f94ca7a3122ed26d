"""Allocates results and scratch in one place, so that tests can fill them with nan."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from portaloss import emulator
from portaloss.backends.poison import is_poisoned


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor that the caller fills completely; full of nan while ``poisoned``, and watched while emulated."""
    tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
    emulated = emulator.active()
    if emulated is not None:
        return emulated.unwritten(tensor)
    return tensor.fill_(float("nan")) if is_poisoned() and dtype.is_floating_point else tensor

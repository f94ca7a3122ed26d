"""PyTorch's own losses, by the catalogue's names: for compositions, and to be measured beside. Needs torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F  # noqa: N812  # its name everywhere
from torch import Tensor

from portaloss.catalogue import LOSSES, Loss


def loss(entry: Loss, operands: Mapping[str, Tensor], options: Mapping[str, Any], reduction: str) -> Tensor:
    """PyTorch's loss.

    Args:
        entry: of the catalogue.
        operands: by the catalogue's names.
        options: by the catalogue's names; others have PyTorch's defaults.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        NotImplementedError: PyTorch does not have the loss, or one of the operands or options.
    """
    usual: dict[str, object] = {option.name: option.default for option in entry.options if option.extension}
    operand_extensions = {operand.name for operand in entry.operands if operand.extension}
    if operand_extensions & operands.keys() or any(options.get(name, usual[name]) != usual[name] for name in usual):
        raise NotImplementedError(f"PyTorch's {entry.function} does not have all of these operands and options")
    given = {name: value for name, value in options.items() if name not in usual}
    if given.pop("batchmean", False) and reduction == "mean":
        reduction = "batchmean"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # portaloss.functional has warned already
        value: Tensor = function(entry)(**operands, **given, reduction=reduction)
    return value


def function(entry: Loss) -> Callable[..., Tensor]:
    """PyTorch's function.

    Raises:
        NotImplementedError: there is none.
    """
    if not entry.in_torch:
        raise NotImplementedError(f"PyTorch does not have {entry.function}")
    return _FUNCTIONS[entry.function]


def is_replaced(entry: Loss) -> bool:
    """Whether portaloss's own function stood in PyTorch's place when this module was imported."""
    return entry.in_torch and str(_FUNCTIONS[entry.function].__module__).startswith("portaloss.")


def _unfused(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, linear_bias: Tensor | None = None, **rest: Any
) -> Tensor:
    """linear_cross_entropy for older releases of PyTorch, which have only the two functions that it fuses."""
    return _FUNCTIONS["cross_entropy"](linear_logits(input, linear_weight, linear_bias), target, **rest)


#: PyTorch's functions, held from import on. ``torch.nn.functional.mse_loss = portaloss.functional.mse_loss`` is a usual
#: way to install a loss, and its composition must not be itself.
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    entry.function: getattr(F, entry.function, _unfused) for entry in LOSSES.values() if entry.in_torch
}


def linear_logits(input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None) -> Tensor:
    """The logits (N, C, d1, ...) of features (N, D) and a matrix (C, d1, ..., D)."""
    flat = linear_weight.reshape(-1, linear_weight.shape[-1])
    logits = F.linear(input, flat, None if linear_bias is None else linear_bias.reshape(-1))
    return logits.reshape(*input.shape[:-1], *linear_weight.shape[:-1])


__all__ = ["function", "is_replaced", "linear_logits", "loss"]

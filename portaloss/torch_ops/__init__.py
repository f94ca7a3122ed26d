"""Losses of torch tensors: the one place that registers with torch.

``function`` is the way of eager mode, an autograd.Function, since an operator costs twice the time of a small loss.
``library`` is the way of compilers, exporters and tensor subclasses: an operator a kind. ``composites`` is the way of
torch.func, forward-mode AD and all derivatives beyond the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import Plan
from portaloss.torch_ops import autocast, composites, function, library, small

_PLAIN = (Tensor, torch.nn.Parameter)


def apply(plan: Plan, operands: dict[str, Any]) -> Any:
    """The loss of tensors, known to autograd where any operand requires a gradient.

    Where the plan has return_extras, a pair of the loss and of these.

    Raises:
        RuntimeError: an operand without a gradient requires one, as PyTorch raises.
        NotImplementedError: an operand is sparse, or of another layout than strided.
    """
    plain = True
    for name, value in operands.items():
        if type(value) not in _PLAIN:
            plain = False
        elif value.layout is not torch.strided:
            raise NotImplementedError(
                f"{name} is of layout {value.layout}; losses are of dense tensors, {name}.to_dense() is one"
            )
        elif value.is_meta:
            return _composed(plan, operands)
    if torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0:
        return _composed(plan, operands)
    if not plain or torch._C._len_torch_dispatch_stack():
        given = (
            composites.widened(operands, plan.dtype) if plan.kind is LossKind.FUSED_LINEAR_CROSS_ENTROPY else operands
        )
        return library.call(plan.kind.name, plan.reduction.name.lower(), given, dict(plan.options))
    return function.apply(plan, operands)


def _composed(plan: Plan, operands: dict[str, Any]) -> Any:
    options = plan.values
    value = composites.loss(plan, operands)
    if not options.get("return_extras"):
        return value
    return value, composites.linear_cross_entropy_extras(operands, options)


def trace(
    kind: str,
    reduction: str | LossReduction,
    operands: Mapping[str, Any],
    options: dict[str, Any],
    dtype: str | None,
) -> Any:
    """The loss in a function that torch.compile is reading; of another dtype than the operands' by casts of these."""
    tensors = {name: value for name, value in operands.items() if value is not None}
    for name in ("input_lengths", "target_lengths"):
        if name in tensors and not isinstance(tensors[name], Tensor):
            tensors[name] = torch.tensor(tensors[name])
    if dtype is not None:
        tensors = composites.widened(tensors, dtype)
    text = reduction if isinstance(reduction, str) else reduction.name.lower()
    return library.call(kind, text, autocast.cast(kind, tensors), options)


__all__ = ["apply", "autocast", "composites", "function", "library", "small", "trace"]

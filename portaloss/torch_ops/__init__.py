"""Losses of torch tensors: the one place that registers with torch.

``function`` is the way of eager mode, an autograd.Function, since an operator costs twice the time of a small loss.
``library`` is the way of compilers, exporters and tensor subclasses: an operator a kind. ``composites`` is the way of
torch.func, forward-mode AD and all derivatives beyond the first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from portaloss.plan import Plan
from portaloss.torch_ops import composites, function, library

_PLAIN = (Tensor, torch.nn.Parameter)


def apply(plan: Plan, operands: dict[str, Any]) -> Tensor:
    """The loss of tensors, known to autograd where any operand requires a gradient.

    Raises:
        RuntimeError: an operand without a gradient requires one, as PyTorch raises.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0:
        return composites.loss(plan, operands)
    if torch._C._len_torch_dispatch_stack() or any(type(value) not in _PLAIN for value in operands.values()):
        return library.call(plan.kind.name, plan.reduction.name.lower(), operands, dict(plan.options))
    return function.apply(plan, operands)


__all__ = ["apply", "composites", "function", "library"]

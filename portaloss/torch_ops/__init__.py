"""Losses of torch tensors: the one place that registers with torch.

``function`` is the way of eager mode, an autograd.Function, since an operator costs twice the time of a small loss.
``library`` is the way of compilers, exporters and tensor subclasses: an operator a kind. Both take their gradients from
``gradients``. ``composites`` is the way of torch.func, forward-mode AD and all derivatives beyond the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from portaloss.backends import Prepared
from portaloss.kinds import LossReduction
from portaloss.torch_ops import autocast, composites, function, library

_PLAIN = (Tensor, torch.nn.Parameter)
_STRIDED = torch.strided
_functorch: Any = torch._C._functorch


def apply(prepared: Prepared, operands: dict[str, Any]) -> Any:
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
        elif value.layout is not _STRIDED:
            raise NotImplementedError(
                f"{name} is of layout {value.layout}; losses are of dense tensors, {name}.to_dense() is one"
            )
        elif value.is_meta:
            return composites.apply(prepared.plan, operands)
    if (
        _functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None  # torch.jit.trace records operators, and takes ours for a constant
    ):
        return composites.apply(prepared.plan, operands)
    if not plain or torch._C._len_torch_dispatch_stack():
        plan = prepared.plan
        return library.call(
            plan.kind.name, plan.reduction.name.lower(), composites.widened(operands, plan), dict(plan.options)
        )
    return function.apply(prepared, operands)


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
        tensors = composites.in_dtype(tensors, dtype)
    text = reduction if isinstance(reduction, str) else reduction.name.lower()
    return library.call(kind, text, autocast.cast(kind, tensors), options)


__all__ = ["apply", "autocast", "composites", "function", "library", "trace"]

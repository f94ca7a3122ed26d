"""Operators of PyTorch whose gradient it cannot differentiate again: theirs, and ours where it is to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from portaloss.checks import dtype_name
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import make_plan
from portaloss.torch_ops import composites
from portaloss.torch_ops.ways import Operands, Way


def apply(kind: LossKind, way: Way, operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    """The loss, with a gradient that can be differentiated; None where the way is not for these operands.

    Args:
        kind: which.
        way: PyTorch's operator.
        operands: by the catalogue's names; tensors, one of which at least requires a gradient.
        options: by the catalogue's names.
        reduction: its number.
    """
    leaves = {name: value.detach().requires_grad_(value.requires_grad) for name, value in operands.items()}
    value = way(leaves, options, reduction)
    if value is None:
        return None
    call = kind, leaves, value, options, reduction
    loss: Tensor = _Once.apply(call, *operands.values())  # type: ignore[no-untyped-call]  # torch's own
    return loss


def is_hooked() -> bool:
    """Whether someone packs what graphs save, as a checkpoint does: it counts on one graph, and here are two."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top is not None and top(False) is not None


def _is_kept() -> bool:
    """Whether the backward pass that is running retains its graph."""
    is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return is_kept is None or bool(is_kept())


class _Once(torch.autograd.Function):
    """PyTorch's graph of its own, kept apart; another one where the gradient is part of a graph."""

    @staticmethod
    def forward(ctx: Any, call: tuple[Any, ...], *tensors: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        value: Tensor = call[2].detach()
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # which raises a second time, if nothing is retained
        kind, leaves, value, options, reduction = ctx.call
        wants = tuple([name for name, leaf in leaves.items() if leaf.requires_grad])
        if composites.are_asked(upstream):
            plan = make_plan(kind, dtype_name(value), LossReduction(reduction), "cpu", tuple(options.items()))
            operands = dict(zip(leaves, saved, strict=True))
            found = composites.gradients(plan, operands, wants, upstream)
        else:
            kept = _is_kept()
            found = torch.autograd.grad(value, [leaves[name] for name in wants], upstream, retain_graph=kept)
            if not kept:  # as PyTorch's own nodes do, whoever still holds the loss
                ctx.call = None
        gradients = dict(zip(wants, found, strict=True))
        return None, *[gradients.get(name) for name in leaves]

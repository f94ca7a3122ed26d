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
        kind, leaves, value, options, reduction = ctx.call
        wants = tuple([name for name, leaf in leaves.items() if leaf.requires_grad])
        operands = dict(
            zip(leaves, ctx.saved_tensors, strict=True)
        )  # which raises a second time, if nothing is retained
        if torch.is_grad_enabled():
            plan = make_plan(kind, dtype_name(value), LossReduction(reduction), "cpu", tuple(options.items()))
            found = composites.gradients(plan, operands, wants, upstream)
        else:
            # the graph is kept for as long as this node is, which may be asked again
            found = torch.autograd.grad(value, [leaves[name] for name in wants], upstream, retain_graph=True)
        gradients = dict(zip(wants, found, strict=True))
        return None, *[gradients.get(name) for name in leaves]

"""The way of eager mode: an autograd.Function, and gradients that come with the loss."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from portaloss.plan import Plan, differentiable
from portaloss.torch_ops import composites


def apply(plan: Plan, operands: dict[str, Any]) -> Any:
    """The loss of tensors, with its gradients known to autograd where any operand requires one.

    Where the plan has return_extras, a pair of the loss and of these.

    Raises:
        RuntimeError: an operand without a gradient requires one, as PyTorch raises.
    """
    requiring = [name for name, value in operands.items() if value.requires_grad] if torch.is_grad_enabled() else []
    if not requiring:
        with _named(plan.loss.name):
            forward = plan.forward_with_gradients(operands, ())
        return forward.value if forward.extras is None else (forward.value, forward.extras)
    possible = differentiable(plan.loss, operands)
    for name in requiring:
        if name not in possible and name in _REFUSED:
            raise RuntimeError(
                f"The function '{plan.loss.function}' is not differentiable with respect to argument '{name}'. "
                "This input cannot have requires_grad True."
            )
    wants = tuple([name for name in requiring if name in possible])
    result = _Loss.apply((plan, tuple(operands), wants), *operands.values())  # type: ignore[no-untyped-call]  # torch's
    return (result[0], result[1:]) if isinstance(result, tuple) else result


#: What PyTorch refuses to differentiate, rather than leave without a gradient.
_REFUSED = frozenset({"weight", "pos_weight", "token_weight", "normalizer"})


class _Loss(torch.autograd.Function):
    """Forward with gradients in the same pass where that is cheaper; backward scales them, or computes them."""

    @staticmethod
    def forward(ctx: Any, call: tuple[Plan, tuple[str, ...], tuple[str, ...]], *tensors: torch.Tensor) -> Any:
        plan, names, wants = call  # in one argument, since torch takes its time over each
        operands = dict(zip(names, tensors, strict=True))
        with _named(plan.loss.name):
            result = plan.forward_with_gradients(operands, wants)
        ctx.call, ctx.early = call, result
        ctx.save_for_backward(*tensors)
        if result.extras is None:
            return result.value
        ctx.mark_non_differentiable(*result.extras)
        return result.value, *result.extras

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *of_extras: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        del of_extras  # they have no derivative
        plan, names, wants = ctx.call
        operands = dict(zip(names, ctx.saved_tensors, strict=True))
        if composites.are_asked(upstream):
            found = composites.gradients(plan, operands, wants, upstream)
            by_name = dict(zip(wants, found, strict=True))
            return None, *[by_name.get(name) for name in names]
        with _named(f"{plan.loss.name}_backward"):
            early, ctx.early = ctx.early, None  # they belong to the first backward pass
            gradients = None
            if early is not None and early.gradients is not None:
                gradients = plan.rescale(early, upstream)
            if gradients is None:
                gradients = plan.backward(upstream, wants=wants, **operands)
        return None, *[gradients.get(name) for name in names]


def _named(name: str) -> AbstractContextManager[object]:
    """What a profiler shows; nothing where none is watching, since it would cost microseconds."""
    if torch.autograd.profiler._is_profiler_enabled:
        return torch.profiler.record_function(f"portaloss::{name}")
    return nullcontext()

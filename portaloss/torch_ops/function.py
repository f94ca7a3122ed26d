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
    if not (torch.is_grad_enabled() and any(value.requires_grad for value in operands.values())):
        with _named(plan.loss.name):
            forward = plan.forward_with_gradients(operands, ())
        return forward.value if forward.extras is None else (forward.value, forward.extras)
    possible = differentiable(plan.loss, operands)
    for row in plan.loss.operands:
        given = operands.get(row.name)
        if given is not None and given.requires_grad and row.name not in possible and row.name in _REFUSED:
            raise RuntimeError(
                f"The function '{plan.loss.function}' is not differentiable with respect to argument '{row.name}'. "
                "This input cannot have requires_grad True."
            )
    result = _Loss.apply(plan, tuple(operands), *operands.values())  # type: ignore[no-untyped-call]  # torch's own
    return (result[0], result[1:]) if isinstance(result, tuple) else result


#: What PyTorch refuses to differentiate, rather than leave without a gradient.
_REFUSED = frozenset({"weight", "pos_weight", "token_weight", "normalizer"})


class _Loss(torch.autograd.Function):
    """Forward with gradients in the same pass where that is cheaper; backward scales them, or computes them."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, names: tuple[str, ...], *tensors: torch.Tensor) -> Any:
        operands = dict(zip(names, tensors, strict=True))
        possible = differentiable(plan.loss, operands)
        needed = dict(zip(names, ctx.needs_input_grad[2:], strict=True))
        wants = tuple(name for name in names if needed[name] and name in possible)
        with _named(plan.loss.name):
            result = plan.forward_with_gradients(operands, wants)
        ctx.plan, ctx.names, ctx.wants = plan, names, wants
        ctx.early = result
        ctx.save_for_backward(*tensors)
        if result.extras is None:
            return result.value
        ctx.mark_non_differentiable(*result.extras)
        return result.value, *result.extras

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *of_extras: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        del of_extras  # they have no derivative
        operands = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        if torch.is_grad_enabled():  # create_graph: these gradients will be differentiated
            found = composites.gradients(ctx.plan, operands, ctx.wants, upstream)
            by_name = dict(zip(ctx.wants, found, strict=True))
            return None, None, *(by_name.get(name) for name in ctx.names)
        with _named(f"{ctx.plan.loss.name}_backward"):
            gradients = _early_gradients(ctx, upstream)
            if gradients is None:
                gradients = ctx.plan.backward(upstream, wants=ctx.wants, **operands)
        return None, None, *(gradients.get(name) for name in ctx.names)


def _named(name: str) -> AbstractContextManager[object]:
    """What a profiler shows; nothing where none is watching, since it would cost microseconds."""
    if torch.autograd.profiler._is_profiler_enabled:
        return torch.profiler.record_function(f"portaloss::{name}")
    return nullcontext()


def _early_gradients(ctx: Any, upstream: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """The forward pass's gradients times upstream, if there are any left: they belong to the first backward pass."""
    early, ctx.early = ctx.early, None
    if early is None or early.gradients is None:
        return None
    scaled: dict[str, torch.Tensor] | None = ctx.plan.rescale(early, upstream)
    return scaled

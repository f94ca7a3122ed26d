"""The way of eager mode: an autograd.Function, and gradients that come with the loss."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from portaloss import engine
from portaloss.backends import Prepared
from portaloss.torch_ops import composites, gradients


def apply(prepared: Prepared, operands: dict[str, Any]) -> Any:
    """The loss of tensors, with its gradients known to autograd where any operand requires one.

    Where the plan has return_extras, a pair of the loss and of these.

    Raises:
        RuntimeError: an operand without a gradient requires one, as PyTorch raises.
    """
    requiring = [name for name, value in operands.items() if value.requires_grad] if torch.is_grad_enabled() else []
    wants = gradients.wanted(prepared.plan.loss, prepared.differentiable, requiring)
    if not requiring:
        with _named(prepared, ""):
            forward = engine.forward(prepared, operands)
        return forward.value if forward.extras is None else (forward.value, forward.extras)
    result = _Loss.apply((prepared, tuple(operands), wants), *operands.values())  # type: ignore[no-untyped-call]  # torch's
    return (result[0], result[1:]) if isinstance(result, tuple) else result


class _Loss(torch.autograd.Function):
    """Forward with gradients in the same pass where that is cheaper; backward scales them, or computes them."""

    @staticmethod
    def forward(ctx: Any, call: tuple[Prepared, tuple[str, ...], tuple[str, ...]], *tensors: torch.Tensor) -> Any:
        prepared, names, wants = call  # in one argument, since torch takes its time over each
        with _named(prepared, ""):
            result = engine.forward(prepared, dict(zip(names, tensors, strict=True)), wants)
        # the gradients alone: the loss refers to ctx, so that a reference to it would keep all of them alive
        ctx.call, ctx.early = call, result.gradients
        ctx.save_for_backward(*tensors)
        if result.extras is None:
            return result.value
        ctx.set_materialize_grads(False)  # zeros for an entropy that nobody differentiates would cost a pass
        log_probs, entropy, *others = result.extras
        constant = [] if composites.of_logits(wants) else [entropy]
        ctx.mark_non_differentiable(log_probs, *constant, *others)
        return result.value, *result.extras

    @staticmethod
    def backward(
        ctx: Any, upstream: torch.Tensor | None, *of_extras: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        prepared, names, wants = ctx.call
        of_entropy = of_extras[1] if of_extras else None  # the other extras have no derivative
        if upstream is None:
            wants = composites.of_logits(wants) if of_entropy is not None else ()
        early, ctx.early = ctx.early, None  # they belong to the first backward pass

        def operands() -> dict[str, torch.Tensor]:
            # only where they are needed: PyTorch raises if they were changed since, or if the graph is gone
            return dict(zip(names, ctx.saved_tensors, strict=True))

        with _named(prepared, "_backward"):
            found = gradients.flowing(
                prepared.plan,
                operands,
                wants,
                upstream,
                early,
                rescale=lambda early: engine.rescale(prepared, early, upstream),
                compute=lambda: engine.backward(prepared, operands(), upstream, wants, of_entropy) if wants else {},
                of_entropy=of_entropy,
            )
        return None, *[found.get(name) for name in names]


def _named(prepared: Prepared, suffix: str) -> AbstractContextManager[object]:
    """What a profiler shows; nothing where none is watching, since it would cost microseconds."""
    if torch.autograd.profiler._is_profiler_enabled:
        return torch.profiler.record_function(f"portaloss::{prepared.plan.loss.name}{suffix}")
    return nullcontext()

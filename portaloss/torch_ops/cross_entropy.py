"""Cross-entropy of medium tensors: the chapter's main case in PyTorch's operators, with the gradient in the same pass.

PyTorch's own cross-entropy takes p for exp(log p), which loses digits of a small p and of 1 - p: with a thousand
classes it is off by fifteen units in the last place and more. Ours does not, but to NumPy and back is a long way for
what takes PyTorch's operators a fraction of a millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from portaloss.checks import dtype_name
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import make_plan
from portaloss.reference.softmax import LEAST, MOST, OWN
from portaloss.torch_ops import composites

_functions: Any = torch._C._VariableFunctions


def way(operands: Mapping[str, Any], options: Mapping[str, Any], reduction: int) -> Tensor | None:
    """The loss of logits (N, C) and classes, as the ways of ``ways`` are; None where rows need their maximum."""
    input, target = operands["input"], operands["target"]
    if len(operands) > 2 or input.ndim != 2 or target.ndim != 1 or target.dtype is not torch.int64:
        return None
    if options["label_smoothing"] or len(target) != len(input):
        return None
    wanted = input.requires_grad and torch.is_grad_enabled()
    with torch.no_grad():
        found = _compute(input, target, options["ignore_index"], reduction, gradient=wanted)
    if found is None or not wanted:
        return None if found is None else found.loss
    call = found, reduction, options
    loss: Tensor = _CrossEntropy.apply(call, input, target)  # type: ignore[no-untyped-call]  # torch's own
    return loss


class _Found(NamedTuple):
    loss: Tensor
    gradient: Tensor | None  #: for an upstream gradient of 1


def _compute(input: Tensor, target: Tensor, ignore_index: int, reduction: int, *, gradient: bool) -> _Found | None:
    """As the chapter does it for rows that need no maximum; None where there are others.

    Raises:
        RuntimeError: a target is out of range.
    """
    count = len(input)
    counted = target != ignore_index
    some_ignored = not counted.all().item()
    if some_ignored:  # an ignored row looks up class 0, and what it found is dropped
        target = torch.where(counted, target, 0)
        counted = counted.unsqueeze(1)
        count = int(counted.sum())

    index = target.unsqueeze(1)
    terms = torch.exp(input)
    term = terms.gather(1, index)  # which looks at the index first, as all that follow
    terms.scatter_(1, index, 0.0)
    rest = terms.sum(1, keepdim=True)
    total = rest + term
    least, most = _functions.aminmax(total)
    # nor is nan
    if not (least.item() >= LEAST and most.item() <= MOST and term.amin().item() >= OWN and count):
        return None

    items = torch.log1p(rest / term)
    if some_ignored:
        items *= counted
    if reduction == 0:
        loss = items.squeeze_(1)  # in place: what is a view could not be changed in place
    else:
        loss = items.sum()
        if reduction == 1:
            loss /= count
    if not gradient:
        return _Found(loss, None)

    terms.scatter_(1, index, rest.neg_())
    terms /= total.mul_(count) if reduction == 1 else total
    if some_ignored:
        terms *= counted
    return _Found(loss, terms)


class _CrossEntropy(torch.autograd.Function):
    """Hands out the gradient that came with the loss; computes it anew for who asks again."""

    @staticmethod
    def forward(ctx: Any, call: tuple[_Found, int, Mapping[str, Any]], *tensors: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        return call[0].loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        input, target = ctx.saved_tensors
        found, reduction, options = ctx.call
        if composites.are_asked(upstream):
            plan = make_plan(
                LossKind.CROSS_ENTROPY, dtype_name(input), LossReduction(reduction), "cpu", tuple(options.items())
            )
            operands = {"input": input, "target": target}
            return None, *composites.gradients(plan, operands, ("input",), upstream), None
        ctx.call = None, reduction, options  # the gradient is the first backward pass's
        if found is None:
            found = _compute(input, target, options["ignore_index"], reduction, gradient=True)
        gradient = found.gradient
        if reduction == 0:
            gradient *= upstream[:, None]
        elif upstream.item() != 1.0:
            gradient *= upstream
        return None, gradient, None


__all__ = ["way"]

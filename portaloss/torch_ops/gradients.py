"""The backward pass of a loss of tensors: the same for eager mode and for operators in a graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from portaloss.catalogue import Loss
from portaloss.plan import Plan
from portaloss.torch_ops import composites

Gradients = Mapping[str, Tensor | None]


def wanted(loss: Loss, differentiable: Collection[str], requiring: Sequence[str]) -> tuple[str, ...]:
    """The operands whose gradients are wanted, of those that require one.

    Raises:
        RuntimeError: an optional one has no gradient here. PyTorch raises too; a required one it leaves without one.
    """
    for name in requiring:
        if name not in differentiable and loss.operand(name).optional:
            raise RuntimeError(
                f"The function '{loss.function}' is not differentiable with respect to argument '{name}'. "
                "This input cannot have requires_grad True."
            )
    return tuple([name for name in requiring if name in differentiable])


def flowing(
    plan: Plan,
    operands: Callable[[], dict[str, Tensor]],
    wants: tuple[str, ...],
    upstream: Tensor | None,
    early: dict[str, Tensor] | None,
    *,
    rescale: Callable[[dict[str, Tensor]], Gradients | None],
    compute: Callable[[], Gradients],
    of_entropy: Tensor | None = None,
) -> Gradients:
    """The wanted gradients, by name.

    Args:
        plan: of the loss.
        operands: gives the graph's own.
        wants: the operands to differentiate.
        upstream: the gradient of what is differentiated with respect to the loss; None for 0.
        early: the gradients that came with the loss, for an upstream of 1; None where there are none.
        rescale: multiplies them by upstream; None where they must be computed instead.
        compute: computes the gradients.
        of_entropy: its gradient with respect to the entropy of return_extras; None for 0.
    """
    if wants and composites.are_asked(upstream, of_entropy):
        return dict(zip(wants, composites.gradients(plan, operands(), wants, upstream, of_entropy), strict=True))
    found = rescale(early) if early and upstream is not None and of_entropy is None else None
    return compute() if found is None else found

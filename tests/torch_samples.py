"""A case of the parity matrix as tensors, for all tests of PyTorch's features; and what of it is not the truth."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from portaloss import arrays, functional
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind, LossReduction
from portaloss.parity import samples
from portaloss.parity.truth import Expected, Truth
from portaloss.plan import differentiable


class Sample:
    """One call of a kind in float64: a function of its floating operands, and those."""

    def __init__(self, kind: LossKind, name: str = "") -> None:
        self.loss = LOSSES[kind]
        cases = samples.cases(self.loss, "float64")
        self.case = next(c for c in cases if (c.name == name if name else "batchmean" not in c.options))
        self.options = self.case.options
        self.tensors = {name: arrays.like(np.array(array), arrays.TORCH) for name, array in self.case.operands.items()}
        self.wants = differentiable(self.loss, self.tensors)
        self.inputs = [self.tensors[name] for name in self.wants]

    def __call__(self, *inputs: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        given = {**self.tensors, **dict(zip(self.wants, inputs, strict=True))}
        return getattr(functional, self.loss.function)(**given, **self.options, reduction=reduction)

    def leaves(self) -> list[torch.Tensor]:
        return [value.clone().requires_grad_() for value in self.inputs]

    def gradients(self) -> list[torch.Tensor]:
        inputs = self.leaves()
        return list(torch.autograd.grad(self(*inputs), inputs))


def untrue(sample: Sample, reduction: LossReduction, *, compiled: bool = False) -> list[str]:
    """What is not the truth, and by which of PyTorch's ways: the value, or an operand's gradient.

    The upstream gradient is random. Gradients are asked for twice, again to be differentiated, and of torch.func; with
    ``compiled`` also of a compiled function.
    """
    truth = Truth(sample.loss, sample.case)
    shape = truth.items_shape if reduction is LossReduction.NONE else ()
    incoming = sample.case.upstream(shape, np.dtype(np.float64))
    assert not (incoming == 1.0).any(), "it would not show whether gradients are multiplied"
    gradients = truth.gradients(reduction, incoming)
    expected = {"value": truth.loss(reduction), **{name: gradients[name] for name in sample.wants}}
    upstream = torch.from_numpy(incoming.copy())
    wrong: list[str] = []

    def function(*inputs: torch.Tensor) -> torch.Tensor:
        return sample(*inputs, reduction=reduction.name.lower())

    def check(way: str, names: Iterable[str], results: Iterable[torch.Tensor]) -> None:
        for name, result in zip(names, results, strict=True):
            if not _is_true(result.detach(), expected[name]):
                wrong.append(f"{name}, {way}")

    inputs = sample.leaves()
    value = function(*inputs)
    check("eager", ["value"], [value])
    first, second = (torch.autograd.grad(value, inputs, upstream, retain_graph=True) for _ in range(2))
    check("first backward pass", sample.wants, first)  # nor has the second pass written into what it gave
    check("second backward pass", sample.wants, second)
    outer = upstream.clone().requires_grad_()
    found = torch.autograd.grad(value, inputs, outer, create_graph=True)
    check("create_graph", sample.wants, found)
    # a gradient is linear in upstream: its derivative by upstream, times upstream, is itself; of PyTorch's of binary
    # cross-entropy only to 1e-10
    parts = torch.cat([gradient.reshape(-1) for gradient in found])
    total = (parts * torch.cos(torch.arange(parts.numel()))).sum()  # without a weight each they may add up to 0
    slope = torch.zeros(())
    if total.requires_grad:
        (slope,) = torch.autograd.grad(total, outer, materialize_grads=True)
    if abs(float((slope * upstream).sum() - total.detach())) > 1e-9 * float(parts.detach().abs().sum()):
        wrong.append("derivative by upstream, create_graph")

    value, pull = torch.func.vjp(function, *sample.inputs)
    check("torch.func", ["value", *sample.wants], [value, *pull(upstream)])
    if compiled:
        torch.compiler.reset()
        inputs = sample.leaves()
        value = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
        check("compiled", ["value", *sample.wants], [value, *torch.autograd.grad(value, inputs, upstream)])
    return wrong


def _is_true(result: torch.Tensor, expected: Expected) -> bool:
    """Within 1e-12 of what the numbers are made of, which is 4500 units of float64."""
    same = result.dtype is torch.float64 and tuple(result.shape) == expected.value.shape
    bound = 1e-12 * np.max(expected.magnitude, initial=0.0)
    return same and np.allclose(result.numpy(), expected.value, rtol=0.0, atol=bound, equal_nan=True)

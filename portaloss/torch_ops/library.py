"""Each kind as an operator of PyTorch's: what compilers, exporters, profilers and tensor subclasses see.

``torch.ops.portaloss.huber(input, target, weight, reduction, delta)`` and ``huber_backward``, which has the upstream
gradient before and ``wants`` after these. Schemas come from the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from portaloss import backends
from portaloss.catalogue import LOSSES, Loss
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import Plan, as_reduction, differentiable, make_plan, result_dtype
from portaloss.torch_ops import composites

NAMESPACE = "portaloss"


class Operator:
    """The two operators of a kind, and how calls become their arguments."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.names = tuple(row.name for row in loss.operands)
        #: (name, default, type in a schema). Extras are another operator's, so that each returns one thing.
        self.options = tuple(
            (option.name, option.default, _schema_type(option))
            for option in loss.options
            if option.name != "return_extras"
        )
        forward, backward = f"{NAMESPACE}::{loss.name}", f"{NAMESPACE}::{loss.name}_backward"
        operands = ", ".join(f"Tensor{'?' if row.optional else ''} {row.name}" for row in loss.operands)
        options = "".join(f", {kind} {name}" for name, _, kind in self.options)
        torch.library.define(forward, f"({operands}, str reduction{options}) -> Tensor")
        torch.library.define(
            backward, f"(Tensor upstream, {operands}, str reduction{options}, str[] wants) -> Tensor[]"
        )
        torch.library.impl(forward, "default", self._forward)
        torch.library.impl(backward, "default", self._backward)
        torch.library.register_fake(forward, self._forward_fake)
        torch.library.register_fake(backward, self._backward_fake)
        torch.library.register_autograd(forward, self._forward_gradients, setup_context=_save)
        torch.library.register_autograd(backward, self._backward_gradients, setup_context=_save)
        torch.library.register_vmap(forward, self._forward_vmap)
        torch.library.register_vmap(backward, self._backward_vmap)
        ops = getattr(torch.ops, NAMESPACE)
        self.forward = getattr(ops, loss.name).default
        self.backward = getattr(ops, f"{loss.name}_backward").default

    # What they compute

    def plan(self, operands: dict[str, Tensor], arguments: Sequence[Any]) -> Plan:
        """The plan of a call; arguments are the reduction and the options, in the schema's order."""
        reduction, *values = arguments
        device = operands[self.names[0]].device.type
        options = tuple((name, value) for (name, _, _), value in zip(self.options, values, strict=True))
        dtype = result_dtype(self.loss, operands)
        return make_plan(self.loss.kind, dtype, as_reduction(reduction), backends.for_device(device), options)

    def split(self, arguments: Sequence[Any]) -> tuple[dict[str, Tensor], Sequence[Any]]:
        """The operands that there are, and the other arguments."""
        count = len(self.names)
        given = zip(self.names, arguments[:count], strict=True)
        return {name: value for name, value in given if value is not None}, arguments[count:]

    def _forward(self, *arguments: Any) -> Tensor:
        operands, rest = self.split(arguments)
        value: Tensor = self.plan(operands, rest).forward(**operands)
        return value

    def _backward(self, upstream: Tensor, *arguments: Any) -> list[Tensor]:
        operands, rest = self.split(arguments)
        wants = tuple(rest[-1])
        found = self.plan(operands, rest[:-1]).backward(upstream, wants=wants, **operands)
        return [found[name] for name in wants]

    def _forward_fake(self, *arguments: Any) -> Tensor:
        operands, rest = self.split(arguments)
        none = as_reduction(rest[0]) is LossReduction.NONE
        shape = composites.items_shape(self.loss, operands) if none else ()
        dtype = getattr(torch, result_dtype(self.loss, operands))
        return operands[self.names[0]].new_empty(shape, dtype=dtype)

    def _backward_fake(self, upstream: Tensor, *arguments: Any) -> list[Tensor]:
        del upstream
        operands, rest = self.split(arguments)
        return [torch.empty_like(operands[name]) for name in rest[-1]]

    # Their derivatives

    def _forward_gradients(self, ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        arguments = _restored(ctx)
        operands, _ = self.split(arguments)
        possible = differentiable(self.loss, operands)
        needed = zip(self.names, ctx.needs_input_grad, strict=False)
        wants = [name for name, need in needed if need and name in possible]
        found = dict(zip(wants, self.backward(upstream, *arguments, wants), strict=True)) if wants else {}
        return *(found.get(name) for name in self.names), *(None for _ in arguments[len(self.names) :])

    def _backward_gradients(self, ctx: Any, upstreams: Sequence[Tensor | None]) -> tuple[Any, ...]:
        upstream, *arguments = _restored(ctx)
        operands, rest = self.split(arguments)
        wants = tuple(rest[-1])
        names = tuple(name for name, need in zip(self.names, ctx.needs_input_grad[1:], strict=False) if need)
        further = torch.is_grad_enabled()
        with torch.enable_grad():
            for name, value in operands.items():
                if name in names:  # through this, whether or not the graph goes on before it
                    operands[name] = value.view_as(value)
                elif name in wants:  # the caller's own does not require a gradient, and is left so
                    operands[name] = value.detach().requires_grad_()
            upstream = upstream.view_as(upstream)
            first = composites.gradients(self.plan(operands, rest[:-1]), operands, wants, upstream)
            pairs = [
                (one, given)
                for one, given in zip(first, upstreams, strict=True)
                if one is not None and given is not None and one.requires_grad
            ]
            inputs = ([upstream] if ctx.needs_input_grad[0] else []) + [operands[name] for name in names]
            second: Sequence[Any] = [None] * len(inputs)
            if pairs:
                second = torch.autograd.grad(
                    [one for one, _ in pairs],
                    inputs,
                    [given for _, given in pairs],
                    create_graph=further,
                    allow_unused=True,
                )
        of_upstream = second[0] if ctx.needs_input_grad[0] else None
        found = dict(zip(names, second[len(second) - len(names) :], strict=True))
        return of_upstream, *(found.get(name) for name in self.names), *(None for _ in rest)

    # One call for each of a batch: an axis more would mean something else to most kinds

    def _forward_vmap(self, info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
        calls = _unbatched(info.batch_size, in_dims, arguments)
        return torch.stack([self.forward(*call) for call in calls]), 0

    def _backward_vmap(self, info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        calls = [self.backward(*call) for call in _unbatched(info.batch_size, in_dims, arguments)]
        stacked = [torch.stack(parts) for parts in zip(*calls, strict=True)]
        return stacked, [0] * len(stacked)


def _schema_type(option: Any) -> str:
    if isinstance(option.default, bool):
        return "bool"
    return "int" if isinstance(option.default, int) and option.name != "p" else "float"


def _unbatched(size: int, in_dims: Sequence[int | None], arguments: Sequence[Any]) -> list[list[Any]]:
    return [
        [value if dim is None else value.select(dim, i) for value, dim in zip(arguments, in_dims, strict=True)]
        for i in range(size)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Tensors as autograd keeps them, the rest as it is."""
    del output
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.others = [None if isinstance(value, Tensor) else (value,) for value in inputs]


def _restored(ctx: Any) -> list[Any]:
    tensors = iter(ctx.saved_tensors)
    return [next(tensors) if other is None else other[0] for other in ctx.others]


OPERATORS: dict[LossKind, Operator] = {kind: Operator(loss) for kind, loss in LOSSES.items()}

_EXTRAS_OPERANDS = ("input", "linear_weight", "target", "linear_bias")
_EXTRAS_OPTIONS = (("ignore_index", -100), ("softcap", 0.0), ("max_memory", 0))


def _define_extras() -> Callable[..., Sequence[Tensor]]:
    """``torch.ops.portaloss.linear_cross_entropy_extras``: log_probs, entropy, accuracy, logsumexp."""
    name = f"{NAMESPACE}::linear_cross_entropy_extras"
    torch.library.define(
        name,
        "(Tensor input, Tensor linear_weight, Tensor target, Tensor? linear_bias, int ignore_index, float softcap, "
        "int max_memory) -> (Tensor, Tensor, Tensor, Tensor)",
    )
    loss = LOSSES[LossKind.FUSED_LINEAR_CROSS_ENTROPY]

    def given(arguments: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        operands = zip(_EXTRAS_OPERANDS, arguments, strict=False)
        options = zip((name for name, _ in _EXTRAS_OPTIONS), arguments[len(_EXTRAS_OPERANDS) :], strict=True)
        return {name: value for name, value in operands if value is not None}, dict(options)

    def run(*arguments: Any) -> tuple[Tensor, ...]:
        operands, options = given(arguments)
        backend = backends.for_device(operands["input"].device.type)
        known = (*options.items(), ("return_extras", True))
        plan = make_plan(loss.kind, result_dtype(loss, operands), LossReduction.SUM, backend, known)
        extras = plan.forward_with_gradients(operands, ()).extras
        assert extras is not None, "the plan asks for them"
        return extras

    def fake(*arguments: Any) -> tuple[Tensor, ...]:
        operands, _ = given(arguments)
        dtype = torch.float64 if result_dtype(loss, operands) == "float64" else torch.float32
        shape = composites.items_shape(loss, operands)
        return tuple(operands["input"].new_empty(shape, dtype=dtype) for _ in range(4))

    torch.library.impl(name, "default", run)
    torch.library.register_fake(name, fake)
    operator: Callable[..., Sequence[Tensor]] = getattr(torch.ops, NAMESPACE).linear_cross_entropy_extras.default
    return operator


_EXTRAS = _define_extras()

#: A kind's name -> what ``call`` needs, in types that a tracer of Python takes for constants.
_CALLS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...], tuple[tuple[str, Any, str], ...]]] = {
    kind.name: (operator.forward, operator.names, operator.options) for kind, operator in OPERATORS.items()
}


def call(kind: str, reduction: str, operands: dict[str, Tensor], options: dict[str, Any]) -> Any:
    """A loss as one operator in whatever graph is being made; with return_extras a second one for these."""
    operator, names, known = _CALLS[kind]
    arguments: list[Any] = [operands.get(name) for name in names]
    arguments.append(reduction)
    for name, default, schema in known:
        value = options.get(name, default)
        arguments.append(float(value) if schema == "float" else value)
    value = operator(*arguments)
    if not options.get("return_extras", False):
        return value
    detached = [None if operands.get(name) is None else operands[name].detach() for name in _EXTRAS_OPERANDS]
    return value, tuple(_EXTRAS(*detached, *(options.get(name, default) for name, default in _EXTRAS_OPTIONS)))

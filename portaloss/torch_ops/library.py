"""Each kind as an operator of PyTorch's: what compilers, exporters, profilers and tensor subclasses see.

``torch.ops.portaloss.huber(input, target, weight, reduction, delta, wants)`` returns the loss and the gradients of the
operands in ``wants`` for an upstream gradient of 1, if these come from the same pass. ``huber_backward``, which has the
upstream gradient before these, computes gradients alone. Schemas come from the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from portaloss import backends, engine
from portaloss.arrange import specs
from portaloss.catalogue import LOSSES, Loss
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import Plan, as_reduction, differentiable, make_plan, result_dtype
from portaloss.torch_ops import composites, gradients

NAMESPACE = "portaloss"


class Operator:
    """The two operators of a kind, and how calls become their arguments."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.names = tuple(row.name for row in loss.operands)
        #: (name, default, type in a schema). Extras are another operator's, so that each returns one thing.
        self.options = tuple(
            (option.name, option.default, option.type.__name__)
            for option in loss.options
            if option.name != "return_extras"
        )
        forward, backward = f"{NAMESPACE}::{loss.name}", f"{NAMESPACE}::{loss.name}_backward"
        operands = ", ".join(f"Tensor{'?' if row.optional else ''} {row.name}" for row in loss.operands)
        options = "".join(f", {kind} {name}" for name, _, kind in self.options)
        arguments = f"{operands}, str reduction{options}, str[] wants"
        torch.library.define(forward, f"({arguments}) -> (Tensor, Tensor[])")
        torch.library.define(backward, f"(Tensor upstream, {arguments}) -> Tensor[]")
        torch.library.impl(forward, "default", self._forward)
        torch.library.impl(backward, "default", self._backward)
        torch.library.register_fake(forward, self._forward_fake)
        torch.library.register_fake(backward, self._backward_fake)
        torch.library.register_autograd(forward, self._flowing, setup_context=_save)
        torch.library.register_autograd(backward, self._refuse)
        torch.library.register_vmap(forward, self._forward_vmap)
        torch.library.register_vmap(backward, self._backward_vmap)
        ops = getattr(torch.ops, NAMESPACE)
        self.forward = getattr(ops, loss.name).default
        self.backward = getattr(ops, f"{loss.name}_backward").default

    # What they compute

    def split(self, arguments: Sequence[Any]) -> tuple[Plan, dict[str, Tensor], tuple[str, ...]]:
        """The plan of a call, the operands that there are, and whose gradients are wanted."""
        count = len(self.names)
        given = zip(self.names, arguments[:count], strict=True)
        operands = {name: value for name, value in given if value is not None}
        reduction, *values, wants = arguments[count:]
        device = operands[self.names[0]].device.type
        options = tuple((name, value) for (name, _, _), value in zip(self.options, values, strict=True))
        dtype = result_dtype(self.loss, operands)
        backend = backends.for_device("cpu" if device == "meta" else device)
        return make_plan(self.loss.kind, dtype, as_reduction(reduction), backend, options), operands, tuple(wants)

    def _forward(self, *arguments: Any) -> tuple[Tensor, list[Tensor]]:
        plan, operands, wants = self.split(arguments)
        early = _early(plan, operands, wants)
        forward = engine.forward(engine.prepare(plan, specs(operands)), operands, early)
        return forward.value, [forward.gradients[name] for name in early] if forward.gradients else []

    def _backward(self, upstream: Tensor, *arguments: Any) -> list[Tensor]:
        plan, operands, wants = self.split(arguments)
        found = engine.backward(engine.prepare(plan, specs(operands)), operands, upstream, wants)
        return [found[name] for name in wants]

    def _forward_fake(self, *arguments: Any) -> tuple[Tensor, list[Tensor]]:
        plan, operands, wants = self.split(arguments)
        shape = items_shape(plan, operands) if plan.reduction is LossReduction.NONE else ()
        value = operands[self.names[0]].new_empty(shape, dtype=getattr(torch, plan.dtype))
        return value, [torch.empty_like(operands[name]) for name in _early(plan, operands, wants)]

    def _backward_fake(self, upstream: Tensor, *arguments: Any) -> list[Tensor]:
        del upstream
        _, operands, wants = self.split(arguments)
        return [torch.empty_like(operands[name]) for name in wants]

    # Their derivatives

    def _flowing(self, ctx: Any, upstream: Tensor, of_early: Any) -> tuple[Any, ...]:
        del of_early  # these have no derivative
        arguments, early = _restored(ctx)
        plan, operands, _ = self.split(arguments)
        possible = differentiable(self.loss, operands)
        wants = tuple(
            name for name, need in zip(self.names, ctx.needs_input_grad, strict=False) if need and name in possible
        )
        computed = _early(plan, operands, tuple(arguments[-1]))
        found = gradients.flowing(
            plan,
            lambda: operands,
            wants,
            upstream,
            dict(zip(computed, early, strict=True)) if set(wants) <= set(computed) else None,
            rescale=lambda early: {name: gradient * upstream for name, gradient in early.items()},
            compute=lambda: dict(
                zip(wants, self.backward(upstream, *arguments[:-1], list(wants)), strict=True) if wants else ()
            ),
        )
        return *(found.get(name) for name in self.names), *(None for _ in arguments[len(self.names) :])

    def _refuse(self, ctx: Any, *upstreams: Any) -> Any:
        del ctx, upstreams
        name = f"torch.ops.{NAMESPACE}.{self.loss.name}"
        raise RuntimeError(f"{name}_backward has no derivative: differentiate {name} with create_graph=True")

    # One call for each of a batch: an axis more would mean something else to most kinds

    def _forward_vmap(self, info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        calls = [self.forward(*call) for call in _unbatched(info.batch_size, in_dims, arguments)]
        early = [torch.stack(parts) for parts in zip(*(of_one for _, of_one in calls), strict=True)]
        return (torch.stack([value for value, _ in calls]), early), (0, [0] * len(early))

    def _backward_vmap(self, info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        calls = [self.backward(*call) for call in _unbatched(info.batch_size, in_dims, arguments)]
        stacked = [torch.stack(parts) for parts in zip(*calls, strict=True)]
        return stacked, [0] * len(stacked)


def _early(plan: Plan, operands: dict[str, Tensor], wants: tuple[str, ...]) -> tuple[str, ...]:
    """The wanted gradients that come with the loss: all or none. Not those of 16 bits, which cannot be multiplied."""
    if any(operands[name].element_size() < 4 for name in wants):
        return ()
    return engine.early_gradients(plan, wants)


def items_shape(plan: Plan, operands: dict[str, Tensor]) -> tuple[int, ...]:
    """The shape of the loss with reduction none, from shapes alone; sizes may be symbols."""
    return plan.loss.arrangement.shapes(plan.values, specs(operands)).items_shape


def _unbatched(size: int, in_dims: Sequence[int | None], arguments: Sequence[Any]) -> list[list[Any]]:
    return [
        [value if dim is None else value.select(dim, i) for value, dim in zip(arguments, in_dims, strict=True)]
        for i in range(size)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    """What ``_restored`` gives, the gradients that came with the loss among it."""
    early = output[1]
    ctx.mark_non_differentiable(*early)
    _keep(ctx, inputs, early)


def _keep(ctx: Any, inputs: tuple[Any, ...], early: Sequence[Tensor] = ()) -> None:
    """Tensors as autograd keeps them, the gradients that came with the loss last; the rest as it is."""
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)), *early)
    ctx.others = [None if isinstance(value, Tensor) else (value,) for value in inputs]


def _restored(ctx: Any) -> tuple[list[Any], list[Tensor]]:
    tensors = iter(ctx.saved_tensors)
    arguments = [next(tensors) if other is None else other[0] for other in ctx.others]
    return arguments, list(tensors)


OPERATORS: dict[LossKind, Operator] = {kind: Operator(loss) for kind, loss in LOSSES.items()}

_EXTRAS_OPERANDS = ("input", "linear_weight", "target", "linear_bias", "logit_scale")
_EXTRAS_OPTIONS = (("ignore_index", -100), ("softcap", 0.0), ("max_memory", 0))


def _define_extras() -> Callable[..., Sequence[Tensor]]:
    """``torch.ops.portaloss.linear_cross_entropy_extras``: log_probs, entropy, accuracy, logsumexp.

    ``linear_cross_entropy_entropy_backward`` has the gradient with respect to the entropy before the same arguments.
    """
    name, backward = f"{NAMESPACE}::linear_cross_entropy_extras", f"{NAMESPACE}::linear_cross_entropy_entropy_backward"
    schema = (
        "Tensor input, Tensor linear_weight, Tensor target, Tensor? linear_bias, Tensor? logit_scale, "
        "int ignore_index, float softcap, int max_memory"
    )
    torch.library.define(name, f"({schema}) -> (Tensor, Tensor, Tensor, Tensor)")
    torch.library.define(backward, f"(Tensor upstream, {schema}, str[] wants) -> Tensor[]")
    loss = LOSSES[LossKind.FUSED_LINEAR_CROSS_ENTROPY]

    def given(arguments: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        operands = zip(_EXTRAS_OPERANDS, arguments, strict=False)
        options = zip((name for name, _ in _EXTRAS_OPTIONS), arguments[len(_EXTRAS_OPERANDS) :], strict=True)
        return {name: value for name, value in operands if value is not None}, dict(options)

    def plan_of(operands: dict[str, Tensor], options: dict[str, Any]) -> Plan:
        backend = backends.for_device(operands["input"].device.type)
        known = (*options.items(), ("return_extras", True))
        return make_plan(loss.kind, result_dtype(loss, operands), LossReduction.SUM, backend, known)

    def run(*arguments: Any) -> tuple[Tensor, ...]:
        operands, options = given(arguments)
        plan = plan_of(operands, options)
        extras = engine.forward(engine.prepare(plan, specs(operands)), operands).extras
        assert extras is not None, "the plan asks for them"
        return extras

    def fake(*arguments: Any) -> tuple[Tensor, ...]:
        operands, options = given(arguments)
        dtype = torch.float64 if result_dtype(loss, operands) == "float64" else torch.float32
        plan = make_plan(loss.kind, result_dtype(loss, operands), LossReduction.NONE, "cpu", tuple(options.items()))
        shape = items_shape(plan, operands)
        return tuple(operands["input"].new_empty(shape, dtype=dtype) for _ in range(4))

    def run_backward(upstream: Tensor, *arguments: Any) -> list[Tensor]:
        operands, options = given(arguments[:-1])
        wants = arguments[-1]
        prepared = engine.prepare(plan_of(operands, options), specs(operands))
        found = engine.backward(prepared, operands, None, wants, upstream)
        return [found[name] for name in wants]

    def fake_backward(upstream: Tensor, *arguments: Any) -> list[Tensor]:
        del upstream
        operands, _ = given(arguments[:-1])
        return [torch.empty_like(operands[name]) for name in arguments[-1]]

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        log_probs, _, *others = output
        ctx.mark_non_differentiable(log_probs, *others)
        _keep(ctx, inputs)

    def flowing(ctx: Any, of_log_probs: Any, upstream: Tensor, *of_others: Any) -> tuple[Any, ...]:
        del of_log_probs, of_others  # these have no derivative
        arguments, _ = _restored(ctx)
        operands, options = given(arguments)
        needed = [name for name, need in zip(_EXTRAS_OPERANDS, ctx.needs_input_grad, strict=False) if need]
        wants = composites.of_logits(needed)
        found = gradients.flowing(
            plan_of(operands, options),
            lambda: operands,
            wants,
            None,
            None,
            rescale=lambda early: None,
            compute=lambda: dict(
                zip(wants, backward_operator(upstream, *arguments, list(wants)), strict=True) if wants else ()
            ),
            of_entropy=upstream,
        )
        return *(found.get(name) for name in _EXTRAS_OPERANDS), *(None for _ in _EXTRAS_OPTIONS)

    torch.library.impl(name, "default", run)
    torch.library.impl(backward, "default", run_backward)
    torch.library.register_fake(name, fake)
    torch.library.register_fake(backward, fake_backward)
    torch.library.register_autograd(name, flowing, setup_context=save)
    backward_operator = getattr(torch.ops, NAMESPACE).linear_cross_entropy_entropy_backward.default
    operator: Callable[..., Sequence[Tensor]] = getattr(torch.ops, NAMESPACE).linear_cross_entropy_extras.default
    return operator


_EXTRAS = _define_extras()

#: A kind's name -> what ``call`` needs, in types that a tracer of Python takes for constants: the operator, the names
#: of operands, the options, and the names of operands that may have a gradient, each with an operand that must float.
_CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...], tuple[tuple[str, Any, str], ...], tuple[Any, ...]]] = {
    kind.name: (
        operator.forward,
        operator.names,
        operator.options,
        tuple((row.name, row.differentiable_with or row.name) for row in operator.loss.differentiable),
    )
    for kind, operator in OPERATORS.items()
}


def call(kind: str, reduction: str, operands: dict[str, Tensor], options: dict[str, Any]) -> Any:
    """A loss as one operator in whatever graph is being made; with return_extras a second one for these."""
    operator, names, known, possible = _CALLS[kind]
    arguments: list[Any] = [operands.get(name) for name in names]
    arguments.append(reduction)
    for name, default, schema in known:
        value = options.get(name, default)
        arguments.append(float(value) if schema == "float" else value)
    wants = []
    if torch.is_grad_enabled():
        for name, floating in possible:
            operand = operands.get(name)
            if operand is not None and operand.requires_grad and operands[floating].is_floating_point():
                wants.append(name)
    value, _ = operator(*arguments, wants)
    if not options.get("return_extras", False):
        return value
    given = [operands.get(name) for name in _EXTRAS_OPERANDS]
    return value, tuple(_EXTRAS(*given, *(options.get(name, default) for name, default in _EXTRAS_OPTIONS)))

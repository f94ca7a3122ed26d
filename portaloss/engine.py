"""Runs plans: one algorithm for the forward and the backward pass, with a backend's arithmetic behind it.

``prepare`` settles what a plan and the shapes and dtypes of its operands decide. ``forward`` and ``backward`` then look
at values: they are checked, computed with, and reduced. ``select`` is for people who build frameworks on portaloss.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from portaloss import arrays, backends
from portaloss.arrange import Spec, specs
from portaloss.backends import Prepared
from portaloss.catalogue import Divisor, Family, Loss
from portaloss.divisor import divisor, is_data
from portaloss.kinds import DTYPES, LossKind, LossReduction
from portaloss.plan import RANK, Plan, Precision, as_number, as_reduction, differentiable, make_plan, result_dtype


@dataclass
class Forward:
    """What a forward pass gives."""

    value: Any
    #: For an upstream gradient of 1, where they were wanted and the pass could give them; else None.
    gradients: dict[str, Any] | None = None
    #: What return_extras asks for, one value an item each: log_probs, entropy, accuracy, logsumexp.
    extras: tuple[Any, ...] | None = None


def prepare(plan: Plan, operands: Mapping[str, Spec]) -> Prepared:
    """Check shapes and dtypes, and settle what they decide.

    Raises:
        ValueError, RuntimeError, IndexError, NotImplementedError: as PyTorch does, with the argument's name.
    """
    loss, options = plan.loss, plan.values
    layout = loss.arrangement.shapes(options, operands)
    by: float | None = 1.0
    if plan.reduction is LossReduction.MEAN:
        by = None if is_data(loss, operands) else float(divisor(loss, options, operands, layout.items_shape, np))
    backend = backends.load(plan.backend)
    known = backend.settle(plan, operands, layout)
    return Prepared(plan, layout, backend, differentiable(loss, operands), loss.item_options(options), by, known)


def forward(prepared: Prepared, operands: Mapping[str, Any], wants: Collection[str] = ()) -> Forward:
    """The loss; with mean and sum also the wanted gradients for an upstream gradient of 1, from the same pass."""
    with np.errstate(all="ignore"):  # overflow and the like are part of the answer
        plan = prepared.plan
        call: backends.Call = prepared.backend.Call(prepared, operands, extras=plan.values.get("return_extras", False))
        if plan.reduction is LossReduction.NONE:
            items, _ = call.run(items=True)
            return Forward(items, extras=call.extras)
        by = _divisor(prepared, call)
        early = early_gradients(plan, wants)
        total, gradients = call.run(early, scale=call.scale(1.0, by))
        value = _reduced(total, by)
        if prepared.divisor is None and plan.values.get("label_smoothing"):
            # PyTorch adds two means, of which that of the targets' own costs is 0/0
            value = call.xp.where(by == 0.0, np.nan, value)
        return Forward(call.rounded(value), gradients or None, call.extras)


def backward(
    prepared: Prepared, operands: Mapping[str, Any], upstream: Any, wants: Collection[str], of_entropy: Any = None
) -> dict[str, Any]:
    """The gradients of the wanted operands for an upstream gradient: a number, or with reduction none one an item.

    Args:
        prepared: the call.
        operands: by name.
        upstream: the gradient of what is differentiated with respect to the loss; None where it is of the entropy only.
        wants: the operands to differentiate.
        of_entropy: its gradient with respect to the entropy of return_extras, in the items' shape; None for 0.

    Raises:
        ValueError: upstream has another shape than the loss.
    """
    with np.errstate(all="ignore"):
        plan, shape = prepared.plan, prepared.layout.items_shape
        call: backends.Call = prepared.backend.Call(prepared, operands)
        more = None if of_entropy is None else call.each(of_entropy)
        if upstream is None:
            each = plan.reduction is LossReduction.NONE
            nothing = call.xp.zeros_like(more) if each else call.scale(0.0, 1.0)
            return call.run(wants, scale=nothing, of_entropy=more)[1]
        given = tuple(np.shape(upstream))
        if plan.reduction is LossReduction.NONE:
            if given != tuple(shape):
                raise ValueError(f"upstream must have the shape of the loss, {shape}, got {given}")
            _, gradients = call.run(wants, scale=call.each(upstream), of_entropy=more)
            return gradients
        if prod(given) != 1:
            raise ValueError(f"upstream must be one number, got shape {given}")
        by = _divisor(prepared, call)
        offset = None
        if any(_depends_on_total(plan, name) for name in wants):
            # L = Σ w l / Σ w: by the quotient rule, each derivative by w loses L, shared by the items that w is part of
            repeats = max(prod(shape), 1) / max(prod(operands["weight"].shape), 1)
            offset = _reduced(call.run()[0], by) / repeats
        _, gradients = call.run(wants, scale=call.scale(upstream, by), offset=offset, of_entropy=more)
        return gradients


def rescale(prepared: Prepared, gradients: dict[str, Any], upstream: Any) -> dict[str, Any] | None:
    """The gradients that ``forward`` gave, times upstream, in place; None where ``backward`` must be asked instead.

    16-bit gradients are rounded already, and what underflowed is lost: those are computed again, unless upstream is 1.
    """
    return prepared.backend.rescale(gradients, upstream)


def check(prepared: Prepared, operands: Mapping[str, Any]) -> None:
    """Raise what is wrong with the operands' values, where the backend looks at them before it computes."""
    prepared.backend.Call(prepared, operands, now=True)


def early_gradients(plan: Plan, wants: Collection[str]) -> tuple[str, ...]:
    """The wanted gradients that ``forward`` gives: all or none."""
    if plan.reduction is LossReduction.NONE or any(_depends_on_total(plan, name) for name in wants):
        return ()
    return tuple(wants)


def _depends_on_total(plan: Plan, name: str) -> bool:
    """Whether the gradient of an operand needs the loss itself, because the operand is in the divisor too."""
    return name == "weight" and plan.reduction is LossReduction.MEAN and plan.loss.divisor is Divisor.WEIGHT_SUM


def _divisor(prepared: Prepared, call: backends.Call) -> Any:
    if prepared.divisor is not None:
        return prepared.divisor
    plan = prepared.plan
    return divisor(plan.loss, plan.values, call.operands, prepared.layout.items_shape, call.xp)


def _reduced(total: Any, by: Any) -> Any:
    """The loss in float64, from the sum of the items or, for divisors of one an item, the items."""
    quotient = total / by
    if not quotient.ndim:
        return quotient
    total = quotient.sum()
    return total if len(quotient) or isinstance(by, float) else total / 0.0  # the mean of no items


class Executable(Plan):
    """A plan with what runs it: what ``select`` gives. Operands by name, or in the catalogue's order."""

    @property
    def architecture(self) -> str:
        """What runs it: the processor's or the GPU's name."""
        return self._backend.architecture()

    @property
    def precision(self) -> Precision:
        """Math dtype, accumulator, deterministic, bit-stable."""
        return self._backend.precision(self)

    @cached_property
    def _backend(self) -> backends.Backend:
        return backends.load(self.backend)

    def check(self, *args: Any, **operands: Any) -> None:
        """Raise what is wrong with the operands, as ``forward`` would."""
        prepared, given = self._prepared(args, operands)
        check(prepared, given)

    def can_implement(self, *args: Any, **operands: Any) -> bool:
        """Whether ``forward`` and ``backward`` can run on these operands: names, shapes, dtypes, ranges, device."""
        try:
            self.check(*args, **operands)
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False
        return True

    def workspace_size(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """An upper bound for the scratch memory of one call, in bytes, beyond operands and results.

        Args:
            shapes: operand name -> shape.
        """
        return self._backend.workspace_size(self, shapes)

    def forward(self, *args: Any, **operands: Any) -> Any:
        """The loss, in the operands' library; no autograd."""
        prepared, given = self._prepared(args, operands)
        return forward(prepared, given).value

    def backward(self, upstream: Any, *args: Any, wants: Collection[str] | None = None, **operands: Any) -> Any:
        """The gradients, operand name -> array of the operand's shape and dtype.

        Args:
            upstream: the gradient of what is differentiated with respect to the loss: a number, or with reduction none
                an array of the loss's shape.
            *args: operands in the catalogue's order.
            wants: the operands to differentiate; all differentiable ones by default.
            **operands: operands by name.

        Raises:
            ValueError: wants names an operand that has no gradient, or upstream has another shape.
        """
        prepared, given = self._prepared(args, operands)
        possible = prepared.differentiable
        for name in wants or ():
            if name not in possible:
                raise ValueError(f"wants names {name!r}, which has no gradient here; these have: {', '.join(possible)}")
        return backward(prepared, given, upstream, possible if wants is None else tuple(wants))

    def _prepared(self, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Prepared, dict[str, Any]]:
        given = _by_name(self.loss, args, named)
        arrays.library_of(given)
        given = {name: arrays.plain(name, value) for name, value in given.items()}
        reason = self._backend.refuses(self, given)
        if reason is not None:
            raise NotImplementedError(reason)
        dtype = result_dtype(self.loss, given)
        wider = self.loss.family is Family.LINEAR_CROSS_ENTROPY and (self.dtype, RANK[dtype]) == ("float32", 1)
        if dtype != self.dtype and not wider:
            raise RuntimeError(f"the plan is for {self.dtype}, but these operands give {dtype}")
        return prepare(self, specs(given)), given


def _by_name(loss: Loss, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    names = [operand.name for operand in loss.operands]
    if len(args) > len(names):
        raise TypeError(f"{loss.function} takes {len(names)} operands, got {len(args)}")
    given = {name: value for name, value in zip(names, args, strict=False) if value is not None}
    for name, value in named.items():
        if name not in names:
            raise TypeError(f"{loss.function} has no operand {name!r}; it has {names}")
        if name in given:
            raise TypeError(f"{loss.function} got operand {name!r} twice")
        if value is not None:
            given[name] = value
    for operand in loss.operands:
        if not operand.optional and operand.name not in given:
            raise TypeError(f"{loss.function} needs operand {operand.name!r}")
    return given


def select(
    kind: LossKind,
    *,
    dtype: Any,
    reduction: LossReduction | str = LossReduction.MEAN,
    backend: str | None = None,
    **options: Any,
) -> Executable:
    """The plan for a SKU: what portaloss would run, for people who build on it.

    Args:
        kind: the loss.
        dtype: one of ``portaloss.DTYPES``, or a NumPy or torch dtype of that name.
        reduction: a LossReduction, or its name in lower case.
        backend: force one by name; by default the CPU's. Arrays on a GPU pick theirs in ``portaloss.functional``.
        **options: the loss's options, such as ``delta`` or ``label_smoothing``; others keep PyTorch's defaults.

    Raises:
        TypeError: an option that the kind does not have.
        ValueError: an unknown dtype, reduction or backend, or an option out of range.
        RuntimeError: an option out of range for which PyTorch raises this.
        NotImplementedError: the backend cannot run here.
    """
    name = np.dtype(dtype).name if isinstance(dtype, type) else str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    backend = backend or "cpu"
    reason = backends.available(backend)
    if reason is not None:
        raise NotImplementedError(f"backend {backend} cannot run here: {reason}")
    plan = make_plan(
        LossKind(kind),
        name,
        as_reduction(reduction),
        backend,
        tuple((option, as_number(value)) for option, value in options.items()),
    )
    return Executable(plan.kind, plan.dtype, plan.reduction, plan.backend, plan.options)


__all__ = [
    "Executable",
    "Forward",
    "Prepared",
    "backward",
    "check",
    "early_gradients",
    "forward",
    "prepare",
    "rescale",
    "select",
]

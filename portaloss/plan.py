"""Plans: the arguments of a call after checking, frozen and hashable, holding no arrays.

``select`` makes one for people who build frameworks on portaloss; ``portaloss.functional`` makes its own.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from portaloss import arrays, backends
from portaloss.catalogue import LOSSES, SKU, Family, Loss
from portaloss.checks import dtype_name, is_floating
from portaloss.kinds import DTYPES, Direction, LossKind, LossReduction


@dataclass(frozen=True)
class Precision:
    """What a plan promises about its arithmetic."""

    math_dtype: str  #: what elements are computed in
    accumulator: str  #: what sums over elements are kept in
    deterministic: bool  #: the same bits on every run, on one machine with one setting
    bit_stable: bool  #: the same bits whatever the number of threads


@dataclass(frozen=True)
class Plan:
    """One loss with its dtype, reduction, options and backend settled."""

    kind: LossKind
    dtype: str
    reduction: LossReduction
    backend: str
    options: tuple[tuple[str, Any], ...]

    @cached_property
    def loss(self) -> Loss:
        """The kind's row of the catalogue."""
        return LOSSES[self.kind]

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The options by name."""
        return MappingProxyType(dict(self.options))

    @property
    def sku(self) -> SKU:
        """The SKU of the forward pass."""
        return SKU(self.kind, self.dtype, self.reduction, Direction.FORWARD)

    @property
    def backward_sku(self) -> SKU:
        """The SKU of the backward pass."""
        return SKU(self.kind, self.dtype, self.reduction, Direction.BACKWARD)

    @property
    def architecture(self) -> str:
        """What runs it: the processor's or the GPU's name."""
        return self._backend.architecture()

    @property
    def precision(self) -> Precision:
        """Math dtype, accumulator, deterministic, bit-stable."""
        return self._backend.precision(self)

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What a backend keeps from call to call, of shapes and dtypes that it has met; never arrays."""
        return {}

    @cached_property
    def _backend(self) -> backends.Backend:
        return backends.load(self.backend)

    def check(self, *args: Any, **operands: Any) -> None:
        """Raise what is wrong with the operands, as ``forward`` would."""
        given = self._operands(args, operands)
        self._backend.check(self, given)

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
        """The loss, in the operands' library; no autograd. Operands by name, or in the catalogue's order."""
        return self._backend.forward(self, self._operands(args, operands), ()).value

    def forward_with_gradients(self, operands: Mapping[str, Any], wants: Collection[str]) -> backends.Forward:
        """The loss, and the gradients with it where the backend gives them in the same pass."""
        return self._backend.forward(self, operands, wants)

    def rescale(self, early: backends.Forward, upstream: Any) -> dict[str, Any] | None:
        """What ``forward_with_gradients`` gave, times upstream; None where ``backward`` must be asked instead."""
        return self._backend.rescale(early, upstream)

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
        given = self._operands(args, operands)
        possible = differentiable(self.loss, given)
        for name in wants or ():
            if name not in possible:
                raise ValueError(f"wants names {name!r}, which has no gradient here; these have: {', '.join(possible)}")
        return self._backend.backward(self, given, upstream, possible if wants is None else tuple(wants))

    def differentiable(self, operands: Mapping[str, Any]) -> tuple[str, ...]:
        """The operands of a call that have a gradient."""
        return differentiable(self.loss, operands)

    def _operands(self, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        rows = self.loss.operands
        if len(args) > len(rows):
            raise TypeError(f"{self.loss.function} takes {len(rows)} operands, got {len(args)}")
        given = {row.name: value for row, value in zip(rows, args, strict=False) if value is not None}
        for name, value in named.items():
            if name not in {row.name for row in rows}:
                raise TypeError(f"{self.loss.function} has no operand {name!r}; it has {[row.name for row in rows]}")
            if name in given:
                raise TypeError(f"{self.loss.function} got operand {name!r} twice")
            if value is not None:
                given[name] = value
        for row in rows:
            if not row.optional and row.name not in given:
                raise TypeError(f"{self.loss.function} needs operand {row.name!r}")
        arrays.library_of(given)
        reason = self._backend.refuses(self, given)
        if reason is not None:
            raise NotImplementedError(reason)
        dtype = result_dtype(self.loss, given)
        wider = self.loss.family is Family.LINEAR_CROSS_ENTROPY and (self.dtype, _RANK[dtype]) == ("float32", 1)
        if dtype != self.dtype and not wider:
            raise RuntimeError(f"the plan is for {self.dtype}, but these operands give {dtype}")
        return given


def select(
    kind: LossKind,
    *,
    dtype: Any,
    reduction: LossReduction | str = LossReduction.MEAN,
    backend: str | None = None,
    **options: Any,
) -> Plan:
    """The plan for a SKU: what portaloss would run, for people who build on it.

    Args:
        kind: the loss.
        dtype: one of ``portaloss.DTYPES``, or a NumPy or torch dtype of that name.
        reduction: a LossReduction, or its name in lower case.
        backend: force one by name; by default the CPU's. Arrays on a GPU pick theirs in ``portaloss.functional``.
        **options: the loss's options, such as ``delta`` or ``label_smoothing``; others keep PyTorch's defaults.

    Raises:
        TypeError: an option that the kind does not have.
        ValueError: a dtype, reduction or backend that there is none of, or an option out of range.
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
    return make_plan(LossKind(kind), name, as_reduction(reduction), backend, tuple(options.items()))


def make_plan(
    kind: LossKind, dtype: str, reduction: LossReduction, backend: str, options: tuple[tuple[str, Any], ...]
) -> Plan:
    """A plan from parts that are known to be right, but for the options, which are checked here."""
    types = tuple([type(value) for _, value in options])  # True equals 1.0, and is no number here
    return _make_plan(kind, dtype, reduction, backend, options, types)


@lru_cache(maxsize=1024)
def _make_plan(
    kind: LossKind,
    dtype: str,
    reduction: LossReduction,
    backend: str,
    options: tuple[tuple[str, Any], ...],
    types: tuple[type, ...],
) -> Plan:
    del types  # part of the key
    loss = LOSSES[kind]
    values = {option.name: option.default for option in loss.options}
    for name, value in options:
        if name not in values:
            raise TypeError(f"{loss.function} has no option {name!r}; it has {sorted(values) or 'none'}")
        values[name] = value
    for name, value in values.items():
        check_option(loss, name, value)
    return Plan(kind, dtype, reduction, backend, tuple(values.items()))


def as_reduction(reduction: LossReduction | str) -> LossReduction:
    """A LossReduction from itself or its name in lower case.

    Raises:
        ValueError: any other string, as PyTorch raises.
    """
    if isinstance(reduction, LossReduction):
        return reduction
    try:
        return _REDUCTIONS[reduction]
    except (KeyError, TypeError):
        raise ValueError(f"{reduction} is not a valid value for reduction: expected 'none', 'mean' or 'sum'") from None


_REDUCTIONS = {reduction.name.lower(): reduction for reduction in LossReduction}


def check_option(loss: Loss, name: str, value: Any) -> None:
    """Raise what PyTorch raises for an option's value that is wrong whatever the arrays are."""
    default = loss.option(name).default
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise TypeError(f"{loss.function}: {name} must be a bool, got {value!r}")
        return
    if isinstance(default, int) and name != "p":
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{loss.function}: {name} must be an int, got {value!r}")
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{loss.function}: {name} must be a number, got {value!r}")
    if name in _NOT_NEGATIVE and not value >= 0:
        raise ValueError(f"{loss.function}: {name} must not be negative, got {value}")
    if name == "beta" and value < 0:
        raise RuntimeError(f"smooth_l1_loss does not support negative values for beta; got {value}")
    if name == "delta" and not value > 0:
        raise RuntimeError(f"huber_loss does not support non-positive values for delta; got {value}")
    if name == "label_smoothing" and (value < 0.0 or value > 1.0):
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {value}")
    if loss.kind is LossKind.TRIPLET_MARGIN and name == "margin" and value <= 0:
        raise ValueError(f"margin must be greater than 0, got {value}")
    if loss.kind is LossKind.MULTI_MARGIN and name == "p" and value not in (1, 2):
        raise ValueError(f"only p == 1 and p == 2 supported, got p {value}")


#: Options that PyTorch does not have, and that cannot be negative.
_NOT_NEGATIVE = frozenset({"softcap", "z_loss", "max_memory"})

#: From narrow to wide; float16 and bfloat16 together give float32.
_RANK = {"float16": 1, "bfloat16": 1, "float32": 2, "float64": 3}

#: Kinds in which the target has no say in the result's dtype, and the input may not be an integer: PyTorch's own.
_INPUT_DECIDES = frozenset({LossKind.HUBER, LossKind.HINGE_EMBEDDING})


def result_dtype(loss: Loss, operands: Mapping[str, Any]) -> str:
    """The dtype of the loss: that of the floating operands, promoted where they differ.

    Raises:
        NotImplementedError: no operand is of a floating dtype, or one is of a floating dtype beyond the four.
    """
    result: str | None = None
    for row in loss.operands:
        value = operands.get(row.name)
        if value is None or not is_floating(value):
            if loss.kind in _INPUT_DECIDES and row.name == "input":
                raise RuntimeError(f"input must be of a floating dtype for {loss.function}, got {dtype_name(value)}")
            continue
        if row.extension or (loss.kind in _INPUT_DECIDES and row.name == "target"):
            continue
        name = dtype_name(value)
        if name not in _RANK:
            raise NotImplementedError(f"{row.name} is of dtype {name}; not implemented beyond {', '.join(DTYPES)}")
        if result is None or _RANK[name] > _RANK[result]:
            result = name
        elif name != result and _RANK[name] == _RANK[result]:
            result = "float32"
    if result is None:
        first = loss.operands[0].name
        raise NotImplementedError(
            f"{first} must be of a floating dtype; {loss.function} is not implemented for {dtype_name(operands[first])}"
        )
    return result


def differentiable(loss: Loss, operands: Mapping[str, Any]) -> tuple[str, ...]:
    """The operands of a call that have a gradient."""
    names = []
    for row in loss.differentiable:
        value = operands.get(row.name)
        if value is None or not is_floating(value):
            continue
        if row.differentiable_with is None or is_floating(operands[row.differentiable_with]):
            names.append(row.name)
    return tuple(names)

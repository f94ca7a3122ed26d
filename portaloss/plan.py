"""Plans: the arguments of a call after checking. A record, frozen and hashable, that holds no arrays and runs nothing.

``engine`` runs it.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from portaloss.catalogue import LOSSES, SKU, Loss, Option
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
        """The kind's entry in the catalogue."""
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


def make_plan(
    kind: LossKind, dtype: str, reduction: LossReduction, backend: str, options: tuple[tuple[str, Any], ...]
) -> Plan:
    """A plan from parts that are known to be right, but for the options, which are checked here.

    Raises:
        TypeError: an option that the kind does not have, or a value of a wrong type.
        ValueError, RuntimeError: a value out of range, as PyTorch raises.
    """
    loss = LOSSES[kind]
    values = {option.name: option.default for option in loss.options}
    for name, value in options:
        if name not in values:
            raise TypeError(f"{loss.function} has no option {name!r}; it has {sorted(values) or 'none'}")
        values[name] = value
    for option in loss.options:
        check_option(loss, option, values[option.name])
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


def as_number(value: Any) -> Any:
    """A Python number for a scalar of NumPy's, or an array or tensor without axes; any other value as it is."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.detach().item() if hasattr(value, "detach") else value.item()
    if (
        type(value) not in (int, float, bool)
        and isinstance(value, numbers.Rational)
        and not isinstance(value, numbers.Integral)
    ):
        return float(value)  # a fraction
    return value


def check_option(loss: Loss, option: Option, value: Any) -> None:
    """Raise what PyTorch raises for an option's value that is wrong whatever the arrays are."""
    is_bool = isinstance(value, bool)
    if option.type is bool and not is_bool:
        raise TypeError(f"{loss.function}: {option.name} must be a bool, got {value!r}")
    if option.type is int and (is_bool or not isinstance(value, numbers.Integral)):
        raise TypeError(f"{loss.function}: {option.name} must be an int, got {value!r}")
    if option.type is float and (is_bool or not isinstance(value, numbers.Real)):
        raise TypeError(f"{loss.function}: {option.name} must be a number, got {value!r}")
    if option.type is float:
        try:
            float(value)
        except OverflowError:
            raise ValueError(f"{loss.function}: {option.name} must fit a float64, got {value!r}") from None
    if option.limit is not None and not option.limit.holds(value):
        raise option.limit.error(option.limit.text.format(value))


#: From narrow to wide; float16 and bfloat16 together give float32.
RANK = {"float16": 1, "bfloat16": 1, "float32": 2, "float64": 3}


def result_dtype(loss: Loss, operands: Mapping[str, Any]) -> str:
    """The dtype of the loss: that of the floating operands, promoted where they differ.

    Raises:
        NotImplementedError: no operand is of a floating dtype, or one is of a floating dtype beyond the four.
    """
    result: str | None = None
    for operand in loss.operands:
        value = operands.get(operand.name)
        if value is not None and "complex" in dtype_name(value):
            raise NotImplementedError(
                f"{operand.name} is of dtype {dtype_name(value)}; {loss.function} takes no complex numbers"
            )
        if value is None or not is_floating(value):
            if operand.floating:
                raise RuntimeError(f"input must be of a floating dtype for {loss.function}, got {dtype_name(value)}")
            continue
        name = dtype_name(value)
        if name not in RANK:
            raise NotImplementedError(f"{operand.name} is of dtype {name}; not implemented beyond {', '.join(DTYPES)}")
        if not operand.decides:
            continue
        if result is None or RANK[name] > RANK[result]:
            result = name
        elif name != result and RANK[name] == RANK[result]:
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
    for operand in loss.differentiable:
        value = operands.get(operand.name)
        if value is None or not is_floating(value):
            continue
        if operand.differentiable_with is None or is_floating(operands[operand.differentiable_with]):
            names.append(operand.name)
    return tuple(names)

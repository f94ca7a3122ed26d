"""Arrangements, and the views that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from portaloss.checks import Shape

Array = Any  # of either library: a view is made the same way
View = Callable[[Array], Array]
Operands = Mapping[str, Array]
Options = Mapping[str, Any]


def as_is(array: Array) -> Array:
    """The identity."""
    return array


@dataclass  # not frozen: that takes a microsecond more, which is much of a small call
class Arranged:
    """The operands of one call as a chapter takes them."""

    operands: dict[str, Array]  #: views, or copies where a chapter takes another form (CTC's concatenated targets)
    items_shape: Shape  #: of the result with reduction none
    axis: int | None = None  #: the class axis, which items do not span; None for pointwise losses
    views: dict[str, View] = field(default_factory=dict)  #: where it is not the identity
    items_as: View = as_is

    def of(self, operands: Operands) -> Arranged:
        """The same arrangement of other operands, of the same shapes and dtypes."""
        return Arranged(apply(operands, self.views), self.items_shape, self.axis, self.views, self.items_as)

    def view(self, name: str, array: Array) -> Array:
        """An array of the shape in which the user gave the operand, seen in the chapter's shape."""
        return self.views[name](array) if name in self.views else array

    def items_view(self, array: Array) -> Array:
        """An array of ``items_shape``, seen in the shape of the chapter's items."""
        return self.items_as(array)


def apply(operands: Operands, views: dict[str, View]) -> dict[str, Array]:
    """The operands, each seen through its view."""
    if not views:
        return dict(operands)
    return {name: views[name](array) if name in views else array for name, array in operands.items()}


def lead(axes: int) -> View:
    """So many axes of length one in front."""
    index = (None,) * axes + (...,)
    return lambda array: array[index]


def after(first: View, then: View) -> View:
    """One view through another."""
    return lambda array: then(first(array))


# Rowwise: (N, C, d1, ...). Operands with one value a row keep a class axis of length one.


def batch(array: Array) -> Array:
    """A batch of one."""
    return array[None]


def row(array: Array) -> Array:
    """(N, d1, ...) -> (N, 1, d1, ...)."""
    return array[:, None]


def row_unbatched(array: Array) -> Array:
    """One number -> (1, 1)."""
    return array.reshape(1, 1)


def single(array: Array) -> Array:
    """One number -> (1)."""
    return array.reshape(1)


def classes(rank: int) -> View:
    """(C) -> (1, C, 1, ...), of the given rank."""
    index = (None, slice(None)) + (None,) * (rank - 2)
    return lambda array: array[index]


def feature_axis_last(rank: int) -> View:
    """(..., C) -> (N, C, ...); where there is no batch, it gets one of length one."""
    if rank == 0:
        return row_unbatched
    if rank == 1:
        return batch
    if rank == 2:
        return as_is
    return _move_last_to_second


def _move_last_to_second(array: Array) -> Array:
    order = (0, array.ndim - 1, *range(1, array.ndim - 1))
    permute: View = getattr(array, "permute", array.transpose)  # torch's transpose is another function
    return permute(order)

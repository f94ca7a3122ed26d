"""``Layout``, the views of one call's operands; and ``Arrangement``, a kind's checks of shapes and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from portaloss.checks import Shape

Array = Any  # a NumPy array or a torch tensor: views of both are made in the same way
View = Callable[[Array], Array]
Operands = Mapping[str, Array]
Options = Mapping[str, Any]


class Spec(NamedTuple):
    """The shape and dtype of an operand."""

    shape: Shape
    dtype: str  #: ``"float32"``, ``"int64"``, ...

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


Specs = Mapping[str, Spec]


def as_is(array: Array) -> Array:
    """The array itself."""
    return array


@dataclass(frozen=True)
class Layout:
    """The views that turn operands of certain shapes and dtypes into what a chapter takes."""

    items_shape: Shape  #: the shape of the result with reduction none
    axis: int | None = None  #: the class axis, which items do not have; None for pointwise losses
    views: Mapping[str, View] = field(default_factory=dict)  #: by the operand's name; without one, it is taken as it is
    items_as: View = as_is

    def of(self, operands: Operands) -> dict[str, Array]:
        """The operands as the chapter takes them."""
        views = self.views
        if not views:
            return dict(operands)
        return {name: views[name](array) if name in views else array for name, array in operands.items()}

    def view(self, name: str, array: Array) -> Array:
        """A view, in the chapter's shape, of an array that has the shape of the operand as the user gave it."""
        return self.views[name](array) if name in self.views else array

    def items_view(self, array: Array) -> Array:
        """A view, in the shape of the chapter's items, of an array of ``items_shape``."""
        return self.items_as(array)


@dataclass(frozen=True)
class Arrangement:
    """How a kind checks and arranges its operands: ``shapes`` once for each set of shapes, ``values`` in every call.

    ``shapes`` is given no values, so that its result can be kept. Whatever depends on values, ``values`` must check.
    """

    #: Check shapes and dtypes, and return the layout.
    shapes: Callable[[Options, Specs], Layout]
    #: Check the values of the operands, which have the shapes that the user gave; None if any values are allowed.
    values: Callable[[Options, Operands], None] | None = None
    #: Whether one quick look shows that operands, or parts of them, pass ``values``. If not, ``values`` decides.
    quick: Callable[[Operands], bool] | None = None


def lead(axes: int) -> View:
    """A view with this many more axes of length one in front."""
    index = (None,) * axes + (...,)
    return lambda array: array[index]


def after(first: View, then: View) -> View:
    """The view ``then`` of the view ``first``."""
    return lambda array: then(first(array))


# Views for rowwise losses: (N, C, d1, ...). Operands with one value for each row have a class axis of length one.


def batch(array: Array) -> Array:
    """A batch of one: (...) -> (1, ...)."""
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
    """(C) -> (1, C, 1, ...), with this many axes."""
    index = (None, slice(None)) + (None,) * (rank - 2)
    return lambda array: array[index]


def feature_axis_last(rank: int) -> View:
    """(N, ..., C) -> (N, C, ...), (C) -> (1, C) and () -> (1, 1)."""
    if rank == 0:
        return row_unbatched
    if rank == 1:
        return batch
    if rank == 2:
        return as_is
    return _move_last_to_second


def _move_last_to_second(array: Array) -> Array:
    order = (0, array.ndim - 1, *range(1, array.ndim - 1))
    permute: View = getattr(array, "permute", array.transpose)  # torch's transpose swaps two axes only
    return permute(order)

"""The layout of a call, the views that it is made of, and what a kind knows about both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from portaloss.checks import Shape

Array = Any  # of either library: a view is made the same way
View = Callable[[Array], Array]
Operands = Mapping[str, Array]
Options = Mapping[str, Any]


class Spec(NamedTuple):
    """What is known of an operand without its values."""

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
    """The identity."""
    return array


@dataclass(frozen=True)
class Layout:
    """How operands of certain shapes become what a chapter takes. It serves all operands of these shapes and dtypes."""

    items_shape: Shape  #: of the result with reduction none
    axis: int | None = None  #: the class axis, which items do not span; None for pointwise losses
    views: Mapping[str, View] = field(default_factory=dict)  #: by the operand's name; the identity where there is none
    items_as: View = as_is

    def of(self, operands: Operands) -> dict[str, Array]:
        """The operands as the chapter takes them."""
        views = self.views
        if not views:
            return dict(operands)
        return {name: views[name](array) if name in views else array for name, array in operands.items()}

    def view(self, name: str, array: Array) -> Array:
        """An array of the shape in which the user gave the operand, seen in the chapter's shape."""
        return self.views[name](array) if name in self.views else array

    def items_view(self, array: Array) -> Array:
        """An array of ``items_shape``, seen in the shape of the chapter's items."""
        return self.items_as(array)


@dataclass(frozen=True)
class Arrangement:
    """What a kind checks, and how it arranges operands. Shapes are looked at once, values in every call.

    ``shapes`` is given no values, so that its result can be kept; what it does not look at, ``values`` must.
    """

    #: Check shapes and dtypes, and lay the operands out.
    shapes: Callable[[Options, Specs], Layout]
    #: Check what the operands hold; None where they may hold anything. They come in the shapes that the user gave.
    values: Callable[[Options, Operands], None] | None = None
    #: Whether a part of the operands passes ``values`` at one look. False means that ``values`` must decide.
    quick: Callable[[Operands], bool] | None = None


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

"""What the chapters share: the types in their signatures. ``notation.md`` explains the symbols.

Every chapter is one function named after its kind:

    items, derivatives = mse(input, target, weight, wants=("input",))

``items`` is the loss before any reduction. ``derivatives`` maps each operand named in ``wants`` to the derivative of
the items with respect to it, element by element: what an upstream gradient is multiplied by.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

#: An array of any of the math dtypes. A chapter computes in the dtype it is given.
Array = npt.NDArray[Any]


class Product(NDArrayOperatorsMixin):
    """What is not multiplied out: an array like others, to all but who multiplies it further, or adds it up."""

    def times(self, upstream: Array | float) -> Array:
        """The whole array, multiplied by a number, or by an array that broadcasts."""
        raise NotImplementedError

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        del copy
        return np.asarray(self.times(1), dtype)

    def __repr__(self) -> str:
        return repr(np.asarray(self))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, method)(*(np.asarray(i) if isinstance(i, Product) else i for i in inputs), **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self)[index]

    def __len__(self) -> int:
        return len(np.asarray(self))


@dataclass(frozen=True, eq=False, repr=False)
class OneHot(Product):
    """A derivative (N, C, ...) that is 0 but in one class of each row: its zeros stay 0 whatever multiplies it."""

    index: Array  #: the class, (N, 1, ...), integers; negative in a row that is all 0
    values: Array  #: what is there, (N, 1, ...)
    shape: tuple[int, ...]

    def times(self, upstream: Array | float) -> Array:
        """The whole array, multiplied by a number or by one a row."""
        product = np.zeros(self.shape, self.values.dtype)
        self.put(upstream, product)
        return product

    def put(self, upstream: Array | float, zeros: Array) -> None:
        """The same into an array of zeros: where there are many classes, they are nearly all that there is to write."""
        some = self.index >= 0
        values = self.values * upstream
        if not some.all():
            values = np.where(some, values, 0)
        with np.errstate(over="ignore"):
            np.put_along_axis(zeros, np.maximum(self.index, 0), values.astype(zeros.dtype, copy=False), axis=1)


@dataclass(eq=False, repr=False)
class Scaled(Product):
    """An array times a number, or times an array that broadcasts with it; over another one.

    A derivative with a number, or one a row, is multiplied once instead of twice: the driver multiplies that by what it
    multiplies by anyway. Items of two arrays are added up as they are multiplied, and never written.
    """

    array: Array
    factor: Any
    divisor: Any = 1.0  #: apart, because as an array the quotient has one rounding less than a product with 1/divisor

    def times(self, upstream: Array | float, out: Array | None = None) -> Array:
        """The product with a number, or with an array that broadcasts."""
        product: Array = np.multiply(self.array, self.scale(upstream), out=out)
        return product

    def scale(self, upstream: Array | float) -> Any:
        """The factor times that over the divisor, in the array's dtype."""
        scale = self.factor * upstream / self.divisor
        return scale.astype(self.array.dtype, copy=False) if isinstance(scale, np.ndarray) else scale

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        del copy
        product = self.array * self.factor
        if isinstance(self.divisor, np.ndarray) or self.divisor != 1.0:
            product = product / self.divisor
        return np.asarray(product, dtype or self.array.dtype)


@dataclass(eq=False, repr=False)
class Sum(Product):
    """Items that are a sum. Where only the total of all items is wanted, each part is added up on its own."""

    parts: tuple[Any, ...]  #: arrays, or Scaled

    def times(self, upstream: Array | float) -> Array:
        """The sum times a number or an array that broadcasts."""
        total: Array = sum(map(np.asarray, self.parts[1:]), start=np.asarray(self.parts[0]))
        return total if isinstance(upstream, (int, float)) and upstream == 1 else total * upstream


#: Operand name -> derivative of the items with respect to that operand: an Array, or a Product.
Derivatives = dict[str, Any]

#: The names of the operands whose derivatives are wanted.
Wants = Collection[str]

#: Items, an Array, Scaled or Sum; and the derivatives that were wanted.
Terms = tuple[Any, Derivatives]


def step(condition: Array, like: Array) -> Array:
    """1 where the condition holds, else 0, in the dtype of ``like``.

    A product with a step is several times faster than ``np.where``, which branches once an element. It is right only
    where the other factor is finite: 0 * inf is nan.
    """
    return condition.astype(like.dtype)


def sign(x: Array) -> Array:
    """The sign of x; 0 for 0 and nan. Bytes are subtracted faster than floats, and np.sign is slower than both."""
    return ((x > 0).view(np.int8) - (x < 0).view(np.int8)).astype(x.dtype)


def over(function: Any, x: Array, *others: Any) -> Array:
    """A ufunc of x and others, written over x where that can be: not where others are of more elements."""
    fits = isinstance(x, np.ndarray)
    for y in others:
        if np.ndim(y) and y.shape != x.shape:
            fits = fits and np.broadcast_shapes(x.shape, y.shape) == x.shape
    value: Array = function(x, *others, out=x) if fits else function(x, *others)
    return value


def log(x: Array) -> Array:
    """The natural logarithm, in float32 within 2.5 units in the last place instead of 4."""
    logarithm: Array = np.log2(x)
    logarithm *= math.log(2)
    return logarithm


def exp(x: Array) -> Array:
    """The exponential function, in float32 within 0.6 units in the last place instead of 2.5, at 2.5 times the cost.

    For chapters whose result or derivative is an exponential as it stands, and no better than it.
    """
    if x.dtype != np.float32:
        return np.exp(x)
    exponential: Array = np.exp(x, dtype=np.float64).astype(np.float32)
    return exponential


__all__ = [
    "Array",
    "Derivatives",
    "OneHot",
    "Product",
    "Scaled",
    "Sum",
    "Terms",
    "Wants",
    "exp",
    "log",
    "np",
    "over",
    "sign",
    "step",
]

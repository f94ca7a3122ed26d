"""What the chapters share: the types in their signatures. ``notation.md`` explains the symbols.

Every chapter is one function named after its kind:

    items, derivatives = mse(input, target, weight, wants=("input",))

``items`` is the loss before any reduction. ``derivatives`` maps each operand named in ``wants`` to the derivative of
the items with respect to it, element by element: what an upstream gradient is multiplied by.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

#: An array of any of the math dtypes. A chapter computes in the dtype it is given.
Array = npt.NDArray[Any]


#: Operand name -> derivative of the items with respect to that operand: an Array, or a Lazy.
Derivatives = dict[str, Any]

#: The names of the operands whose derivatives are wanted.
Wants = Collection[str]

#: Items, an Array or a Lazy; and the derivatives that were wanted.
Terms = tuple[Any, Derivatives]


def step(condition: Array, like: Array) -> Array:
    """1 where the condition holds, else 0, in the dtype of ``like``.

    A product with a step is several times faster than ``np.where``, which branches once an element. It is right only
    where the other factor is finite: 0 * inf is nan.
    """
    return condition.astype(like.dtype)


def class_numbers(like: Any, xp: Any = np) -> Any:
    """The number of each class, 0 .. C-1 along axis 1, in the shape of ``like`` (N, C, ...); for definitions."""
    return xp.cumsum(xp.ones_like(like, dtype=xp.int64), axis=1) - 1


def sign(x: Array) -> Array:
    """The sign of x; 0 for 0 and nan. Bytes are subtracted faster than floats, and np.sign is slower than both."""
    return ((x > 0).view(np.int8) - (x < 0).view(np.int8)).astype(x.dtype)


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
    "Terms",
    "Wants",
    "class_numbers",
    "exp",
    "log",
    "np",
    "sign",
    "step",
]

"""The checks that arrangements are built from. Each raises an error of PyTorch's type that names the argument."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Shape = tuple[int, ...]


class TargetOutOfRangeError(IndexError, RuntimeError):
    """A class index that names no class.

    It is an IndexError for every kind, and also a RuntimeError, which is what PyTorch raises for the margin losses.
    """


def dtype_name(array: Any) -> str:
    """``"float32"``, ``"int64"``, ...: for either library."""
    return _name(array.dtype)


@lru_cache(maxsize=64)
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")  # NumPy takes 4 us to spell a dtype: once is enough


def is_floating(array: Any) -> bool:
    """Whether the array's dtype is one of the four, or another floating dtype."""
    return "float" in dtype_name(array)


def distinct(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view without the repetitions of broadcast axes: the same values and first positions, each once."""
    return array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]


def require_floating(name: str, array: Any) -> None:
    """Raise NotImplementedError, as PyTorch does, unless the array is of a floating dtype."""
    if not is_floating(array):
        raise NotImplementedError(
            f"{name} must be of a floating dtype, got {dtype_name(array)}; not implemented for it"
        )


def require_integer(name: str, array: Any) -> None:
    """Raise RuntimeError unless the array is of an integer dtype."""
    if "int" not in dtype_name(array):
        raise RuntimeError(f"expected {name} dtype to be Long or another integer, but got {dtype_name(array)}")


def require_same_dtype(name: str, array: Any, other_name: str, other: Any) -> None:
    """Raise RuntimeError where PyTorch, too, does not mix dtypes."""
    if array.dtype != other.dtype:
        raise RuntimeError(
            f"expected {name} to have {other_name}'s dtype {dtype_name(other)}, but found {dtype_name(array)}"
        )


def broadcast_shape(**shapes: Shape) -> Shape:
    """The shape that the named shapes broadcast to.

    Raises:
        RuntimeError: two of them do not fit; it names both.
    """
    names = list(shapes)
    rank = max(len(shape) for shape in shapes.values())
    result = [1] * rank
    owner = [names[0]] * rank
    for name, shape in shapes.items():
        for axis, size in enumerate(shape, rank - len(shape)):
            if size == 1 or size == result[axis]:
                continue
            if result[axis] != 1:
                raise RuntimeError(
                    f"The size of {owner[axis]} ({result[axis]}) must match the size of {name} ({size}) at "
                    f"non-singleton dimension {axis}; got {owner[axis]} {shapes[owner[axis]]} and {name} {shape}"
                )
            result[axis], owner[axis] = size, name
    return tuple(result)


def require_fits(name: str, shape: Shape, full: Shape) -> None:
    """Raise RuntimeError unless ``shape`` broadcasts to ``full`` without enlarging it."""
    if broadcast_shape(**{"input": full, name: shape}) != full:
        raise RuntimeError(f"{name} of shape {shape} doesn't broadcast to the shape of input, {full}")


def require_classes_in_range(
    name: str, target: npt.NDArray[Any], classes: int, *, ignore_index: int | None = None, padding: bool = False
) -> None:
    """Raise TargetOutOfRangeError (an IndexError) for the first class that is not in 0 .. classes - 1.

    Args:
        name: the argument's name.
        target: class indices.
        classes: how many classes there are.
        ignore_index: a value that is allowed besides.
        padding: whether -1 is allowed besides.
    """
    if target.size == 0:
        return
    target = distinct(target)
    lowest = 0 if not padding else -1
    if target.min() >= lowest and target.max() < classes:
        return
    wrong = (target < lowest) | (target >= classes)
    if ignore_index is not None:
        wrong &= target != ignore_index
    if not wrong.any():
        return
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    value = int(target[where])
    index = f"[{', '.join(map(str, where))}]" if where else ""
    allowed = f", or ignore_index {ignore_index}" if ignore_index is not None else ", or -1" if padding else ""
    raise TargetOutOfRangeError(
        f"Target {value} is out of bounds: {name}{index} is {value}, expected a class from 0 to {classes - 1}{allowed}"
    )


def require_in_unit_interval(name: str, array: npt.NDArray[Any]) -> None:
    """Raise RuntimeError unless every element is between 0 and 1; nan is not."""
    array = distinct(array)
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        flat = array.astype(np.float64).ravel()
        where = int(np.flatnonzero(~((flat >= 0) & (flat <= 1)))[0])
        index = ", ".join(str(int(i)) for i in np.unravel_index(where, array.shape))
        raise RuntimeError(f"all elements of {name} should be between 0 and 1, but {name}[{index}] is {flat[where]}")

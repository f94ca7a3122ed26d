"""Checks of operands, which arrangements use. Errors have PyTorch's types, and their messages name the argument."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss import arrays

Shape = tuple[int, ...]


class TargetOutOfRangeError(IndexError, RuntimeError):
    """Raised for a class index that is out of range.

    It is an IndexError, and also a RuntimeError, which PyTorch raises for the margin losses.
    """


def dtype_name(array: Any) -> str:
    """The name of an array's or a tensor's dtype: ``"float32"``, ``"int64"``, ..."""
    if not isinstance(array, np.ndarray) and arrays.is_tensor(array):
        return str(array.dtype).removeprefix("torch.")  # not cached, because torch.compile cannot trace a cache
    return _name(array.dtype)


@lru_cache(maxsize=64)
def _name(dtype: Any) -> str:
    return str(dtype)  # cached, because NumPy takes 4 us to make the name


def is_floating(array: Any) -> bool:
    """Whether the array has a floating-point dtype."""
    if not isinstance(array, np.ndarray) and arrays.is_tensor(array):
        return bool(array.is_floating_point())
    return "float" in _name(array.dtype)


def distinct(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view in which broadcast axes have length one: it has the same values, and each at its first position."""
    return array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]


#: The names of dtypes in PyTorch's errors.
SCALAR_TYPES = {
    "float16": "Half",
    "bfloat16": "BFloat16",
    "float32": "Float",
    "float64": "Double",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}


def scalar_type(array: Any) -> str:
    """The dtype's name in PyTorch's errors: ``"Float"``, ``"Long"``, ..."""
    name = dtype_name(array)
    return SCALAR_TYPES.get(name, name)


def require_floating(name: str, array: Any) -> None:
    """Raise NotImplementedError, as PyTorch does, unless the array has a floating-point dtype."""
    if not is_floating(array):
        raise NotImplementedError(
            f"{name} must be of a floating dtype; the loss is not implemented for {dtype_name(array)}"
        )


def require_integer(name: str, array: Any) -> None:
    """Raise RuntimeError unless the array has an integer dtype."""
    if "int" not in dtype_name(array):
        raise RuntimeError(
            f"expected scalar type Long but found {scalar_type(array)}: {name} must be of an integer dtype"
        )


def require_scalar_type(name: str, array: Any, other_name: str, other: Any) -> None:
    """Raise RuntimeError, as PyTorch does, unless two arrays have the same dtype."""
    if array.dtype != other.dtype:
        raise RuntimeError(
            f"expected scalar type {scalar_type(other)} but found {scalar_type(array)}: {name} must have "
            f"{other_name}'s dtype {dtype_name(other)}, got {dtype_name(array)}"
        )


def require_no_integers(**operands: Any) -> None:
    """For KL divergence: raise RuntimeError if an operand does not have a floating-point dtype."""
    for name, array in operands.items():
        if not is_floating(array):
            raise RuntimeError(f"kl_div: Integral inputs not supported; {name} is {dtype_name(array)}")


def broadcast_shape(**shapes: Shape) -> Shape:
    """The shape that the named shapes broadcast to, in this order.

    Raises:
        RuntimeError: two of them do not broadcast together; the message names both.
    """
    (first, result), *others = shapes.items()
    owners = [first] * len(result)
    for name, shape in others:
        rank = max(len(result), len(shape))
        a, b = (1,) * (rank - len(result)) + result, (1,) * (rank - len(shape)) + shape
        owners = [first] * (rank - len(owners)) + owners
        for axis in reversed(range(rank)):  # in PyTorch's order
            if a[axis] != b[axis] and 1 not in (a[axis], b[axis]):
                owner = owners[axis]
                raise RuntimeError(
                    f"The size of tensor a ({a[axis]}) must match the size of tensor b ({b[axis]}) at non-singleton "
                    f"dimension {axis}: {owner} is of shape {shapes[owner]}, {name} of shape {shape}"
                )
        owners = [name if i == 1 else owner for i, owner in zip(a, owners, strict=True)]
        result = tuple(j if i == 1 else i for i, j in zip(a, b, strict=True))
    return result


def require_fits(name: str, shape: Shape, full_name: str, full: Shape) -> None:
    """Raise RuntimeError unless ``shape`` broadcasts to ``full``."""
    together = broadcast_shape(**{full_name: full, name: shape})
    if together != full:
        raise RuntimeError(
            f"output with shape {list(full)} doesn't match the broadcast shape {list(together)}: {name} of shape "
            f"{shape} doesn't broadcast to the shape of {full_name}"
        )


# Checks that PyTorch makes in Python. Its messages show shapes as torch.Size, so these take the arrays of the user.


def require_bce_sizes(input: Any, target: Any, weight: Any = None) -> None:
    """For binary cross-entropy: raise ValueError if sizes differ, RuntimeError if the weight does not broadcast."""
    if target.shape != input.shape:
        raise ValueError(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}) is deprecated. "
            "Please ensure they have the same size."
        )
    if weight is None or weight.shape == input.shape:
        return
    rank = max(len(weight.shape), len(input.shape))
    for back in range(1, rank + 1):
        have, need = ((*reversed(array.shape), *(1,) * rank)[back - 1] for array in (weight, input))
        if have != need and 1 not in (have, need):
            raise RuntimeError(
                f"Attempting to broadcast a dimension of length {have} at -{back}! Mismatching argument at index 1 had "
                f"{weight.shape}; but expected shape should be broadcastable to {list(input.shape)}: weight does not "
                "broadcast to the shape of input"
            )


def require_logits_sizes(input: Any, target: Any) -> None:
    """For binary cross-entropy of logits: raise ValueError if sizes differ."""
    if target.shape != input.shape:
        raise ValueError(f"Target size ({target.shape}) must be the same as input size ({input.shape})")


def require_ranks_alike(input1: Any, input2: Any, target: Any) -> None:
    """For margin ranking: raise RuntimeError unless all have the same number of axes."""
    if not len(input1.shape) == len(input2.shape) == len(target.shape):
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.shape}, input2: {input2.shape}, target: {target.shape} "
        )


def require_classes_in_range(
    name: str,
    target: npt.NDArray[Any],
    classes: int,
    *,
    ignore_index: int | None = None,
    padding: bool = False,
    text: str | None = None,
) -> None:
    """Raise TargetOutOfRangeError (an IndexError) if a class is not in 0 .. classes - 1; it names the first one.

    Args:
        name: the argument's name.
        target: class indices.
        classes: how many classes there are.
        ignore_index: another value that is allowed.
        padding: whether -1 is allowed too.
        text: the beginning of the message, if PyTorch's differs from that for most kinds.
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
    text = text or f"Target {value} is out of bounds"
    raise TargetOutOfRangeError(f"{text}: {name}{index} is {value}, expected a class from 0 to {classes - 1}{allowed}")


def require_unit_interval(name: str, array: npt.NDArray[Any]) -> None:
    """Raise RuntimeError unless every element is between 0 and 1. nan is not."""
    array = distinct(array)
    if is_from_0_to(array, 1.0):
        return
    flat = array.astype(np.float64).ravel()
    wrong = np.flatnonzero(~((flat >= 0) & (flat <= 1)))
    if wrong.size:
        where = int(wrong[0])
        index = ", ".join(str(int(i)) for i in np.unravel_index(where, array.shape))
        raise RuntimeError(f"all elements of {name} should be between 0 and 1, but {name}[{index}] is {flat[where]}")


def is_from_0_to(array: npt.NDArray[Any], largest: float) -> bool:
    """Whether all elements are from 0 to ``largest``. Arrays with -0 or nan give False, so False leaves it open.

    The bits of floats without a sign, read as integers, have the order of the floats. Those of negative floats and of
    nan are larger. So the largest integer decides, and NumPy finds it faster than it compares 16-bit floats.
    """
    bits = np.dtype(f"{array.dtype.byteorder}u{array.itemsize}")
    return bool(array.view(bits).max(initial=0) <= np.asarray(largest, array.dtype).view(bits))

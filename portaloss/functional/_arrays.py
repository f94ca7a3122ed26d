"""The types of arrays in the signatures, and dtypes that PyTorch takes beside the four. torch need not be there."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from portaloss import arrays, checks, gradients

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
else:
    Array = Any  # so that typing.get_type_hints works

#: The first operand, and the loss: NumPy in, NumPy out; torch in, torch out. The others are of the same library, but
#: not of this variable: a type checker would look for one type that float inputs and integer targets share.
ArrayT = TypeVar("ArrayT", "npt.NDArray[Any]", "torch.Tensor")


def floating(array: Any) -> Any:
    """Integers and bools as float32, which is what PyTorch makes of them; any other array as it is."""
    if arrays.is_tensor(array):
        return array if array.is_floating_point() or array.is_complex() else array.float()
    if isinstance(array, (np.ndarray, np.generic)) and array.dtype.kind in "iub":
        return array.astype(np.float32)
    return array


def everywhere(value: float, input: Any) -> Any:
    """One value at each element of input, in input's dtype (float32 for integers, as in PyTorch), stored once."""
    if arrays.is_tensor(input):
        return (input.new_ones(()) * float(value)).expand(input.shape)
    if not isinstance(input, (np.ndarray, np.generic)):
        return value  # it is input that is refused
    with np.errstate(over="ignore"):
        number = np.asarray(value).astype(input.dtype if checks.is_floating(input) else np.float32)
    return np.broadcast_to(number, input.shape)


def zero(like: Any, axes: int = 0) -> Any:
    """One 0 of an array's library and dtype, with so many axes of length one."""
    shape = (1,) * axes
    return like.new_zeros(shape) if arrays.is_tensor(like) else np.zeros(shape, like.dtype)


def has_shape(*values: Any) -> bool:
    """Whether all are arrays; what is none is refused later, by name."""
    return all(hasattr(value, "shape") for value in values)


def are_integers(*values: Any) -> bool:
    """Whether all are arrays of integers or bools."""
    return has_shape(*values) and not any(map(_is_inexact, values))


def are_complex(*values: Any) -> bool:
    """Whether all are arrays, and one of complex numbers."""
    return has_shape(*values) and any("complex" in checks.dtype_name(value) for value in values)


def _is_inexact(array: Any) -> bool:
    return checks.is_floating(array) or "complex" in checks.dtype_name(array)


def in_dtype_of(loss: Any, *operands: Any) -> Any:
    """The loss in the dtype that these operands promote to, where other operands have no say in PyTorch."""
    if arrays.is_tensor(loss):
        torch = sys.modules["torch"]
        device = loss.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            return loss  # the choice is autocast's
        dtype = functools.reduce(torch.promote_types, (operand.dtype for operand in operands))
        return loss if loss.dtype == dtype else loss.to(dtype)
    dtype = np.result_type(*(operand.dtype for operand in operands))
    if loss.dtype == dtype or gradients.active() is not None:  # value_and_grad wants the loss itself
        return loss
    with np.errstate(over="ignore"):
        return loss.astype(dtype)


def lead_of_integers(input1: Any, input2: Any, target: Any) -> dict[str, Any]:
    """Scores with the margin ranking loss of integers: products in their own dtype, as in PyTorch, then float32."""
    checks.broadcast_shape(target=target.shape, input=checks.broadcast_shape(input1=input1.shape, input2=input2.shape))
    with np.errstate(over="ignore"):
        behind = floating(-target * (input1 - input2))  # unsigned ones wrap around there too
    return {"input1": behind * 0, "input2": behind, "target": behind * 0 + 1}

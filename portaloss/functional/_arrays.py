"""The array types in the signatures, and the further dtypes that PyTorch accepts. torch need not be installed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from portaloss import arrays, checks, gradients

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
else:
    Array = Any  # so that typing.get_type_hints works

#: The type of the first operand and of the loss: NumPy in, NumPy out; torch in, torch out. The other operands are of
#: the same library, but are typed ``Array``: a type checker would otherwise require one dtype for inputs and targets.
ArrayT = TypeVar("ArrayT", "npt.NDArray[Any]", "torch.Tensor")


def floating(array: Any) -> Any:
    """Integers and bools as float32, as PyTorch converts them; any other value unchanged."""
    if arrays.is_tensor(array):
        return array if array.is_floating_point() or array.is_complex() else array.float()
    if isinstance(array, (np.ndarray, np.generic)) and array.dtype.kind in "iub":
        return array.astype(np.float32)
    return array


def everywhere(value: float, input: Any) -> Any:
    """The value broadcast to the shape of input, in input's dtype (float32 for integers, as in PyTorch)."""
    if arrays.is_tensor(input):
        return (input.new_ones(()) * float(value)).expand(input.shape)
    if not isinstance(input, (np.ndarray, np.generic)):
        return value  # input is refused later, with its own error
    with np.errstate(over="ignore"):
        number = np.asarray(value).astype(input.dtype if checks.is_floating(input) else np.float32)
    return np.broadcast_to(number, input.shape)


def zero(like: Any, axes: int = 0) -> Any:
    """One 0, of the library and dtype of ``like``, with that many axes of length one."""
    shape = (1,) * axes
    return like.new_zeros(shape) if arrays.is_tensor(like) else np.zeros(shape, like.dtype)


def has_shape(*values: Any) -> bool:
    """Whether all are arrays. A value that is not an array is refused later, with its name."""
    return all(hasattr(value, "shape") for value in values)


def are_integers(*values: Any) -> bool:
    """Whether all are arrays of integers or bools."""
    return has_shape(*values) and not any(map(_is_inexact, values))


def are_complex(*values: Any) -> bool:
    """Whether all are arrays, and at least one is complex."""
    return has_shape(*values) and any("complex" in checks.dtype_name(value) for value in values)


def _is_inexact(array: Any) -> bool:
    return checks.is_floating(array) or "complex" in checks.dtype_name(array)


def in_dtype_of(loss: Any, *operands: Any) -> Any:
    """The loss in the dtype that these operands promote to; other operands do not affect it in PyTorch."""
    if arrays.is_tensor(loss):
        torch = sys.modules["torch"]
        device = loss.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            return loss  # autocast has chosen the dtype
        dtype = functools.reduce(torch.promote_types, (operand.dtype for operand in operands))
        return loss if loss.dtype == dtype else loss.to(dtype)
    try:
        dtype = np.result_type(*(operand.dtype for operand in operands))
    except TypeError:  # float16 and bfloat16: NumPy does not know that together they give float32
        dtype = np.dtype(np.float32)
    if loss.dtype == dtype or gradients.active() is not None:  # value_and_grad needs this very object
        return loss
    with np.errstate(over="ignore"):
        return loss.astype(dtype)


def as_pytorch_promotes(loss: Any, *operands: Any) -> Any:
    """The loss in the dtype of PyTorch's arithmetic on tensors, which asks one without axes for its category only."""
    same = len({operand.dtype for operand in operands}) == 1 or len({operand.ndim > 0 for operand in operands}) == 1
    if same or not arrays.is_tensor(loss) or gradients.active() is not None:
        return loss
    return in_dtype_of(loss, sum(operand.new_empty((0,) if operand.ndim else ()) for operand in operands))


def named(function: Callable[..., Any], **operands: Any) -> Any:
    """What a function gives for the operands. An error of their own library's arithmetic gets their names."""
    try:
        return function(*operands.values())
    except (TypeError, RuntimeError) as error:  # NotImplementedError is a RuntimeError
        given = " and ".join(f"{name} of dtype {checks.dtype_name(value)}" for name, value in operands.items())
        raise type(error)(f"{error} Got {given}") from None


def lead_of_integers(input1: Any, input2: Any, target: Any) -> dict[str, Any]:
    """Floating operands with the same loss: as in PyTorch, products of integers are computed in their own dtype."""
    checks.broadcast_shape(target=target.shape, input=checks.broadcast_shape(input1=input1.shape, input2=input2.shape))
    with np.errstate(over="ignore"):
        # unsigned integers wrap around in PyTorch too
        behind = named(lambda target, x, y: floating(-target * (x - y)), target=target, input1=input1, input2=input2)
    return {"input1": behind * 0, "input2": behind, "target": behind * 0 + 1}

"""The types of arrays in the signatures. torch need not be there at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
else:
    Array = Any  # so that typing.get_type_hints works

#: The first operand, and the loss: NumPy in, NumPy out; torch in, torch out. The others are of the same library, but
#: not of this variable: a type checker would look for one type that float inputs and integer targets share.
ArrayT = TypeVar("ArrayT", "npt.NDArray[Any]", "torch.Tensor")

"""The type of an array, in the signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt
    import torch

#: NumPy in, NumPy out; torch in, torch out; never both in one call. Named by strings, so that torch need not be there.
ArrayT = TypeVar("ArrayT", "npt.NDArray[Any]", "torch.Tensor")

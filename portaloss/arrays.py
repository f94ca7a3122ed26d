"""NumPy arrays and torch tensors: tells them apart, and converts between them without a copy.

torch is not imported here. An object can be a tensor only if the caller has imported torch already.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

NUMPY = "numpy"
TORCH = "torch"


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a torch tensor."""
    torch = sys.modules.get("torch")
    # while torch is being imported it has no Tensor yet
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def library_of(operands: Mapping[str, Any]) -> str:
    """The library of all operands: ``"numpy"`` or ``"torch"``.

    Raises:
        TypeError: an operand is neither a NumPy array nor a torch tensor, or both kinds are mixed.
    """
    first: tuple[str, str] | None = None
    for name, value in operands.items():
        if isinstance(value, (np.ndarray, np.generic)):
            library = NUMPY
        elif is_tensor(value):
            library = TORCH
        else:
            raise TypeError(f"{name} must be a NumPy array or a torch tensor, got {type(value).__name__}")
        if first is None:
            first = (name, library)
        elif first[1] != library:
            raise TypeError(
                f"{name} is a {library} array but {first[0]} is a {first[1]} array; all must be of one library"
            )
    if first is None:
        raise TypeError("no arrays were given")
    return first[1]


def bfloat16() -> np.dtype[Any]:
    """The dtype bfloat16 of NumPy arrays, which the package ml_dtypes provides.

    Raises:
        ImportError: ml_dtypes is not installed.
    """
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("bfloat16 arrays need ml_dtypes: pip install 'portaloss[bfloat16]'") from error
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def dtype_of(name: str) -> np.dtype[Any]:
    """The NumPy dtype of one of ``kinds.DTYPES``."""
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def to_numpy(value: Any) -> npt.NDArray[Any]:
    """A NumPy array or a CPU tensor as a NumPy array, without a copy and without autograd."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic):
        return np.asarray(value)
    bits = value.dtype == sys.modules["torch"].bfloat16
    if bits:
        value = value.detach().view(sys.modules["torch"].int16)
    # the same as .detach().resolve_conj().resolve_neg().numpy(), but faster
    array: npt.NDArray[Any] = value.numpy(force=value.is_cpu)
    return array.view(bfloat16()) if bits else array


def like(array: npt.NDArray[Any], library: str) -> Any:
    """The array as an object of the library: an array, a NumPy scalar if 0-dimensional, or a tensor on its memory."""
    if library == NUMPY:
        return array[()] if array.ndim == 0 else array
    torch = sys.modules["torch"]
    if array.dtype.kind == "V":  # only bfloat16 of ml_dtypes is of kind V here; asking for the name takes microseconds
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)

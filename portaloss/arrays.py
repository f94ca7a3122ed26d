"""Arrays of either library: which one it is, and how to see it as NumPy without a copy.

torch is never imported here: an object can only be a tensor if its caller has imported torch already.
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
    """Whether value is a torch tensor."""
    torch = sys.modules.get("torch")
    # a half-imported torch has no Tensor yet
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def library_of(operands: Mapping[str, Any]) -> str:
    """``"numpy"`` or ``"torch"``.

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
    """NumPy's bfloat16, which is ml_dtypes'.

    Raises:
        ImportError: ml_dtypes is missing.
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
    """A NumPy view of a NumPy array or a CPU tensor: no copy, no autograd."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic):
        return np.asarray(value)
    bits = value.dtype == sys.modules["torch"].bfloat16
    if bits:
        value = value.detach().view(sys.modules["torch"].int16)
    # as .detach().resolve_conj().resolve_neg().numpy(), but quicker; from another device it would be a copy
    array: npt.NDArray[Any] = value.numpy(force=value.is_cpu)
    return array.view(bfloat16()) if bits else array


def like(array: npt.NDArray[Any], library: str) -> Any:
    """The array as the library's own: itself, a NumPy scalar for a 0-dimensional one, or a tensor on its memory."""
    if library == NUMPY:
        return array[()] if array.ndim == 0 else array
    torch = sys.modules["torch"]
    if array.dtype.kind == "V":  # ml_dtypes' bfloat16 is the only one here; to ask for its name takes microseconds
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)

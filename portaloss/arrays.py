"""NumPy arrays and torch tensors: tells them apart, and converts between them without a copy.

torch is not imported here. An object can be a tensor only if the caller has imported torch already.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
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


def plain(name: str, value: Any) -> Any:
    """An operand as a tensor, or as an ndarray of a native dtype. Usually it is returned as it is.

    Raises:
        TypeError: the value is not an array, is masked, or is not numeric.
    """
    if not isinstance(value, (np.ndarray, np.generic)):
        library_of({name: value})
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be ignored: pass {name}.data, and a weight of zeros"
        )
    dtype = value.dtype
    if dtype.kind == "V" and dtype.name in _NARROW_INTEGERS:
        return np.asarray(value).astype(np.int8 if dtype.name.startswith("int") else np.uint8)
    if dtype.kind not in "biufc" and not (dtype.kind == "V" and "float" in dtype.name):
        raise TypeError(f"{name} must be of a numeric dtype, got {dtype}")
    if not dtype.isnative:
        return np.asarray(value).astype(dtype.newbyteorder("="))
    return value if isinstance(value, np.generic) or type(value) is np.ndarray else value.view(np.ndarray)


#: The integers of ml_dtypes with less than 8 bits.
_NARROW_INTEGERS = frozenset({"int2", "int4", "uint2", "uint4"})


class _Memory:
    """A tensor's memory as NumPy's array interface describes it. The view that NumPy makes keeps the tensor alive."""

    def __init__(self, tensor: Any, dtype: np.dtype[Any]) -> None:
        self.tensor = tensor
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "typestr": dtype.str,
            "strides": tuple([stride * dtype.itemsize for stride in tensor.stride()]),
            "data": (tensor.data_ptr(), False),
        }


def to_numpy(value: Any) -> npt.NDArray[Any]:
    """A NumPy array or a CPU tensor as a NumPy array, without a copy and without autograd.

    Tensor.numpy() would do the same, but it marks the tensor's storage as one that cannot be resized.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic):
        return np.asarray(value)
    if value.is_neg() or value.is_conj():  # the numbers in memory are not those of the tensor
        value = value.detach().resolve_conj().resolve_neg()
    dtype = _numpy_dtypes()[value.dtype]
    if not value.numel():
        return np.empty(tuple(value.shape), dtype)
    bits = dtype.kind == "V"
    array = np.asarray(_Memory(value, np.dtype(np.int16) if bits else dtype))
    return array.view(dtype) if bits else array


@cache
def _numpy_dtypes() -> dict[Any, np.dtype[Any]]:
    """Maps PyTorch's dtypes to NumPy's."""
    torch = sys.modules["torch"]
    names = [kind + bits for kind in ("int", "uint") for bits in ("8", "16", "32", "64")]
    names += ["bool", "float16", "float32", "float64", "complex64", "complex128"]
    found = {getattr(torch, name): np.dtype(name) for name in names if hasattr(torch, name)}
    with suppress(ImportError):
        found[torch.bfloat16] = bfloat16()
    return found


def like(array: npt.NDArray[Any], library: str) -> Any:
    """The array as an object of the library: an array, a NumPy scalar if 0-dimensional, or a tensor on its memory."""
    if library == NUMPY:
        return array[()] if array.ndim == 0 else array
    torch = sys.modules["torch"]
    if array.dtype.kind == "V":  # only bfloat16 of ml_dtypes is of kind V here; asking for the name takes microseconds
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)

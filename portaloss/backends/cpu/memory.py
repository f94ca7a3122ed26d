"""Allocates the memory of results. It is one place, so that parity and tests can fill the memory with nan."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.backends.cpu import blocks
from portaloss.backends.poison import is_poisoned


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array whose elements must all be written; they are nan at first while ``poisoned``."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    array = blocks.empty(shape, dtype, size) if size >= blocks.LEAST else None
    return _poisoned(np.empty(shape, dtype) if array is None else array)


def empty_like(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Such an array, with the shape, dtype and memory order of another array."""
    # where elements share memory, as in an expanded tensor, PyTorch's empty_like is contiguous, and NumPy's is not
    if (array.nbytes >= blocks.LEAST and array.flags.c_contiguous) or 0 in array.strides:
        return empty(array.shape, array.dtype)
    return _poisoned(np.empty_like(array, subok=False))


def zeros_like(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of zeros with the shape and dtype of another; new from the system if possible, which clears memory."""
    plain = array.flags.c_contiguous or 0 in array.strides
    return np.zeros(array.shape, array.dtype) if plain else np.zeros_like(array, subok=False)


def _poisoned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if is_poisoned():
        array.fill(np.nan)
    return array

"""Where results are allocated: one place, so that tests can poison it."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.backends.cpu import blocks
from portaloss.backends.poison import is_poisoned


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array to be filled completely; full of nan while ``poisoned``."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    array = blocks.empty(shape, dtype, size) if size >= blocks.LEAST else None
    return _poisoned(np.empty(shape, dtype) if array is None else array)


def empty_like(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same, with the shape, dtype and memory order of an array."""
    if array.nbytes >= blocks.LEAST and array.flags.c_contiguous:
        return empty(array.shape, array.dtype)
    return _poisoned(np.empty_like(array, subok=False))


def zeros_like(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same, full of zeros: fresh from the system, which clears memory anyway, where the order of memory allows."""
    return np.zeros(array.shape, array.dtype) if array.flags.c_contiguous else np.zeros_like(array, subok=False)


def _poisoned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if is_poisoned():
        array.fill(np.nan)
    return array

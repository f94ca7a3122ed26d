"""Where results are allocated: one place, so that tests can poison it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

_poison: ContextVar[bool] = ContextVar("poison", default=False)


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array to be filled completely; full of nan while ``poisoned``."""
    return _poisoned(np.empty(shape, dtype))


def empty_like(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same, with the shape, dtype and memory order of an array."""
    return _poisoned(np.empty_like(array, subok=False))


def _poisoned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if _poison.get():
        array.fill(np.nan)
    return array


@contextmanager
def poisoned() -> Iterator[None]:
    """Results start as nan in this context: an element that a backend forgets to write cannot pass as right."""
    token = _poison.set(True)
    try:
        yield
    finally:
        _poison.reset(token)

"""Where results and scratch are allocated: one place, so that tests can poison it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_poison: ContextVar[bool] = ContextVar("poison", default=False)


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor to be filled completely; full of nan while ``poisoned``."""
    tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
    return tensor.fill_(float("nan")) if _poison.get() and dtype.is_floating_point else tensor


@contextmanager
def poisoned() -> Iterator[None]:
    """Results start as nan in this context: an element that a kernel forgets to write cannot pass as right."""
    token = _poison.set(True)
    try:
        yield
    finally:
        _poison.reset(token)

"""Kernels in Triton's interpreter, in a process of their own.

TRITON_INTERPRET=1 python -m pytest tests/triton_interpret
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRET else ["test_*.py"]

#: Elements before and after each buffer.
MARGIN = 64


class Guards:
    """Buffers in the middle of larger ones, whose margins hold what no right answer survives."""

    def __init__(self) -> None:
        self._wholes: list[tuple[Any, Any]] = []

    def around(self, tensor: Any) -> Any:
        """A copy of a tensor, with its strides, between two margins."""
        import torch

        span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        span = span if tensor.numel() else 0
        whole = torch.full((span + 2 * MARGIN,), self._poison(tensor.dtype), dtype=tensor.dtype)
        inside = torch.as_strided(whole, tensor.shape, tensor.stride(), MARGIN)
        inside.copy_(tensor)
        self._wholes.append((whole, span))
        return inside

    def empty(self, shape: Sequence[int], dtype: Any, device: Any) -> Any:
        """In place of ``memory.empty``: poisoned all over."""
        import torch

        return self.around(torch.full(tuple(shape), self._poison(dtype), dtype=dtype, device=device))

    def check(self) -> None:
        """No margin was written to."""
        for whole, span in self._wholes:
            poison = self._poison(whole.dtype)
            for margin in (whole[:MARGIN], whole[MARGIN + span :]):
                assert bool((margin.isnan() if poison != poison else margin == poison).all())

    @staticmethod
    def _poison(dtype: Any) -> float:
        return float("nan") if dtype.is_floating_point else 101  # in range of every integer dtype, of no label


@pytest.fixture
def guards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guards]:
    """Every result and all scratch lies between margins, which are checked at the end."""
    from portaloss.backends.triton import memory

    guards = Guards()
    monkeypatch.setattr(memory, "empty", guards.empty)
    yield guards
    guards.check()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The interpreter computes with NumPy, which warns of inf - inf in lanes that are masked off."""
    import numpy as np

    with np.errstate(all="ignore"):
        yield

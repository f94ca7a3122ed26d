"""Kernels on an emulated chip, whose checks find every access outside of a tensor and every read before a write."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def emulated():
    """CPU tensors are what kernels take in these tests."""
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    from portaloss import dispatch
    from portaloss.emulator import emulating

    dispatch._calls.clear()  # of what other tests called on CPU tensors
    with emulating("gfx942", races=True) as driver:
        yield driver
    dispatch._calls.clear()

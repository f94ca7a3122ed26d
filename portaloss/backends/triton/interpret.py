"""The ``triton-interpret`` lane: the kernels of ``triton`` on CPU tensors, in Triton's interpreter.

TRITON_INTERPRET=1 must be set before the kernels are decorated, so that this lane lives in a process of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from portaloss import arrays
from portaloss.backends.triton import launch
from portaloss.backends.triton.backend import Call, architecture, precision, refuses, rescale, settle, workspace_size

__all__ = [
    "Call",
    "architecture",
    "device",
    "place",
    "precision",
    "refuses",
    "rescale",
    "settle",
    "unavailable",
    "workspace_size",
]

#: Parity's larger samples would take hours: the interpreter runs programs one after another, in Python. What they are
#: for, several blocks and the tail of the last, blocks of few elements show as well (``tuning``).
LARGEST_SAMPLE = 20_000


def unavailable() -> str | None:
    """None in a process that interprets."""
    return None if launch.INTERPRET else "TRITON_INTERPRET=1 is not set in this process"


def device() -> str:
    """What runs it, and what of the interpreter was repaired to let it."""
    return f"Triton's interpreter; repaired: {'; '.join(launch.INTERPRETER_REPAIRS)}"


def place(operands: dict[str, Any]) -> dict[str, torch.Tensor]:
    """NumPy arrays as CPU tensors, strides and all; torch has no negative strides, so those are copied."""
    return {
        name: arrays.like(array.copy() if any(stride < 0 for stride in array.strides) else array, arrays.TORCH)
        for name, array in ((name, np.asarray(array)) for name, array in operands.items())
    }

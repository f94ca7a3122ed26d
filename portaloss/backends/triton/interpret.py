"""The ``triton-interpret`` lane: the kernels of ``triton`` on CPU tensors, in Triton's interpreter.

TRITON_INTERPRET=1 must be set before the kernels are decorated, so that this lane lives in a process of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from portaloss import arrays
from portaloss.backends import Forward
from portaloss.backends.triton import backend, launch
from portaloss.backends.triton.backend import architecture, check, precision, rescale, workspace_size

if TYPE_CHECKING:
    from portaloss.plan import Plan

__all__ = [
    "architecture",
    "backward",
    "check",
    "device",
    "forward",
    "place",
    "precision",
    "refuses",
    "rescale",
    "unavailable",
    "workspace_size",
]

refuses = backend.refuses

#: Parity's larger samples would take hours: the interpreter runs programs one after another, in Python. What they are
#: for, several blocks and the tail of the last, blocks of few elements show as well (``tuning``).
LARGEST_SAMPLE = 20_000


def unavailable() -> str | None:
    """None in a process that interprets."""
    return None if launch.INTERPRET else "TRITON_INTERPRET=1 is not set in this process"


def device() -> str:
    """What runs it, and what of the interpreter was repaired to let it."""
    return f"Triton's interpreter; repaired: {'; '.join(launch.INTERPRETER_REPAIRS)}"


def forward(plan: Plan, operands: Mapping[str, Any], wants: Collection[str]) -> Forward:
    """As on a GPU; the interpreter computes with NumPy, whose warnings of inf and nan are no news."""
    with np.errstate(all="ignore"):
        return backend.forward(plan, operands, wants)


def backward(plan: Plan, operands: Mapping[str, Any], upstream: Any, wants: Collection[str]) -> dict[str, Any]:
    """As on a GPU."""
    with np.errstate(all="ignore"):
        return backend.backward(plan, operands, upstream, wants)


def place(operands: dict[str, Any]) -> dict[str, torch.Tensor]:
    """NumPy arrays as CPU tensors, strides and all; torch has no negative strides, so those are copied."""
    return {
        name: arrays.like(array.copy() if any(stride < 0 for stride in array.strides) else array, arrays.TORCH)
        for name, array in ((name, np.asarray(array)) for name, array in operands.items())
    }

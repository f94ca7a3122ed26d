"""Small and medium tensors on the CPU: PyTorch's own operators, where their results are as good as ours.

What our kernels save on large tensors is less, on small ones, than what it costs to get to them from PyTorch: from
autograd to Python and on to NumPy, and back. PyTorch's operators have that way behind them. They are taken

- in the operands' own dtype for kinds in which they keep the bounds that our kernels keep (``parity/compare.py``), on
  every case of the parity matrix, and for cross-entropy where no class is so likely that they would not;
- in float64, rounded once, where the operands are float32 and PyTorch's formula cancels;
- of medium tensors for the kinds in which they are faster than ours, with sums that are the same on any number of
  threads; for cross-entropy composed anew, since PyTorch's own is not as good as ours there;
- for nothing out of the ordinary: equal shapes and dtypes, no modes, no transforms, no tracing, no subclasses.

Everything else, and every error, is left to our own way. Plans never come here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

from portaloss import gradients, targets_mode
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind
from portaloss.torch_ops import once
from portaloss.torch_ops.ways import MEDIUM, NAMES, SERIAL, WAYS, Operands

#: False sends small tensors the way of all others: for tests and measurements.
enabled = True

#: Elements of an operand up to which a tensor is small: as many as PyTorch adds up on one thread, so that results are
#: the same on any number of them.
LIMIT = SERIAL

#: Elements up to which it is medium. Beyond, PyTorch's temporaries leave the caches, and ours do not.
MEDIUM_LIMIT = 2**20

_modes: Any = torch._C

#: Kinds whose gradient PyTorch cannot differentiate again, as ours can be.
_ONCE = frozenset({LossKind.CTC, LossKind.MULTI_MARGIN, LossKind.MULTILABEL_MARGIN})

_PLAIN = (Tensor, torch.nn.Parameter)
_STRIDED, _FLOAT32, _FLOAT64 = torch.strided, torch.float32, torch.float64
_REDUCTIONS = {name: number for number, name in enumerate(NAMES)}
_NUMBERS = (float, int, bool)
_BOOLS = {kind: {o.name for o in row.options if isinstance(o.default, bool)} for kind, row in LOSSES.items()}


def loss(kind: LossKind, reduction: Any, operands: Operands, options: Mapping[str, Any]) -> Tensor | None:
    """The loss of small or medium tensors; None where this is not their way.

    Args:
        kind: which.
        reduction: as in ``dispatch.loss``.
        operands: by the catalogue's names; tensors.
        options: by the catalogue's names.
    """
    number = _REDUCTIONS.get(reduction)
    size = _ordinary(operands) if enabled and number is not None else 0
    way = (WAYS if size <= LIMIT else MEDIUM).get(kind)
    if way is None or number is None or size == 0 or _watched():
        return None
    if options:
        bools = _BOOLS[kind]
        for name, value in options.items():
            if type(value) not in _NUMBERS or (type(value) is bool) != (name in bools):
                return None  # PyTorch takes True for a number
    try:
        if kind in _ONCE and torch.is_grad_enabled() and any(value.requires_grad for value in operands.values()):
            return None if once.is_hooked() else once.apply(kind, way, operands, options, number)
        return way(operands, options, number)
    except (RuntimeError, ValueError, LookupError, TypeError):
        return None  # our own way raises it, in words that name the argument; or it knows what to do


def _ordinary(operands: Operands) -> int:
    """The most elements that an operand has, where all are dense, contiguous and not large, and on the CPU; else 0.

    And where the floating ones are all of 32 or of 64 bits.
    """
    first, most = None, 0
    for value in operands.values():
        if type(value) not in _PLAIN or not value.is_cpu or value.layout is not _STRIDED:
            return 0
        size = value.numel()
        if not 0 < size <= MEDIUM_LIMIT or not value.is_contiguous():
            return 0
        most = max(most, size)
        dtype = value.dtype
        if first is None:
            if dtype is not _FLOAT32 and dtype is not _FLOAT64:
                return 0
            first = dtype
        elif dtype is not first and value.is_floating_point():
            return 0
    return most


def _watched() -> bool:
    """Whether anything but autograd is to see our operator: a mode, a transform, a profiler, ``value_and_grad``."""
    return bool(
        _modes._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or _modes._len_torch_dispatch_stack()
        or _modes._len_torch_function_stack()
        or _modes._is_any_autocast_enabled()
        or profiler._is_profiler_enabled
        or gradients.active() is not None
        or targets_mode.mode("raise") != "raise"
    )

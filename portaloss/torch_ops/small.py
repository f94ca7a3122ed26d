"""Small tensors on the CPU: PyTorch's own operators, where their results are as good as ours.

What our kernels save on large tensors is less, on small ones, than what it costs to get to them from PyTorch: from
autograd to Python and on to NumPy, and back. PyTorch's operators have that way behind them. They are taken

- in the operands' own dtype for kinds in which they keep the bounds that our kernels keep (``parity/compare.py``), on
  every case of the parity matrix, and for cross-entropy where no class is so likely that they would not;
- in float64, rounded once, where the operands are float32 and PyTorch's formula cancels;
- for nothing out of the ordinary: equal shapes and dtypes, no modes, no transforms, no tracing, no subclasses.

Everything else, and every error, is left to our own way. Plans never come here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from torch import Tensor

from portaloss import gradients, targets_mode
from portaloss.kinds import LossKind

#: False sends small tensors the way of all others: for tests and measurements.
enabled = True

#: Elements of an operand up to which a tensor is small.
LIMIT = 4096

#: Classes up to which PyTorch's sums over the classes of a margin loss, one term after another, round well.
MARGIN_CLASSES = 16

_nn: Any = torch._C._nn  # the operators under torch.nn.functional
_functions: Any = torch._C._VariableFunctions
_modes: Any = torch._C
_Operands = Mapping[str, Any]
_Way = Callable[[_Operands, Mapping[str, Any], int], Tensor | None]

_PLAIN = (Tensor, torch.nn.Parameter)
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
_NUMBERS = (float, int, bool)


def loss(kind: LossKind, reduction: Any, operands: _Operands, options: Mapping[str, Any]) -> Tensor | None:
    """The loss of small tensors; None where this is not their way.

    Args:
        kind: which.
        reduction: as in ``dispatch.loss``.
        operands: by the catalogue's names; tensors.
        options: by the catalogue's names.
    """
    way = _WAYS.get(kind)
    number = _REDUCTIONS.get(reduction)
    if way is None or number is None or not enabled or not _ordinary(operands) or _watched():
        return None
    for value in options.values():
        if type(value) not in _NUMBERS:
            return None
    try:
        return way(operands, options, number)
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        return None  # our own way raises it, in words that name the argument; or it knows what to do


def _ordinary(operands: _Operands) -> bool:
    """Whether all are small, dense tensors on the CPU, and the first is of 32 or 64 bits."""
    dtype = None
    for value in operands.values():
        if type(value) not in _PLAIN or not value.is_cpu or value.layout is not torch.strided:
            return False
        if not 0 < value.numel() <= LIMIT:
            return False
        if dtype is None:
            dtype = value.dtype
            if dtype is not torch.float32 and dtype is not torch.float64:
                return False
        elif value.dtype is not dtype and value.is_floating_point():
            return False
    return True


def _watched() -> bool:
    """Whether anything but autograd is to see our operator: a mode, a transform, a profiler, ``value_and_grad``."""
    return bool(
        _modes._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or _modes._len_torch_dispatch_stack()
        or _modes._len_torch_function_stack()
        or torch.is_autocast_enabled("cpu")
        or torch.autograd.profiler._is_profiler_enabled
        or gradients.active() is not None
        or targets_mode.mode("raise") != "raise"
    )


# In the operands' own dtype


def _pointwise(operator: str, *names: str) -> _Way:
    """An operator of input and target, whose further arguments are the reduction and these options."""
    function = getattr(_nn, operator)

    def way(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
        if len(operands) != 2:  # a weight is a composition in PyTorch
            return None
        input, target = operands.values()
        if target.shape != input.shape or target.dtype is not input.dtype:
            return None
        value: Tensor = function(input, target, reduction, *[options[name] for name in names])
        return value

    return way


def _smooth_l1(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    return _smooth_l1_of(operands, options, reduction) if options["beta"] else None


_smooth_l1_of = _pointwise("smooth_l1_loss", "beta")


def _nll(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor:
    value: Tensor = _nn.nll_loss_nd(
        operands["input"], operands["target"], operands.get("weight"), reduction, options["ignore_index"]
    )
    return value


def _kl_div(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input, target = operands.values()
    if target.shape != input.shape or target.dtype is not input.dtype:
        return None
    if not (options["batchmean"] and reduction == 1):
        value: Tensor = _functions.kl_div(input, target, reduction, log_target=options["log_target"])
        return value
    total: Tensor = _functions.kl_div(input, target, 2, log_target=options["log_target"])
    return total / input.shape[0] if input.ndim else total


def _poisson_nll(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input, target = operands.values()
    if target.shape != input.shape or target.dtype is not input.dtype or not options["log_input"]:
        return None
    value: Tensor = _functions.poisson_nll_loss(input, target, True, options["full"], options["eps"], reduction)
    return value


def _hinge_embedding(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input, target = operands.values()
    if target.shape != input.shape:
        return None
    value: Tensor = _functions.hinge_embedding_loss(input, target, options["margin"], reduction)
    return value


def _margin_ranking(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input1, input2, target = operands.values()
    if not input1.shape == input2.shape == target.shape:
        return None
    value: Tensor = _functions.margin_ranking_loss(input1, input2, target, options["margin"], reduction)
    return value


def _multi_margin(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input = operands["input"]
    if input.ndim != 2 or input.shape[1] > MARGIN_CLASSES:
        return None
    p, margin = options["p"], options["margin"]
    value: Tensor = _nn.multi_margin_loss(input, operands["target"], p, margin, operands.get("weight"), reduction)
    return value


def _multilabel_margin(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    input, target = operands.values()
    if input.ndim != 2 or input.shape[1] > MARGIN_CLASSES:
        return None
    value: Tensor = _nn.multilabel_margin_loss(input, target, reduction)
    return value


# Cross-entropy: log p = x - lse(x) loses digits of a probability near 1, and p = exp(log p) of one near 0

#: Between these, PyTorch's log-probabilities and their exponentials are within 7 units in the last place.
_LEAST, _LARGEST = -8.0, math.log(0.75)

#: In float64, what is lost of 1 - p is less than half a unit of float32's last place up to here.
_LARGEST_WIDE = -(2.0**-30)


def _cross_entropy(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input, target = operands["input"], operands["target"]
    if target.is_floating_point() or input.ndim != 2 or options["label_smoothing"]:
        return None
    return _classified(input, operands, options["ignore_index"], reduction)


def _linear_cross_entropy(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input, weight, target, bias = (operands.get(n) for n in ("input", "linear_weight", "target", "linear_bias"))
    if target is None or target.is_floating_point() or options["label_smoothing"]:
        return None
    if input is None or weight is None or input.ndim != 2 or weight.ndim != 2:
        return None
    return _classified(F.linear(input, weight, bias), operands, options["ignore_index"], reduction)


def _classified(input: Tensor, operands: _Operands, ignore_index: int, reduction: int) -> Tensor | None:
    """Of logits (N, C) and classes."""
    target, weight = operands["target"], operands.get("weight")
    value: Tensor
    log_p = _functions.log_softmax(input, 1)
    least, largest = _functions.aminmax(log_p.detach())
    if largest.item() <= _LARGEST and least.item() >= _LEAST:
        value = _nn.nll_loss_nd(log_p, target, weight, reduction, ignore_index)
        return value
    if input.dtype is torch.float64:
        return None
    log_p = _functions.log_softmax(input, 1, torch.float64)
    if not log_p.detach().max().item() <= _LARGEST_WIDE:
        return None
    value = _nn.nll_loss_nd(log_p, target, None if weight is None else weight.double(), reduction, ignore_index)
    return value.float()


# In float64, rounded once


def _widened(way: Callable[[_Operands, Mapping[str, Any], int], Tensor | None]) -> _Way:
    """A way of float32 operands through float64."""

    def wide(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
        if next(iter(operands.values())).dtype is torch.float64:
            return None
        given = {name: value.double() if value.is_floating_point() else value for name, value in operands.items()}
        value = way(given, options, reduction)
        return None if value is None else value.float()

    return wide


def _bce(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    input, target, weight = operands["input"], operands["target"], operands.get("weight")
    if target.shape != input.shape or (weight is not None and weight.shape != input.shape):
        return None
    value: Tensor = _nn.binary_cross_entropy(input, target, weight, reduction)
    return value


def _bce_with_logits(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    input, target, weight, pos_weight = (operands.get(n) for n in ("input", "target", "weight", "pos_weight"))
    value: Tensor = _functions.binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction)
    return value


def _ctc(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    value: Tensor = _functions.ctc_loss(*operands.values(), options["blank"], reduction, options["zero_infinity"])
    return value


_WAYS: Mapping[LossKind, _Way] = {
    LossKind.MSE: _pointwise("mse_loss"),
    LossKind.NLL: _nll,
    LossKind.CROSS_ENTROPY: _cross_entropy,
    LossKind.BCE: _widened(_bce),
    LossKind.KL_DIV: _kl_div,
    LossKind.L1: _pointwise("l1_loss"),
    LossKind.SMOOTH_L1: _smooth_l1,
    LossKind.HINGE_EMBEDDING: _hinge_embedding,
    LossKind.MARGIN_RANKING: _margin_ranking,
    LossKind.CTC: _widened(_ctc),
    LossKind.POISSON_NLL: _poisson_nll,
    LossKind.HUBER: _pointwise("huber_loss", "delta"),
    LossKind.BCE_WITH_LOGITS: _widened(_bce_with_logits),
    LossKind.MULTI_MARGIN: _multi_margin,
    LossKind.MULTILABEL_MARGIN: _multilabel_margin,
    LossKind.FUSED_LINEAR_CROSS_ENTROPY: _linear_cross_entropy,
}

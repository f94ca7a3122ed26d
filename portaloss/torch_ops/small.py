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
from torch.autograd import forward_ad, profiler

from portaloss import gradients, targets_mode
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind

#: False sends small tensors the way of all others: for tests and measurements.
enabled = True

#: Elements of an operand up to which a tensor is small: as many as PyTorch adds up on one thread, so that results are
#: the same on any number of them.
LIMIT = 32767

#: Classes up to which PyTorch's sums over the classes of a margin loss, one term after another, round well.
MARGIN_CLASSES = 16

_nn: Any = torch._C._nn  # the operators under torch.nn.functional
_functions: Any = torch._C._VariableFunctions
_modes: Any = torch._C
_Operands = Mapping[str, Any]
_Way = Callable[[_Operands, Mapping[str, Any], int], Tensor | None]

#: Kinds whose gradient PyTorch cannot differentiate again, as ours can be: theirs are taken where none is wanted.
_ONCE = frozenset({LossKind.CTC, LossKind.MULTI_MARGIN, LossKind.MULTILABEL_MARGIN})

_PLAIN = (Tensor, torch.nn.Parameter)
_STRIDED, _FLOAT32, _FLOAT64 = torch.strided, torch.float32, torch.float64
_NAMES = ("none", "mean", "sum")
_REDUCTIONS = {name: number for number, name in enumerate(_NAMES)}
_NUMBERS = (float, int, bool)
_BOOLS = {kind: {o.name for o in row.options if isinstance(o.default, bool)} for kind, row in LOSSES.items()}


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
    if kind in _ONCE and torch.is_grad_enabled() and any(value.requires_grad for value in operands.values()):
        return None
    if options:
        bools = _BOOLS[kind]
        for name, value in options.items():
            if type(value) not in _NUMBERS or (type(value) is bool) != (name in bools):
                return None  # PyTorch takes True for a number
    try:
        return way(operands, options, number)
    except (RuntimeError, ValueError, LookupError, TypeError):
        return None  # our own way raises it, in words that name the argument; or it knows what to do


def _ordinary(operands: _Operands) -> bool:
    """Whether all are small, dense, contiguous tensors on the CPU, and the floating ones all of 32 or of 64 bits."""
    first = None
    for value in operands.values():
        if type(value) not in _PLAIN or not value.is_cpu or value.layout is not _STRIDED:
            return False
        if not 0 < value.numel() <= LIMIT or not value.is_contiguous():
            return False
        dtype = value.dtype
        if first is None:
            if dtype is not _FLOAT32 and dtype is not _FLOAT64:
                return False
            first = dtype
        elif dtype is not first and value.is_floating_point():
            return False
    return True


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


# In the operands' own dtype


def _alike(operands: _Operands, *names: str) -> list[Tensor] | None:
    """The named operands, if there are no others and all are of one shape: nothing is broadcast, nothing weighted."""
    if len(operands) != len(names):
        return None
    found = [operands[name] for name in names]
    shape = found[0].shape
    for tensor in found[1:]:
        if tensor.shape != shape:
            return None
    return found


def _pointwise(function: Callable[..., Tensor], *names: str, floating: bool = True) -> _Way:
    """A function of input and target, the reduction and these options; of a floating target, if it has to be."""

    def way(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
        if len(operands) != 2:
            return None
        input, target = operands.values()
        if input.shape != target.shape or (floating and not target.is_floating_point()):
            return None
        if not names:
            return function(input, target, reduction)
        return function(input, target, reduction, *[options[name] for name in names])

    return way


def _smooth_l1(input: Tensor, target: Tensor, reduction: int, beta: float) -> Tensor:
    value: Tensor = (
        _nn.smooth_l1_loss(input, target, reduction, beta) if beta else _nn.l1_loss(input, target, reduction)
    )
    return value


def _kl_div(input: Tensor, target: Tensor, reduction: int, log_target: bool, batchmean: bool) -> Tensor:
    batchmean = batchmean and reduction == 1
    value: Tensor = _functions.kl_div(input, target, 2 if batchmean else reduction, log_target=log_target)
    return value / input.shape[0] if batchmean and input.ndim else value


def _hinge_embedding(input: Tensor, target: Tensor, reduction: int, margin: float) -> Tensor:
    value: Tensor = _functions.hinge_embedding_loss(input, target, margin, reduction)
    return value


def _poisson_nll(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    found = _alike(operands, "input", "target")
    if found is None or not found[1].is_floating_point() or not options["log_input"]:  # of a rate it cancels
        return None
    value: Tensor = _functions.poisson_nll_loss(*found, True, options["full"], options["eps"], reduction)
    return value


def _gaussian_nll(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    found = _alike(operands, "input", "target", "var")
    if found is None or not all(tensor.is_floating_point() for tensor in found):
        return None
    input, target, var = found
    return F.gaussian_nll_loss(input, target, var, options["full"], options["eps"], _NAMES[reduction])


def _margin_ranking(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    found = _alike(operands, "input1", "input2", "target")
    if found is None or not all(tensor.is_floating_point() for tensor in found):
        return None
    value: Tensor = _functions.margin_ranking_loss(*found, options["margin"], reduction)
    return value


def _bce(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    found = _alike(operands, "input", "target")
    if found is None or found[1].requires_grad:  # the target's derivative is log(1 - x) - log x
        return None
    value: Tensor = _nn.binary_cross_entropy(*found, None, reduction)
    return value


def _nll(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input = operands["input"]
    if input.ndim != 2:
        return None
    value: Tensor = _nn.nll_loss_nd(
        input, operands["target"], operands.get("weight"), reduction, options["ignore_index"]
    )
    return value


def _multi_margin(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input, p = operands["input"], options["p"]
    if input.ndim != 2 or input.shape[1] > MARGIN_CLASSES or p not in (1, 2):  # p = 1.5 would be taken for 1
        return None
    if reduction == 0:  # an item of little more than a kink has lost digits, which a sum of items does not show
        return None
    value: Tensor = _nn.multi_margin_loss(
        input, operands["target"], p, options["margin"], operands.get("weight"), reduction
    )
    return value


def _multilabel_margin(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    found = _alike(operands, "input", "target")
    if found is None or found[0].ndim != 2 or found[0].shape[1] > MARGIN_CLASSES or reduction == 0:
        return None
    value: Tensor = _nn.multilabel_margin_loss(*found, reduction)
    return value


def _multilabel_soft_margin(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    found = _alike(operands, "input", "target")
    if found is None or not found[1].is_floating_point() or found[1].requires_grad:
        return None  # the target's derivative is a difference of logarithms
    input, target = found
    return F.multilabel_soft_margin_loss(input, target, reduction=_NAMES[reduction])


def _cosine_embedding(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input1, input2, target = (operands[name] for name in ("input1", "input2", "target"))
    if input1.ndim != 2 or input2.shape != input1.shape or target.shape != input1.shape[:1]:
        return None
    value: Tensor = _functions.cosine_embedding_loss(input1, input2, target, options["margin"], reduction)
    return value


def _triplet_margin(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    found = _alike(operands, "anchor", "positive", "negative")
    if found is None or options["p"] != 2 or not options["margin"] > 0:
        return None
    value: Tensor = _functions.triplet_margin_loss(
        *found, options["margin"], 2, options["eps"], options["swap"], reduction
    )
    return value


# Cross-entropy: log p = x - lse(x) loses digits of a probability near 1, and p = exp(log p) of one near 0

#: Between these, PyTorch's derivatives are within ten units in the last place, where ours are within seven.
_LEAST, _LARGEST = -8.0, math.log(0.75)

#: Up to here, what float64 loses of 1 - p is less than half a unit of float32's last place.
_LARGEST_WIDE = -(2.0**-28)


def _cross_entropy(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input, target = operands["input"], operands["target"]
    if input.ndim != 2 or target.is_floating_point() or options["label_smoothing"]:
        return None
    return _classified(input, target, operands.get("weight"), options["ignore_index"], reduction)


_EXTENSIONS = frozenset({"token_weight", "normalizer", "softcap", "z_loss", "return_extras"})


def _linear_cross_entropy(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input, matrix, target = (operands[name] for name in ("input", "linear_weight", "target"))
    bias = operands.get("linear_bias")
    if operands.keys() & _EXTENSIONS or any(options.get(name) for name in _EXTENSIONS):
        return None  # PyTorch does not have it
    if input.ndim != 2 or matrix.ndim != 2 or target.is_floating_point() or options["label_smoothing"]:
        return None
    if bias is not None and bias.shape != matrix.shape[:1]:  # a linear layer would broadcast it
        return None
    logits = F.linear(input, matrix, bias)
    return _classified(logits, target, operands.get("weight"), options["ignore_index"], reduction)


def _classified(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: int
) -> Tensor | None:
    """The cross-entropy of logits (N, C) and classes."""
    value: Tensor
    log_p = _functions.log_softmax(input, 1)
    seen = log_p.detach()
    least, largest = _functions.aminmax(seen)
    if least.item() >= _LEAST and (largest.item() <= _LARGEST or _unsure(seen, target, ignore_index)):
        value = _nn.nll_loss_nd(log_p, target, weight, reduction, ignore_index)
        return value
    if input.dtype is torch.float64:
        return None
    log_p = _functions.log_softmax(input, 1, torch.float64)
    if not log_p.detach().max().item() <= _LARGEST_WIDE:
        return None
    value = _nn.nll_loss_nd(log_p, target, None if weight is None else weight.double(), reduction, ignore_index)
    return value.float()


def _unsure(log_p: Tensor, target: Tensor, ignore_index: int) -> bool:
    """Whether no target is nearly certain, whatever other classes are; rows that are ignored have 0 here: certain."""
    least: float = _functions.min(_nn.nll_loss_nd(log_p, target, None, 0, ignore_index)).item()
    return -least <= _LARGEST


# In float64, rounded once


def _widened(way: _Way) -> _Way:
    """A way of float32 operands through float64."""

    def wide(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
        if next(iter(operands.values())).dtype is torch.float64:
            return None
        given = {name: value.double() if value.is_floating_point() else value for name, value in operands.items()}
        value = way(given, options, reduction)
        return None if value is None else value.float()

    return wide


def _bce_with_logits(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    found = _alike(operands, "input", "target")
    if found is None or not found[1].is_floating_point():
        return None
    value: Tensor = _functions.binary_cross_entropy_with_logits(*found, None, None, reduction)
    return value


def _ctc(operands: _Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    found = [operands[name] for name in ("log_probs", "targets", "input_lengths", "target_lengths")]
    if found[0].ndim != 3:
        return None
    value: Tensor = _functions.ctc_loss(*found, options["blank"], reduction, options["zero_infinity"])
    return value


_WAYS: Mapping[LossKind, _Way] = {
    LossKind.MSE: _pointwise(_nn.mse_loss),
    LossKind.NLL: _nll,
    LossKind.CROSS_ENTROPY: _cross_entropy,
    LossKind.BCE: _bce,
    LossKind.KL_DIV: _pointwise(_kl_div, "log_target", "batchmean"),
    LossKind.L1: _pointwise(_nn.l1_loss),
    LossKind.SMOOTH_L1: _pointwise(_smooth_l1, "beta"),
    LossKind.HINGE_EMBEDDING: _pointwise(_hinge_embedding, "margin", floating=False),
    LossKind.MARGIN_RANKING: _margin_ranking,
    LossKind.TRIPLET_MARGIN: _triplet_margin,
    LossKind.CTC: _widened(_ctc),
    LossKind.POISSON_NLL: _poisson_nll,
    LossKind.HUBER: _pointwise(_nn.huber_loss, "delta"),
    LossKind.BCE_WITH_LOGITS: _widened(_bce_with_logits),
    LossKind.GAUSSIAN_NLL: _gaussian_nll,
    LossKind.COSINE_EMBEDDING: _cosine_embedding,
    LossKind.MULTI_MARGIN: _multi_margin,
    LossKind.MULTILABEL_MARGIN: _multilabel_margin,
    LossKind.MULTILABEL_SOFT_MARGIN: _multilabel_soft_margin,
    LossKind.FUSED_LINEAR_CROSS_ENTROPY: _linear_cross_entropy,
}

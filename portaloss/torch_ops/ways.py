"""PyTorch's operators for each kind, called the shortest way, where their results keep our bounds: for ``small``.

A way takes the operands by the catalogue's names, the options, and the reduction's number. It gives None for what it is
not for, and raises what PyTorch raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its name everywhere
from torch import Tensor

from portaloss.kinds import LossKind
from portaloss.torch_ops import cross_entropy

#: Classes up to which PyTorch's sums over the classes of a margin loss, one term after another, round well.
MARGIN_CLASSES = 16

_nn: Any = torch._C._nn  # the operators under torch.nn.functional
_functions: Any = torch._C._VariableFunctions
Operands = Mapping[str, Any]
Way = Callable[[Operands, Mapping[str, Any], int], Tensor | None]

#: The names of reductions, by their numbers.
NAMES = ("none", "mean", "sum")


# In the operands' own dtype


def _alike(operands: Operands, *names: str) -> list[Tensor] | None:
    """The named operands, if there are no others and all are of one shape: nothing is broadcast, nothing weighted."""
    if len(operands) != len(names):
        return None
    found = [operands[name] for name in names]
    shape = found[0].shape
    for tensor in found[1:]:
        if tensor.shape != shape:
            return None
    return found


def _pointwise(function: Callable[..., Tensor], *names: str, floating: bool = True) -> Way:
    """A function of input and target, the reduction and these options; of a floating target, if it has to be."""

    def way(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
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


def _poisson_nll(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    found = _alike(operands, "input", "target")
    if found is None or not found[1].is_floating_point() or not options["log_input"]:  # of a rate it cancels
        return None
    value: Tensor = _functions.poisson_nll_loss(*found, True, options["full"], options["eps"], reduction)
    return value


def _gaussian_nll(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    found = _alike(operands, "input", "target", "var")
    if found is None or not all(tensor.is_floating_point() for tensor in found):
        return None
    input, target, var = found
    return F.gaussian_nll_loss(input, target, var, options["full"], options["eps"], NAMES[reduction])


def _margin_ranking(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    found = _alike(operands, "input1", "input2", "target")
    if found is None or not all(tensor.is_floating_point() for tensor in found):
        return None
    value: Tensor = _functions.margin_ranking_loss(*found, options["margin"], reduction)
    return value


def _bce(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    found = _alike(operands, "input", "target")
    if found is None or found[1].requires_grad:  # the target's derivative is log(1 - x) - log x
        return None
    value: Tensor = _nn.binary_cross_entropy(*found, None, reduction)
    return value


def _nll(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input = operands["input"]
    if input.ndim != 2:
        return None
    value: Tensor = _nn.nll_loss_nd(
        input, operands["target"], operands.get("weight"), reduction, options["ignore_index"]
    )
    return value


def _multi_margin(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input, p = operands["input"], options["p"]
    if input.ndim != 2 or input.shape[1] > MARGIN_CLASSES or p not in (1, 2):  # p = 1.5 would be taken for 1
        return None
    if reduction == 0:  # an item of little more than a kink has lost digits, which a sum of items does not show
        return None
    value: Tensor = _nn.multi_margin_loss(
        input, operands["target"], p, options["margin"], operands.get("weight"), reduction
    )
    return value


def _multilabel_margin(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    found = _alike(operands, "input", "target")
    if found is None or found[0].ndim != 2 or found[0].shape[1] > MARGIN_CLASSES or reduction == 0:
        return None
    value: Tensor = _nn.multilabel_margin_loss(*found, reduction)
    return value


def _multilabel_soft_margin(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    found = _alike(operands, "input", "target")
    if found is None or not found[1].is_floating_point() or found[1].requires_grad:
        return None  # the target's derivative is a difference of logarithms
    input, target = found
    return F.multilabel_soft_margin_loss(input, target, reduction=NAMES[reduction])


def _cosine_embedding(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input1, input2, target = (operands[name] for name in ("input1", "input2", "target"))
    if input1.ndim != 2 or input2.shape != input1.shape or target.shape != input1.shape[:1]:
        return None
    value: Tensor = _functions.cosine_embedding_loss(input1, input2, target, options["margin"], reduction)
    return value


def _triplet_margin(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    found = _alike(operands, "anchor", "positive", "negative")
    if found is None or options["p"] != 2 or not options["margin"] > 0:
        return None
    value: Tensor = _functions.triplet_margin_loss(
        *found, options["margin"], 2, options["eps"], options["swap"], reduction
    )
    return value


# Cross-entropy: log p = x - lse(x) loses digits of a probability near 1, and p = exp(log p) of one near 0

#: Between these, PyTorch's derivatives are within twelve units in the last place, where ours are within seven: 11.5 was
#: the worst of 80 million, of normal logits and 10 to 2500 classes.
_LEAST, _LARGEST = -8.0, math.log(0.75)

#: Up to here, what float64 loses of 1 - p is less than half a unit of float32's last place.
_LARGEST_WIDE = -(2.0**-28)


def _cross_entropy(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    input, target = operands["input"], operands["target"]
    if input.ndim != 2 or target.is_floating_point() or options["label_smoothing"]:
        return None
    return _classified(input, target, operands.get("weight"), options["ignore_index"], reduction)


_EXTENSIONS = frozenset({"token_weight", "normalizer", "softcap", "z_loss", "return_extras"})


def _linear_cross_entropy(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
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


def _widened(way: Way) -> Way:
    """A way of float32 operands through float64."""

    def wide(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
        if next(iter(operands.values())).dtype is torch.float64:
            return None
        given = {name: value.double() if value.is_floating_point() else value for name, value in operands.items()}
        value = way(given, options, reduction)
        return None if value is None else value.float()

    return wide


def _bce_with_logits(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    del options
    found = _alike(operands, "input", "target")
    if found is None or not found[1].is_floating_point():
        return None
    value: Tensor = _functions.binary_cross_entropy_with_logits(*found, None, None, reduction)
    return value


#: States of all samples and steps up to which PyTorch's loop over them is quicker than to get to our kernel.
_STATES = 2**16


def _ctc(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
    names = ("log_probs", "targets", "input_lengths", "target_lengths")
    log_probs, targets, *lengths = (operands[name] for name in names)
    blank = options["blank"]
    if log_probs.ndim != 3 or targets.ndim != 2:
        return None
    steps, samples, classes = log_probs.shape
    if steps * samples * (2 * targets.shape[1] + 1) > _STATES:
        return None
    # PyTorch looks at no label before it reads and writes there; and of one that is the blank its gradient is wrong
    least, largest = (value.item() for value in _functions.aminmax(targets))
    if not 0 <= least <= largest < classes or (least <= blank <= largest and bool((targets == blank).any())):
        return None
    for length, most in zip(lengths, (steps, targets.shape[1]), strict=True):
        shortest, longest = (value.item() for value in _functions.aminmax(length))
        if not 0 <= shortest <= longest <= most:
            return None
    value: Tensor = _functions.ctc_loss(log_probs, targets, *lengths, blank, reduction, options["zero_infinity"])
    return value


WAYS: Mapping[LossKind, Way] = {
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


# Medium tensors: PyTorch adds up more than SERIAL elements in as many parts as there are threads, and the last bits of
# a sum would depend on that. It does not split a row whose sum is one of several.

#: Elements that PyTorch adds up on one thread.
SERIAL = 32767

#: Items of a row, at least and at most, where it is for us to say which items make one.
_SHORT, _LONG = 32, 1024


def _in_rows(way: Way) -> Way:
    """A pointwise way of which items are wanted, added up in rows and then the rows."""

    def medium(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
        shape = next(iter(operands.values())).shape
        size = math.prod(shape)
        row = math.gcd(size, _LONG)
        if row < _SHORT:
            row = shape[-1]
        if not _SHORT <= row <= SERIAL or not 1 < size // row <= SERIAL:
            return None
        items = way(operands, options, 0)
        if items is None or reduction == 0:
            return items
        total = items.view(-1, row).sum(1).sum()
        return _finite(total if reduction == 2 else total / size)

    return medium


def _of_rows(way: Way, *, overflows: bool = True) -> Way:
    """A rowwise way, where rows and their number are small enough; whether the sum of its items may overflow."""

    def medium(operands: Operands, options: Mapping[str, Any], reduction: int) -> Tensor | None:
        *rows, row = next(iter(operands.values())).shape
        if row > SERIAL or not 1 < math.prod(rows) <= SERIAL:
            return None
        value = way(operands, options, reduction)
        return value if value is None or reduction == 0 or not overflows else _finite(value)

    return medium


def _finite(loss: Tensor) -> Tensor | None:
    """None where it is not: a sum of many items may have overflowed in their dtype, where our own way has float64."""
    return loss if math.isfinite(loss.item()) else None


#: Kinds in which PyTorch is faster than our kernels from SERIAL elements up to a million.
MEDIUM: Mapping[LossKind, Way] = {
    **{kind: _in_rows(WAYS[kind]) for kind in (LossKind.MSE, LossKind.L1, LossKind.SMOOTH_L1, LossKind.HUBER)},
    LossKind.POISSON_NLL: _in_rows(_poisson_nll),
    **{kind: _of_rows(WAYS[kind]) for kind in (LossKind.NLL, LossKind.COSINE_EMBEDDING, LossKind.TRIPLET_MARGIN)},
    LossKind.CROSS_ENTROPY: _of_rows(cross_entropy.way, overflows=False),
}

"""Linear cross-entropy: a linear layer and the cross-entropy of its outputs, without storing all logits."""

from __future__ import annotations

import sys
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from portaloss import arrays, dispatch
from portaloss.functional._arrays import Array, ArrayT, has_shape
from portaloss.functional._legacy import reduction_of
from portaloss.kinds import LossKind
from portaloss.plan import as_number


class LinearCrossEntropyExtras(NamedTuple):
    """What ``return_extras`` adds to the loss: one value for each item, in float32 (float64 for float64).

    They are computed from the logits z after ``logit_scale`` and ``softcap``. They do not depend on weights, label
    smoothing or z_loss. With tensors, the gradient of the entropy flows to what the logits are made of, so that an
    entropy bonus can be part of a loss; its backward pass is one with the loss's, and computes the logits again. To
    log an entropy, detach it: then it keeps no graph. No gradient flows through the other extras.
    """

    log_probs: Any  #: log p[t] of the target class, 0 where it is ignored; Σ t[c] log p[c] for a target distribution
    entropy: Any  #: H = -Σ p[c] log p[c]; its derivative by z[c] is -p[c] (log p[c] + H)
    accuracy: Any  #: 1 where no class has a larger logit than the target, else 0; nan where the target is ignored
    logsumexp: Any  #: log Σ exp(z)


@overload
def linear_cross_entropy(
    input: ArrayT,
    linear_weight: Array,
    target: Array,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: object = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    token_weight: Array | None = None,
    normalizer: float | Array | None = None,
    logit_scale: float | Array | None = None,
    max_memory: int | None = None,
    return_extras: Literal[False] = False,
) -> ArrayT: ...


@overload
def linear_cross_entropy(
    input: ArrayT,
    linear_weight: Array,
    target: Array,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: object = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    token_weight: Array | None = None,
    normalizer: float | Array | None = None,
    logit_scale: float | Array | None = None,
    max_memory: int | None = None,
    return_extras: Literal[True],
) -> tuple[ArrayT, LinearCrossEntropyExtras]: ...


def linear_cross_entropy(
    input: ArrayT,
    linear_weight: Array,
    target: Array,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: object = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    token_weight: Array | None = None,
    normalizer: float | Array | None = None,
    logit_scale: float | Array | None = None,
    max_memory: int | None = None,
    return_extras: bool = False,
) -> ArrayT | tuple[ArrayT, LinearCrossEntropyExtras]:
    """Cross-entropy of the logits x Aᵀ + b, computed in chunks of rows. Also named ``fused_linear_cross_entropy``.

    Formula, with z = A x + b for each row x of the input, and log p = z - log Σ exp(z) along the classes::

        item = -w[t] log p[t]                for a target class t; 0 where t = ignore_index
               -Σ w[c] t[c] log p[c]         for a target distribution t

    A is ``linear_weight``, b ``linear_bias`` and w the class weights, 1 by default. Label smoothing ε mixes the target
    with the uniform distribution: (1 - ε) t + ε / C. The value is that of ``cross_entropy`` of the logits, but only the
    logits of one chunk of rows are in memory at a time. PyTorch does not have the arguments after ``options``: with a
    scale s, z is s (A x + b); with a cap a as well, z is a tanh(s (A x + b) / a), so the scale comes after the bias and
    before the cap; z-loss adds ζ (log Σ exp(z))² to each item that is not ignored; token weights multiply the items.

    Args:
        input: x, of a floating dtype: (D) or (N, D), with D features.
        linear_weight: A, of input's dtype: (C, D), with C classes; or (C, d1, ..., D) for an input (N, D): the
            logits are then (N, C, d1, ...).
        target: classes from 0 to C - 1 or ignore_index, of an integer dtype: (), (N) or (N, d1, ...); or distributions
            of the shape of the logits and a floating dtype, which need not sum to 1.
        linear_bias: b, of input's dtype and the shape of linear_weight without its last axis.
        weight: w, (C), of input's dtype.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the sum of w[t] over the targets
            that are not ignored (nan where all are ignored), and for target distributions by the number of items,
            also with weight, or ``"sum"``.
        ignore_index: a target class; rows with it have an item of 0 and add no gradient. None means -100.
        label_smoothing: ε, from 0 to 1.
        options: None, or PyTorch's LinearCrossEntropyOptions, which set its chunk size and accumulator dtype. They are
            accepted and have no effect: here max_memory sets the chunk size, and the accumulator is at least float32.
        softcap: a, positive; None for no cap.
        z_loss: ζ ≥ 0, such as 1e-4. Class weights do not multiply this term, token weights do.
        token_weight: one weight for each target, of the items' shape and a floating dtype. The mean divides by the sum
            of the token weights (each times w[t], with class weights) of the targets that are not ignored. It gets no
            gradient: for one, multiply the items of reduction none by the token weights instead.
        normalizer: a number, or an array of one number, that the mean divides by instead. It may be on the device. An
            example is the number of tokens in all batches whose gradients are accumulated.
        logit_scale: s, a number, or an array of one number, which may be on the device: a model's constant, 1/T for a
            temperature T, or a parameter. None for no scale.
        max_memory: bytes of scratch memory, beyond the loss and the gradients, that chunks are sized for: 72 MiB by
            default on a CPU and 1 GiB on a GPU. A chunk has at least 8 rows on a CPU and one on a GPU.
        return_extras: whether to return ``LinearCrossEntropyExtras`` too. They come from the same pass over the logits,
            except under torch.compile, where they need a second one, and so does the entropy's gradient.

    Returns:
        The loss, in the dtype of input: items of the shape of the logits without the class axis, or one number. The
        gradient flows to input, linear_weight, linear_bias and logit_scale, and with target distributions to target
        and weight. With return_extras, a pair of the loss and the extras.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or an option has a wrong type.
        ValueError: the batch sizes of input and target differ, reduction is unknown, z_loss is negative,
            softcap or max_memory is not positive, or a normalizer is given with a reduction other than mean.
        RuntimeError: another shape or dtype is wrong, label_smoothing is outside of [0, 1], or ignore_index is given
            with target distributions.
        IndexError: a target is not a class; the message says which one and where.
        NotImplementedError: input is not of a floating dtype.

    Source: Erik Wijmans, Brody Huval, Alexander Hertzberg, Vladlen Koltun and Philipp Krähenbühl, "Cut Your Losses in
    Large-Vocabulary Language Models", ICLR 2025; ``torch.nn.functional.linear_cross_entropy``; for softcap and z_loss
    the chapters of ``portaloss.reference``.

    >>> import numpy as np
    >>> input, linear_weight = np.array([[1.0, 0.0]]), np.log([[3.0, 7.0], [1.0, 9.0]])  # logits log 3 and log 1
    >>> loss = linear_cross_entropy(input, linear_weight, np.array([0]))
    >>> float(np.exp(-loss).round(6))  # 3 / (3 + 1)
    0.75
    """
    if options is not None and not hasattr(options, "batch_chunk_size"):
        raise TypeError(f"options must be None or a LinearCrossEntropyOptions, got {type(options).__name__}")
    if not isinstance(return_extras, bool):
        raise TypeError(f"return_extras must be a bool, got {return_extras!r}")
    reduction = reduction_of(reduction, None, None)
    if ignore_index is not None and has_shape(input, linear_weight, target):
        logits = (*input.shape[:-1], *linear_weight.shape[:-1])
        if target.shape == logits and input.shape[-1:] == linear_weight.shape[-1:]:
            raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    if normalizer is not None and reduction != "mean":
        raise ValueError(f"normalizer is what a mean is divided by, got one with reduction {reduction!r}")
    operands = {
        "input": input,
        "linear_weight": linear_weight,
        "target": target,
        "linear_bias": linear_bias,
        "weight": weight,
        "token_weight": token_weight,
        "normalizer": None if normalizer is None else _as_operand(normalizer, input),
        "logit_scale": None if logit_scale is None else _as_operand(logit_scale, input),
    }
    result: Any = dispatch.loss(
        LossKind.FUSED_LINEAR_CROSS_ENTROPY,
        reduction,
        operands,
        ignore_index=-100 if ignore_index is None else ignore_index,
        label_smoothing=label_smoothing,
        softcap=_positive("softcap", softcap),
        z_loss=z_loss,
        max_memory=_positive("max_memory", max_memory),
        return_extras=return_extras,
    )
    return (result[0], LinearCrossEntropyExtras(*result[1])) if return_extras else result


def _positive(name: str, value: Any) -> Any:
    """The value, or 0 for None, as the backends expect it."""
    if value is None:
        return 0
    value = as_number(value)
    if isinstance(value, (int, float)) and not value > 0:
        raise ValueError(f"{name} must be positive, or None, got {value!r}")
    return value


def _as_operand(value: Any, input: Any) -> Any:
    """The value as an operand: a Python number becomes an array of input's library and device."""
    if isinstance(value, (bool, np.generic)) or not isinstance(value, (int, float)):
        return value
    if arrays.is_tensor(input):
        return input.new_full((), float(value), dtype=sys.modules["torch"].float64)
    return np.asarray(value, np.float64)


fused_linear_cross_entropy = linear_cross_entropy


__all__ = [
    "LinearCrossEntropyExtras",
    "fused_linear_cross_entropy",
    "linear_cross_entropy",
]

"""The operands of CTC: log-probabilities, labels, and the lengths of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.arrange.views import Arrangement, Layout, Operands, Options, Spec, Specs, View, as_is, row, single
from portaloss.checks import dtype_name, is_floating, require_classes_in_range, require_floating

_WHILE = "(while checking arguments for ctc_loss_allocate_outputs)"
_TARGETS = f"for argument #2 'targets' {_WHILE}"
_LENGTHS = ("input_lengths", "target_lengths")


def ctc(options: Options, operands: Specs) -> Layout:
    """Log-probabilities (T, N, C) or (T, C); labels (N, S), (S), or the labels of all samples concatenated."""
    log_probs, targets = operands["log_probs"], operands["targets"]
    require_floating("log_probs", log_probs)
    if log_probs.ndim == 0:
        raise IndexError(
            "Dimension out of range (expected to be in range of [-1, 0], but got 1): log_probs must be (T, N, C) or "
            "(T, C)"
        )
    if log_probs.ndim not in (2, 3):
        raise RuntimeError(
            # PyTorch adds an axis to an unbatched input before it checks the number of axes
            f"Expected 3-dimensional tensor, but got {log_probs.ndim + 1}-dimensional tensor for argument #1 "
            f"'log_probs' {_WHILE}: log_probs must be (T, N, C) or (T, C), got shape {log_probs.shape}"
        )
    unbatched = log_probs.ndim == 2
    batch, classes = 1 if unbatched else log_probs.shape[1], log_probs.shape[-1]
    if not 0 <= options["blank"] < classes:
        raise RuntimeError(f"blank must be in label range: 0 to {classes - 1}, got {options['blank']}")
    for name in _LENGTHS:
        if is_floating(operands[name]):
            raise RuntimeError(f"{name} must be integral, got {dtype_name(operands[name])}")
        if operands[name].size != batch:
            raise RuntimeError(f"{name} must be of size batch_size {batch}, got {operands[name].size}")
    _require_labels(targets, batch, unbatched=unbatched)
    views: dict[str, View] = dict.fromkeys(_LENGTHS, _flat)
    if unbatched:
        views["log_probs"] = row
        if targets.ndim == 1:
            views["targets"] = lambda array: array[None]
    return Layout(() if unbatched else (batch,), None, views, single if unbatched else as_is)


def _flat(array: Any) -> Any:
    return array.reshape(-1)


def _require_labels(targets: Spec, batch: int, *, unbatched: bool) -> None:
    if targets.ndim == 2 or (unbatched and targets.ndim == 1):
        rows = targets.shape[0] if targets.ndim == 2 else 1
        if rows != batch:
            raise RuntimeError(f"Expected tensor to have size {batch} at dimension 0, but got size {rows} {_TARGETS}")
    elif targets.ndim != 1:
        raise RuntimeError(
            f"Expected 1 to 2 dimensions, but got {targets.ndim}-dimensional tensor {_TARGETS}: targets must be (N, S) "
            f"or a 1-dimensional concatenation, got shape {targets.shape}"
        )


def check_sequences(options: Options, operands: Operands) -> None:
    """Check the lengths, and the labels within them."""
    del options
    log_probs, targets = operands["log_probs"], operands["targets"]
    used, lengths = (operands[name].reshape(-1).astype(np.int64, copy=False) for name in _LENGTHS)
    for name, length in zip(_LENGTHS, (used, lengths), strict=True):
        if length.size and length.min() < 0:
            raise RuntimeError(f"Expected {name} to have value at least 0, but got value {length.min()} {_WHILE}")
    concatenated = targets.ndim == 1 and log_probs.ndim == 3
    longest = int(lengths.max()) if lengths.size else 0
    if concatenated and targets.size != lengths.sum():
        raise RuntimeError(
            f"Expected tensor to have size {lengths.sum()} at dimension 0, but got size {targets.size} {_TARGETS}: "
            "the sum of target_lengths is expected"
        )
    if not concatenated and targets.shape[-1] < longest:
        raise RuntimeError(
            f"Expected tensor to have size at least {longest} at dimension 1, but got size {targets.shape[-1]} "
            f"{_TARGETS}"
        )
    if used.size and used.max() > log_probs.shape[0]:
        raise RuntimeError(
            f"Expected input_lengths to have value at most {log_probs.shape[0]}, but got value {used.max()} {_WHILE}"
        )
    padded = pad_labels(targets if concatenated or targets.ndim == 2 else targets[None], lengths)
    within = np.arange(padded.shape[1]) < lengths[:, None]
    require_classes_in_range("targets", np.where(within, padded, 0), log_probs.shape[-1])


def pad_labels(targets: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Labels as (N, S) int64, from that shape or from a concatenation of all labels. The lengths have been checked."""
    targets = targets.astype(np.int64, copy=False)
    if targets.ndim == 2:
        return targets
    padded = np.zeros((lengths.size, int(lengths.max()) if lengths.size else 0), np.int64)
    padded[np.arange(padded.shape[1]) < lengths.reshape(-1, 1)] = targets
    return padded


CTC = Arrangement(ctc, check_sequences)

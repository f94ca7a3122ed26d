"""Sequences: lengths and labels in the forms that the chapter takes."""

from __future__ import annotations

import numpy as np

from portaloss.arrange.views import Arranged, Array, Operands, Options, View, as_is, row, single
from portaloss.checks import is_floating, require_classes_in_range, require_floating

_WHILE = "(while checking arguments for ctc_loss_allocate_outputs)"


def ctc(options: Options, operands: Operands) -> Arranged:
    """(T, N, C) or (T, C), and labels (N, S), (S) or one after the other."""
    log_probs = operands["log_probs"]
    require_floating("log_probs", log_probs)
    if log_probs.ndim == 0:
        raise IndexError(
            "Dimension out of range (expected to be in range of [-1, 0], but got 1): log_probs must be (T, N, C) or "
            "(T, C)"
        )
    if log_probs.ndim not in (2, 3):
        raise RuntimeError(
            # what is not batched gets an axis before it is looked at
            f"Expected 3-dimensional tensor, but got {log_probs.ndim + 1}-dimensional tensor for argument #1 "
            f"'log_probs' {_WHILE}: log_probs must be (T, N, C) or (T, C), got shape {log_probs.shape}"
        )
    unbatched = log_probs.ndim == 2
    views: dict[str, View] = {"log_probs": row} if unbatched else {}
    steps, batch, classes = log_probs.shape if not unbatched else (log_probs.shape[0], 1, log_probs.shape[1])
    if not 0 <= options["blank"] < classes:
        raise RuntimeError(f"blank must be in label range: 0 to {classes - 1}, got {options['blank']}")
    lengths = {name: _lengths(name, operands[name], batch) for name in ("input_lengths", "target_lengths")}
    for name, length in lengths.items():
        if batch and length.min() < 0:
            raise RuntimeError(f"Expected {name} to have value at least 0, but got value {length.min()} {_WHILE}")
    targets = _pad_targets(operands["targets"], lengths["target_lengths"], batch, unbatched=unbatched)
    if batch and lengths["input_lengths"].max() > steps:
        most = lengths["input_lengths"].max()
        raise RuntimeError(f"Expected input_lengths to have value at most {steps}, but got value {most} {_WHILE}")
    within = np.arange(targets.shape[1]) < lengths["target_lengths"][:, None]
    require_classes_in_range("targets", np.where(within, targets, 0), classes)
    arranged = {"log_probs": log_probs[:, None] if unbatched else log_probs, "targets": targets, **lengths}
    return Arranged(arranged, () if unbatched else (batch,), None, views, single if unbatched else as_is)


def _lengths(name: str, lengths: Array, batch: int) -> Array:
    if is_floating(lengths):
        raise RuntimeError(f"{name} must be integral, got {lengths.dtype}")
    flat = lengths.reshape(-1).astype(np.int64, copy=False)
    if flat.size != batch:
        raise RuntimeError(f"{name} must be of size batch_size {batch}, got {flat.size}")
    return flat


def _pad_targets(targets: Array, lengths: Array, batch: int, *, unbatched: bool) -> Array:
    """(N, S), from itself, from (S,) of an unbatched call, or from the concatenation of all samples' labels."""
    targets = targets.astype(np.int64, copy=False)
    longest = int(lengths.max()) if batch else 0
    where = f"for argument #2 'targets' {_WHILE}"
    if targets.ndim == 2 or unbatched:
        padded = targets if targets.ndim == 2 else targets[None]
        if padded.shape[0] != batch:
            raise RuntimeError(
                f"Expected tensor to have size {batch} at dimension 0, but got size {padded.shape[0]} {where}"
            )
        if padded.shape[1] < longest:
            raise RuntimeError(
                f"Expected tensor to have size at least {longest} at dimension 1, but got size {padded.shape[1]} "
                f"{where}"
            )
        return padded
    if targets.ndim != 1:
        raise RuntimeError(
            f"Expected 1 to 2 dimensions, but got {targets.ndim}-dimensional tensor {where}: targets must be (N, S) or "
            f"a 1-dimensional concatenation, got shape {targets.shape}"
        )
    if targets.size != lengths.sum():
        raise RuntimeError(
            f"Expected tensor to have size {lengths.sum()} at dimension 0, but got size {targets.size} {where}: "
            "the sum of target_lengths is expected"
        )
    padded = np.zeros((batch, longest), np.int64)
    padded[np.arange(longest) < lengths[:, None]] = targets
    return padded

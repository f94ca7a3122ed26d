"""What a class index out of range does: an IndexError, or nan for its row. One setting, of one meaning on all backends.

Nothing is ever read or written out of range, in either mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from portaloss.catalogue import Loss
from portaloss.kinds import LossKind

Array = npt.NDArray[Any]
Mode = Literal["raise", "nan"]

_MODES = ("raise", "nan", None)
_mode: Mode | None = None


class _Setting:
    """What ``check_targets`` returns: as a context manager it puts back, at the end, what was set before."""

    def __init__(self, before: Mode | None) -> None:
        self._before = before

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _mode
        _mode = self._before


def check_targets(mode: Mode | None) -> _Setting:
    """Say what a class index out of range does, on every backend: for class targets, sets of classes, CTC's labels.

    ``"raise"``: IndexError, as on the CPU by default. On a GPU the targets are brought to the host first, which waits
    for the GPU and cannot be captured in a CUDA graph.

    ``"nan"``: no error, as on a GPU by default. The row's item is nan, and so is any mean or sum that it is part of;
    the row's gradient is zero, and other rows' gradients are not affected. The row counts in a mean's divisor; where
    there are class weights it adds nothing, since a class that doesn't exist has no weight. In a set of classes only
    what comes before the first -1 is looked at, and that first negative entry itself, which must be -1.

    The setting holds for the whole process, from here on, or as a context manager for the block.

    Args:
        mode: ``"raise"``, ``"nan"``, or None for each backend's default.

    Raises:
        ValueError: any other mode.

    >>> import numpy as np
    >>> from portaloss.functional import nll_loss
    >>> log_p, target = np.array([[-1.0, -2.0], [-3.0, -4.0]]), np.array([1, 5])
    >>> with check_targets("nan"):
    ...     nll_loss(log_p, target, reduction="none").tolist()
    [2.0, nan]
    """
    global _mode
    if mode not in _MODES:
        raise ValueError(f"mode must be 'raise', 'nan' or None, got {mode!r}")
    before, _mode = _mode, mode
    return _Setting(before)


def mode(default: Mode) -> Mode:
    """What is set, or a backend's default."""
    return _mode or default


def set_apart(loss: Loss, options: Mapping[str, Any], operands: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
    """For the CPU: operands in which every target is in range, and which rows have one that wasn't, one bool an item.

    Such a row is ignored where the kind has an ignore_index; else it gets targets that do no harm, and what comes of
    them must be overwritten.

    Args:
        loss: a kind whose targets are class indices.
        options: the loss's.
        operands: as the user gave them, of shapes that fit.
    """
    name, replaced, lost = _SET_APART[loss.kind](options, operands)
    return {**operands, name: replaced}, lost


_Replaced = tuple[str, Array, Array]


def _outside(target: Array, classes: int) -> Array:
    outside: Array = (target < 0) | (target >= classes)
    return outside


def _classes(options: Mapping[str, Any], operands: Mapping[str, Array]) -> _Replaced:
    input, target = operands["input"], operands["target"]
    return _ignored(target, input.shape[min(input.ndim - 1, 1)], options["ignore_index"])


def _linear_classes(options: Mapping[str, Any], operands: Mapping[str, Array]) -> _Replaced:
    return _ignored(operands["target"], operands["linear_weight"].shape[0], options["ignore_index"])


def _ignored(target: Array, classes: int, ignore_index: int) -> _Replaced:
    lost = _outside(target, classes) & (target != ignore_index)
    return "target", np.where(lost, ignore_index, target.astype(np.int64)), lost


def _margin_class(options: Mapping[str, Any], operands: Mapping[str, Array]) -> _Replaced:
    del options
    target = operands["target"]
    scores = operands["input"]
    lost = _outside(target, scores.shape[-1] if scores.ndim else 1)
    return "target", np.where(lost, 0, target), lost


def _class_set(options: Mapping[str, Any], operands: Mapping[str, Array]) -> _Replaced:
    del options
    target = operands["target"]
    rows = target.reshape(-1, target.shape[-1] if target.ndim else 1)
    listed = np.logical_and.accumulate(rows >= 0, axis=1)
    ends = np.append(listed, np.zeros((len(rows), 1), bool), axis=1).argmin(1)
    first_negative = np.append(rows, np.full((len(rows), 1), -1), axis=1)[np.arange(len(rows)), ends]
    lost = (listed & (rows >= operands["input"].size // max(len(rows), 1))).any(1) | (first_negative != -1)
    replaced = np.where(listed & ~lost[:, None], rows, -1)
    return "target", replaced.reshape(target.shape), lost


def _labels(options: Mapping[str, Any], operands: Mapping[str, Array]) -> _Replaced:
    del options
    log_probs, targets = operands["log_probs"], operands["targets"]
    lengths = operands["target_lengths"].reshape(-1)
    outside = _outside(targets, log_probs.shape[-1])
    if targets.ndim == 1 and log_probs.ndim == 3:  # all samples' labels, one after another
        owner = np.repeat(np.arange(len(lengths)), lengths)
        lost: Array = np.bincount(owner[outside], minlength=len(lengths)).astype(bool)
    else:
        rows = outside.reshape(len(lengths), -1)
        lost = np.asarray((rows & (np.arange(rows.shape[1]) < lengths[:, None])).any(1))
    return "targets", np.where(outside, 0, targets), lost


_SET_APART: Mapping[LossKind, Callable[[Mapping[str, Any], Mapping[str, Array]], _Replaced]] = {
    LossKind.NLL: _classes,
    LossKind.CROSS_ENTROPY: _classes,
    LossKind.FUSED_LINEAR_CROSS_ENTROPY: _linear_classes,
    LossKind.MULTI_MARGIN: _margin_class,
    LossKind.MULTILABEL_MARGIN: _class_set,
    LossKind.CTC: _labels,
}

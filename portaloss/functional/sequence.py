"""Connectionist temporal classification: the loss of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

from portaloss import dispatch
from portaloss.functional._arrays import Array, ArrayT
from portaloss.functional._legacy import reduction_of
from portaloss.kinds import LossKind


def ctc_loss(
    log_probs: ArrayT,
    targets: Array,
    input_lengths: Array | Sequence[int],
    target_lengths: Array | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> ArrayT:
    """Connectionist temporal classification: a label sequence, not aligned with one distribution for each time step.

    Formula::

        item = -log Σ_π Π_t exp(log_probs[t, π[t]])

    A path π has one label or blank for each step. The sum runs over the paths that give the target once repeated labels
    are merged and blanks removed. An input too short for its target has no path: its item is inf, or 0 with
    ``zero_infinity``.

    Args:
        log_probs: log-probabilities of a floating dtype, as log-softmax returns them: (T, N, C) or (T, C), with T steps
            and C classes, including the blank.
        targets: labels from 0 to C - 1 other than blank, of an integer dtype: (N, S), where only the first
            target_lengths of each row are read; (S) for (T, C); or all labels concatenated, (sum of target_lengths).
        input_lengths: the number of steps of each sample, at most T: (N) or (), or a sequence of N ints.
        target_lengths: the number of labels of each sample: (N) or (), or a sequence of N ints.
        blank: the class that means "no label".
        reduction: ``"none"`` for the items, ``"mean"``, which divides each item by its target length (at least 1) and
            takes the mean over the batch, or ``"sum"``.
        zero_infinity: whether infinite items, and their gradients, are 0 instead.

    Returns:
        The loss, in the dtype of log_probs: items (N) or (), or one number. The gradient flows to log_probs. As in
        PyTorch, it is exp(log_probs) minus the posterior probability of each class at each step. This is the gradient
        with respect to the logits; the backward pass of log-softmax does not change it.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or an option has a wrong type.
        ValueError: reduction is unknown.
        RuntimeError: the shapes do not fit, a length is negative or beyond the array, or blank is not a class.
        IndexError: a label is not a class; the message says which one and where.
        NotImplementedError: log_probs is not of a floating dtype.

    Source: Alex Graves, Santiago Fernández, Faustino Gomez and Jürgen Schmidhuber, "Connectionist Temporal
    Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks", ICML 2006;
    ``torch.nn.functional.ctc_loss``.

    >>> import numpy as np
    >>> log_probs = np.log(np.full((2, 1, 2), 0.5))  # 2 steps, 1 sample, blank and one label
    >>> loss = ctc_loss(log_probs, np.array([[1]]), (2,), (1,))
    >>> float(np.exp(-loss).round(6))  # 3 of the 4 paths give the label: 1 1, 1 -, - 1
    0.75
    """
    reduction = reduction_of(reduction, None, None)
    operands = {
        "log_probs": log_probs,
        "targets": targets,
        "input_lengths": input_lengths,
        "target_lengths": target_lengths,
    }
    loss: ArrayT = dispatch.loss(LossKind.CTC, reduction, operands, blank=blank, zero_infinity=zero_infinity)
    return loss


__all__ = [
    "ctc_loss",
]

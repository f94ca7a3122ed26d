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
    """Connectionist temporal classification: a label sequence against one distribution a time step, not aligned.

    Formula::

        item = -log Σ_π Π_t exp(log_probs[t, π[t]])

    over all paths π of one label or blank a step that spell the target once repeats are merged and blanks dropped. An
    input too short for its target has no path: its item is inf, or with ``zero_infinity`` 0.

    Args:
        log_probs: log-probabilities of a floating dtype, as log-softmax gives them: (T, N, C) or (T, C), with T steps
            and C classes, the blank among them.
        targets: labels from 0 to C - 1 other than blank, of an integer dtype: (N, S), of which the first target_lengths
            count; (S) for (T, C); or all labels one after the other, (sum of target_lengths).
        input_lengths: the steps of each sample, at most T: (N) or (), or a sequence of N ints.
        target_lengths: the labels of each sample: (N) or (), or a sequence of N ints.
        blank: the class that stands for no label.
        reduction: ``"none"`` for the items, ``"mean"``, which divides each item by its target length (at least 1) and
            takes the mean over the batch, or ``"sum"``.
        zero_infinity: whether infinite items, and their gradients, are 0 instead.

    Returns:
        The loss, in the dtype of log_probs: items (N) or (), or one number. The gradient flows to log_probs. It is
        exp(log_probs) less the posterior probability of each class at each step, as in PyTorch: the gradient by the
        logits, which the backward pass of log-softmax leaves as it is.

    Raises:
        TypeError: an operand is no array, NumPy arrays and torch tensors are mixed, or an option is of a wrong type.
        ValueError: reduction is none of the three.
        RuntimeError: the shapes do not fit, a length is negative or beyond the array, or blank is no class.
        IndexError: a label is no class; it says which and where.
        NotImplementedError: log_probs is not of a floating dtype.

    Source: Alex Graves, Santiago Fernández, Faustino Gomez and Jürgen Schmidhuber, "Connectionist Temporal
    Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks", ICML 2006;
    ``torch.nn.functional.ctc_loss``.

    >>> import numpy as np
    >>> log_probs = np.log(np.full((2, 1, 2), 0.5))  # 2 steps, 1 sample, blank and one label
    >>> loss = ctc_loss(log_probs, np.array([[1]]), (2,), (1,))
    >>> float(np.exp(-loss).round(6))  # of the 4 paths, 3 spell the label: 1 1, 1 -, - 1
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

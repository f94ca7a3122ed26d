"""From the shapes that a user gives to the shapes that a chapter takes, without copying; shape errors are raised here.

A chapter knows one layout: operands that broadcast together, the class (or feature) axis at 1. PyTorch's functions
take unbatched, K-dimensional, broadcast and concatenated forms; an arrangement is the view that turns one into the
other. Views are made of indexing and transposing only, so that a gradient can be written through the same view.

An error begins with PyTorch's text, word for word, and goes on to say which argument is meant, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from portaloss.arrange import pointwise, rowwise
from portaloss.arrange.ctc import ctc
from portaloss.arrange.linear_cross_entropy import linear_cross_entropy
from portaloss.arrange.views import Arranged, Operands, Options
from portaloss.catalogue import Loss
from portaloss.kinds import LossKind


def arrange(loss: Loss, options: Options, operands: Operands) -> Arranged:
    """Check the operands' shapes, dtypes and ranges, and arrange them.

    Raises:
        ValueError, RuntimeError, IndexError, NotImplementedError: as PyTorch does, with the argument's name.
    """
    return _ARRANGE[loss.kind](options, operands)


def depends_on_shapes_alone(kind: LossKind) -> bool:
    """Whether an arrangement serves other operands too, of the same shapes and dtypes, once their values are checked.

    CTC pads its targets by lengths, which are data. What is checked of linear cross-entropy costs little beside it.
    """
    return kind not in (LossKind.CTC, LossKind.FUSED_LINEAR_CROSS_ENTROPY)


def check_values(loss: Loss, options: Options, operands: Operands) -> None:
    """The checks of ``arrange`` that look at what operands hold, where shapes and dtypes are known to be right.

    Raises:
        ValueError, RuntimeError, IndexError: as ``arrange`` does.
    """
    check = _CHECK_VALUES.get(loss.kind)
    if check is not None:
        check(options, operands)


#: Of kinds whose floating operands have values to be checked: whether a part of them is right at one look. False asks
#: for ``check_values``, of the whole.
LOOKS: Mapping[LossKind, Callable[[Operands], bool]] = {
    LossKind.BCE: pointwise.are_probabilities,
    LossKind.GAUSSIAN_NLL: pointwise.is_variance,
}

_CHECK_VALUES: Mapping[LossKind, Callable[[Options, Operands], None]] = {
    LossKind.NLL: rowwise.check_classes,
    LossKind.CROSS_ENTROPY: rowwise.check_classes,
    LossKind.BCE: pointwise.check_probabilities,
    LossKind.GAUSSIAN_NLL: pointwise.check_variance,
    LossKind.MULTI_MARGIN: rowwise.check_margin_class,
    LossKind.MULTILABEL_MARGIN: rowwise.check_class_set,
}

_ARRANGE: Mapping[LossKind, Callable[[Options, Operands], Arranged]] = {
    LossKind.MSE: pointwise.weighted,
    LossKind.NLL: rowwise.nll,
    LossKind.CROSS_ENTROPY: rowwise.cross_entropy,
    LossKind.BCE: pointwise.bce,
    LossKind.KL_DIV: pointwise.kl_div,
    LossKind.L1: pointwise.weighted,
    LossKind.SMOOTH_L1: pointwise.alike,
    LossKind.HINGE_EMBEDDING: pointwise.target_first,
    LossKind.MARGIN_RANKING: pointwise.margin_ranking,
    LossKind.TRIPLET_MARGIN: rowwise.triplet_margin,
    LossKind.CTC: ctc,
    LossKind.POISSON_NLL: pointwise.target_first,
    LossKind.HUBER: pointwise.weighted,
    LossKind.BCE_WITH_LOGITS: pointwise.bce_with_logits,
    LossKind.GAUSSIAN_NLL: pointwise.gaussian_nll,
    LossKind.COSINE_EMBEDDING: rowwise.cosine_embedding,
    LossKind.MULTI_MARGIN: rowwise.multi_margin,
    LossKind.MULTILABEL_MARGIN: rowwise.multilabel_margin,
    LossKind.MULTILABEL_SOFT_MARGIN: rowwise.multilabel_soft_margin,
    LossKind.FUSED_LINEAR_CROSS_ENTROPY: linear_cross_entropy,
}

__all__ = ["LOOKS", "Arranged", "arrange", "check_values", "depends_on_shapes_alone"]

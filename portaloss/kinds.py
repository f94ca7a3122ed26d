"""The names of losses, reductions, directions and dtypes, which all other modules use."""

from __future__ import annotations

from enum import IntEnum


class LossKind(IntEnum):
    """The kinds of losses. A number never changes and is never reused; new kinds get new numbers."""

    MSE = 0
    NLL = 1
    CROSS_ENTROPY = 2
    BCE = 3
    KL_DIV = 4
    L1 = 5
    SMOOTH_L1 = 6
    HINGE_EMBEDDING = 7
    MARGIN_RANKING = 8
    TRIPLET_MARGIN = 9
    CTC = 10
    POISSON_NLL = 11
    HUBER = 12
    BCE_WITH_LOGITS = 13
    GAUSSIAN_NLL = 14
    COSINE_EMBEDDING = 15
    MULTI_MARGIN = 16
    MULTILABEL_MARGIN = 17
    MULTILABEL_SOFT_MARGIN = 18
    FUSED_LINEAR_CROSS_ENTROPY = 19


class LossReduction(IntEnum):
    """How the items of a loss are combined. The numbers are those of PyTorch."""

    NONE = 0
    MEAN = 1
    SUM = 2


class Direction(IntEnum):
    """Whether a SKU is of the loss or of its gradients."""

    FORWARD = 0
    BACKWARD = 1


#: The dtypes of every loss, by the names that NumPy (with ml_dtypes) and PyTorch share.
DTYPES = ("float16", "bfloat16", "float32", "float64")

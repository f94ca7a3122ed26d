"""The names everything else derives from: which loss, which reduction, which direction."""

from __future__ import annotations

from enum import IntEnum


class LossKind(IntEnum):
    """The 20 loss kinds. The numbers are stable: more may come, none is ever reused."""

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
    """What becomes of the items of a loss. The numbers are PyTorch's own."""

    NONE = 0
    MEAN = 1
    SUM = 2


class Direction(IntEnum):
    """Whether a SKU computes the loss or its gradients."""

    FORWARD = 0
    BACKWARD = 1


#: The four dtypes of every SKU, by the names NumPy (with ml_dtypes) and PyTorch share.
DTYPES = ("float16", "bfloat16", "float32", "float64")

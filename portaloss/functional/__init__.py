"""The losses, with PyTorch's names, arguments, defaults, results and errors.

Each function takes NumPy arrays and returns a NumPy array or number, or takes torch tensors and returns a tensor that
autograd can differentiate. For NumPy arrays, ``portaloss.value_and_grad`` returns the gradients. A floating dtype is
float16, bfloat16 (for NumPy it comes from ml_dtypes), float32 or float64. Arithmetic on 16-bit operands is done in
float32. No function modifies its arguments.

>>> import numpy as np
>>> float(mse_loss(np.array([1.0, 3.0]), np.array([0.0, 1.0])))  # (1² + 2²) / 2
2.5
"""

from __future__ import annotations

from portaloss.functional.ctc import ctc_loss
from portaloss.functional.linear_cross_entropy import LinearCrossEntropyExtras, linear_cross_entropy
from portaloss.functional.pointwise import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    gaussian_nll_loss,
    hinge_embedding_loss,
    kl_div,
    margin_ranking_loss,
    poisson_nll_loss,
)
from portaloss.functional.regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from portaloss.functional.rowwise import (
    cosine_embedding_loss,
    cross_entropy,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    nll_loss,
    triplet_margin_loss,
)

fused_linear_cross_entropy = linear_cross_entropy

__all__ = [
    "LinearCrossEntropyExtras",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "fused_linear_cross_entropy",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "linear_cross_entropy",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "triplet_margin_loss",
]

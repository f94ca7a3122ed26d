"""Calls that PyTorch refuses, for what its own error inputs leave out: data, one list a function."""

from __future__ import annotations

from typing import Any

import torch

HALF, DOUBLE = torch.float16, torch.float64


def real(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers that are probabilities too."""
    return torch.full(shape, 0.25, dtype=dtype)


def index(*shape: int, value: int = 0, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """The same class everywhere."""
    return torch.full(shape, value, dtype=dtype)


def call(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as they are written."""
    return args, kwargs


Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


def _reductions(*args: Any) -> Calls:
    return [call(*args, reduction=reduction) for reduction in ("max", "Mean", "")]


def _error_losses(**option: Any) -> Calls:
    """What mse, l1, smooth L1 and Huber refuse alike."""
    return [
        call(real(3), real(4)),
        call(real(2, 3), real(3, 2)),
        call(real(2, 3, 4), real(2, 1, 5)),
        call(real(0), real(2)),
        *([call(real(3), real(3), **option)] if option else []),
        *_reductions(real(3), real(3)),
    ]


def _weighted() -> Calls:
    return [
        call(real(3), real(3), weight=real(4)),
        call(real(3), real(3), weight=real()),
        call(real(2, 3), real(2, 3), weight=real(3)),
        call(real(3), real(4), weight=real(3)),
        call(real(3), real(3), weight=real(3), reduction="max"),
    ]


def _margin_classes() -> Calls:
    return [
        call(real(3, 4, 2), index(3)),
        call(real(3, 0), index(3)),
        call(real(0), index()),
        call(real(3, 4), index(2)),
        call(real(3, 4), index(3, 4)),
        call(real(3, 4), index()),
        call(real(4), index(2)),
        call(real(3, 4), real(3)),
        call(real(3, 4), index(3), weight=real(5)),
        call(real(3, 4), index(3), weight=real(4, 1)),
        call(real(3, 4), index(3), weight=real()),
        call(real(3, 4), index(3), weight=real(4, dtype=DOUBLE)),
        call(real(3, 4), index(3, value=4)),
        call(real(3, 4), index(3, value=-1)),
        call(real(4), index(value=9)),
        call(index(3, 4), index(3)),
        *[call(real(3, 4), index(3), p=p) for p in (0, 3, 1.5, -1)],
        *_reductions(real(3, 4), index(3)),
    ]


def _label_sets() -> Calls:
    return [
        call(real(3, 4, 2), index(3, 4, 2)),
        call(real(3, 0), index(3, 0)),
        call(real(3, 4), index(3, 5)),
        call(real(3, 4), index(4)),
        call(real(4), index(5)),
        call(real(4), index()),
        call(real(3, 4), real(3, 4)),
        call(real(3, 4), index(3, 4, value=4)),
        call(real(3, 4), index(3, 4, value=-2)),
        call(index(3, 4), index(3, 4)),
        *_reductions(real(3, 4), index(3, 4)),
    ]


def _class_targets() -> Calls:
    """What NLL and cross-entropy refuse alike."""
    return [
        call(real(), index()),
        call(real(3, 4), index(2)),
        call(real(3, 4), index()),
        call(real(3, 4), index(3, 1)),
        call(real(3, 4), index(3, 2)),
        call(real(3, 4, 5), index(3)),
        call(real(3, 4, 5), index(3, 6)),
        call(real(3, 4, 5), index(2, 5)),
        call(real(3, 4, 5, 6), index(3, 5)),
        call(real(3, 4, 5, 6), index(3, 5, 7)),
        call(real(3, 4, 5, 6, 7), index(3, 5, 6, 8)),
        call(real(4), index(2)),
        call(real(4), index(3, 3)),
        call(real(3, 4), real(3)),
        call(real(3, 4, 5), real(3, 5)),
        call(real(3, 4), index(3, dtype=torch.bool)),
        call(real(3, 4), index(3), real(5)),
        call(real(3, 4), index(3), real(4, 1)),
        call(real(3, 4), index(3), real()),
        call(real(3, 4, 5), index(3, 5), real(5)),
        call(real(3, 4), index(3), real(4, dtype=DOUBLE)),
        call(real(3, 4), index(3), real(4, dtype=HALF)),
        call(real(3, 4, 5), index(3, 5), real(4, dtype=DOUBLE)),
        call(real(3, 4), index(3), index(4)),
        call(real(4), index(), real(3)),
        call(real(3, 4), index(3, value=4)),
        call(real(3, 4), index(3, value=-1)),
        call(real(3, 4, 5), index(3, 5, value=7)),
        call(real(4), index(value=9)),
        call(real(3, 4), index(3, value=-100), ignore_index=0),
        call(index(3, 4), index(3)),
        call(index(3, 4, 5), index(3, 5)),
        *_reductions(real(3, 4), index(3)),
    ]


def _sequences() -> Calls:
    log_probs, targets = real(5, 2, 4), index(2, 2, value=1)
    five, two = torch.tensor([5, 5]), torch.tensor([2, 2])
    return [
        call(real(5), targets, (5, 5), (2, 2)),
        call(real(5, 2, 4, 1), targets, (5, 5), (2, 2)),
        call(real(), targets, (5, 5), (2, 2)),
        call(log_probs, targets, (5, 5), (2, 2), blank=4),
        call(log_probs, targets, (5, 5), (2, 2), blank=-1),
        call(log_probs, targets, (6, 5), (2, 2)),
        call(log_probs, targets, five + 1, two),
        call(log_probs, targets, (-1, 5), (2, 2)),
        call(log_probs, targets, (5,), (2, 2)),
        call(log_probs, targets, (5, 5), (2,)),
        call(log_probs, targets, five[:1], two),
        call(log_probs, targets, five, two[:1]),
        call(log_probs, targets, (5, 5), (3, 2)),
        call(log_probs, targets, five, two + 1),
        call(log_probs, targets, (5, 5), (-1, 2)),
        call(log_probs, index(5, value=1), (5, 5), (2, 2)),
        call(log_probs, index(3, value=1), (5, 5), (2, 2)),
        call(log_probs, index(3, 2, value=1), (5, 5), (2, 2)),
        call(log_probs, index(2, 2, 2, value=1), (5, 5), (2, 2)),
        call(log_probs, targets, five.double(), two),
        call(log_probs, targets, five, two.double()),
        call(log_probs, targets, five.double(), two.double()),
        call(index(5, 2, 4), targets, (5, 5), (2, 2)),
        *_reductions(log_probs, targets, (5, 5), (2, 2)),
    ]


def _linear() -> Calls:
    input, weight, target = real(3, 4), real(5, 4), index(3)
    return [
        call(real(), weight, index()),
        call(real(3, 6, 4), weight, index(3, 6)),
        call(input, real(4), target),
        call(input, real(), target),
        call(input, real(5, 3), target),
        call(real(3), weight, index()),
        call(input, weight, target, linear_bias=real(4)),
        call(input, weight, target, linear_bias=real()),
        call(input, real(5, 2, 4), index(3, 2), linear_bias=real(5)),
        call(real(4), real(5, 2, 4), index(2)),
        call(input, weight, real(3, 5), ignore_index=0),
        call(input, weight, real(3, 5), ignore_index=-100),
        call(input, weight, index(3, 5), ignore_index=0),
        call(input, weight, index(3, 5)),
        call(input, weight, index(2)),
        call(input, weight, index()),
        call(input, weight, index(3, 1)),
        call(input, weight, real(3)),
        call(input, weight, real(2, 5)),
        call(input, weight, target, weight=real(4)),
        call(input, weight, target, weight=real(5, dtype=DOUBLE)),
        call(input, weight, target, label_smoothing=1.5),
        call(input, weight, index(3, value=5)),
        call(input, weight, index(3, value=-1)),
        call(input, weight.double(), target),
        call(input, weight.half(), target),
        call(input, weight, target, linear_bias=real(5, dtype=DOUBLE)),
        call(index(3, 4), weight, target),
        *_reductions(input, weight, target),
    ]


BAD: dict[str, Calls] = {
    "mse_loss": [*_error_losses(), *_weighted(), call(index(3), index(3)), call(index(3), index(3, dtype=torch.int32))],
    "l1_loss": [*_error_losses(), *_weighted()],
    "smooth_l1_loss": [*_error_losses(beta=-0.5), call(index(3), index(3))],
    "huber_loss": [
        *_error_losses(delta=0.0),
        *_weighted(),
        call(real(3), real(3), delta=-1.0),
        call(index(3), index(3)),
        call(index(3), real(3)),
    ],
    "binary_cross_entropy": [
        call(real(3), real(4)),
        call(real(3), real(1)),
        call(real(3), real(3, 1)),
        call(real(3), real(3), real(4)),
        call(real(3), real(3), real(2, 3)),
        call(real(2, 3), real(2, 3), real(3, 2)),
        call(real(3), real(3, dtype=DOUBLE)),
        call(real(3, dtype=HALF), real(3)),
        call(real(3), index(3)),
        call(index(3), index(3)),
        call(real(3) + 2, real(3)),
        call(real(3) - 2, real(3)),
        call(real(3) * torch.nan, real(3)),
        call(real(3), real(3) + 2),
        call(real(3), real(3) - 2),
        call(real(3), real(3) * torch.nan),
        *_reductions(real(3), real(3)),
    ],
    "binary_cross_entropy_with_logits": [
        call(real(3), real(4)),
        call(real(3), real(1)),
        call(real(3), real(3, 1)),
        call(real(3), real(3), real(4)),
        call(real(2, 3), real(2, 3), real(2)),
        call(real(3), real(3), pos_weight=real(4)),
        call(real(2, 3), real(2, 3), pos_weight=real(2)),
        call(real(3), real(3), real(2, 3)),
        call(real(3), index(3)),
        call(real(3), real(3), pos_weight=real(2, 3)),
        *_reductions(real(3), real(3)),
    ],
    "kl_div": [
        call(real(3), real(4), reduction="sum"),
        call(real(2, 3), real(3, 2), reduction="batchmean"),
        call(real(3), real(4), reduction="none", log_target=True),
        call(real(3), index(3), reduction="sum"),
        call(index(3), real(3), reduction="sum"),
        call(index(3), index(3), reduction="none"),
        *_reductions(real(3), real(3)),
    ],
    "hinge_embedding_loss": [
        call(real(3), real(4)),
        call(real(2, 3), real(3, 2)),
        call(real(0), real(2)),
        call(real(3), index(4)),
        *_reductions(real(3), real(3)),
    ],
    "margin_ranking_loss": [
        call(real(3), real(3, 1), real(3)),
        call(real(3), real(3), real()),
        call(real(3), real(3), real(1, 3)),
        call(real(3), real(4), real(3)),
        call(real(3), real(3), real(4)),
        call(real(2, 3), real(2, 3), real(3, 3)),
        *_reductions(real(3), real(3), real(3)),
    ],
    "triplet_margin_loss": [
        call(real(3, 4), real(4), real(3, 4)),
        call(real(3, 4), real(3, 4), real(4)),
        call(real(4), real(3, 4), real(3, 4)),
        call(real(), real(4), real(4)),
        call(real(3, 4), real(3, 5), real(3, 4)),
        call(real(3, 4), real(3, 4), real(3, 5)),
        call(real(3, 4), real(2, 4), real(3, 4)),
        call(real(3, 4), real(3, 4), real(2, 4)),
        call(real(3, 4), real(1, 4), real(2, 4)),
        call(real(1, 4), real(2, 4), real(3, 4)),
        call(real(1, 4), real(2, 4), real(3, 4), swap=True),
        call(real(3, 4), real(3, 4), real(3, 4), margin=0.0),
        call(real(3, 4), real(3, 4), real(3, 4), margin=-1),
        *_reductions(real(3, 4), real(3, 4), real(3, 4)),
    ],
    "cosine_embedding_loss": [
        call(real(3, 4), real(3, 4), real(3, 1)),
        call(real(3, 4), real(3, 4), real(4)),
        call(real(3, 4), real(3, 4), real()),
        call(real(4), real(4), real(1)),
        call(real(), real(), real()),
        call(real(2, 3, 4), real(2, 3, 4), real(2)),
        call(real(3, 4), real(4), real(3)),
        call(real(3, 4), real(3, 5), real(3)),
        call(real(3, 4), real(2, 4), real(3)),
        call(real(4), real(5), real()),
        *_reductions(real(3, 4), real(3, 4), real(3)),
    ],
    "poisson_nll_loss": [
        call(real(3), real(4)),
        call(real(2, 3), real(3, 2), log_input=False),
        call(real(0), real(2)),
        *_reductions(real(3), real(3)),
    ],
    "gaussian_nll_loss": [
        call(real(3), real(3), real(3) - 1),
        call(real(3), real(3), -1.0),
        call(real(3), real(3), -1e-30),
        call(real(3, 4), real(3, 4), real(2)),
        call(real(3, 4), real(3, 4), real(4)),
        call(real(3, 4), real(3, 4), real(1, 1)),
        call(real(3, 4), real(3, 4), real(3, 4, 1)),
        call(real(3, 4), real(2, 4), real(3, 4)),
        call(real(3), real(4), real(3)),
        *_reductions(real(3), real(3), real(3)),
    ],
    "multi_margin_loss": _margin_classes(),
    "multilabel_margin_loss": _label_sets(),
    "multilabel_soft_margin_loss": [
        call(real(), real()),
        call(real(3, 4), real(4, 4)),
        call(real(3, 4), real(3, 4), real(3)),
        call(real(4), real(5)),
        call(real(3, 4), real(3, 5), real(4)),
        *_reductions(real(3, 4), real(3, 4)),
    ],
    "nll_loss": _class_targets(),
    "cross_entropy": [
        *_class_targets(),
        call(real(3, 4), index(3), label_smoothing=1.5),
        call(real(3, 4), real(3, 4), ignore_index=0),
        call(real(3, 4), index(3, 4)),
        call(real(3, 4), real(3, 5)),
        call(real(3, 4), real(3, 4), real(5)),
        call(real(4), real(4), real(3)),
        call(index(3, 4), real(3, 4)),
    ],
    "ctc_loss": _sequences(),
    "linear_cross_entropy": _linear(),
}

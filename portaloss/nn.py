"""The losses as modules, with torch.nn's names. Each is a subclass of torch.nn's class with another ``forward``.

State, buffers, repr and pickling are PyTorch's: state_dicts load in both directions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

try:
    import torch
except ImportError as error:
    raise ImportError("portaloss.nn needs PyTorch, which is not installed: pip install 'portaloss[torch]'") from error

from torch import Tensor
from torch.nn.modules.loss import _WeightedLoss

import portaloss.functional as functional

if TYPE_CHECKING:
    from collections.abc import Sequence


class L1Loss(torch.nn.L1Loss):
    """``torch.nn.L1Loss``, computed by ``portaloss.functional.l1_loss``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of input and target, both of any shape."""
        return functional.l1_loss(input, target, reduction=self.reduction)


class MSELoss(torch.nn.MSELoss):
    """``torch.nn.MSELoss``, computed by ``portaloss.functional.mse_loss``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of input and target, both of any shape."""
        return functional.mse_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(torch.nn.SmoothL1Loss):
    """``torch.nn.SmoothL1Loss``, computed by ``portaloss.functional.smooth_l1_loss``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of input and target, both of any shape."""
        return functional.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(torch.nn.HuberLoss):
    """``torch.nn.HuberLoss``, computed by ``portaloss.functional.huber_loss``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of input and target, both of any shape."""
        return functional.huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class BCELoss(torch.nn.BCELoss):
    """``torch.nn.BCELoss``, computed by ``portaloss.functional.binary_cross_entropy``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of probabilities and targets, both of any shape and from 0 to 1."""
        return functional.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """``torch.nn.BCEWithLogitsLoss``, computed by ``portaloss.functional.binary_cross_entropy_with_logits``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits and of targets from 0 to 1, both of any shape."""
        return functional.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class KLDivLoss(torch.nn.KLDivLoss):
    """``torch.nn.KLDivLoss``, computed by ``portaloss.functional.kl_div``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The divergence of log-probabilities from a target distribution, both of any shape."""
        return functional.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


class PoissonNLLLoss(torch.nn.PoissonNLLLoss):
    """``torch.nn.PoissonNLLLoss``, computed by ``portaloss.functional.poisson_nll_loss``."""

    def forward(self, log_input: Tensor, target: Tensor) -> Tensor:
        """The loss of a rate, or its logarithm, and counts, both of any shape."""
        return functional.poisson_nll_loss(
            log_input, target, log_input=self.log_input, full=self.full, eps=self.eps, reduction=self.reduction
        )


class GaussianNLLLoss(torch.nn.GaussianNLLLoss):
    """``torch.nn.GaussianNLLLoss``, computed by ``portaloss.functional.gaussian_nll_loss``."""

    def forward(self, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        """The loss of a mean, a target and a variance; the variance may be a number."""
        return functional.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)


class HingeEmbeddingLoss(torch.nn.HingeEmbeddingLoss):
    """``torch.nn.HingeEmbeddingLoss``, computed by ``portaloss.functional.hinge_embedding_loss``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of distances and of targets that are 1 or -1, both of any shape."""
        return functional.hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)


class MarginRankingLoss(torch.nn.MarginRankingLoss):
    """``torch.nn.MarginRankingLoss``, computed by ``portaloss.functional.margin_ranking_loss``."""

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        """The loss of two scores and of targets that are 1 or -1, all with the same number of axes."""
        return functional.margin_ranking_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class NLLLoss(torch.nn.NLLLoss):
    """``torch.nn.NLLLoss``, computed by ``portaloss.functional.nll_loss``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of log-probabilities (C), (N, C) or (N, C, d1, ...) and classes (), (N) or (N, d1, ...)."""
        return functional.nll_loss(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss``, computed by ``portaloss.functional.cross_entropy``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (C), (N, C) or (N, C, d1, ...) and classes, or distributions of the logits' shape."""
        return functional.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class MultiMarginLoss(torch.nn.MultiMarginLoss):
    """``torch.nn.MultiMarginLoss``, computed by ``portaloss.functional.multi_margin_loss``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of scores (C) or (N, C) and classes () or (N)."""
        return functional.multi_margin_loss(
            input, target, p=self.p, margin=self.margin, weight=self.weight, reduction=self.reduction
        )


class MultiLabelMarginLoss(torch.nn.MultiLabelMarginLoss):
    """``torch.nn.MultiLabelMarginLoss``, computed by ``portaloss.functional.multilabel_margin_loss``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of scores and of sets of classes that end at the first -1, both (C) or (N, C)."""
        return functional.multilabel_margin_loss(input, target, reduction=self.reduction)


class MultiLabelSoftMarginLoss(torch.nn.MultiLabelSoftMarginLoss):
    """``torch.nn.MultiLabelSoftMarginLoss``, computed by ``portaloss.functional.multilabel_soft_margin_loss``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits and of targets from 0 to 1, both (..., C)."""
        return functional.multilabel_soft_margin_loss(input, target, weight=self.weight, reduction=self.reduction)


class CosineEmbeddingLoss(torch.nn.CosineEmbeddingLoss):
    """``torch.nn.CosineEmbeddingLoss``, computed by ``portaloss.functional.cosine_embedding_loss``."""

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        """The loss of rows (D) or (N, D) and of targets () or (N) that are 1 or -1."""
        return functional.cosine_embedding_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class TripletMarginLoss(torch.nn.TripletMarginLoss):
    """``torch.nn.TripletMarginLoss``, computed by ``portaloss.functional.triplet_margin_loss``."""

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss of anchors, positives and negatives, all (..., D)."""
        return functional.triplet_margin_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            p=self.p,
            eps=self.eps,
            swap=self.swap,
            reduction=self.reduction,
        )


class CTCLoss(torch.nn.CTCLoss):
    """``torch.nn.CTCLoss``, computed by ``portaloss.functional.ctc_loss``."""

    def forward(
        self,
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Tensor | Sequence[int],
        target_lengths: Tensor | Sequence[int],
    ) -> Tensor:
        """The loss of log-probabilities (T, N, C) or (T, C) and labels, with the lengths of both."""
        return functional.ctc_loss(
            log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity
        )


class _LinearCrossEntropyLoss(_WeightedLoss):
    """The same as torch.nn.LinearCrossEntropyLoss, for releases of torch that do not have it."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
    ) -> None:
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(f"expected weight shape to be {(num_classes,)}, got {tuple(weight.shape)}")
        if not 0.0 <= label_smoothing <= 1.0:
            raise RuntimeError(f"expected label_smoothing to be in range [0, 1], got {label_smoothing}")
        super().__init__(weight=weight, reduction=reduction)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.options = options
        rows = math.prod(out_features, start=num_classes)
        self.linear = torch.nn.Linear(in_features, rows, bias=bias, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        """The arguments, as PyTorch prints them."""
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, out_features={self.out_features}, "
            f"bias={self.linear.bias is not None}, reduction={self.reduction}, ignore_index={self.ignore_index}, "
            f"label_smoothing={self.label_smoothing}, options={self.options}"
        )


if TYPE_CHECKING:
    _LinearCrossEntropyBase = _LinearCrossEntropyLoss
else:
    _LinearCrossEntropyBase = getattr(torch.nn, "LinearCrossEntropyLoss", _LinearCrossEntropyLoss)


class LinearCrossEntropyLoss(_LinearCrossEntropyBase):
    """``torch.nn.LinearCrossEntropyLoss``, computed by ``portaloss.functional.linear_cross_entropy``.

    A linear layer and the cross-entropy of its outputs, which are never all stored. The layer's parameters are
    ``linear.weight``, (num_classes · product of out_features, in_features), and ``linear.bias``. The module also works
    with releases of torch that do not have it. It is also named ``FusedLinearCrossEntropyLoss``.

    It takes the function's further arguments, too: softcap, z_loss, max_memory and return_extras at construction,
    token_weight, normalizer and logit_scale at each call.
    """

    softcap: float | None = None
    z_loss: float = 0.0
    max_memory: int | None = None
    return_extras: bool = False

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        softcap: float | None = None,
        z_loss: float = 0.0,
        max_memory: int | None = None,
        return_extras: bool = False,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            out_features=out_features,
            bias=bias,
            device=device,
            dtype=dtype,
            reduction=reduction,
            weight=weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
        )
        given = {"softcap": softcap, "z_loss": z_loss, "max_memory": max_memory, "return_extras": return_extras}
        for name, value in given.items():
            if value != getattr(type(self), name):  # defaults are not stored: the state stays PyTorch's
                setattr(self, name, value)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        token_weight: Tensor | None = None,
        normalizer: float | Tensor | None = None,
        logit_scale: float | Tensor | None = None,
    ) -> Any:
        """The loss of inputs (D) or (N, D) and classes, or distributions of the logits' shape."""
        classes = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        function: Any = functional.linear_cross_entropy  # its result type depends on return_extras
        return function(
            input,
            self.linear.weight.reshape(*classes, self.linear.in_features),  # Linear's own has two axes
            target,
            linear_bias=None if bias is None else bias.reshape(classes),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
            softcap=self.softcap,
            z_loss=self.z_loss,
            token_weight=token_weight,
            normalizer=normalizer,
            logit_scale=logit_scale,
            max_memory=self.max_memory,
            return_extras=self.return_extras,
        )

    def extra_repr(self) -> str:
        """PyTorch's text, and the further arguments that are set."""
        beyond = {name: getattr(self, name) for name in ("softcap", "z_loss", "max_memory", "return_extras")}
        return ", ".join([super().extra_repr(), *(f"{name}={value}" for name, value in beyond.items() if value)])


FusedLinearCrossEntropyLoss = LinearCrossEntropyLoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "FusedLinearCrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "LinearCrossEntropyLoss",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "TripletMarginLoss",
]

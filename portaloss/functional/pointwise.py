"""Pointwise losses of probabilities, likelihoods and margins; losses of an error are in ``regression``.

The file is long because most of it is public documentation.
"""

from __future__ import annotations

from typing import Any

from portaloss import checks, dispatch
from portaloss.functional._arrays import (
    Array,
    ArrayT,
    are_integers,
    as_pytorch_promotes,
    everywhere,
    floating,
    has_shape,
    in_dtype_of,
    lead_of_integers,
)
from portaloss.functional._legacy import reduction_of, warn
from portaloss.kinds import LossKind


def binary_cross_entropy(
    input: ArrayT,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> ArrayT:
    """Binary cross-entropy of probabilities. From logits, ``binary_cross_entropy_with_logits`` is more accurate.

    Formula::

        item = -w (t log x + (1 - t) log(1 - x))

    with x the input, t the target and w the weight, 1 by default. Each log is clamped to at least -100, so that
    0 · log 0 = 0 and the largest item is 100 w. The derivative with respect to x is w (x - t) / max(x (1 - x), 1e-12).

    Args:
        input: x, probabilities from 0 to 1, of any shape and a floating dtype.
        target: t, from 0 to 1, of the shape and dtype of input.
        weight: w ≥ 0, broadcast to the shape of input.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items, or ``"sum"``.

    Returns:
        The loss, in the dtype of input: items of its shape, or one number. The gradient flows to input and target, not
        to weight.

    Raises:
        TypeError: an operand is not an array, or NumPy arrays and torch tensors are mixed.
        ValueError: reduction is unknown, or target does not have the shape of input.
        RuntimeError: input or target is outside of [0, 1], their dtypes differ, weight does not broadcast, or it
            requires a gradient.
        NotImplementedError: input is not of a floating dtype.

    Source: I. J. Good, "Rational Decisions", Journal of the Royal Statistical Society B 14 (1952);
    ``torch.nn.functional.binary_cross_entropy``.

    >>> import numpy as np
    >>> items = binary_cross_entropy(np.array([0.5, 0.25]), np.array([1.0, 0.0]), reduction="none")
    >>> np.exp(-items).round(6).tolist()  # exp(-item) is the probability of the target
    [0.5, 0.75]
    """
    reduction = reduction_of(reduction, size_average, reduce)
    if has_shape(input, target, *(() if weight is None else (weight,))):
        checks.require_bce_sizes(input, target, weight)
    loss: ArrayT = dispatch.loss(LossKind.BCE, reduction, {"input": input, "target": target, "weight": weight})
    if weight is not None:
        loss = in_dtype_of(loss, input)
    return loss


def binary_cross_entropy_with_logits(
    input: ArrayT,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> ArrayT:
    """Binary cross-entropy of logits x, whose probabilities σ(x) = 1 / (1 + exp(-x)) are not computed explicitly.

    Formula::

        item = -w (p t log σ(x) + (1 - t) log(1 - σ(x)))

    with x the input, t the target, w the weight and p the weight of positives; w and p are 1 by default.

    Args:
        input: x, logits, of any shape and a floating dtype.
        target: t, from 0 to 1, of the shape of input.
        weight: w ≥ 0, broadcast to the shape of input.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items, or ``"sum"``.
        pos_weight: p > 0, broadcast to the shape of input: usually one value for each class, along the last axis. A
            value above 1 raises recall, one below 1 raises precision.

    Returns:
        The loss, in the dtype of target: items of the shape of input, or one number. The gradient flows to input and
        target, not to weight and pos_weight.

    Raises:
        TypeError: an operand is not an array, or NumPy arrays and torch tensors are mixed.
        ValueError: reduction is unknown, or target does not have the shape of input.
        RuntimeError: weight or pos_weight does not broadcast, or requires a gradient, or target is not of a floating
            dtype.
        NotImplementedError: input is not of a floating dtype.

    Source: D. R. Cox, "The Regression Analysis of Binary Sequences", Journal of the Royal Statistical Society B 20
    (1958); ``torch.nn.functional.binary_cross_entropy_with_logits``.

    >>> import numpy as np
    >>> logits, target = np.log([1.0, 3.0]), np.array([1.0, 0.0])  # σ: 1/2 and 3/4
    >>> np.exp(-binary_cross_entropy_with_logits(logits, target, reduction="none")).round(6).tolist()
    [0.5, 0.25]
    """
    reduction = reduction_of(reduction, size_average, reduce)
    if has_shape(input, target):
        checks.require_logits_sizes(input, target)
    operands = {"input": input, "target": target, "weight": weight, "pos_weight": pos_weight}
    loss: ArrayT = in_dtype_of(dispatch.loss(LossKind.BCE_WITH_LOGITS, reduction, operands), target)
    return loss


def kl_div(
    input: ArrayT,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> ArrayT:
    """Kullback-Leibler divergence of a model's log-probabilities from a target distribution, term by term.

    Formula::

        item = t (log t - x)          with log_target False; 0 where t = 0
               exp(t) (t - x)         with log_target True

    with x the input and t the target. The divergence of two distributions is the sum of their items.

    Args:
        input: x, log-probabilities, of any shape and a floating dtype.
        target: t, probabilities, or log-probabilities with log_target; broadcast with input.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"batchmean"``, which divides their sum by the length of input's first
            axis, ``"mean"``, which divides by the number of items (and warns that this is not the divergence), or
            ``"sum"``.
        log_target: whether target holds log-probabilities.

    Returns:
        The loss, in the dtype that the operands promote to: items of the broadcast shape, or one number. The gradient
        flows to input and target.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or log_target is not a bool.
        ValueError: reduction is unknown, or ``"batchmean"`` comes with size_average or reduce.
        RuntimeError: the shapes do not broadcast, or an operand is not of a floating dtype.

    Source: S. Kullback and R. A. Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22
    (1951); ``torch.nn.functional.kl_div``.

    >>> import numpy as np
    >>> divergence = kl_div(np.log([[0.25, 0.75]]), np.array([[1.0, 0.0]]), reduction="batchmean")
    >>> float(np.exp(-divergence).round(6))  # 1·(log 1 - log 0.25) + 0
    0.25
    """
    batchmean = reduction == "batchmean"
    if size_average is not None or reduce is not None:
        if batchmean:
            raise ValueError("reduction='batchmean' cannot be combined with size_average or reduce")
    elif reduction == "mean":
        warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
            "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
            stacklevel=3,
        )
    reduction = reduction_of(reduction, size_average, reduce)
    if are_integers(input, target):  # refused here: no plan exists for integer dtypes
        checks.require_no_integers(input=input, target=target)
    loss: ArrayT = dispatch.loss(
        LossKind.KL_DIV,
        "mean" if batchmean else reduction,
        {"input": input, "target": target},
        log_target=log_target,
        batchmean=batchmean,
    )
    promoted: ArrayT = as_pytorch_promotes(loss, input, target)
    return promoted


def poisson_nll_loss(
    input: ArrayT,
    target: Array,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> ArrayT:
    """Negative log-likelihood of counts under a Poisson distribution.

    Formula::

        item = exp(x) - t x             with log_input True: x is the log of the rate
               x - t log(x + ε)         with log_input False: x is the rate

    with x the input, t the target and ε ``eps``. ``full`` adds Stirling's approximation of log t!, which does not
    depend on x: t log t - t + log(2πt) / 2 where t > 1, else 0.

    Args:
        input: x, of any shape; not negative with log_input False. Integers are converted to float32.
        target: t, counts; broadcast with input.
        log_input: whether input is the log of the rate, not the rate itself.
        full: whether to add the term of Stirling's approximation.
        size_average: deprecated, use reduction.
        eps: ε, avoids log(0) with log_input False.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items, or ``"sum"``.

    Returns:
        The loss, in the dtype that the operands promote to: items of the broadcast shape, or one number. The gradient
        flows to input and target.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or an option has a wrong type.
        ValueError: reduction is unknown.
        RuntimeError: the shapes do not broadcast.

    Source: J. A. Nelder and R. W. M. Wedderburn, "Generalized Linear Models", Journal of the Royal Statistical Society
    A 135 (1972); ``torch.nn.functional.poisson_nll_loss``.

    >>> import numpy as np
    >>> poisson_nll_loss(np.array([0.0, 0.0]), np.array([1.0, 5.0]), reduction="none").tolist()  # exp(0) - 0
    [1.0, 1.0]
    """
    reduction = reduction_of(reduction, size_average, reduce, own_text="{} is not a valid value for reduction")
    operands = {"input": floating(input), "target": target}
    loss: ArrayT = dispatch.loss(LossKind.POISSON_NLL, reduction, operands, log_input=log_input, full=full, eps=eps)
    if log_input and are_integers(input) and input.ndim:
        return loss  # PyTorch's product t x has axes, and a dtype of t's category
    promoted: ArrayT = as_pytorch_promotes(loss, *operands.values())
    return promoted


def gaussian_nll_loss(
    input: ArrayT,
    target: Array,
    var: Array | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> ArrayT:
    """Negative log-likelihood under a normal distribution; the variance is predicted, too.

    Formula, with v = max(var, ε)::

        item = (log v + (x - t)² / v) / 2

    with x the input, t the target and ε ``eps``. ``full`` adds the constant log(2π) / 2.

    Args:
        input: x, the predicted mean, of any shape and a floating dtype.
        target: t, broadcast with input.
        var: the predicted variance, not negative: a number, or an array of one of three shapes: that of input, that of
            input without its last axis (one variance for each row), or that of input with 1 in place of one axis.
        full: whether to add the constant.
        eps: ε, the smallest variance used. The derivative treats max as the identity, also where var < ε.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items, or ``"sum"``.

    Returns:
        The loss, in the dtype that the operands promote to: items of the broadcast shape, or one number. The gradient
        flows to input, target and var.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or an option has a wrong type.
        ValueError: var is negative somewhere or of another shape, or reduction is unknown.
        RuntimeError: the shapes do not broadcast.
        NotImplementedError: no operand is of a floating dtype.

    Source: David A. Nix and Andreas S. Weigend, "Estimating the Mean and Variance of the Target Probability
    Distribution", ICNN 1994; ``torch.nn.functional.gaussian_nll_loss``.

    >>> import numpy as np
    >>> gaussian_nll_loss(np.array([3.0, 0.0]), np.array([1.0, 0.0]), 1.0, reduction="none").tolist()  # (0 + 2²)/2
    [2.0, 0.0]
    """
    if isinstance(var, float):
        if var < 0:
            raise ValueError(f"var has negative entry/entries: it is {var}")
        var = everywhere(var, input)
    reduction = reduction_of(reduction, None, None, own_text="{} is not valid")
    operands = {"input": input, "target": target, "var": var}
    loss: ArrayT = dispatch.loss(LossKind.GAUSSIAN_NLL, reduction, operands, full=full, eps=eps)
    variance: Any = var
    if input.ndim == 1 and not variance.ndim:  # one for the row, which PyTorch gives an axis
        variance = variance.reshape(1)
    promoted: ArrayT = as_pytorch_promotes(loss, input, target, variance)
    return promoted


def hinge_embedding_loss(
    input: ArrayT,
    target: Array,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> ArrayT:
    """Hinge embedding: similar pairs should have small distances, dissimilar ones distances of at least the margin.

    Formula::

        item = x                      where t = 1
               max(0, margin - x)     where t = -1

    with x the input and t the target. For t = -1, the derivative at x = margin is -1, as on the slope. If a target is
    neither 1 nor -1, the two items are added.

    Args:
        input: x, distances, of any shape and a floating dtype.
        target: t, 1 or -1, of any dtype; broadcast with input.
        margin: the distance from which on a dissimilar pair has an item of 0.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items, or ``"sum"``.

    Returns:
        The loss, in the dtype of input: items of the broadcast shape, or one number. The gradient flows to input.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or margin is not a number.
        ValueError: reduction is unknown.
        RuntimeError: the shapes do not broadcast.
        NotImplementedError: no operand is of a floating dtype.

    Source: Raia Hadsell, Sumit Chopra and Yann LeCun, "Dimensionality Reduction by Learning an Invariant Mapping",
    CVPR 2006, where the terms are squared; ``torch.nn.functional.hinge_embedding_loss``.

    >>> import numpy as np
    >>> hinge_embedding_loss(np.array([0.25, 0.25]), np.array([1, -1]), reduction="none").tolist()  # 0.25, 1 - 0.25
    [0.25, 0.75]
    """
    reduction = reduction_of(reduction, size_average, reduce)
    operands = {"input": input, "target": target}
    loss: ArrayT = dispatch.loss(LossKind.HINGE_EMBEDDING, reduction, operands, margin=margin)
    return loss


def margin_ranking_loss(
    input1: ArrayT,
    input2: Array,
    target: Array,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> ArrayT:
    """Margin ranking: of two scores, the one that ranks higher should be larger by at least the margin.

    Formula::

        item = max(0, -t (x₁ - x₂) + margin)

    with x₁ and x₂ the inputs and t the target: 1 where x₁ ranks higher, -1 where x₂ does. At the kink, where the second
    argument of max is 0, the derivative is that of the slope.

    Args:
        input1: x₁, scores, of any shape. If all operands are integers, the loss is float32.
        input2: x₂, with the same number of axes as input1; broadcast with it.
        target: t, 1 or -1, of any dtype, with the same number of axes as input1; broadcast with it.
        margin: the difference from which on a pair has an item of 0.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items, or ``"sum"``.

    Returns:
        The loss, in the dtype that the operands promote to: items of the broadcast shape, or one number. The gradient
        flows to input1, input2 and, where it is of a floating dtype, target.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or margin is not a number.
        ValueError: reduction is unknown.
        RuntimeError: the operands differ in their number of axes, or do not broadcast.

    Source: Ralf Herbrich, Thore Graepel and Klaus Obermayer, "Large Margin Rank Boundaries for Ordinal Regression",
    Advances in Large Margin Classifiers (MIT Press, 2000); ``torch.nn.functional.margin_ranking_loss``.

    >>> import numpy as np
    >>> scores, others = np.array([3.0, 1.0]), np.array([2.0, 2.0])
    >>> margin_ranking_loss(scores, others, np.array([1, 1]), margin=0.5, reduction="none").tolist()  # -1 + ½, 1 + ½
    [0.0, 1.5]
    """
    reduction = reduction_of(reduction, size_average, reduce)
    if has_shape(input1, input2, target):
        checks.require_ranks_alike(input1, input2, target)
    operands = {"input1": input1, "input2": input2, "target": target}
    if are_integers(input1, input2, target):
        operands = lead_of_integers(**operands)
    loss: ArrayT = dispatch.loss(LossKind.MARGIN_RANKING, reduction, operands, margin=margin)
    return loss


__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "kl_div",
    "margin_ranking_loss",
    "poisson_nll_loss",
]

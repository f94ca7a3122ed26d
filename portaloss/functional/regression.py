"""Pointwise losses of an error e = input - target: MSE, L1, smooth L1, Huber."""

from __future__ import annotations

from typing import Any

from portaloss import checks, dispatch
from portaloss.functional._arrays import Array, ArrayT, are_complex, are_integers, has_shape, named, zero
from portaloss.functional._legacy import reduction_of, warn_of_sizes
from portaloss.kinds import LossKind

#: PyTorch's text for weighted losses.
_INVALID = "Invalid reduction mode: {}. Expected one of 'none', 'mean', 'sum'"


def mse_loss(
    input: ArrayT,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Array | None = None,
) -> ArrayT:
    """Mean squared error: the square of each error.

    Formula::

        item = w (x - t)²

    with x the input, t the target and w the weight, 1 by default.

    Args:
        input: x, of any shape and a floating dtype.
        target: t, of the shape of input; another shape is broadcast, with a warning.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items (by the sum of
            weight where weight is given), or ``"sum"``.
        weight: w ≥ 0, of the shape of input.

    Returns:
        The loss, in the dtype that the operands promote to: items of the broadcast shape, or one number. The gradient
        flows to input, target and weight; with ``"mean"`` also through the sum of weight in the divisor.

    Raises:
        TypeError: an operand is not an array, or NumPy arrays and torch tensors are mixed.
        ValueError: reduction is unknown, or weight does not have the shape of input.
        RuntimeError: the shapes do not broadcast.
        NotImplementedError: no operand is of a floating dtype.

    Source: A.-M. Legendre, "Nouvelles méthodes pour la détermination des orbites des comètes" (1805), appendix on least
    squares; ``torch.nn.functional.mse_loss``.

    >>> import numpy as np
    >>> mse_loss(np.array([1.0, 3.0]), np.array([0.0, 1.0]), reduction="none").tolist()  # 1², 2²
    [1.0, 4.0]
    """
    reduction = reduction_of(reduction, size_average, reduce, own_text=None if weight is None else _INVALID)
    warn_of_sizes(input, target)
    loss: ArrayT = dispatch.loss(LossKind.MSE, reduction, {"input": input, "target": target, "weight": weight})
    return loss


def l1_loss(
    input: ArrayT,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Array | None = None,
) -> ArrayT:
    """Mean absolute error: the absolute value of each error.

    Formula::

        item = w |x - t|

    with x the input, t the target and w the weight, 1 by default. At x = t the gradient is 0.

    Args:
        input: x, of any shape and a floating or complex dtype; for complex numbers |x - t| is the modulus.
        target: t, of the shape of input; another shape is broadcast, with a warning.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items (by the sum of
            weight where weight is given), or ``"sum"``.
        weight: w ≥ 0, of the shape of input.

    Returns:
        The loss, in the dtype that the operands promote to: items of the broadcast shape, or one number. The gradient
        flows to input, target and weight; with ``"mean"`` also through the sum of weight in the divisor.

    Raises:
        TypeError: an operand is not an array, or NumPy arrays and torch tensors are mixed.
        ValueError: reduction is unknown, or weight does not have the shape of input.
        RuntimeError: the shapes do not broadcast.
        NotImplementedError: no operand is of a floating dtype.

    Source: R. J. Boscovich, in "De litteraria expeditione per pontificiam ditionem" (1757), the line of least absolute
    deviations; ``torch.nn.functional.l1_loss``.

    >>> import numpy as np
    >>> float(l1_loss(np.array([1.0, 3.0]), np.array([2.0, 1.0])))  # (1 + 2) / 2
    1.5
    """
    reduction = reduction_of(reduction, size_average, reduce, own_text=None if weight is None else _INVALID)
    warn_of_sizes(input, target)
    operands = {"input": input, "target": target, "weight": weight}
    if are_complex(input, target):
        operands.update(_moduli(input, target))
    loss: ArrayT = dispatch.loss(LossKind.L1, reduction, operands)
    return loss


def _moduli(input: Any, target: Any) -> dict[str, Any]:
    """Real operands whose L1 items are the moduli of the complex differences."""
    checks.broadcast_shape(input=input.shape, target=target.shape)
    modulus = named(lambda x, t: abs(x - t), input=input, target=target)
    return {"input": modulus, "target": zero(modulus)}


def smooth_l1_loss(
    input: ArrayT,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> ArrayT:
    """Smooth L1: the absolute error, with a parabola in place of the kink at zero.

    Formula, with e = x - t, x the input and t the target::

        item = e² / (2β)    where |e| < β
               |e| - β/2    elsewhere

    β is ``beta``. With β = 0 it is the L1 loss; with β > 0 it is Huber's loss with δ = β, divided by β.

    Args:
        input: x, of any shape and a floating dtype.
        target: t, of the shape of input; another shape is broadcast, with a warning.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items, or ``"sum"``.
        beta: β ≥ 0, the error at which the parabola becomes a line.

    Returns:
        The loss, in the dtype that the operands promote to: items of the broadcast shape, or one number. The gradient
        flows to input and target.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or beta is not a number.
        ValueError: reduction is unknown.
        RuntimeError: beta is negative, or the shapes do not broadcast.
        NotImplementedError: no operand is of a floating dtype.

    Source: Ross Girshick, "Fast R-CNN", ICCV 2015; ``torch.nn.functional.smooth_l1_loss``.

    >>> import numpy as np
    >>> smooth_l1_loss(np.array([1.0, 4.0]), np.zeros(2), reduction="none", beta=2.0).tolist()  # 1²/4, 4 - 1
    [0.25, 3.0]
    """
    reduction = reduction_of(reduction, size_average, reduce)
    warn_of_sizes(input, target)
    loss: ArrayT = dispatch.loss(LossKind.SMOOTH_L1, reduction, {"input": input, "target": target}, beta=beta)
    return loss


def huber_loss(
    input: ArrayT, target: Array, reduction: str = "mean", delta: float = 1.0, weight: Array | None = None
) -> ArrayT:
    """Huber's loss: squared for small errors, absolute for large ones, so that the gradient of an outlier is bounded.

    Formula, with e = x - t, x the input and t the target::

        item = w e² / 2            where |e| ≤ δ
               w δ (|e| - δ/2)     elsewhere

    δ is ``delta``, and w the weight, 1 by default.

    Args:
        input: x, of any shape and a floating dtype.
        target: t, of the shape of input; another shape is broadcast, with a warning.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items (also where
            weight is given, unlike ``mse_loss``), or ``"sum"``.
        delta: δ > 0, the error at which the parabola becomes a line.
        weight: w ≥ 0, of the shape of input.

    Returns:
        The loss, in the dtype of input: items of the broadcast shape, or one number. The gradient flows to input,
        target and weight.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or delta is not a number.
        ValueError: reduction is unknown, or weight does not have the shape of input.
        RuntimeError: delta is not positive, the shapes do not broadcast, or input is of an integer dtype and target is
            of a floating one.
        NotImplementedError: neither input nor target is of a floating dtype.

    Source: Peter J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35 (1964);
    ``torch.nn.functional.huber_loss``.

    >>> import numpy as np
    >>> huber_loss(np.array([1.0, 4.0]), np.zeros(2), reduction="none", delta=2.0).tolist()  # 1²/2, 2·(4 - 1)
    [0.5, 6.0]
    """
    reduction = reduction_of(reduction, None, None, own_text=None if weight is None else _INVALID)
    warn_of_sizes(input, target)
    _refuse_integers(input, target)
    operands = {"input": input, "target": target, "weight": weight}
    loss: ArrayT = dispatch.loss(LossKind.HUBER, reduction, operands, delta=delta)
    return loss


def _refuse_integers(input: Any, target: Any) -> None:
    """Refuse an integer input with the error that PyTorch raises, which depends on the dtype of the target."""
    if not has_shape(input, target) or not are_integers(input):
        return
    if are_integers(target):
        raise NotImplementedError(
            f"input must be of a floating dtype; huber_loss is not implemented for {checks.dtype_name(input)}"
        )
    raise RuntimeError(
        f"result type {checks.scalar_type(target)} can't be cast to the desired output type "
        f"{checks.scalar_type(input)}: input must be of a floating dtype"
    )


__all__ = [
    "huber_loss",
    "l1_loss",
    "mse_loss",
    "smooth_l1_loss",
]

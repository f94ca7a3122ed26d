"""Pointwise losses: operands broadcast together, and those with fewer axes get leading axes of length one."""

from __future__ import annotations

from portaloss.arrange.views import Arrangement, Layout, Operands, Options, Specs, View, lead
from portaloss.checks import (
    Shape,
    broadcast_shape,
    distinct,
    is_floating,
    is_from_0_to,
    require_bce_sizes,
    require_fits,
    require_floating,
    require_logits_sizes,
    require_no_integers,
    require_ranks_alike,
    require_unit_interval,
    scalar_type,
)


def _align(operands: Specs, full: Shape, **views: View) -> Layout:
    for name, spec in operands.items():
        if name not in views and spec.ndim < len(full):
            views[name] = lead(len(full) - spec.ndim)
    return Layout(full, views=views)


def alike(options: Options, operands: Specs) -> Layout:
    """Operands that broadcast together, in the order in which PyTorch broadcasts them."""
    del options
    return _align(operands, broadcast_shape(**{name: spec.shape for name, spec in operands.items()}))


def target_first(options: Options, operands: Specs) -> Layout:
    """The same, except that PyTorch broadcasts the target first, so that errors name it first."""
    if operands["input"].shape != operands["target"].shape:
        broadcast_shape(target=operands["target"].shape, input=operands["input"].shape)
    return alike(options, operands)


def weighted(options: Options, operands: Specs) -> Layout:
    """Input and target, and an optional weight, which must have input's shape."""
    input, weight = operands["input"], operands.get("weight")
    if weight is not None:
        if operands["target"].shape != input.shape:
            broadcast_shape(input=input.shape, target=operands["target"].shape)
        if weight.shape != input.shape:
            raise ValueError(
                f"Weights and input must have the same size. Got weight {weight.shape} and input {input.shape}"
            )
    return alike(options, operands)


def bce(options: Options, operands: Specs) -> Layout:
    """Input and target are probabilities, of one shape."""
    input, target, weight = operands["input"], operands["target"], operands.get("weight")
    require_bce_sizes(input, target, weight)
    require_floating("input", input)
    if weight is not None:
        require_fits("weight", weight.shape, "input", input.shape)
    if target.dtype != input.dtype:
        raise RuntimeError(
            f"Found dtype {scalar_type(target)} but expected {scalar_type(input)}: target must have input's dtype"
        )
    return alike(options, operands)


def check_probabilities(options: Options, operands: Operands) -> None:
    """Check that the operands of ``bce`` are between 0 and 1."""
    del options
    require_unit_interval("input", operands["input"])
    require_unit_interval("target", operands["target"])


def bce_with_logits(options: Options, operands: Specs) -> Layout:
    """Input is logits, target probabilities, of one shape."""
    input, target = operands["input"], operands["target"]
    require_logits_sizes(input, target)
    require_floating("input", input)
    if "pos_weight" in operands:
        pos_weight = operands["pos_weight"]
        broadcast_shape(pos_weight=pos_weight.shape, target=target.shape)
        require_fits("pos_weight", pos_weight.shape, "input", input.shape)
    if "weight" in operands:
        require_fits("weight", operands["weight"].shape, "input", input.shape)
    if not is_floating(target):
        raise RuntimeError(
            f"result type {scalar_type(input)} can't be cast to the desired output type {scalar_type(target)}: target "
            "must be of a floating dtype"
        )
    return alike(options, operands)


def kl_div(options: Options, operands: Specs) -> Layout:
    """Input is log-probabilities; target is probabilities or their logarithms."""
    require_no_integers(**operands)
    return target_first(options, operands)


def margin_ranking(options: Options, operands: Specs) -> Layout:
    """Two scores and a sign, all with the same number of axes."""
    input1, input2, target = operands["input1"], operands["input2"], operands["target"]
    require_ranks_alike(input1, input2, target)
    if not input1.shape == input2.shape == target.shape:
        broadcast_shape(target=target.shape, input=broadcast_shape(input1=input1.shape, input2=input2.shape))
    return alike(options, operands)


def gaussian_nll(options: Options, operands: Specs) -> Layout:
    """Input is a mean; the variance has its shape, that without the last axis, or 1 in place of one axis."""
    input, target, var = operands["input"], operands["target"], operands["var"]
    one_a_row = False
    if var.shape != input.shape:
        one_a_row = var.shape == input.shape[:-1] and input.ndim > 0
        if not one_a_row:
            differing = [v for i, v in zip(input.shape, var.shape, strict=False) if i != v]
            if var.ndim != input.ndim or sum(differing) != 1:
                raise ValueError(
                    f"var is of incorrect size: got {var.shape}, expected {input.shape}, that without its last axis, "
                    "or with 1 in place of one axis"
                )
    var_shape = (*var.shape, 1) if one_a_row else var.shape
    full = broadcast_shape(input=input.shape, target=target.shape, var=var_shape)
    if not one_a_row:
        return _align(operands, full)
    index = (None,) * (len(full) - len(var_shape)) + (..., None)
    return _align(operands, full, var=lambda array: array[index])


def are_probabilities(operands: Operands) -> bool:
    """Whether one quick look shows that the operands of ``bce`` are between 0 and 1. False leaves it open."""
    return is_from_0_to(operands["input"], 1.0) and is_from_0_to(operands["target"], 1.0)


def is_variance(operands: Operands) -> bool:
    """Whether one quick look shows that the variance of ``gaussian_nll`` is not negative. False leaves it open."""
    return is_floating(operands["var"]) and is_from_0_to(operands["var"], float("inf"))


def check_variance(options: Options, operands: Operands) -> None:
    """Check that the variance of ``gaussian_nll`` is not negative."""
    del options
    var = distinct(operands["var"])
    if not is_variance({"var": var}) and (var < 0).any():
        raise ValueError("var has negative entry/entries")


ALIKE = Arrangement(alike)
TARGET_FIRST = Arrangement(target_first)
WEIGHTED = Arrangement(weighted)
BCE = Arrangement(bce, check_probabilities, are_probabilities)
BCE_WITH_LOGITS = Arrangement(bce_with_logits)
KL_DIV = Arrangement(kl_div)
MARGIN_RANKING = Arrangement(margin_ranking)
GAUSSIAN_NLL = Arrangement(gaussian_nll, check_variance, is_variance)

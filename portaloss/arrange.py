"""From the shapes that a user gives to the shapes that a chapter takes, without copying; shape errors are raised here.

A chapter knows one layout: operands that broadcast together, the class (or feature) axis at 1. PyTorch's functions
take unbatched, K-dimensional, broadcast and concatenated forms; an arrangement is the view that turns one into the
other. Views are made of indexing and transposing only, so that a gradient can be written through the same view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from portaloss.catalogue import Loss
from portaloss.checks import (
    Shape,
    broadcast_shape,
    distinct,
    is_floating,
    require_classes_in_range,
    require_fits,
    require_floating,
    require_in_unit_interval,
    require_integer,
    require_same_dtype,
)
from portaloss.kinds import LossKind

Array = Any  # of either library: a view is made the same way
View = Callable[[Array], Array]
Operands = Mapping[str, Array]
Options = Mapping[str, Any]


def _as_is(array: Array) -> Array:
    return array


@dataclass(frozen=True)
class Arranged:
    """The operands of one call as a chapter takes them."""

    operands: dict[str, Array]  #: views, or copies where a chapter takes another form (CTC's concatenated targets)
    items_shape: Shape  #: of the result with reduction none
    axis: int | None = None  #: the class axis, which items do not span; None for pointwise losses
    views: dict[str, View] = field(default_factory=dict)  #: where it is not the identity
    items_as: View = _as_is

    def view(self, name: str, array: Array) -> Array:
        """An array of the shape in which the user gave the operand, seen in the chapter's shape."""
        return self.views.get(name, _as_is)(array)

    def items_view(self, array: Array) -> Array:
        """An array of ``items_shape``, seen in the shape of the chapter's items."""
        return self.items_as(array)


def arrange(loss: Loss, options: Options, operands: Operands) -> Arranged:
    """Check the operands' shapes, dtypes and ranges, and arrange them.

    Raises:
        ValueError, RuntimeError, IndexError, NotImplementedError: as PyTorch does, with the argument's name.
    """
    return _ARRANGE.get(loss.kind, _pointwise)(options, operands)


def _views(operands: Operands, views: dict[str, View]) -> dict[str, Array]:
    return {name: views[name](array) if name in views else array for name, array in operands.items()}


# Pointwise: operands broadcast together; only their leading axes need filling up.


def _lead(axes: int) -> View:
    index = (None,) * axes + (...,)
    return lambda array: array[index]


def _align(operands: Operands, full: Shape, **views: View) -> Arranged:
    for name, array in operands.items():
        if name not in views and array.ndim < len(full):
            views[name] = _lead(len(full) - array.ndim)
    return Arranged(_views(operands, views), full, views=views)


def _pointwise(options: Options, operands: Operands) -> Arranged:
    del options
    full: Shape | None = None
    for array in operands.values():  # the common case first: all of one shape
        if full is None:
            full = array.shape
        elif array.shape != full:
            full = broadcast_shape(**{name: array.shape for name, array in operands.items()})
            return _align(operands, full)
    return Arranged(dict(operands), full or ())


def _weighted_pointwise(options: Options, operands: Operands) -> Arranged:
    weight = operands.get("weight")
    if weight is not None and weight.shape != operands["input"].shape:
        raise ValueError(
            f"Weights and input must have the same size. Got weight {weight.shape} and input {operands['input'].shape}"
        )
    return _pointwise(options, operands)


def _bce(options: Options, operands: Operands) -> Arranged:
    input, target = operands["input"], operands["target"]
    if input.shape != target.shape:
        raise ValueError(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}) is deprecated. "
            "Please ensure they have the same size."
        )
    for name, array in operands.items():
        require_floating(name, array)
        require_same_dtype(name, array, "input", input)
        if name == "weight":
            require_fits(name, array.shape, input.shape)
    require_in_unit_interval("input", input)
    require_in_unit_interval("target", target)
    return _pointwise(options, operands)


def _bce_with_logits(options: Options, operands: Operands) -> Arranged:
    input, target = operands["input"], operands["target"]
    if input.shape != target.shape:
        raise ValueError(f"Target size ({target.shape}) must be the same as input size ({input.shape})")
    for name, array in operands.items():
        require_floating(name, array)
        require_fits(name, array.shape, input.shape)
    return _pointwise(options, operands)


def _kl_div(options: Options, operands: Operands) -> Arranged:
    for name, array in operands.items():
        if not is_floating(array):
            raise RuntimeError(f"kl_div: Integral inputs not supported; {name} is {array.dtype}")
    return _pointwise(options, operands)


def _margin_ranking(options: Options, operands: Operands) -> Arranged:
    if len({array.ndim for array in operands.values()}) > 1:
        sizes = ", ".join(f"{name}: {array.shape}" for name, array in operands.items())
        raise RuntimeError(
            f"margin_ranking_loss : All input tensors should have same dimension but got sizes: {sizes} "
        )
    return _pointwise(options, operands)


def _gaussian_nll(options: Options, operands: Operands) -> Arranged:
    del options
    input, target, var = operands["input"], operands["target"], operands["var"]
    views: dict[str, View] = {}
    if var.shape != input.shape:
        if var.shape == input.shape[:-1] and input.ndim:  # one variance for each row
            views["var"] = lambda array: array[..., None]
        else:
            differing = [v for i, v in zip(input.shape, var.shape, strict=False) if i != v]
            if var.ndim != input.ndim or sum(differing) != 1:
                raise ValueError(
                    f"var is of incorrect size: got {var.shape}, expected {input.shape}, that without its last axis, "
                    "or with 1 in place of one axis"
                )
    if var.size and (distinct(var) < 0).any():
        raise ValueError("var has negative entry/entries")
    var_shape = views["var"](var).shape if views else var.shape
    full = broadcast_shape(input=input.shape, target=target.shape, var=var_shape)
    if views:
        lead = len(full) - len(var_shape)
        views["var"] = lambda array: array[(None,) * lead + (..., None)]
    return _align(operands, full, **views)


# Rowwise: (N, C, d1, ...). Operands with one value a row keep a class axis of length one.


def _batch(array: Array) -> Array:
    return array[None]


def _row(array: Array) -> Array:
    return array[:, None]


def _row_unbatched(array: Array) -> Array:
    return array.reshape(1, 1)


def _classes(rank: int) -> View:
    index = (None, slice(None)) + (None,) * (rank - 2)
    return lambda array: array[index]


def _feature_axis_last(rank: int) -> View:
    """(..., C) -> (N, C, ...); where there is no batch, it gets one of length one."""
    if rank == 0:
        return _row_unbatched
    if rank == 1:
        return _batch
    if rank == 2:
        return _as_is
    return lambda array: _move_last_to_second(array)


def _move_last_to_second(array: Array) -> Array:
    order = (0, array.ndim - 1, *range(1, array.ndim - 1))
    permute: View = getattr(array, "permute", array.transpose)  # torch's transpose is another function
    return permute(order)


def _class_target_views(operands: Operands, classes_name: str = "weight") -> tuple[dict[str, View], Shape]:
    """Views and items' shape for NLL and cross-entropy."""
    input, target = operands["input"], operands["target"]
    views: dict[str, View] = {}
    soft = is_floating(target)
    if input.ndim == 1:
        views["input"] = _batch
        views["target"] = _batch if soft else _row_unbatched
        items_shape: Shape = ()
    else:
        if not soft:
            views["target"] = _row
        items_shape = (input.shape[0], *input.shape[2:])
    views[classes_name] = _classes(max(input.ndim, 2))
    return views, items_shape


def _require_class_weight(weight: Array, classes: int, input: Array, *, same_dtype: bool) -> None:
    if weight.shape != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes but got weight tensor of "
            f"shape: {list(weight.shape)}"
        )
    require_floating("weight", weight)
    if same_dtype:
        require_same_dtype("weight", weight, "input", input)


def _require_class_targets(input: Array, target: Array) -> None:
    """Shapes of input and class-index target, as PyTorch checks them."""
    require_integer("target", target)
    if input.ndim == 1:
        if target.ndim > 1 or target.size != 1:
            raise ValueError(
                f"Expected input batch_size (1) to match target batch_size ({target.size}): an unbatched input takes "
                f"one target, got target of shape {target.shape}"
            )
        return
    if target.ndim == 0 or target.shape[0] != input.shape[0]:
        size = target.shape[0] if target.ndim else 1
        raise ValueError(f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({size}).")
    expected = (input.shape[0], *input.shape[2:])
    if target.shape != expected:
        raise RuntimeError(f"Expected target size {list(expected)}, got {list(target.shape)}")


def _nll(options: Options, operands: Operands) -> Arranged:
    input, target = operands["input"], operands["target"]
    if input.ndim < 1:
        raise ValueError("Expected 1 or more dimensions (got 0): input must have a class axis")
    require_floating("input", input)
    if is_floating(target):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
    _require_class_targets(input, target)
    return _classified(options, operands)


def _classified(options: Options, operands: Operands) -> Arranged:
    input, target = operands["input"], operands["target"]
    classes = input.shape[min(input.ndim - 1, 1)]
    soft = is_floating(target)
    if "weight" in operands:
        _require_class_weight(operands["weight"], classes, input, same_dtype=not soft)
    if not soft:
        require_classes_in_range("target", target, classes, ignore_index=options["ignore_index"])
    views, items_shape = _class_target_views(operands)
    items_as = _row if items_shape else _row_unbatched
    return Arranged(_views(operands, views), items_shape, 1, views, items_as)


def _cross_entropy(options: Options, operands: Operands) -> Arranged:
    input, target = operands["input"], operands["target"]
    require_floating("input", input)
    if input.ndim < 1:
        raise RuntimeError("input must have a class axis, got a 0-dimensional array")
    if input.shape == target.shape:
        if not is_floating(target):
            raise RuntimeError(f"Expected floating point type for target with class probabilities, got {target.dtype}")
        if options["ignore_index"] >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
    elif is_floating(target):
        raise RuntimeError(
            f"expected target dtype to be Long or Byte, but got {target.dtype}: target of shape {target.shape} holds "
            f"class indices, since it is not of input's shape {input.shape}"
        )
    else:
        _require_class_targets(input, target)
    return _classified(options, operands)


def _multi_margin(options: Options, operands: Operands) -> Arranged:
    del options
    input, target = operands["input"], operands["target"]
    require_floating("input", input)
    if input.ndim not in (1, 2) or input.shape[-1] == 0:
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)}"
        )
    require_integer("target", target)
    rows = input.shape[0] if input.ndim == 2 else 1
    if (target.ndim > 1 or target.size != rows) or (input.ndim == 2 and target.ndim != 1):
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input samples (batch "
            f"size). Expected target size [{rows}], but got {list(target.shape)}. Input has shape {list(input.shape)}."
        )
    classes = input.shape[-1]
    views: dict[str, View] = {
        "input": _feature_axis_last(input.ndim),
        "target": _row if target.ndim else _row_unbatched,
        "weight": _batch,
    }
    if "weight" in operands:
        weight = operands["weight"]
        if weight.ndim != 1:
            raise ValueError(f"weight must be one-dimensional, got shape {weight.shape}")
        if weight.shape != (classes,):
            raise RuntimeError(f"inconsistent weight size, expected {classes} but got {list(weight.shape)}")
        require_same_dtype("weight", weight, "input", input)
    require_classes_in_range("target", target, classes)
    return Arranged(_views(operands, views), target.shape, 1, views, views["target"])


def _multilabel_margin(options: Options, operands: Operands) -> Arranged:
    del options
    input, target = operands["input"], operands["target"]
    require_floating("input", input)
    if input.ndim > 2 or (input.ndim and input.shape[-1] == 0):
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)}"
        )
    if target.shape != input.shape:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}")
    require_integer("target", target)
    require_classes_in_range("target", target, input.shape[-1] if input.ndim else 1, padding=True)
    view = _feature_axis_last(input.ndim)
    views = {"input": view, "target": view}
    items_shape = input.shape[:-1]
    return Arranged(_views(operands, views), items_shape, 1, views, _row if items_shape else _row_unbatched)


def _multilabel_soft_margin(options: Options, operands: Operands) -> Arranged:
    del options
    input = operands["input"]
    require_floating("input", input)
    if input.ndim == 0:
        raise IndexError("Dimension specified as -1 but tensor has no dimensions: input needs a class axis")
    full = broadcast_shape(**{name: array.shape for name, array in operands.items()})
    if len(full) > input.ndim:
        raise RuntimeError(
            f"input of shape {input.shape} must have as many dimensions as what it broadcasts to, {full}"
        )
    return _features(operands, full)


def _features(operands: Operands, full: Shape) -> Arranged:
    """Operands that broadcast together, features last."""
    rank = len(full)
    last = _feature_axis_last(rank)
    views: dict[str, View] = {}
    for name, array in operands.items():
        lead = _lead(rank - array.ndim)
        views[name] = last if array.ndim == rank else lambda a, lead=lead: last(lead(a))  # type: ignore[misc]
    items_shape = full[:-1]
    return Arranged(_views(operands, views), items_shape, 1, views, _row if items_shape else _row_unbatched)


def _cosine_embedding(options: Options, operands: Operands) -> Arranged:
    del options
    input1, input2, target = operands["input1"], operands["input2"], operands["target"]
    require_floating("input1", input1)
    require_floating("input2", input2)
    if target.ndim > 1:
        raise RuntimeError(f"0D or 1D target tensor expected, multi-target not supported; got target {target.shape}")
    if input1.ndim != target.ndim + 1 or input2.ndim != target.ndim + 1:
        raise RuntimeError(
            f"{target.ndim}D target tensor expects {target.ndim + 1}D input tensors, but found inputs with sizes "
            f"{list(input1.shape)} and {list(input2.shape)}."
        )
    full = broadcast_shape(input1=input1.shape, input2=input2.shape)
    items_shape = broadcast_shape(input=full[:-1], target=target.shape)
    view = _feature_axis_last(len(full))
    row = _row if target.ndim else _row_unbatched
    views = {"input1": view, "input2": view, "target": row}
    return Arranged(_views(operands, views), items_shape, 1, views, row)


def _triplet_margin(options: Options, operands: Operands) -> Arranged:
    del options
    ranks = {array.ndim for array in operands.values()}
    if len(ranks) > 1:
        got = ", ".join(f"{name} {array.ndim}D" for name, array in operands.items())
        raise RuntimeError(
            f"The anchor, positive, and negative tensors are expected to have the same number of dimensions, got: {got}"
        )
    full = broadcast_shape(**{name: array.shape for name, array in operands.items()})
    return _features(operands, full)


# Sequences, and rows that are a matrix product: their chapters take forms of their own.


def _ctc(options: Options, operands: Operands) -> Arranged:
    log_probs = operands["log_probs"]
    require_floating("log_probs", log_probs)
    if log_probs.ndim not in (2, 3):
        raise RuntimeError(f"log_probs must be (T, N, C) or (T, C), got shape {log_probs.shape}")
    unbatched = log_probs.ndim == 2
    views: dict[str, View] = {"log_probs": _row} if unbatched else {}
    steps, batch, classes = log_probs.shape if not unbatched else (log_probs.shape[0], 1, log_probs.shape[1])
    if not 0 <= options["blank"] < classes:
        raise RuntimeError(f"blank must be in label range: 0 to {classes - 1}, got {options['blank']}")
    lengths = {name: _lengths(name, operands[name], batch) for name in ("input_lengths", "target_lengths")}
    if batch and lengths["input_lengths"].max() > steps:
        raise RuntimeError(
            f"Expected input_lengths to have value at most {steps}, but got value {lengths['input_lengths'].max()}"
        )
    targets = _pad_targets(operands["targets"], lengths["target_lengths"], batch, unbatched=unbatched)
    within = np.arange(targets.shape[1]) < lengths["target_lengths"][:, None]
    require_classes_in_range("targets", np.where(within, targets, 0), classes)
    arranged = {"log_probs": log_probs[:, None] if unbatched else log_probs, "targets": targets, **lengths}
    items_as: View = (lambda array: array.reshape(1)) if unbatched else _as_is
    return Arranged(arranged, () if unbatched else (batch,), None, views, items_as)


def _lengths(name: str, lengths: Array, batch: int) -> Array:
    if is_floating(lengths):
        raise RuntimeError(f"{name} must be integral, got {lengths.dtype}")
    flat = lengths.reshape(-1).astype(np.int64, copy=False)
    if flat.size != batch:
        raise RuntimeError(f"{name} must be of size batch_size {batch}, got {flat.size}")
    if batch and flat.min() < 0:
        raise RuntimeError(f"Expected {name} to have value at least 0, but got value {flat.min()}")
    return flat


def _pad_targets(targets: Array, lengths: Array, batch: int, *, unbatched: bool) -> Array:
    """(N, S), from itself, from (S,) of an unbatched call, or from the concatenation of all samples' labels."""
    targets = targets.astype(np.int64, copy=False)
    longest = int(lengths.max()) if batch else 0
    if targets.ndim == 2 or unbatched:
        padded = targets if targets.ndim == 2 else targets[None]
        if padded.shape[0] != batch:
            raise RuntimeError(f"Expected targets to have size {batch} at dimension 0, but got size {padded.shape[0]}")
        if padded.shape[1] < longest:
            raise RuntimeError(
                f"Expected targets to have size at least {longest} at dimension 1, but got size {padded.shape[1]}"
            )
        return padded
    if targets.ndim != 1:
        raise RuntimeError(f"targets must be (N, S) or a 1-dimensional concatenation, got shape {targets.shape}")
    if targets.size != lengths.sum():
        raise RuntimeError(
            f"Expected targets to have size {lengths.sum()}, the sum of target_lengths, but got size {targets.size}"
        )
    padded = np.zeros((batch, longest), np.int64)
    padded[np.arange(longest) < lengths[:, None]] = targets
    return padded


def _linear_cross_entropy(options: Options, operands: Operands) -> Arranged:
    input, weight, target = operands["input"], operands["linear_weight"], operands["target"]
    require_floating("input", input)
    require_floating("linear_weight", weight)
    require_same_dtype("linear_weight", weight, "input", input)
    if input.ndim not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.ndim}")
    if weight.ndim < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {weight.ndim}")
    if input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), "
            f"got {input.shape[-1]} and {weight.shape[-1]}, respectively"
        )
    classes, extra = weight.shape[0], weight.shape[1:-1]
    bias = operands.get("linear_bias")
    if bias is not None:
        require_same_dtype("linear_bias", bias, "input", input)
        if bias.shape != (classes, *extra):
            raise RuntimeError(f"expected linear_bias shape {(classes, *extra)}, got {bias.shape}")
    unbatched = input.ndim == 1
    if extra and unbatched:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {weight.shape} requires batched input, "
            f"(N, {input.shape[-1]}), got unbatched input with shape {input.shape}"
        )
    rows = () if unbatched else (input.shape[0],)
    # the logits exist only as a shape: what cross-entropy checks is checked on a stand-in that takes no memory
    logits = np.broadcast_to(np.zeros((), input.dtype), (*rows, classes, *extra))
    checked = {"input": logits, "target": target}
    if "weight" in operands:
        checked["weight"] = operands["weight"]
    inner = _cross_entropy(options, checked)
    views: dict[str, View] = {}
    if unbatched:
        views["input"] = _batch
        views["target"] = _batch if is_floating(target) else (lambda array: array.reshape(1))
    items_as: View = (lambda array: array.reshape(1)) if unbatched else _as_is
    return Arranged(_views(operands, views), inner.items_shape, None, views, items_as)


_ARRANGE: Mapping[LossKind, Callable[[Options, Operands], Arranged]] = {
    LossKind.MSE: _weighted_pointwise,
    LossKind.NLL: _nll,
    LossKind.CROSS_ENTROPY: _cross_entropy,
    LossKind.BCE: _bce,
    LossKind.KL_DIV: _kl_div,
    LossKind.L1: _weighted_pointwise,
    LossKind.MARGIN_RANKING: _margin_ranking,
    LossKind.TRIPLET_MARGIN: _triplet_margin,
    LossKind.CTC: _ctc,
    LossKind.HUBER: _weighted_pointwise,
    LossKind.BCE_WITH_LOGITS: _bce_with_logits,
    LossKind.GAUSSIAN_NLL: _gaussian_nll,
    LossKind.COSINE_EMBEDDING: _cosine_embedding,
    LossKind.MULTI_MARGIN: _multi_margin,
    LossKind.MULTILABEL_MARGIN: _multilabel_margin,
    LossKind.MULTILABEL_SOFT_MARGIN: _multilabel_soft_margin,
    LossKind.FUSED_LINEAR_CROSS_ENTROPY: _linear_cross_entropy,
}

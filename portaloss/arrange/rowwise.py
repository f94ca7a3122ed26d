"""Rowwise losses: operands of other forms become (N, C, d1, ...).

The other forms are unbatched, K-dimensional, and with the features last.
"""

from __future__ import annotations

from math import isinf

from portaloss.arrange.views import (
    Arrangement,
    Layout,
    Operands,
    Options,
    Spec,
    Specs,
    View,
    after,
    batch,
    classes,
    feature_axis_last,
    lead,
    row,
    row_unbatched,
)
from portaloss.checks import (
    Shape,
    broadcast_shape,
    is_floating,
    require_classes_in_range,
    require_floating,
    require_integer,
    require_scalar_type,
    scalar_type,
)

# Losses whose target is a class, or a distribution over classes.


def nll(options: Options, operands: Specs) -> Layout:
    """Input is log-probabilities, target classes."""
    del options
    input, target = operands["input"], operands["target"]
    if input.ndim < 1:
        raise ValueError("Expected 1 or more dimensions (got 0): input must have a class axis")
    require_floating("input", input)
    _require_class_targets(input, target)
    return _classified(operands)


def cross_entropy(options: Options, operands: Specs) -> Layout:
    """Input is logits; target is classes, or distributions over classes of input's shape."""
    input, target = operands["input"], operands["target"]
    require_floating("input", input)
    if input.shape == target.shape:
        if not is_floating(target):
            raise RuntimeError(
                f"Expected floating point type for target with class probabilities, got {scalar_type(target)}: target "
                "is of input's shape"
            )
        if options["ignore_index"] >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
        if input.ndim < 1:
            raise RuntimeError("input must have a class axis, got a 0-dimensional array")
    else:
        if input.ndim < 1:
            raise ValueError("Expected 1 or more dimensions (got 0): input must have a class axis")
        _require_class_targets(input, target)
    return _classified(operands)


def _require_class_targets(input: Spec, target: Spec) -> None:
    """Check the shape and dtype of classes as PyTorch does, whose error depends on the number of input's axes."""
    expected = (input.shape[0], *input.shape[2:]) if input.ndim > 1 else ()
    if input.ndim > 1 and (target.ndim == 0 or target.shape[0] != input.shape[0]):
        size = target.shape[0] if target.ndim else 0
        raise ValueError(f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({size}).")
    if input.ndim <= 2 and target.ndim > 1:
        raise RuntimeError(
            f"0D or 1D target tensor expected, multi-target not supported: target is of shape {list(target.shape)}, "
            f"input of shape {list(input.shape)}"
        )
    if input.ndim == 1 and target.size != 1:
        raise ValueError(f"For 1D input, 1D target must have size 1, but got target size: {target.size}")
    if input.ndim == 4 and target.ndim != 3:
        raise RuntimeError(
            "only batches of spatial targets supported (3D tensors) but got targets of dimension: "
            f"{target.ndim}: target must have an axis less than input"
        )
    if input.ndim == 4 and target.shape != expected:
        raise RuntimeError(f"size mismatch (got input: {list(input.shape)} , target: {list(target.shape)})")
    if input.ndim > 1 and target.shape != expected:
        raise RuntimeError(f"Expected target size {list(expected)}, got {list(target.shape)}")
    if "int" not in target.dtype:
        raise RuntimeError(
            f"expected target dtype to be Long or Byte, but got {scalar_type(target)}: target holds class indices, for "
            "it is not of input's shape"
        )


def _classified(operands: Specs) -> Layout:
    input, target = operands["input"], operands["target"]
    count = input.shape[min(input.ndim - 1, 1)]
    soft = is_floating(target)
    if "weight" in operands:
        _require_class_weight(operands["weight"], count, input, soft=soft)
    views, items_shape = _class_target_views(operands)
    return Layout(items_shape, 1, views, row if items_shape else row_unbatched)


def check_classes(options: Options, operands: Operands) -> None:
    """Check the class targets of NLL and cross-entropy; the values of distributions are not restricted."""
    input, target = operands["input"], operands["target"]
    if not is_floating(target):
        count = input.shape[min(input.ndim - 1, 1)]
        require_classes_in_range("target", target, count, ignore_index=options["ignore_index"])


def _require_class_weight(weight: Spec, count: int, input: Spec, *, soft: bool) -> None:
    if weight.shape != (count,):
        shape = list(weight.shape)
        if input.ndim > 2 and not soft:
            raise RuntimeError(
                f"weight tensor should be defined either for all or no classes: there are {count}, but weight is of "
                f"shape {shape}"
            )
        raise RuntimeError(
            f"{'cross_entropy: ' if soft else ''}weight tensor should be defined either for all {count} classes or no "
            f"classes but got weight tensor of shape: {shape}"
        )
    if not soft:
        require_scalar_type("weight", weight, "input", input)


def _class_target_views(operands: Specs) -> tuple[dict[str, View], Shape]:
    input, soft = operands["input"], is_floating(operands["target"])
    views: dict[str, View] = {"weight": classes(max(input.ndim, 2))}
    if input.ndim == 1:
        views["input"] = batch
        views["target"] = batch if soft else row_unbatched
        return views, ()
    if not soft:
        views["target"] = row
    return views, (input.shape[0], *input.shape[2:])


# Losses with margins between classes.


def multi_margin(options: Options, operands: Specs) -> Layout:
    """Input is scores, target classes."""
    input, target, weight = operands["input"], operands["target"], operands.get("weight")
    require_floating("input", input)
    if weight is not None and weight.ndim != 1:
        raise ValueError(f"weight must be one-dimensional, got shape {weight.shape}")
    _require_scores(input)
    rows = input.shape[0] if input.ndim == 2 else 1
    if target.ndim > 1 or target.size != rows:
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input samples (batch "
            f"size). Expected target size [{rows}], but got {list(target.shape)}. Input has shape {list(input.shape)}."
        )
    count = input.shape[-1] if input.ndim else 1
    if weight is not None and weight.shape != (count,):
        raise RuntimeError(f"inconsistent weight size, expected {count} but got {list(weight.shape)}")
    require_integer("target", target)
    if weight is not None:
        require_scalar_type("weight", weight, "input", input)
    views: dict[str, View] = {
        "input": feature_axis_last(input.ndim),
        "target": row if target.ndim else row_unbatched,
        "weight": batch,
    }
    return Layout(target.shape, 1, views, views["target"])


def check_margin_class(options: Options, operands: Operands) -> None:
    """Check the classes that ``multi_margin`` takes."""
    del options
    input = operands["input"]
    count = input.shape[-1] if input.ndim else 1
    require_classes_in_range("target", operands["target"], count, text="target out of range")


def multilabel_margin(options: Options, operands: Specs) -> Layout:
    """Input is scores, target sets of classes; both (C) or (N, C)."""
    input, target = operands["input"], operands["target"]
    require_floating("input", input)
    _require_scores(input)
    if target.shape != input.shape:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}")
    require_integer("target", target)
    view = feature_axis_last(input.ndim)
    views = {"input": view, "target": view}
    items_shape = input.shape[:-1]
    return Layout(items_shape, 1, views, row if items_shape else row_unbatched)


def check_class_set(options: Options, operands: Operands) -> None:
    """Check the sets of classes that ``multilabel_margin`` takes."""
    del options
    input = operands["input"]
    count = input.shape[-1] if input.ndim else 1
    text = "argument #2 'target' is out of range"
    require_classes_in_range("target", operands["target"], count, padding=True, text=text)


def _require_scores(input: Spec) -> None:
    if input.ndim > 2 or (input.ndim and input.shape[-1] == 0):
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)} for "
            "input"
        )


# Losses of operands (..., features), with any number of axes before the features.


def multilabel_soft_margin(options: Options, operands: Specs) -> Layout:
    """Input is logits; target is from 0 to 1."""
    del options
    input, target = operands["input"], operands["target"]
    require_floating("input", input)
    if input.ndim == 0:
        raise IndexError(
            "Dimension specified as -1 but tensor has no dimensions: input needs a class axis, got a 0-dimensional one"
        )
    full = broadcast_shape(target=target.shape, input=input.shape)
    if "weight" in operands:
        full = broadcast_shape(input=full, weight=operands["weight"].shape)
    if len(full) > input.ndim:
        raise RuntimeError(
            f"input of shape {input.shape} must have as many dimensions as what it broadcasts to, {full}"
        )
    return _features(operands, full)


def triplet_margin(options: Options, operands: Specs) -> Layout:
    """Anchor, positive and negative."""
    full = triplet_shape(operands["anchor"], operands["positive"], operands["negative"])
    if full and full[-1] == 0 and isinf(options["p"]):
        raise RuntimeError(
            f"linalg.vector_norm cannot compute the {options['p']} norm on the dimension {len(full) - 1}because this "
            "dimension is empty and the operation does not have an identity: anchor and the others have no features"
        )
    return _features(operands, full)


def triplet_shape(anchor: Spec, positive: Spec, negative: Spec) -> Shape:
    """The shape that a triplet broadcasts to."""
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got: "
            f"anchor {anchor.ndim}D, positive {positive.ndim}D, and negative {negative.ndim}D inputs"
        )
    near = broadcast_shape(anchor=anchor.shape, positive=positive.shape)
    far = broadcast_shape(anchor=anchor.shape, negative=negative.shape)
    return broadcast_shape(positive=near, negative=far)


def _features(operands: Specs, full: Shape) -> Layout:
    """Operands that broadcast together, features last."""
    rank = len(full)
    last = feature_axis_last(rank)
    views: dict[str, View] = {}
    for name, array in operands.items():
        views[name] = last if array.ndim == rank else after(lead(rank - array.ndim), last)
    items_shape = full[:-1]
    return Layout(items_shape, 1, views, row if items_shape else row_unbatched)


def cosine_embedding(options: Options, operands: Specs) -> Layout:
    """Two vectors (D) and a sign, or two batches of vectors (N, D) and N signs."""
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
    items_shape = broadcast_shape(target=target.shape, input=full[:-1])
    view = feature_axis_last(len(full))
    views = {"input1": view, "input2": view, "target": row if target.ndim else row_unbatched}
    return Layout(items_shape, 1, views, views["target"])


NLL = Arrangement(nll, check_classes)
CROSS_ENTROPY = Arrangement(cross_entropy, check_classes)
MULTI_MARGIN = Arrangement(multi_margin, check_margin_class)
MULTILABEL_MARGIN = Arrangement(multilabel_margin, check_class_set)
MULTILABEL_SOFT_MARGIN = Arrangement(multilabel_soft_margin)
TRIPLET_MARGIN = Arrangement(triplet_margin)
COSINE_EMBEDDING = Arrangement(cosine_embedding)

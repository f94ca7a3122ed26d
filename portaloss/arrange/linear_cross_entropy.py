"""Linear cross-entropy: its logits are a matrix product of input and linear_weight."""

from __future__ import annotations

from portaloss.arrange.rowwise import cross_entropy
from portaloss.arrange.views import Arrangement, Layout, Operands, Options, Spec, Specs, View, as_is, batch, single
from portaloss.checks import Shape, is_floating, require_classes_in_range, require_floating, scalar_type

#: The names of dtypes in the errors of PyTorch's matrix product.
_C_TYPES = {
    "float16": "c10::Half",
    "bfloat16": "c10::BFloat16",
    "float32": "float",
    "float64": "double",
    "int64": "long int",
    "int32": "int",
}


def linear_cross_entropy(options: Options, operands: Specs) -> Layout:
    """Input (N, D), weight (C, d1, ..., D), and what else cross-entropy takes for logits (N, C, d1, ...)."""
    input, weight, target = operands["input"], operands["linear_weight"], operands["target"]
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
    if bias is not None and bias.shape != (classes, *extra):
        raise RuntimeError(f"expected linear_bias shape {(classes, *extra)}, got {bias.shape}")
    unbatched = input.ndim == 1
    if extra and unbatched:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {weight.shape} requires batched input, "
            f"(N, {input.shape[-1]}), got unbatched input with shape {input.shape}"
        )
    _require_one_dtype(operands)
    rows = () if unbatched else (input.shape[0],)
    checked = {"input": Spec((*rows, classes, *extra), input.dtype), "target": target}
    if "weight" in operands:
        checked["weight"] = operands["weight"]
    inner = cross_entropy(options, checked)
    if "token_weight" in operands:
        _require_token_weight(operands["token_weight"], inner.items_shape)
    for name in ("normalizer", "logit_scale"):
        if name in operands and operands[name].ndim:
            raise RuntimeError(f"expected {name} to be one number, 0-dimensional, got shape {operands[name].shape}")
    views: dict[str, View] = {}
    if unbatched:
        views["input"] = batch
        views["token_weight"] = single
        views["target"] = batch if is_floating(target) else single
    return Layout(inner.items_shape, None, views, single if unbatched else as_is)


def _require_token_weight(token_weight: Spec, items_shape: Shape) -> None:
    if token_weight.shape != items_shape:
        raise RuntimeError(f"expected token_weight shape {items_shape}, one weight a target, got {token_weight.shape}")
    require_floating("token_weight", token_weight)


def _require_one_dtype(operands: Specs) -> None:
    input, weight, bias = operands["input"], operands["linear_weight"], operands.get("linear_bias")
    if bias is not None and not input.dtype == weight.dtype == bias.dtype:
        first, second = (bias, input) if bias.dtype != input.dtype else (input, weight)
        raise RuntimeError(
            f"self and mat2 must have the same dtype, but got {scalar_type(first)} and {scalar_type(second)}: input, "
            "linear_weight and linear_bias must be of one dtype"
        )
    if weight.dtype != input.dtype:
        first_type, second_type = (_C_TYPES.get(array.dtype, array.dtype) for array in (input, weight))
        raise RuntimeError(
            f"expected m1 and m2 to have the same dtype, but got: {first_type} != {second_type}: input and "
            "linear_weight must be of one dtype"
        )
    require_floating("input", input)


def check_linear_classes(options: Options, operands: Operands) -> None:
    """Check the values of class targets; those of distributions are not restricted."""
    target = operands["target"]
    if not is_floating(target):
        classes = operands["linear_weight"].shape[0]
        require_classes_in_range("target", target, classes, ignore_index=options["ignore_index"])


LINEAR_CROSS_ENTROPY = Arrangement(linear_cross_entropy, check_linear_classes)

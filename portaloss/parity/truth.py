"""The truth that results are compared with: the chapters of ``portaloss.reference``, in float64, on whole arrays.

Sums over items and the chain rule are written here once more. With the backends it shares only the chapters, the
arrangement of operands and the divisor, not the tiles, the casts or the order of sums. Each number comes with its
magnitude, the sum of the absolute values of the terms that it is made of. An error is measured relative to the larger
of the two, because no arithmetic is more accurate than that where terms cancel.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.arrange import Layout, specs
from portaloss.arrange.sequence import pad_labels
from portaloss.catalogue import Divisor, Family, Loss
from portaloss.checks import is_floating
from portaloss.divisor import counts, divisor, is_data
from portaloss.kinds import LossReduction
from portaloss.parity import draws
from portaloss.parity.samples import Case
from portaloss.plan import differentiable
from portaloss.reference.lazy import OneHot

Array = npt.NDArray[Any]

#: The dtype of sums: wider than float64 if the machine has such a dtype, so that the order of a sum does not matter.
_WIDE = np.longdouble


@dataclass(frozen=True)
class Expected:
    """The right number or array in float64, and its magnitude: the sum of the absolute values of its terms."""

    value: Array
    magnitude: Array


class Truth:
    """The items of one case and their derivatives. All reductions and directions are computed from them."""

    def __init__(self, loss: Loss, case: Case) -> None:
        self._loss = loss
        self._options = {option.name: option.default for option in loss.options} | case.options
        #: The operands that have a gradient.
        self.wants = differentiable(loss, case.operands)
        indices = {operand.name for operand in loss.operands if operand.domain in draws.INTEGER}
        self._operands = {
            name: array if name in indices and not is_floating(array) else array.astype(np.float64)
            for name, array in case.operands.items()
        }
        with np.errstate(all="ignore"):
            self._layout = loss.arrangement.shapes(self._options, specs(self._operands))
            self._arranged = arranged(loss, self._layout, self._operands)
            self._terms: _Terms = (
                _LinearTerms(self._arranged, self._options, self.wants)
                if loss.family is Family.LINEAR_CROSS_ENTROPY
                else _Terms(loss, self._arranged, self._options, self.wants)
            )

    @property
    def items_shape(self) -> tuple[int, ...]:
        """The shape of the loss with reduction none."""
        return self._layout.items_shape

    @property
    def items_size(self) -> int:
        """How many items there are."""
        return int(self._terms.items.size)

    def loss(self, reduction: LossReduction) -> Expected:
        """The loss."""
        if reduction is LossReduction.NONE:
            return Expected(self._of_items_shape(self._terms.items), self._of_items_shape(self._terms.item_magnitudes))
        with np.errstate(all="ignore"):
            by = self._divisor if reduction is LossReduction.MEAN else np.ones(())
            smooth = self._options.get("label_smoothing") and is_data(self._loss, self._operands)
            if smooth and not by.ndim and by == 0.0:
                by = np.full((), np.nan)  # PyTorch adds two means, of which that of the targets' own costs is 0/0
            return Expected(_quotient(self._terms.items, by), _quotient(self._terms.item_magnitudes, np.abs(by)))

    def gradients(self, reduction: LossReduction, upstream: Array) -> dict[str, Expected]:
        """The gradients of the operands that have one, for an upstream gradient of the loss's shape."""
        incoming = upstream.astype(np.float64)
        with np.errstate(all="ignore"):
            if reduction is LossReduction.NONE:
                per_item = self._layout.items_view(incoming)
            else:
                per_item = np.broadcast_to(incoming.reshape(()) * self._scale(reduction), self._terms.items.shape)
            gradients = {}
            for name, (value, magnitude) in self._terms.gradients(per_item).items():
                if name == "weight" and reduction is LossReduction.MEAN and self._loss.divisor is Divisor.WEIGHT_SUM:
                    # the divisor depends on the weight too: dL/dw = (l - L) / sum(w)
                    mean = self.loss(reduction)
                    factor = incoming.reshape(()) / self._divisor
                    value = value - mean.value * factor
                    magnitude = magnitude + mean.magnitude * np.abs(factor)
                gradients[name] = Expected(self._of_shape(name, value), self._of_shape(name, magnitude))
        return gradients

    @cached_property
    def _divisor(self) -> Array:
        # as the engine does: shapes are those of the operands as they were given, values those of the arranged ones
        operands = self._arranged if is_data(self._loss, self._operands) else self._operands
        return np.asarray(divisor(self._loss, self._options, operands, self.items_shape, np))

    def _scale(self, reduction: LossReduction) -> float | Array:
        """The factor of each derivative: 1 for a sum, 1 over the divisor for a mean."""
        if reduction is LossReduction.SUM:
            return 1.0
        counted = counts(self._loss, self._options, self._arranged)
        scale: Array = 1.0 / self._divisor
        if counted is None or np.all(self._divisor):
            return scale
        # 0 / 0: the gradient is nan, except that of ignored items, which is 0
        return np.where(counted, np.nan, 0.0)

    def _of_items_shape(self, items: Array) -> Array:
        result = np.empty(self.items_shape)
        view = self._layout.items_view(result)
        view[...] = items.reshape(view.shape)
        return result

    def _of_shape(self, name: str, gradient: Array) -> Array:
        result = np.empty(self._operands[name].shape)
        view = self._layout.view(name, result)
        view[...] = gradient.reshape(view.shape)
        return result


def arranged(loss: Loss, layout: Layout, operands: Mapping[str, Array]) -> dict[str, Array]:
    """The operands as a chapter takes them; for CTC, labels are padded."""
    given = layout.of(operands)
    if loss.family is Family.CTC:
        given["targets"] = pad_labels(given["targets"], given["target_lengths"])
    return given


class _Terms:
    """Items and derivatives in the chapter's shapes."""

    def __init__(
        self, loss: Loss, operands: Mapping[str, Array], options: Mapping[str, Any], wants: tuple[str, ...]
    ) -> None:
        self._operands = operands
        self._loss = loss
        chapter = importlib.import_module(f"portaloss.reference.{loss.name}")
        known = loss.item_options(options)
        items, derivatives = getattr(chapter, loss.name)(**operands, **known, wants=wants)
        sizes: tuple[Array, Mapping[str, Array]] = (items, derivatives)
        if hasattr(chapter, "magnitudes"):
            sizes = chapter.magnitudes(**operands, **known)
        self.items: Array = np.asarray(items)
        self.item_magnitudes: Array = np.broadcast_to(np.abs(sizes[0]), self.items.shape)
        self._one_hot = {name: value for name, value in derivatives.items() if isinstance(value, OneHot)}
        self._derivatives = {
            name: (np.asarray(value), np.abs(sizes[1].get(name, value))) for name, value in derivatives.items()
        }

    def gradients(self, per_item: Array) -> dict[str, tuple[Array, Array]]:
        """The derivatives times ``per_item``, summed over the axes that an operand broadcasts along; and magnitudes."""
        if self._loss.family is Family.CTC:
            per_item = per_item[:, None]  # (N, 1) against (T, N, C)
            full = self._operands["log_probs"].shape
        else:
            full = np.broadcast_shapes(*(array.shape for array in self._operands.values()))
        result = {}
        for name, (derivative, size) in self._derivatives.items():
            shape = self._operands[name].shape
            if name in self._one_hot:
                value = self._one_hot[name].times(per_item)
                result[name] = (value, np.abs(value))
                continue
            value = _sum_to(np.broadcast_to(derivative * per_item, full), shape)
            magnitude = _sum_to(np.broadcast_to(size * np.abs(per_item), full), shape)
            result[name] = (value, magnitude)
        return result


class _LinearTerms(_Terms):
    """Fused linear cross-entropy: the chapter of cross-entropy on logits, and the chain rule through the product.

    The magnitude of a logit is |x| |W| + |b|, times |s| where there is a scale s. Errors of logits in proportion to it
    change an item by the item's derivative, and change a derivative by the derivative of the softmax. So both are added
    to the magnitudes of cross-entropy itself. The magnitude of a product with a gradient is a sum of absolute terms
    again.
    """

    def __init__(self, given: Mapping[str, Array], options: Mapping[str, Any], wants: tuple[str, ...]) -> None:
        chapter = importlib.import_module("portaloss.reference.cross_entropy")
        self._x = given["input"]
        classes, *inner, features = given["linear_weight"].shape
        self._shape = (classes, *inner)
        self._matrix = given["linear_weight"].reshape(-1, features)
        self._wants = wants
        target = given["target"]
        soft = is_floating(target)
        logits = _product(self._x, self._matrix.T)
        sizes = np.abs(self._x) @ np.abs(self._matrix).T
        if "linear_bias" in given:
            logits = logits + given["linear_bias"].reshape(-1)
            sizes = sizes + np.abs(given["linear_bias"]).reshape(-1)
        logits, sizes = (array.reshape(len(self._x), *self._shape) for array in (logits, sizes))
        self._scale = given.get("logit_scale", np.ones(()))
        self._unscaled, self._unscaled_sizes = logits, sizes
        logits, sizes = logits * self._scale, sizes * np.abs(self._scale)
        known = {name: options[name] for name in ("ignore_index", "label_smoothing", "z_loss")}
        cap, cap_slope, cap_moved = options["softcap"], np.ones(()), np.zeros(())
        if cap > 0.0:
            linear = importlib.import_module("portaloss.reference.fused_linear_cross_entropy")
            logits, cap_slope = linear.soft_cap(logits, cap)
            cap_moved = 2.0 * sizes / cap  # relative to the slope: (1/cosh²)' is -2 tanh / cosh²
            sizes = _finite_product(cap_slope, sizes) + np.abs(logits)
        self._ce_operands = {"input": logits, "target": target if soft else target[:, None]}
        if "weight" in given:
            self._ce_operands["weight"] = given["weight"].reshape(1, classes, *[1] * len(inner))

        items, derivatives = chapter.cross_entropy(
            **self._ce_operands, **known, wants=("input", *(name for name in wants if name in {"target", "weight"}))
        )
        item_sizes, derivative_sizes = chapter.magnitudes(**self._ce_operands, **known)
        moved = _finite_product(np.abs(derivatives["input"]), sizes).sum(axis=1, keepdims=True)
        self._token_weight = given.get("token_weight", np.ones(()))
        self.items = items.reshape(items.shape[0], *items.shape[2:]) * self._token_weight
        self.item_magnitudes = (item_sizes + moved).reshape(self.items.shape) * np.abs(self._token_weight)

        largest = logits.max(axis=1, keepdims=True, initial=-np.inf)
        shifted = np.exp(logits - largest)
        softmax = shifted / shifted.sum(axis=1, keepdims=True)
        # d p[i] = p[i] (d x[i] - sum p d x), times the sum of the factors (V in the chapter of cross-entropy)
        spread = sizes + _finite_product(softmax, sizes).sum(axis=1, keepdims=True)
        slope_sizes = np.abs(derivative_sizes["input"])
        factor_sum = _factor_sum(self._ce_operands, options)
        if known["z_loss"] > 0.0:  # its derivative is 2 ζ lse p, and lse changes by sum p d x
            lse = largest + np.log(shifted.sum(axis=1, keepdims=True))
            factor_sum = factor_sum + 2.0 * known["z_loss"] * (np.abs(lse) + 1.0)
        slope_sizes = slope_sizes + _finite_product(softmax * factor_sum, spread)
        self._slope = derivatives["input"] * cap_slope
        slope_sizes = slope_sizes + _finite_product(np.abs(derivatives["input"]), cap_moved)
        self._slope_size = _finite_product(cap_slope, slope_sizes)
        # the derivative of a soft target or of a weight is a cost, which changes as the logits do
        self._costs = {}
        for name in ("target", "weight"):
            if name in derivatives:
                size = np.abs(derivative_sizes.get(name, derivatives[name]))
                self._costs[name] = (derivatives[name], size + spread * _cost_factor(name, self._ce_operands, options))

    def gradients(self, per_item: Array) -> dict[str, tuple[Array, Array]]:
        """The same for this loss, with matrix products in place of sums over broadcast axes."""
        u = (per_item * self._token_weight)[:, None]
        slopes = (self._slope * (u * self._scale)).reshape(len(self._x), len(self._matrix))
        sizes = (self._slope_size * np.abs(u * self._scale)).reshape(len(self._x), len(self._matrix))
        result = {}
        if "input" in self._wants:
            result["input"] = (_product(slopes, self._matrix), sizes @ np.abs(self._matrix))
        if "linear_weight" in self._wants:
            result["linear_weight"] = (_product(slopes.T, self._x), sizes.T @ np.abs(self._x))
        if "linear_bias" in self._wants:
            total = (1, len(self._matrix))
            result["linear_bias"] = (_sum_to(slopes, total), _sum_to(sizes, total))
        if "logit_scale" in self._wants:
            terms = self._slope * u * self._unscaled
            of_terms = _finite_product(self._slope_size * np.abs(u), self._unscaled_sizes)
            result["logit_scale"] = (_total(terms), _total(of_terms))
        for name, (derivative, size) in self._costs.items():
            shape = self._ce_operands[name].shape
            value = _sum_to(np.broadcast_to(derivative * u, self._slope.shape), shape)
            result[name] = (value, _sum_to(np.broadcast_to(size * np.abs(u), self._slope.shape), shape))
        return result


def _factor_sum(given: Mapping[str, Array], options: Mapping[str, Any]) -> Array:
    """The sum of a row's factors, V in the chapter of cross-entropy."""
    target, weight = given["target"], given.get("weight")
    smoothing = options["label_smoothing"]
    mean_weight = 1.0 if weight is None or not weight.size else weight.mean()
    if is_floating(target):
        factors = np.abs(target) if weight is None else np.abs(target) * weight
        soft: Array = (1.0 - smoothing) * factors.sum(axis=1, keepdims=True) + smoothing * mean_weight
        return soft
    counted = target != options["ignore_index"]
    if weight is not None and not weight.size:
        return np.zeros_like(counted, dtype=float)
    own = 1.0 if weight is None else weight.reshape(-1)[np.where(counted, target, 0)]
    hard: Array = ((1.0 - smoothing) * own + smoothing * mean_weight) * counted
    return hard


def _cost_factor(name: str, given: Mapping[str, Array], options: Mapping[str, Any]) -> Array | float:
    """The factor of a cost in the derivative of a soft target or of a weight."""
    smoothing: float = options["label_smoothing"]
    target, weight = given["target"], given.get("weight")
    if name == "weight":
        mixed: Array = (1.0 - smoothing) * np.abs(target) + smoothing / max(target.shape[1], 1)
        return mixed
    return 1.0 - smoothing if weight is None else (1.0 - smoothing) * weight


def _product(a: Array, b: Array) -> Array:
    """A matrix product, 64 terms of its sums at a time: BLAS adds terms one after another, which loses digits."""
    if len(b) <= 64:
        product: Array = a @ b
        return product
    total = np.zeros((len(a), b.shape[1]), _WIDE)
    for start in range(0, len(b), 64):
        total += a[:, start : start + 64] @ b[start : start + 64]
    return total.astype(np.float64)


def _finite_product(a: Array, b: Array) -> Array:
    """A product in which 0 times infinity is 0: a factor of 0 means that the other one has no effect."""
    product: Array = np.where(a == 0.0, 0.0, a * b)
    return product


def _quotient(items: Array, by: Array) -> Array:
    """The sum of the items divided by ``by``, or, if that is an array, of each item divided by its own divisor."""
    if by.ndim and not items.size:
        return np.full((), np.nan)  # the mean of no items
    if by.ndim:
        return np.asarray(np.add.reduce(items / by, axis=None, dtype=_WIDE), np.float64)
    return np.asarray(np.add.reduce(items, axis=None, dtype=_WIDE) / by, np.float64)


def _total(array: Array) -> Array:
    return np.asarray(np.add.reduce(array, axis=None, dtype=_WIDE), np.float64)


def _sum_to(array: Array, shape: tuple[int, ...]) -> Array:
    axes = tuple(axis for axis, size in enumerate(shape) if size != array.shape[axis])
    if not axes:
        return array
    total: Array = np.add.reduce(array, axis=axes, dtype=_WIDE, keepdims=True).astype(np.float64)
    return total


__all__ = ["Expected", "Truth"]

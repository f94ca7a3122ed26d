"""Cases of CTC, whose operands depend on each other: labels fit lengths, lengths fit steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.catalogue import Loss
from portaloss.parity.recipes import Recipe

Array = npt.NDArray[Any]

_BLANK_1 = (("blank", 1),)
_ZERO_INFINITY = (("zero_infinity", True),)


def recipes(loss: Loss) -> list[Recipe]:
    """The recipes of CTC. Shapes are (T, N, C), or (T, C) if unbatched; ``values`` selects the labels and lengths."""
    del loss
    plain = (12, 3, 5)
    return [
        Recipe("concatenated", plain, targets="concatenated"),
        Recipe("padded", plain, targets="padded"),
        Recipe("blank=1", plain, options=_BLANK_1, targets="concatenated"),
        Recipe("blank=1,padded", plain, options=_BLANK_1, targets="padded"),
        Recipe("repeated-labels", (20, 4, 3), "repeated", targets="padded"),
        Recipe("two-classes", (11, 3, 2), "repeated", targets="concatenated"),
        Recipe("one-path", (9, 4, 4), "one path", targets="padded"),
        Recipe("impossible", (7, 5, 4), "impossible", targets="padded"),
        Recipe("zero_infinity=True", (7, 5, 4), "impossible", options=_ZERO_INFINITY, targets="padded"),
        Recipe("zero_infinity=True,blank=1", (7, 5, 4), "impossible", (*_ZERO_INFINITY, *_BLANK_1), targets="padded"),
        Recipe("zero_infinity=True,possible", plain, options=_ZERO_INFINITY, targets="concatenated"),
        Recipe("all-impossible", (3, 4, 4), "all impossible", targets="padded"),
        Recipe("all-impossible,zero_infinity=True", (3, 4, 4), "all impossible", _ZERO_INFINITY, targets="padded"),
        Recipe("no-labels", plain, "no labels", targets="padded"),
        Recipe("no-labels-concatenated", plain, "no labels", targets="concatenated"),
        Recipe("no-steps", (6, 4, 4), "no steps", targets="padded"),
        Recipe("length-one", (1, 1, 3), targets="padded"),
        Recipe("one-step", (1, 4, 3), "one label", targets="concatenated"),
        Recipe("empty", (5, 0, 4), targets="padded", tentative=True),
        Recipe("unbatched", (9, 5), targets="padded"),
        Recipe("unbatched-no-labels", (9, 5), "no labels", targets="padded"),
        Recipe("extremes", (8, 4, 5), "extremes", targets="padded"),
        Recipe("minus-inf", (15, 5, 4), "minus-inf", targets="padded"),
        Recipe("minus-inf,zero_infinity=True", (15, 5, 4), "minus-inf", _ZERO_INFINITY, targets="padded"),
        Recipe("unnormalised", plain, "unnormalised", targets="padded"),
        Recipe("not-finite", (8, 4, 4), "not-finite", targets="padded"),
        Recipe("long", (251, 3, 7), targets="padded"),
        Recipe("wide", (13, 2, 1025), targets="padded"),
        Recipe("block-1", (12, 31, 5), targets="concatenated"),
        Recipe("block+1", (12, 33, 5), "repeated", targets="padded"),
        Recipe("tile+1", (40, 513, 3), "repeated", targets="padded"),
        Recipe("transposed", plain, targets="padded", layout="transposed"),
        Recipe("stepped", plain, targets="padded", layout="stepped"),
        Recipe("reversed", plain, targets="concatenated", layout="reversed"),
        Recipe("int32-targets", plain, targets="padded", integers="int32"),
    ]


def build(recipe: Recipe, rng: np.random.Generator) -> dict[str, Array]:
    """The operands of a case, floating ones in float64."""
    steps, classes = recipe.shape[0], recipe.shape[-1]
    batched = len(recipe.shape) == 3
    batch = recipe.shape[1] if batched else 1
    blank = dict(recipe.options).get("blank", 0)
    input_lengths, target_lengths = _lengths(recipe.values, steps, batch, rng)
    labels = [_labels(recipe.values, int(length), classes, blank, rng) for length in target_lengths]
    if recipe.values == "one path":
        input_lengths = np.array([max(1, _fewest_steps(one)) for one in labels])

    longest = int(target_lengths.max()) if batch else 0
    if recipe.targets == "concatenated":
        targets = np.concatenate([np.zeros(0, np.int64), *labels])
    else:
        # labels beyond the length are not read, so they may be any class
        targets = rng.integers(0, classes, (batch, longest + 1))
        for row, label in zip(targets, labels, strict=True):
            row[: len(label)] = label
    operands = {
        "log_probs": _log_probs(recipe.values, (steps, batch, classes), rng),
        "targets": targets,
        "input_lengths": input_lengths,
        "target_lengths": target_lengths,
    }
    if not batched:
        operands = {
            "log_probs": operands["log_probs"][:, 0],
            "targets": targets[0, : int(target_lengths[0])],
            "input_lengths": input_lengths[0],
            "target_lengths": target_lengths[0],
        }
    floats = {"log_probs"}
    return {
        name: np.asarray(array) if name in floats else np.asarray(array, recipe.integers)
        for name, array in operands.items()
    }


def _lengths(values: str, steps: int, batch: int, rng: np.random.Generator) -> tuple[Array, Array]:
    input_lengths = rng.integers(max(1, steps // 2), steps + 1, batch)
    input_lengths[:1] = steps
    target_lengths = rng.integers(0, max(1, steps // 4) + 1, batch)
    target_lengths[:1] = max(1, steps // 4)
    match values:
        case "no labels":
            target_lengths[:] = 0
        case "one label":
            target_lengths[:] = 1
        case "impossible":
            target_lengths[::2] = steps + 1
        case "all impossible":
            target_lengths[:] = steps + 1
        case "no steps":
            input_lengths[:2] = 0
            target_lengths[:2] = (0, 1)
    return input_lengths, target_lengths


def _labels(values: str, length: int, classes: int, blank: int, rng: np.random.Generator) -> Array:
    others = np.array([c for c in range(classes) if c != blank])
    labels: Array = rng.choice(others, length)
    if values in {"repeated", "one path"} and length > 1:
        labels[1:] = np.where(rng.uniform(size=length - 1) < 0.6, labels[:-1], labels[1:])
        labels[1] = labels[0]
    return labels


def _fewest_steps(labels: Array) -> int:
    """The number of steps of the shortest alignment: equal neighbours need a blank between them."""
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))


def _log_probs(values: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    logits = rng.normal(0.0, 2.0, shape)
    if values == "extremes":
        logits = rng.choice([-1e4, 0.0, 30.0, 1e4], shape)
    result: Array = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    if values == "unnormalised":
        return -rng.exponential(2.0, shape)
    if values == "minus-inf":
        return np.where(rng.uniform(size=shape) < 0.15, -np.inf, result)
    if values == "not-finite":
        result = np.where(rng.uniform(size=shape) < 0.02, np.nan, result)
    return result

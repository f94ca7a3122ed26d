"""How the operands of a case are drawn: by their domain, and by what the case tests.

Numbers are drawn in float64 and then rounded to the SKU's dtype, so that a case has the same numbers in every dtype,
up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.catalogue import Domain

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Generator = np.random.Generator

INTEGER = frozenset({Domain.CLASS_INDEX, Domain.CLASS_SET, Domain.LABEL, Domain.LENGTH})

#: The most labels in a row of a CLASS_SET, since its loss compares each label with every class.
_MOST_LABELS = 10


def typical(domain: Domain, rng: Generator, shape: Shape) -> Array:
    """Numbers of typical size in training."""
    return _TYPICAL[domain](rng, shape)


_TYPICAL: dict[Domain, Callable[[Generator, Shape], Array]] = {
    Domain.REAL: lambda rng, shape: rng.normal(0.0, 2.0, shape),
    Domain.POSITIVE: lambda rng, shape: np.exp(rng.normal(0.0, 1.0, shape)),
    Domain.NON_NEGATIVE: lambda rng, shape: np.exp(rng.normal(0.0, 1.0, shape)),
    Domain.PROBABILITY: lambda rng, shape: rng.uniform(0.0, 1.0, shape),
    Domain.LOG_PROBABILITY: lambda rng, shape: -rng.exponential(2.0, shape),
    Domain.COUNT: lambda rng, shape: rng.poisson(3.0, shape).astype(np.float64),
    Domain.SIGN: lambda rng, shape: rng.choice([-1.0, 1.0], shape),
}


def kinks(domain: Domain, rng: Generator, shape: Shape, points: Sequence[float]) -> Array:
    """Numbers at which a formula switches branches: points on a grid, and the ends of the domain."""
    signed = sorted({*points, *(-p for p in points)})
    choices = {
        Domain.REAL: signed,
        Domain.POSITIVE: [p for p in points if p > 0],
        Domain.NON_NEGATIVE: list(points),
        Domain.PROBABILITY: [0.0, 0.25, 0.5, 1.0],
        Domain.LOG_PROBABILITY: [-p for p in points],
        Domain.COUNT: [0.0, 1.0, 2.0],
        Domain.SIGN: [-1.0, 1.0],
    }
    return rng.choice(choices[domain], shape)


def extremes(domain: Domain, rng: Generator, shape: Shape, dtype: np.dtype[Any], *, first: bool) -> Array:
    """Very large and very small numbers: logits of +-1e4, and in the first operand the smallest numbers of the dtype.

    Not in other operands, which are factors: a product of two of the smallest numbers is 0.
    """
    tiny, subnormal, epsilon = _limits(dtype)
    choices = {
        Domain.REAL: [-1e4, -3.0, -tiny, 0.0, subnormal, 3.0, 1e4],  # no two differ by a margin, up to rounding
        Domain.POSITIVE: [1e-3, 0.5, 1.0, 1e4],
        Domain.NON_NEGATIVE: [0.0, 1e-3, 1.0, 1e4],
        Domain.PROBABILITY: [0.0, *([subnormal, tiny] if first else [epsilon]), 0.5, 1.0 - epsilon / 2, 1.0],
        Domain.LOG_PROBABILITY: [-1e4, -1.0, -tiny, -subnormal, 0.0],
        Domain.COUNT: [0.0, 1.0, 2.0, 1000.0],
        Domain.SIGN: [-1.0, 1.0],
    }
    return rng.choice(choices[domain], shape)


def _limits(dtype: np.dtype[Any]) -> tuple[float, float, float]:
    """The smallest normal, the smallest subnormal, and the distance from 1 to the next number."""
    if dtype.name == "bfloat16":
        return 2.0**-126, 2.0**-133, 2.0**-7
    info = np.finfo(dtype)
    return float(info.tiny), float(info.smallest_subnormal), float(info.eps)


def sprinkle(values: Array, rng: Generator, specials: Sequence[float]) -> Array:
    """The values with one in eight replaced by a special one; at least one of each where there is room."""
    flat = values.reshape(-1).copy()
    hit = np.flatnonzero(rng.uniform(size=flat.size) < 0.125)
    flat[hit] = rng.choice(specials, hit.size)
    where = rng.permutation(flat.size)[: len(specials)]
    flat[where] = specials[: where.size]
    return flat.reshape(values.shape)


def near(base: Array, rng: Generator, points: Sequence[float]) -> Array:
    """Numbers that equal ``base`` or differ from it by exactly one of the points."""
    steps = sorted({0.0, *points, *(-p for p in points)})
    values: Array = base + rng.choice(steps, base.shape)
    return values


def related_rows(operands: list[Array], rng: Generator) -> list[Array]:
    """Vectors whose distances and angles sit at a kink in exact arithmetic: equal, opposite, orthogonal, zero.

    Random numbers would not be at a kink: a norm is a rounded square root, and whether two norms are equal would depend
    on the last bit of the implementation.
    """
    rows = [operand.reshape(-1, operand.shape[-1]).copy() for operand in operands]
    first, second, last = rows[0], rows[1], rows[-1]
    for i in range(len(first)):
        match int(rng.integers(7)) if i >= 7 else i:
            case 0:
                second[i] = first[i]
            case 1:
                last[i] = first[i]
            case 2:
                for other in rows[1:]:
                    other[i] = first[i]
            case 3:
                first[i] = 0.0
            case 4:
                for row in rows:
                    row[i] = 0.0
            case 5:
                first[i, ::2] = 0.0
                second[i, 1::2] = 0.0
            case _:
                pass
    return [row.reshape(operand.shape) for row, operand in zip(rows, operands, strict=True)]


def class_indices(rng: Generator, shape: Shape, classes: int, ignore_index: int | None, ignored: str) -> Array:
    """Targets; ``ignored`` of them (none, some or all) are ``ignore_index``."""
    targets = rng.integers(0, max(classes, 1), shape)
    if ignore_index is None or ignored == "none":
        return targets
    if ignored == "all":
        return np.full(shape, ignore_index)
    hit = rng.uniform(size=shape) < 0.3
    return np.where(hit, ignore_index, targets)


def class_sets(rng: Generator, shape: Shape) -> Array:
    """Distinct classes and then -1, along the last axis; some rows have no class, some as many as possible."""
    sets = np.full(shape, -1)
    classes = shape[-1]
    most = min(classes, _MOST_LABELS)
    for i, row in enumerate(sets.reshape(sets.size // max(classes, 1), classes)):
        count = (0, most)[i] if i < 2 else int(rng.integers(0, most + 1))
        row[:count] = rng.permutation(classes)[:count]
        if count + 2 <= classes:  # what follows the first -1 is not read
            row[count + 1] = int(rng.integers(-1, classes))
    return sets


def soft_targets(rng: Generator, shape: Shape, axis: int, style: str) -> Array:
    """Class probabilities along an axis: ``soft``, ``one-hot``, or ``unnormalised``."""
    weights: Array = np.exp(rng.normal(0.0, 1.0, shape))
    match style:
        case "unnormalised":
            weights = np.minimum(weights, 1.0) * rng.choice([0.0, 1.0], shape)
        case "one-hot":
            weights = (weights == weights.max(axis=axis, keepdims=True, initial=0.0)).astype(np.float64)
        case _:
            weights = weights / weights.sum(axis=axis, keepdims=True)
    return weights


def lay_out(array: Array, layout: str) -> Array:
    """The same numbers in another memory layout."""
    if array.size == 0 or array.ndim == 0:
        return array
    if layout == "transposed":
        return np.ascontiguousarray(array.T).T
    if layout == "stepped":
        room = np.zeros(tuple(2 * size for size in array.shape), array.dtype)
        view = room[(slice(1, None, 2),) * array.ndim]
        view[...] = array
        return view
    if layout == "reversed":
        return np.flip(np.flip(array).copy())
    return array

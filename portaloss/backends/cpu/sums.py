"""Accurate sums: of all items, over the axes that an operand broadcasts along, and of the sums of tiles."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from math import fsum, isfinite, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.reference.lazy import Lazy, LazyProduct, LazySum

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Slices = tuple[slice, ...]

#: RUN neighbouring items are added in their own dtype, and such sums in float64. Up to MANY items are all added in
#: float64.
RUN, MANY = 128, 2048


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The shape that these broadcast to; quick where all are alike, since NumPy's own check takes microseconds."""
    different = set(shapes)
    return different.pop() if len(different) == 1 else np.broadcast_shapes(*different)


def sum_of(items: Array | Lazy) -> float:
    """The sum of all items: runs of ``RUN`` neighbours in the items' dtype, and those sums in float64.

    To add all items in float64 would take NumPy four times as long. In float32, the relative error of a run's sum is
    about that of its items, and it does not grow with the number of runs.
    """
    if isinstance(items, LazySum):
        first = items.parts[0]
        if (first.array if isinstance(first, LazyProduct) else first).size <= MANY:
            return float(np.add.reduce(items.times(1), axis=None, dtype=np.float64))  # faster than a sum for each part
        shapes = [_shape(part) for part in items.parts]
        size = prod(broadcast_shapes(*shapes))  # a part that broadcasts is added many times
        if size == 0:
            return 0.0
        return sum(sum_of(part) * (size // prod(shape)) for part, shape in zip(items.parts, shapes, strict=True))
    factors, scale = _factors(items)
    if factors[0].size > MANY and (flat := _flat(factors)) is not None:
        total = _sum_of_runs(flat)
        if isfinite(total):  # otherwise a run may have overflowed in its own dtype
            return total * scale
    array = factors[0] if len(factors) == 1 else factors[0] * factors[1]
    return float(np.add.reduce(array, axis=None, dtype=np.float64)) * scale


def _sum_of_runs(flat: list[Array]) -> float:
    size = flat[0].size
    whole = size - size % RUN
    if whole < size:
        runs = [array[:whole].reshape(-1, RUN) for array in flat]
    else:
        runs = [array.reshape(-1, RUN) for array in flat]
    sums = np.einsum("ij->i" if len(runs) == 1 else "ij,ij->i", *runs)
    total = float(np.add.reduce(sums, dtype=np.float64))
    if whole < size:
        total += float(np.add.reduce(prod([array[whole:] for array in flat]), dtype=np.float64))
    return total


def _shape(items: Array | LazyProduct) -> Shape:
    if not isinstance(items, LazyProduct):
        return items.shape
    return broadcast_shapes(items.array.shape, np.shape(items.factor), np.shape(items.divisor))


def _factors(items: Array | Lazy) -> tuple[list[Array], float]:
    """One or two arrays and a number, whose product the items are."""
    if not isinstance(items, LazyProduct):
        return [items if isinstance(items, np.ndarray) else np.asarray(items)], 1.0
    if isinstance(items.divisor, np.ndarray):
        return [np.asarray(items)], 1.0
    if isinstance(items.factor, np.ndarray):
        return [items.array, items.factor], 1.0 / items.divisor
    return [items.array], items.factor / items.divisor


def _flat(factors: list[Array]) -> list[Array] | None:
    """The arrays as flat views in the order of memory; None if that takes a copy."""
    first = factors[0]
    if len(factors) == 2 and (factors[1].strides != first.strides or factors[1].shape != first.shape):
        factors = [np.multiply(*factors)]
    flat = []
    for factor in factors:
        line = factor.reshape(-1) if factor.flags.c_contiguous else factor.ravel(order="K")
        if line.base is None:
            return None
        flat.append(line)
    return flat


def sum_to(array: Array, shape: Shape) -> Array:
    """Sum in float64 over the axes whose length in ``shape`` is one. The axes are kept.

    NumPy adds in pairs along contiguous memory only. Here an axis is halved by adding its two halves, again and again,
    so that the error grows with the logarithm of the length along any axis.
    """
    for axis, size in enumerate(shape):
        if size == array.shape[axis]:
            continue
        if array.strides[axis] == array.itemsize or array.shape[axis] < 2:
            array = np.add.reduce(array, axis=axis, dtype=np.float64, keepdims=True)
            continue
        array = np.moveaxis(array, axis, 0)
        while array.shape[0] > 1:
            half = array.shape[0] // 2
            pairs = np.add(array[:half], array[half : 2 * half], dtype=np.float64)
            if array.shape[0] % 2:
                pairs[0] += array[-1]
            array = pairs
        array = np.moveaxis(array, 0, axis)
    return array


def cut(slices: Slices, shape: Shape) -> Slices:
    """The slices of a tile for an array that broadcasts: an axis of length one is taken whole."""
    return tuple(slice(None) if size == 1 else piece for piece, size in zip(slices, shape, strict=True))


class OrderedSum:
    """Adds up the sums of tiles in the order of the tiles, in whatever order the tiles finish.

    The sums of a tile that finishes early are kept until its turn. Tiles are started in order, so at most one tile for
    each thread is waiting. The rounding error of each addition is kept and added at the end (Neumaier's version of
    Kahan summation), so that the error does not grow with the number of tiles.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._sums = {name: np.zeros(shape) for name, shape in shapes.items()}
        self._lost = {name: np.zeros(shape) for name, shape in shapes.items()}
        self._totals: list[float] = []
        self._lock = threading.Lock()
        self._next = 0
        self._waiting: dict[int, tuple[Slices, float, dict[str, Array]]] = {}

    def add(self, index: int, slices: Slices, total: float, partials: dict[str, Array]) -> None:
        """Take the sum of tile ``index``, and its sums over broadcast axes."""
        with self._lock:
            self._waiting[index] = (slices, total, partials)
            while self._next in self._waiting:
                slices, total, partials = self._waiting.pop(self._next)
                self._next += 1
                self._totals.append(total)
                for name, partial in partials.items():
                    region = cut(slices, self._sums[name].shape)
                    before = self._sums[name][region].copy()
                    after = before + partial
                    added = after - before
                    self._lost[name][region] += (before - (after - added)) + (partial - added)
                    self._sums[name][region] = after

    def total(self) -> float:
        """The total of all tiles, rounded once."""
        if all(map(isfinite, self._totals)):
            return fsum(self._totals)
        return sum(self._totals)

    def sums(self) -> dict[str, Array]:
        """The sums over broadcast axes."""
        return {
            name: np.where(np.isfinite(self._lost[name]), array + self._lost[name], array)
            for name, array in self._sums.items()
        }

"""The tile driver: runs a chapter over operands that do not fit the cache, one cache-sized tile at a time.

A chapter makes a temporary for each step of its formula. On whole arrays each of them would travel to main memory and
back; on a tile they stay in the L2 cache, so a pass costs one read of the operands and one write of the results. Items
and gradients come out of the same visit.

Tiles depend on shapes only, and their partial sums are added in tile order: the bits of a result do not depend on the
number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import fsum, isfinite, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.backends.cpu.casts import narrow_into, widen
from portaloss.backends.cpu.threads import parallel
from portaloss.reference.lazy import Lazy, LazyProduct, LazySum, OneHot, in_place
from portaloss.reference.notation import Terms

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Slices = tuple[slice, ...]
#: By the operand's name.
Arrays = Mapping[str, Array]

#: Elements in a tile, at least: 256 KiB in float32, so that a handful of temporaries fits a 1 MiB L2 cache.
TILE = 65536

#: Elements in a tile of large work, in float32. Between two operations on its tile a thread holds Python's
#: lock, and where another finds it taken, it sleeps: to wake it takes longer than to compute many elements. So threads
#: need tiles on which they are busy for long, even where their temporaries leave the L2 cache for the L3.
LARGE = 16 * TILE

#: With fewer elements, to wake other threads takes longer than they save.
ALONE = 3 * 2**18

#: Items that are added in their own dtype before float64 takes over; of no more than MANY, none are.
RUN, MANY = 128, 2048


@dataclass
class Pass:
    """One pass over the operands of a pointwise or rowwise loss. Arrays are in the chapter's shapes."""

    chapter: Callable[..., Terms]
    operands: Arrays
    options: Mapping[str, Any]
    math: np.dtype[Any]  #: what floating operands are widened to
    as_they_are: Collection[str] = ()  #: operands that are not widened: class indices, and ``sparse``
    axis: int | None = None  #: the class axis, which tiles do not cut; None or 1
    items: Array | None = None  #: where to store the items, if they are wanted
    gradients: Arrays = field(default_factory=dict)  #: where to store gradients
    upstream: Array | float = 1.0  #: what derivatives are multiplied by; broadcasts to the items
    offsets: Mapping[str, float] = field(default_factory=dict)  #: taken off a derivative first
    #: The operand that the chapter looks at in one class of a row only: it is not widened, and a tile may be larger.
    #: Its derivative is a OneHot, and its gradient has to be full of zeros.
    sparse: str = ""

    def run(self) -> float:
        """Fill ``items`` and ``gradients``; returns the sum of the items in float64, if they are not stored."""
        shape = broadcast(self.operands.values())
        # where a tile is whole rows, copies are the less of its temporaries
        copied = self.axis is None and any(array.dtype.itemsize == 2 for array in self.operands.values())
        limit = tile_size(prod(shape), self.math, copied=copied)
        if self.sparse and self.axis is not None:
            # a sparse one is read in one class a row; but its gradient's memory is touched as a whole, by all threads
            limit = TILE * (min(shape[self.axis], 64) if self.gradients else shape[self.axis])
        if prod(shape) <= limit:
            with np.errstate(all="ignore"):
                return self.run_single(shape)

        shape, arrays = merge_axes(shape, self._arrays(), self.axis)
        tiles = Tiles(shape, self.axis, limit)
        summed = _summed({name: arrays["gradient", name] for name in self.gradients}, shape)
        sums = OrderedSum({name: arrays["gradient", name].shape for name in summed})
        keep_freed_memory()
        cuts = [(role, name, array, array.shape == shape) for (role, name), array in arrays.items()]

        def visit(index: int) -> None:
            slices = tiles[index]
            tile: dict[str, dict[str, Array]] = {"operand": {}, "gradient": {}, "items": {}, "upstream": {}}
            for role, name, array, spans in cuts:
                tile[role][name] = array[slices if spans else cut(slices, array.shape)]
            items, upstream = tile["items"].get(""), tile["upstream"].get("", self.upstream)
            total, partials = self._tile(
                tile["operand"], items, tile["gradient"], upstream, tiles.shape_of(slices), summed
            )
            sums.add(index, slices, total, partials)

        parallel(visit, len(tiles), most=1 if prod(shape) < ALONE else None)
        for name, accumulated in sums.sums().items():
            narrow_into(accumulated, arrays["gradient", name])
        return sums.total()

    def run_single(self, shape: Shape) -> float:
        """As ``run``, where the operands are known to broadcast to this shape and to be one tile."""
        summed = _summed(self.gradients, shape)
        total, partials = self._tile(self.operands, self.items, self.gradients, self.upstream, shape, summed)
        for name, partial in partials.items():
            narrow_into(partial, self.gradients[name])
        return total

    def _arrays(self) -> dict[tuple[str, str], Array]:
        arrays = {("operand", name): array for name, array in self.operands.items()}
        for name, array in self.gradients.items():
            arrays["gradient", name] = array
        if self.items is not None:
            arrays["items", ""] = self.items
        if isinstance(self.upstream, np.ndarray):
            arrays["upstream", ""] = self.upstream
        return arrays

    def _tile(
        self,
        operands: Arrays,
        items: Array | None,
        gradients: Arrays,
        upstream: Array | float,
        shape: Shape,
        summed: Collection[str],
    ) -> tuple[float, dict[str, Array]]:
        """Run the chapter on a tile: the sum of its items, and the sums of gradients over broadcast axes."""
        math = self.math
        widened = {
            name: array if array.dtype == math or name in self.as_they_are else widen(array, math)
            for name, array in operands.items()
        }
        computed, derivatives = self.chapter(**widened, **self.options, wants=gradients)
        if self.sparse:
            computed = widen(computed, math)
        total = 0.0
        if items is not None:
            narrow_into(np.asarray(computed), items)
        else:
            total = sum_of(computed)

        partials: dict[str, Array] = {}
        if not derivatives:
            return total, partials
        if isinstance(upstream, np.ndarray):
            upstream = widen(upstream, math)
        del widened, computed  # what they hold is memory for what comes now
        derivative: Any
        for name in list(derivatives):
            derivative = derivatives.pop(name)
            if name in self.offsets:
                derivative = np.asarray(derivative) - self.offsets[name]
            out = gradients[name]
            if isinstance(derivative, OneHot):
                derivative.put(upstream, out)
                continue
            scale = upstream
            if isinstance(derivative, LazyProduct):
                derivative, scale = derivative.array, derivative.scale(upstream)
            if name in summed:
                factor: float = 1.0
                if isinstance(scale, float):
                    factor = scale  # after the sum, in float64
                else:
                    derivative = derivative * scale
                partials[name] = sum_to(np.broadcast_to(derivative, shape), out.shape) * factor
            elif out.dtype == math:
                np.multiply(derivative, scale, out=out)
            else:
                alone = not derivatives and derivative.base is None  # nobody looks at it again
                alone = alone and not any(derivative is array for array in operands.values())
                narrow_into(in_place(np.multiply, derivative, scale) if alone else derivative * scale, out)
        return total, partials


def _summed(gradients: Arrays, shape: Shape) -> Collection[str]:
    """The operands that broadcast: their gradients are sums. A tile's shape alone cannot tell, if it is 1 long."""
    return [name for name, gradient in gradients.items() if gradient.shape != shape]


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what tiles free, once in a process.

    glibc gives freed temporaries of a tile's size back to the system, and takes them again for the next tile: a page
    fault for each 4 KiB, which costs more than the arithmetic. It stops when it sees a larger block freed: its
    thresholds follow the largest so far, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD). Elsewhere this does nothing.
    """
    np.empty(31 << 20, np.uint8)


def tile_size(elements: int, math: np.dtype[Any], *, copied: bool = False) -> int:
    """Elements in a tile of work on so many, in that dtype: for one thread small ones.

    ``copied``: whether operands are widened first, so that a tile has more temporaries.
    """
    if elements < ALONE:
        return max(TILE, elements // 8)
    # two threads lose less by waiting if each has one tile; twice as many elements are worth four, for memory's sake
    return min(elements // (2 if elements < 2 * ALONE else 4), LARGE * 4 // math.itemsize // (2 if copied else 1))


def broadcast(arrays: Iterable[Array]) -> Shape:
    """The shape that arrays broadcast to. Mostly they are of one shape, and NumPy's own check costs microseconds."""
    return broadcast_shapes(*(array.shape for array in arrays))


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The shape that these broadcast to."""
    different = set(shapes)
    return different.pop() if len(different) == 1 else np.broadcast_shapes(*different)


def sum_of(items: Array | Lazy) -> float:
    """The sum of all items: runs of ``RUN`` neighbours in the items' dtype, and those sums in float64.

    All in float64 would take NumPy four times as long. In float32 a run's sum is off by as little as its items are, and
    no more of it is lost later, however many runs there are.
    """
    if isinstance(items, LazySum):
        first = items.parts[0]
        if (first.array if isinstance(first, LazyProduct) else first).size <= MANY:
            return float(np.add.reduce(items.times(1), axis=None, dtype=np.float64))  # quicker than several sums
        shapes = [_shape(part) for part in items.parts]
        size = prod(broadcast_shapes(*shapes))  # a part that does not depend on all operands is there many times
        if size == 0:
            return 0.0
        return sum(sum_of(part) * (size // prod(shape)) for part, shape in zip(items.parts, shapes, strict=True))
    factors, scale = _factors(items)
    if factors[0].size > MANY and (flat := _flat(factors)) is not None:
        total = _sum_of_runs(flat)
        if isfinite(total):  # else a run may have overflowed, though float64 holds the sum
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
    """One or two arrays, and a number: the items are their product."""
    if not isinstance(items, LazyProduct):
        return [items if isinstance(items, np.ndarray) else np.asarray(items)], 1.0
    if isinstance(items.divisor, np.ndarray):
        return [np.asarray(items)], 1.0
    if isinstance(items.factor, np.ndarray):
        return [items.array, items.factor], 1.0 / items.divisor
    return [items.array], items.factor / items.divisor


def _flat(factors: list[Array]) -> list[Array] | None:
    """The arrays in the order of memory; None where it takes a copy, or where they lie in different orders."""
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
    """Sum in float64 over the axes that ``shape`` has one of, keeping them.

    NumPy adds in pairs along contiguous memory only. Folding in halves does so along any axis: the error grows with
    the logarithm of the length.
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


def merge_axes(
    shape: Shape, arrays: Mapping[tuple[str, str], Array], axis: int | None
) -> tuple[Shape, dict[tuple[str, str], Array]]:
    """Fewer axes, in the order of memory: views in which tiles are as long and as contiguous as they can be.

    The class axis stays at 1. Other axes are sorted by the strides of the first operand that spans them all, and
    neighbours become one axis where every array allows it without a copy.
    """
    guide = next((array for array in arrays.values() if array.shape == shape), None)
    rows = [i for i in range(len(shape)) if i != axis]
    if guide is not None:
        strides = guide.strides
        rows.sort(key=lambda i: -abs(strides[i]))

    groups: list[list[int]] = []
    for row in rows:
        if shape[row] == 1:
            continue
        if groups and all(_mergeable(array, groups[-1][-1], row) for array in arrays.values()):
            groups[-1].append(row)
        else:
            groups.append([row])
    if not groups:
        groups = [[rows[0]]]

    order = [row for group in groups for row in group]
    dropped = [row for row in rows if row not in order]

    def view(array: Array) -> Array:
        moved = array.transpose((*dropped, *order, *(() if axis is None else (axis,))))
        moved = moved[(0,) * len(dropped)]
        sizes = [prod(array.shape[row] for row in group) for group in groups]
        merged = moved.reshape(*sizes, *(() if axis is None else (array.shape[axis],)))
        return merged if axis is None else np.moveaxis(merged, -1, 1)

    merged_shape = [prod(shape[row] for row in group) for group in groups]
    if axis is not None:
        merged_shape.insert(1, shape[axis])
    return tuple(merged_shape), {key: view(array) for key, array in arrays.items()}


def _mergeable(array: Array, outer: int, inner: int) -> bool:
    if array.shape[outer] == 1 or array.shape[inner] == 1:
        return bool(array.shape[outer] == array.shape[inner])  # broadcast along both, or along one only
    return bool(array.strides[outer] == array.strides[inner] * array.shape[inner])


def cut(slices: Slices, shape: Shape) -> Slices:
    """The slices of a tile for an array that broadcasts: an axis of length one is not cut."""
    return tuple(slice(None) if size == 1 else piece for piece, size in zip(slices, shape, strict=True))


class Tiles:
    """The tiles of a shape: a sequence of slices. The class axis is never cut."""

    def __init__(self, shape: Shape, axis: int | None, limit: int) -> None:
        self._shape = shape
        room = max(1, limit // (1 if axis is None else shape[axis]))
        lengths = list(shape)
        for i in range(len(shape) - 1, -1, -1):
            if i != axis:
                lengths[i] = min(shape[i], room)
                room = max(1, room // shape[i])
        self._lengths = lengths
        self._counts = [-(-size // length) for size, length in zip(shape, lengths, strict=True)]

    def __len__(self) -> int:
        return prod(self._counts)

    def __getitem__(self, index: int) -> Slices:
        slices = []
        for count, length in zip(reversed(self._counts), reversed(self._lengths), strict=True):
            index, i = divmod(index, count)
            slices.append(slice(i * length, (i + 1) * length))
        return tuple(reversed(slices))

    def shape_of(self, slices: Slices) -> Shape:
        """The shape of a tile; the last along an axis may be shorter."""
        return tuple(min(piece.stop, size) - piece.start for piece, size in zip(slices, self._shape, strict=True))


class OrderedSum:
    """Sums of what tiles contribute, added in tile order whatever order the tiles finish in.

    A tile that is early waits here for its turn. Tiles are handed out in order, so that at most one for each thread
    is waiting. What each addition rounds off is kept and added in the end (Kahan's sum as Neumaier has it), so that the
    error does not grow with the number of tiles.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._sums = {name: np.zeros(shape) for name, shape in shapes.items()}
        self._lost = {name: np.zeros(shape) for name, shape in shapes.items()}
        self._totals: list[float] = []
        self._lock = threading.Lock()
        self._next = 0
        self._waiting: dict[int, tuple[Slices, float, dict[str, Array]]] = {}

    def add(self, index: int, slices: Slices, total: float, partials: dict[str, Array]) -> None:
        """Take tile ``index``'s sum and its sums over broadcast axes."""
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
        """The sum of all tiles' sums, rounded once."""
        if all(map(isfinite, self._totals)):
            return fsum(self._totals)
        return sum(self._totals)

    def sums(self) -> dict[str, Array]:
        """The sums over broadcast axes."""
        return {
            name: np.where(np.isfinite(self._lost[name]), array + self._lost[name], array)
            for name, array in self._sums.items()
        }

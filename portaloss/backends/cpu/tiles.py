"""Runs a chapter on operands that do not fit the cache, one tile of them at a time.

A chapter makes a temporary array for each step of its formula. On whole arrays, each temporary would be written to main
memory and read again. The temporaries of a tile stay in the L2 cache, so that a pass costs one read of the operands and
one write of the results. Items and gradients are computed in the same pass.

Tiles depend on shapes only, and their sums are added in the order of the tiles. So the bits of a result do not depend
on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.backends.cpu.casts import narrow_into, widen
from portaloss.backends.cpu.sums import OrderedSum, broadcast_shapes, cut, sum_of, sum_to
from portaloss.backends.cpu.threads import parallel
from portaloss.reference.lazy import LazyProduct, OneHot, in_place
from portaloss.reference.notation import Terms

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Slices = tuple[slice, ...]
#: By the operand's name.
Arrays = Mapping[str, Array]

#: The fewest elements in a tile: 256 KiB in float32, so that a few temporaries fit a 1 MiB L2 cache.
TILE = 65536

#: The most elements in a tile, in float32. Between two NumPy operations a thread holds Python's global lock. A thread
#: that waits for the lock sleeps, and waking it takes longer than computing many elements. So with several threads an
#: operation must take long, even if the temporaries of a tile then fit only the L3 cache.
LARGE = 16 * TILE

#: Fewer elements than this are computed on one thread: waking others would take longer than they save.
ALONE = 3 * 2**18


@dataclass
class Pass:
    """One pass over the operands of a pointwise or rowwise loss. Arrays have the shapes that the chapter takes."""

    chapter: Callable[..., Terms]
    operands: Arrays
    options: Mapping[str, Any]
    math: np.dtype[Any]  #: the dtype that floating-point operands are converted to
    as_they_are: Collection[str] = ()  #: operands that are not converted: class indices, and ``sparse``
    axis: int | None = None  #: the class axis, which is not divided into tiles; None or 1
    items: Array | None = None  #: where to store the items; None if only their sum is needed
    gradients: Arrays = field(default_factory=dict)  #: where to store gradients
    upstream: Array | float = 1.0  #: the factor of all derivatives; broadcasts to the items
    offsets: Mapping[str, float] = field(default_factory=dict)  #: numbers that are subtracted from a derivative first
    #: The operand of which the chapter reads one class in each row only. It is not converted, and tiles may be larger.
    #: Its derivative is a OneHot, and its gradient must be full of zeros before the pass.
    sparse: str = ""
    tensors: bool = False  #: whether arrays share the memory of tensors

    def run(self) -> float:
        """Fill ``items`` and ``gradients``. Returns the sum of the items in float64 if the items are not stored."""
        shape = broadcast(self.operands.values())
        # in tiles of whole rows, the converted copies are a small part of the temporaries
        copied = self.axis is None and any(array.dtype.itemsize == 2 for array in self.operands.values())
        limit = tile_size(prod(shape), self.math, copied=copied)
        if self.sparse and self.axis is not None:
            # one class of a row is read, but all threads together write to the gradient's whole memory
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

        parallel(visit, len(tiles), most=1 if prod(shape) < ALONE else None, tensors=self.tensors)
        for name, accumulated in sums.sums().items():
            narrow_into(accumulated, arrays["gradient", name])
        return sums.total()

    def run_single(self, shape: Shape) -> float:
        """The same as ``run``, for operands that broadcast to this shape and are one tile."""
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

    def _for_chapter(self, name: str, array: Array) -> Array:
        """A tile of an operand as the chapter takes it."""
        if array.dtype == self.math or name == self.sparse:
            return array
        if name in self.as_they_are:
            # NumPy checks all indices, and then reads them again where it uses them. In between, another thread or
            # library may change an array of the caller's, but not this copy.
            return array.copy()
        return widen(array, self.math)

    def _tile(
        self,
        operands: Arrays,
        items: Array | None,
        gradients: Arrays,
        upstream: Array | float,
        shape: Shape,
        summed: Collection[str],
    ) -> tuple[float, dict[str, Array]]:
        """Run the chapter on a tile. Returns the sum of its items, and the sums of gradients over broadcast axes."""
        math = self.math
        widened = {name: self._for_chapter(name, array) for name, array in operands.items()}
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
        del widened, computed  # frees memory for the temporaries below
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
                    factor = scale  # applied after the sum, in float64
                else:
                    derivative = derivative * scale
                added = sum_to(np.broadcast_to(derivative, shape), out.shape)
                # a sum of no items is 0, even where a mean of none makes the factor inf
                partials[name] = added * factor if prod(shape) else added
            elif out.dtype == math:
                np.multiply(derivative, scale, out=out)
            else:
                alone = not derivatives and derivative.base is None  # it is not used again
                alone = alone and not any(derivative is array for array in operands.values())
                narrow_into(in_place(np.multiply, derivative, scale) if alone else derivative * scale, out)
        return total, partials


def _summed(gradients: Arrays, shape: Shape) -> Collection[str]:
    """The operands that broadcast, so that their gradients are sums. In a tile of length 1 it would not show."""
    return [name for name, gradient in gradients.items() if gradient.shape != shape]


@cache
def keep_freed_memory() -> None:
    """Make the C library keep the memory that tiles free, once in a process.

    glibc returns freed blocks of a tile's size to the system and asks for them again for the next tile. That costs a
    page fault for each 4 KiB, which is more than the arithmetic. After a larger block has been freed, glibc keeps
    blocks up to that size, at most 32 MiB (mallopt(3), M_MMAP_THRESHOLD). With other C libraries this has no effect.
    """
    np.empty(31 << 20, np.uint8)


def tile_size(elements: int, math: np.dtype[Any], *, copied: bool = False) -> int:
    """The number of elements in a tile, for operands of ``elements`` elements: small tiles if one thread computes them.

    ``copied`` says that operands are converted first, so that a tile has more temporaries.
    """
    if elements < ALONE:
        return max(TILE, elements // 8)
    # with one tile each, two threads wait least for each other; from twice as many elements on, four tiles save memory
    return min(elements // (2 if elements < 2 * ALONE else 4), LARGE * 4 // math.itemsize // (2 if copied else 1))


def broadcast(arrays: Iterable[Array]) -> Shape:
    """The shape that arrays broadcast to."""
    return broadcast_shapes(*(array.shape for array in arrays))


def merge_axes(
    shape: Shape, arrays: Mapping[tuple[str, str], Array], axis: int | None
) -> tuple[Shape, dict[tuple[str, str], Array]]:
    """Views with fewer axes, in the order of memory, so that tiles are long and contiguous.

    The class axis stays at 1. The other axes are sorted by the strides of the first array that has the full shape.
    Neighbouring axes become one axis if every array allows that without a copy.
    """
    guide = next((array for array in arrays.values() if array.shape == shape), None)
    others = [i for i in range(len(shape)) if i != axis]
    if guide is not None:
        strides = guide.strides
        others.sort(key=lambda i: -abs(strides[i]))

    groups: list[list[int]] = []
    for i in others:
        if shape[i] == 1:
            continue
        if groups and all(_mergeable(array, groups[-1][-1], i) for array in arrays.values()):
            groups[-1].append(i)
        else:
            groups.append([i])
    if not groups:
        groups = [[others[0]]]

    order = [i for group in groups for i in group]
    dropped = [i for i in others if i not in order]

    def view(array: Array) -> Array:
        moved = array.transpose((*dropped, *order, *(() if axis is None else (axis,))))
        moved = moved[(0,) * len(dropped)]
        sizes = [prod(array.shape[i] for i in group) for group in groups]
        merged = moved.reshape(*sizes, *(() if axis is None else (array.shape[axis],)))
        return merged if axis is None else np.moveaxis(merged, -1, 1)

    merged_shape = [prod(shape[i] for i in group) for group in groups]
    if axis is not None:
        merged_shape.insert(1, shape[axis])
    return tuple(merged_shape), {key: view(array) for key, array in arrays.items()}


def _mergeable(array: Array, outer: int, inner: int) -> bool:
    if array.shape[outer] == 1 or array.shape[inner] == 1:
        return bool(array.shape[outer] == array.shape[inner])  # it must broadcast along both, not along one
    return bool(array.strides[outer] == array.strides[inner] * array.shape[inner])


class Tiles:
    """The tiles of a shape, as a sequence of slices. The class axis is never divided."""

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
        """The shape of a tile. The last tile along an axis may be shorter than the others."""
        return tuple(min(piece.stop, size) - piece.start for piece, size in zip(slices, self._shape, strict=True))

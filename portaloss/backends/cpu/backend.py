"""The ``cpu`` backend: the chapters of ``portaloss.reference`` on cache-sized tiles, on all cores."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss import arrays
from portaloss.arrange import Layout, Spec
from portaloss.backends import Prepared
from portaloss.backends.cpu import ctc, memory
from portaloss.backends.cpu.casts import math_dtype, narrow_into, narrowed
from portaloss.backends.cpu.chapters import CHAPTERS
from portaloss.backends.cpu.threads import most_threads
from portaloss.backends.cpu.tiles import TILE, Pass, broadcast, tile_size
from portaloss.catalogue import INDICES, Domain, Family
from portaloss.divisor import counts
from portaloss.plan import Plan, Precision

Array = npt.NDArray[Any]

#: A bound on the tile-sized temporaries that any chapter holds at once, casts of its operands included.
#: A test measures every chapter against it.
TEMPORARIES = 14


def unavailable() -> str | None:
    """The CPU is always there."""
    return None


def architecture() -> str:
    """The processor's architecture."""
    return platform.machine()


def refuses(plan: Plan, operands: Mapping[str, Any]) -> str | None:
    """A tensor must be in the CPU's memory."""
    del plan
    for name, value in operands.items():
        if arrays.is_tensor(value) and value.device.type != "cpu":
            return f"backend cpu runs on CPU tensors, but {name} is on device {value.device}"
    return None


def precision(plan: Plan) -> Precision:
    """float32 arithmetic for 16-bit dtypes, the same bits every run."""
    math = math_dtype(plan.dtype).name
    products = plan.loss.family is Family.LINEAR_CROSS_ENTROPY
    return Precision(
        math_dtype=math,
        accumulator=math,  # float64, but for the first additions of a sum
        deterministic=True,
        # a matrix product is the BLAS library's, which does not promise the same bits for any number of threads
        bit_stable=not products,
    )


def workspace_size(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Scratch memory in bytes: tiles for each thread, and accumulators for gradients of broadcast operands."""
    math = math_dtype(plan.dtype).itemsize
    if plan.loss.family is Family.LINEAR_CROSS_ENTROPY:
        from portaloss.backends.cpu import linear_cross_entropy

        *inner, hidden = shapes["linear_weight"]
        rows = prod(shapes["input"][:-1])
        return linear_cross_entropy.workspace_size(
            rows,
            hidden,
            prod(inner),
            arrays.dtype_of(plan.dtype),
            plan.values["max_memory"] or linear_cross_entropy.MAX_MEMORY,
        )
    if plan.loss.family is Family.CTC:
        return ctc.workspace_size(shapes["log_probs"], shapes["targets"], math)
    full = max(prod(shape) for shape in shapes.values())
    row = 1
    if plan.loss.family is Family.ROWWISE:
        first = shapes[plan.loss.operands[0].name]
        last = plan.loss.operands[1].domain is not Domain.CLASS_INDEX or len(first) < 2
        row = (first[-1] if last else first[1]) if first else 1
    tile = min(max(tile_size(full, math_dtype(plan.dtype)), row), full)
    accumulators = sum(8 * prod(shape) for shape in shapes.values())
    return most_threads() * tile * max(math, 8) * TEMPORARIES + accumulators + 65536


def rescale(gradients: dict[str, Any], upstream: Any) -> dict[str, Any] | None:
    """In place, unless upstream is 1; not for 16-bit gradients, which are rounded already."""
    factor = float(upstream)
    if factor == 1.0:
        return gradients
    if any(gradient.itemsize < 4 for gradient in gradients.values()):
        return None
    for name, gradient in gradients.items():
        # in place but for NumPy's scalars, which cannot change, and which NumPy 1 would make float64 by a Python float
        gradients[name] *= factor if arrays.is_tensor(gradient) else gradient.dtype.type(factor)
    return gradients


@dataclass(frozen=True)
class Known:
    """What of a call depends on its operands' shapes and dtypes alone."""

    dtype: np.dtype[Any]  #: the loss's
    math: np.dtype[Any]  #: what is computed in
    chapter: Callable[..., Any]
    sparse: str  #: the operand that the chapter reads in one class of a row only, or ""
    as_they_are: frozenset[str]  #: operands that are not widened
    copied: frozenset[str]  #: class indices and lengths that are copied before they are checked
    tile: tuple[int, ...] | None  #: the shape that the operands broadcast to, where it is one tile


def settle(plan: Plan, operands: Mapping[str, Spec], layout: Layout) -> Known:
    """What is kept of these shapes and dtypes."""
    loss = plan.loss
    sparse = next((operand.name for operand in loss.operands if operand.sparse), "")
    indices = {
        operand.name
        for operand in loss.operands
        if operand.domain in INDICES and operand.name in operands and "int" in operands[operand.name].dtype
    }
    tile = None
    if loss.family in (Family.POINTWISE, Family.ROWWISE):
        stand_ins = {name: np.broadcast_to(np.zeros(()), spec.shape) for name, spec in operands.items()}
        shape = broadcast(layout.of(stand_ins).values())
        tile = shape if prod(shape) <= TILE else None
    return Known(
        arrays.dtype_of(plan.dtype),
        math_dtype(plan.dtype),
        CHAPTERS[plan.kind],
        sparse,
        frozenset(indices | {sparse}),
        # of rowwise losses, tiles copy theirs: such a target may be as large as the scores
        frozenset(() if loss.family is Family.ROWWISE else indices),
        tile,
    )


class Call:
    """One call: the operands as a chapter takes them, with their values checked, and the engine of the loss's family.

    Large operands are looked at when a tile of them is in the cache, unless ``now`` has all values checked at once.
    """

    xp = np

    def __init__(
        self, prepared: Prepared, operands: Mapping[str, Any], *, extras: bool = False, now: bool = False
    ) -> None:
        self._prepared, self._plan = prepared, prepared.plan
        self._known: Known = prepared.known
        self._library = arrays.TORCH if arrays.is_tensor(next(iter(operands.values()))) else arrays.NUMPY
        self._given = {name: arrays.to_numpy(value) for name, value in operands.items()}
        for name in self._known.copied:
            # what is checked is what is used: meanwhile another thread or library may change the caller's array
            self._given[name] = self._given[name].copy()
        arrangement = self._plan.loss.arrangement
        #: Whether tiles are to look at values.
        self._quick = None if now or self._known.tile is not None else arrangement.quick
        if self._quick is None and arrangement.values is not None:
            arrangement.values(self._plan.values, self._given)
        self.operands = prepared.layout.of(self._given)
        self._wants_extras = extras
        self.extras: tuple[Any, ...] | None = None

    def scale(self, upstream: Any, by: Any) -> Any:
        """upstream / by; where that is 0/0, nan for items that count and 0 for those that don't."""
        number = upstream.reshape(()) if hasattr(upstream, "reshape") else upstream
        quotient = np.float64(float(number)) / by
        if isinstance(quotient, float) and by == 0.0:
            counted = counts(self._plan.loss, self._plan.values, self.operands)
            return float("nan") if counted is None else np.where(counted, np.nan, 0.0)
        return quotient

    def each(self, upstream: Any) -> Any:
        """One number an item, in the chapter's shape of items."""
        values = arrays.to_numpy(upstream) if arrays.is_tensor(upstream) else np.asarray(upstream)
        return self._prepared.layout.items_view(values)

    def rounded(self, value: Any) -> Any:
        """A number in the loss's dtype, as an array of the operands' library."""
        return arrays.like(narrowed(value, self._known.dtype), self._library)

    def run(
        self,
        wants: Collection[str] = (),
        *,
        items: bool = False,
        scale: Any = None,
        offset: Any = None,
        of_entropy: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        """One pass, with results in memory of their own."""
        known, layout = self._known, self._prepared.layout
        gradients = {
            name: (memory.zeros_like if name == known.sparse else memory.empty_like)(self._given[name])
            for name in wants
        }
        views = {name: layout.view(name, gradient) for name, gradient in gradients.items()}
        results = memory.empty(layout.items_shape, known.dtype) if items else None
        items_view = None if results is None else layout.items_view(results)
        total = self._run(views, items_view, 1.0 if scale is None else scale, offset, of_entropy)
        value = total if results is None else arrays.like(results, self._library)
        return value, {name: arrays.like(gradient, self._library) for name, gradient in gradients.items()}

    def _run(
        self, gradients: dict[str, Array], items: Array | None, scale: Any, offset: Any, of_entropy: Array | None
    ) -> Any:
        """Fill items and gradients; returns the sum of the items, or for CTC the items."""
        known, loss, options = self._known, self._plan.loss, self._prepared.item_options
        if loss.family is Family.LINEAR_CROSS_ENTROPY:
            return self._run_linear(gradients, items, scale, of_entropy)
        if loss.family is Family.CTC:
            gradient = gradients.get("log_probs")
            tensors = self._library == arrays.TORCH
            return ctc.run(known.chapter, self.operands, options, known.math, scale, items, gradient, tensors=tensors)
        chapter = known.chapter if self._quick is None else Watched(known.chapter, self._quick)
        tiles = Pass(
            chapter,
            self.operands,
            options,
            known.math,
            known.as_they_are,
            self._prepared.layout.axis,
            items,
            gradients,
            scale,
            {} if offset is None else {"weight": float(offset)},
            sparse=known.sparse,
            tensors=self._library == arrays.TORCH,
        )
        total = tiles.run() if known.tile is None else tiles.run_single(known.tile)
        if isinstance(chapter, Watched) and chapter.is_in_doubt:
            assert loss.arrangement.values is not None, "a quick look stands for a whole one"
            loss.arrangement.values(self._plan.values, self._given)
        return np.float64(total)

    def _run_linear(
        self, gradients: dict[str, Array], items: Array | None, scale: Any, of_entropy: Array | None
    ) -> Any:
        from portaloss.backends.cpu import linear_cross_entropy  # loads scipy.linalg, which the others do without

        layout, extras = self._prepared.layout, None
        if self._wants_extras:
            shape = (len(self.operands["input"]), *self.operands["linear_weight"].shape[1:-1])
            extras = linear_cross_entropy.Extras.empty(shape, self._plan.dtype)
        results, _ = linear_cross_entropy.compute(
            self.operands,
            **self._prepared.item_options,
            max_memory=self._plan.values["max_memory"],
            upstream=scale if gradients else None,
            wants=tuple(gradients),
            gradients=gradients,
            extras=extras,
            of_entropy=of_entropy,
            tensors=self._library == arrays.TORCH,
        )
        if extras is not None:
            self.extras = tuple(arrays.like(one.reshape(layout.items_shape), self._library) for one in extras)
        if items is not None:
            narrow_into(results, items)
        return np.add.reduce(results, axis=None, dtype=np.float64)


class Watched:
    """A chapter whose tiles' operands are looked at first."""

    def __init__(self, chapter: Callable[..., Any], quick: Callable[[Mapping[str, Array]], bool]) -> None:
        self._chapter, self._quick = chapter, quick
        self.is_in_doubt = False

    def __call__(self, **operands: Any) -> Any:
        """What the chapter gives."""
        if not self._quick(operands):
            self.is_in_doubt = True
        return self._chapter(**operands)

"""The ``cpu`` backend: the chapters of ``portaloss.reference`` on cache-sized tiles, on all cores."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from portaloss import arrays, targets_mode
from portaloss.arrange import LOOKS, Arranged, arrange, check_values, depends_on_shapes_alone
from portaloss.backends import Forward
from portaloss.backends.cpu import ctc, memory
from portaloss.backends.cpu.casts import math_dtype, narrow_into, narrowed
from portaloss.backends.cpu.chapters import CHAPTERS
from portaloss.backends.cpu.threads import get_num_threads
from portaloss.backends.cpu.tiles import TILE, Pass, broadcast, tile_size
from portaloss.catalogue import Divisor, Domain, Family
from portaloss.checks import TargetOutOfRangeError
from portaloss.divisor import counts, divisor, is_data
from portaloss.kinds import LossKind, LossReduction
from portaloss.reference.notation import Terms

if TYPE_CHECKING:
    from portaloss.plan import Plan, Precision

Array = npt.NDArray[Any]

#: A bound on the tile-sized temporaries that any chapter holds at once, casts of its operands included.
#: A test measures every chapter against it.
TEMPORARIES = 14

_INDICES = frozenset({Domain.CLASS_INDEX, Domain.CLASS_SET})

#: The operands that chapters look at in one class of a row only.
_SPARSE = {LossKind.NLL: "input"}


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
    from portaloss.plan import Precision

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
    return get_num_threads() * tile * max(math, 8) * TEMPORARIES + accumulators + 65536


def check(plan: Plan, operands: Mapping[str, Any]) -> None:
    """Raise what is wrong with the operands."""
    _Call(plan, operands, now=True)


def forward(plan: Plan, operands: Mapping[str, Any], wants: Collection[str]) -> Forward:
    """The loss, and with mean and sum the wanted gradients for an upstream gradient of 1, in one pass."""
    call = _Call(plan, operands, extras=plan.values.get("return_extras", False))
    library = call.library
    if plan.reduction is LossReduction.NONE:
        items = memory.empty(call.arranged.items_shape, call.dtype)
        with np.errstate(all="ignore"):
            call.run(1.0, items=items)
        return Forward(arrays.like(items, library), extras=call.extras(library))

    if any(map(call.depends_on_total, wants)):
        wants = ()  # a gradient that needs the loss itself has to wait for the backward pass
    gradients = call.gradients(wants)
    with np.errstate(all="ignore"):
        by = call.divisor()
        total = call.run(call.scale(by, 1.0), gradients=gradients)
        value = narrowed(call.reduce(total, by), call.dtype)
    scalable = True
    for name, gradient in gradients.items():
        scalable = scalable and gradient.dtype.itemsize >= 4
        gradients[name] = arrays.like(gradient, library)
    return Forward(arrays.like(value, library), gradients or None, scalable, call.extras(library))


def backward(plan: Plan, operands: Mapping[str, Any], upstream: Any, wants: Collection[str]) -> dict[str, Any]:
    """The gradients of the wanted operands for an upstream gradient: a number, or with reduction none one an item."""
    call = _Call(plan, operands)
    library = call.library
    incoming = np.asarray(upstream) if not arrays.is_tensor(upstream) else arrays.to_numpy(upstream)
    gradients = call.gradients(wants)
    if plan.reduction is LossReduction.NONE:
        shape = call.arranged.items_shape
        if incoming.shape != shape:
            raise ValueError(f"upstream must have the shape of the loss, {shape}, got {incoming.shape}")
        with np.errstate(all="ignore"):
            call.run(call.arranged.items_view(incoming), gradients=gradients)
    else:
        if incoming.size != 1:
            raise ValueError(f"upstream must be one number, got shape {incoming.shape}")
        with np.errstate(all="ignore"):
            by = call.divisor()
            offsets = {}
            if any(call.depends_on_total(name) for name in wants):
                # L = sum(w l) / sum(w): the quotient rule takes L itself off the derivative
                offsets = {"weight": float(call.reduce(call.run(1.0), by)) / call.repeats("weight")}
            call.run(call.scale(by, float(incoming.reshape(()))), gradients=gradients, offsets=offsets)
    return {name: arrays.like(gradient, library) for name, gradient in gradients.items()}


def rescale(early: Forward, upstream: Any) -> dict[str, Any] | None:
    """In place, unless upstream is 1; not for 16-bit gradients, which are rounded already."""
    gradients = early.gradients
    factor = float(upstream)
    if gradients is None or factor == 1.0:
        return gradients
    if not early.scalable:
        return None
    for name, gradient in gradients.items():
        # in place but for NumPy's scalars, which cannot change, and which NumPy 1 would make float64 by a Python float
        gradients[name] *= factor if arrays.is_tensor(gradient) else gradient.dtype.type(factor)
    return gradients


class _Layout:
    """What of a call depends on its operands' shapes and dtypes alone. A plan keeps it, for the next call."""

    def __init__(self, plan: Plan, arranged: Arranged) -> None:
        loss, options, operands = plan.loss, plan.values, arranged.operands
        self.arranged = arranged.of({})
        self.dtype = arrays.dtype_of(plan.dtype)
        self.math = math_dtype(plan.dtype)
        self.chapter = CHAPTERS[plan.kind]
        self.chapter_options = {option.name: options[option.name] for option in loss.options if option.changes_items}
        self.sparse = _SPARSE.get(plan.kind, "")
        self.as_they_are = {self.sparse} | {
            operand.name
            for operand in loss.operands
            if operand.domain in _INDICES and operand.name in operands and operands[operand.name].dtype.kind in "iu"
        }
        #: The shape that the operands broadcast to where it is one tile, else None.
        self.tile: tuple[int, ...] | None = None
        if loss.family in (Family.POINTWISE, Family.ROWWISE):
            shape = broadcast(operands.values())
            self.tile = shape if prod(shape) <= TILE else None
        #: What the sum is divided by, where the operands' values have no say in it, else None.
        self.divisor: float | None = None
        if plan.reduction is not LossReduction.MEAN:
            self.divisor = 1.0
        elif not is_data(loss, arranged):
            self.divisor = float(divisor(loss, options, arranged))


class _Seen:
    """A chapter, and whether any tile's operands are doubtful."""

    def __init__(self, chapter: Callable[..., Terms], look: Callable[[Mapping[str, Array]], bool] | None) -> None:
        self._chapter, self._look = chapter, look
        self.doubtful = False

    def __call__(self, **operands: Any) -> Terms:
        """What the chapter gives."""
        if self._look is not None and not self._look(operands):
            self.doubtful = True
        return self._chapter(**operands)


#: Layouts that a plan keeps. Beyond these, as where every batch has another length, it starts anew.
_KEPT = 256


class _Call:
    """One call: the plan, the operands it runs on, and the engine of its family.

    ``now`` has all values checked at once. Else large operands are looked at when a tile of them is in the cache.
    """

    def __init__(self, plan: Plan, operands: Mapping[str, Any], *, extras: bool = False, now: bool = False) -> None:
        self._plan = plan
        self._loss = plan.loss
        self._options = plan.values
        self.library = arrays.TORCH if arrays.is_tensor(next(iter(operands.values()))) else arrays.NUMPY
        self._given = {name: arrays.to_numpy(value) for name, value in operands.items()}
        self._wants_extras = extras
        self._now = now
        self._look: Callable[[Mapping[str, Array]], bool] | None = None  # what tiles are yet to look at
        self._extras: Any = None  # linear cross-entropy's
        self._lost: Array | None = None  # rows with a target out of range, in the chapter's shape of items
        try:
            self.arranged, self._layout = self._arrange()
        except TargetOutOfRangeError:
            if targets_mode.mode("raise") == "raise":
                raise
            within, lost = targets_mode.set_apart(plan.loss, self._options, self._given)
            self.arranged = arrange(plan.loss, self._options, within)
            self._layout = _Layout(plan, self.arranged)
            self._lost = self.arranged.items_view(lost.reshape(self.arranged.items_shape))

    def _arrange(self) -> tuple[Arranged, _Layout]:
        """The operands, checked and arranged: of shapes met before, only their values are looked at."""
        loss, given, kept = self._loss, self._given, self._plan.kept
        key = tuple([(name, array.shape, array.dtype) for name, array in given.items()])
        layout: _Layout | None = kept.get(key)
        if layout is not None:
            if layout.tile is None and not self._now:
                self._look = LOOKS.get(loss.kind)
            if self._look is None:
                check_values(loss, self._options, given)
            return layout.arranged.of(given), layout
        arranged = arrange(loss, self._options, given)
        layout = _Layout(self._plan, arranged)
        if depends_on_shapes_alone(loss.kind):
            if len(kept) >= _KEPT:
                kept.clear()
            kept[key] = layout
        return arranged, layout

    @property
    def dtype(self) -> np.dtype[Any]:
        """The loss's."""
        return self._layout.dtype

    def divisor(self) -> float | Array:
        """What the sum is divided by: 1 unless the reduction is mean."""
        if self._layout.divisor is not None:
            return self._layout.divisor
        by = divisor(self._loss, self._options, self.arranged)
        fixed = {"weight", "normalizer"} & self._given.keys()
        if self._lost is not None and self._loss.divisor is Divisor.CLASS_WEIGHT_SUM and not fixed:
            # such a row counts, though it is computed like one that is ignored
            by += float((self.arranged.operands.get("token_weight", 1.0) * self._lost).sum())
        return by

    def extras(self, library: str) -> tuple[Any, ...] | None:
        """What linear cross-entropy found out about each row, if it was asked to."""
        if self._extras is None:
            return None
        return tuple(arrays.like(array.reshape(self.arranged.items_shape), library) for array in self._extras)

    def scale(self, by: float | Array, upstream: float) -> float | Array:
        """What derivatives are multiplied by: a number, or one for each item."""
        if isinstance(by, np.ndarray):
            return upstream / by
        if by != 0.0:
            return upstream / by
        # 0/0: items that count have a gradient of nan, those that don't still have 0
        counted = counts(self._loss, self._options, self.arranged)
        if counted is None:
            return float("nan")
        return np.where(counted, np.nan, 0.0)

    def reduce(self, total: float | Array, by: float | Array) -> np.float64:
        """The loss, from the sum of the items or, for divisors of one an item, the items."""
        if isinstance(total, float) and isinstance(by, float):
            return np.float64(total) / by
        return np.float64(np.sum(total / np.asarray(by)))

    def depends_on_total(self, name: str) -> bool:
        """Whether the gradient of an operand needs the loss itself, because the operand is in the divisor too."""
        mean = self._plan.reduction is LossReduction.MEAN
        return mean and name == "weight" and self._loss.divisor is Divisor.WEIGHT_SUM

    def repeats(self, name: str) -> float:
        """How many items each element of an operand is part of, where it broadcasts."""
        return max(prod(self.arranged.items_shape), 1) / max(self._given[name].size, 1)

    def gradients(self, wants: Collection[str]) -> dict[str, Array]:
        """Where the gradients go: arrays of the operands' own shapes and dtypes, not yet filled."""
        given, sparse = self._given, self._layout.sparse
        return {name: (memory.zeros_like if name == sparse else memory.empty_like)(given[name]) for name in wants}

    def run(
        self,
        upstream: float | Array,
        *,
        items: Array | None = None,
        gradients: Mapping[str, Array] | None = None,
        offsets: Mapping[str, float] | None = None,
    ) -> Any:
        """Fill ``items`` and ``gradients``; returns the sum of the items, or the items where each has a divisor.

        The caller sees to it that overflow and the like, which are part of the answer, raise no warnings.
        """
        if self._lost is None:
            return self._run(upstream, items, gradients or {}, offsets or {})
        return self._run_without_lost(upstream, items, gradients or {}, self._lost)

    def _run_without_lost(
        self, upstream: float | Array, items: Array | None, gradients: Mapping[str, Array], lost: Array
    ) -> Any:
        """As ``_run``, but rows with a target out of range are nan and have a gradient of exactly 0."""
        if isinstance(upstream, np.ndarray):
            upstream = np.where(lost, 0, upstream)
        total = self._run(upstream, items, gradients, {})
        if items is not None:
            np.copyto(self.arranged.items_view(items), np.nan, where=lost)
        if self._extras is not None:
            np.copyto(self._extras.log_probs, np.nan, where=lost)
        if self._loss.family is Family.LINEAR_CROSS_ENTROPY:
            return float("nan")  # its gradients are sums over the rows; ignored ones add nothing
        first = self._loss.operands[0].name
        if first in gradients:
            rows = lost[None, :, None] if self._loss.family is Family.CTC else lost
            np.copyto(self.arranged.view(first, gradients[first]), 0, where=rows)
        return np.where(lost, np.nan, total) if self._loss.family is Family.CTC else float("nan")

    def _run(
        self,
        upstream: float | Array,
        items: Array | None,
        gradients: Mapping[str, Array],
        offsets: Mapping[str, float],
    ) -> Any:
        arranged, layout = self.arranged, self._layout
        if self._loss.family is Family.LINEAR_CROSS_ENTROPY:
            return self._run_linear(upstream, items, gradients)
        views = {name: arranged.view(name, gradient) for name, gradient in gradients.items()}
        items_view = None if items is None else arranged.items_view(items)
        if self._loss.family is Family.CTC:
            options = layout.chapter_options
            gradient = views.get("log_probs")
            return ctc.run(layout.chapter, arranged.operands, options, layout.math, upstream, items_view, gradient)
        seen = _Seen(layout.chapter, self._look)
        tiles = Pass(
            layout.chapter if self._look is None else seen,
            arranged.operands,
            layout.chapter_options,
            layout.math,
            layout.as_they_are,
            arranged.axis,
            items_view,
            views,
            upstream,
            offsets,
            sparse=layout.sparse,
        )
        total = tiles.run() if layout.tile is None else tiles.run_single(layout.tile)
        if seen.doubtful:
            check_values(self._loss, self._options, self._given)
        return total

    def _run_linear(self, upstream: float | Array, items: Array | None, gradients: Mapping[str, Array]) -> float:
        from portaloss.backends.cpu import linear_cross_entropy  # loads scipy.linalg, which the others do without

        options = {name: value for name, value in self._options.items() if name != "return_extras"}
        if self._wants_extras:
            operands = self.arranged.operands
            shape = (len(operands["input"]), *operands["linear_weight"].shape[1:-1])
            self._extras = linear_cross_entropy.Extras.empty(shape, self._plan.dtype)
        results, _ = linear_cross_entropy.compute(
            self.arranged.operands,
            **options,
            upstream=upstream if gradients else None,
            wants=tuple(gradients),
            gradients={name: self.arranged.view(name, gradient) for name, gradient in gradients.items()},
            extras=self._extras,
            tensors=self.library == arrays.TORCH,
        )
        if items is not None:
            narrow_into(results, self.arranged.items_view(items))
        return float(np.add.reduce(results, axis=None, dtype=np.float64))


__all__ = [
    "architecture",
    "backward",
    "check",
    "forward",
    "precision",
    "refuses",
    "rescale",
    "unavailable",
    "workspace_size",
]

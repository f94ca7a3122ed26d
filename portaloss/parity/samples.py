"""The inputs of the parity matrix: what a loss is tried on, all of it derived from its row of the catalogue.

A case is made from its recipe and a seed, so that its name and seed are enough to make it again. A new pointwise loss
gets its cases from the domains of its operands; only CTC, whose operands depend on each other, is built by hand.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss import arrays
from portaloss.arrange import specs
from portaloss.catalogue import LOSSES, SKU, Domain, Extent, Family, Loss, Operand
from portaloss.kinds import LossKind
from portaloss.parity import draws, sequences
from portaloss.parity.recipes import Recipe, recipes

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

#: Features of the vectors that fused linear cross-entropy multiplies.
_FEATURES = 5


@dataclass(frozen=True)
class Case:
    """One input of one loss in one dtype."""

    name: str
    seed: int
    operands: dict[str, Array]
    options: dict[str, Any] = field(default_factory=dict)
    layout: str = "contiguous"
    size: int = 0  #: elements of its items' rows: of the logits for fused linear cross-entropy

    def upstream(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """A random upstream gradient for a loss of that shape, laid out in memory as the operands are."""
        rng = np.random.default_rng((self.seed, 1))
        values = rng.normal(0.0, 1.0, shape)
        values = np.where(np.abs(values) < 0.1, 0.5, values)  # one near 0 would hide what it multiplies
        return draws.lay_out(np.asarray(values, dtype), self.layout)


def cases(what: SKU | Loss | LossKind, dtype: str | None = None) -> Iterator[Case]:
    """The cases of a SKU, or of a loss in a dtype: the same for all its reductions and directions.

    Args:
        what: a SKU, a row of the catalogue, or a kind.
        dtype: one of ``kinds.DTYPES``; a SKU has its own.
    """
    loss, dtype = _settle(what, dtype)
    for recipe in accepted(loss):
        yield _make(loss, dtype, recipe, seed_of(loss, recipe.name))


def case(what: SKU | Loss | LossKind, dtype: str | None, name: str, seed: int | None = None) -> Case:
    """One case again, from its name, and its seed where that is not the name's own.

    Raises:
        KeyError: the loss has no case of that name.
    """
    loss, dtype = _settle(what, dtype)
    by_name = {recipe.name: recipe for recipe in accepted(loss)}
    return _make(loss, dtype, by_name[name], seed_of(loss, name) if seed is None else seed)


def names(what: SKU | Loss | LossKind) -> tuple[str, ...]:
    """The names of a loss's cases: the same in every dtype."""
    loss, _ = _settle(what, "float64")
    return tuple(recipe.name for recipe in accepted(loss))


def seed_of(loss: Loss, name: str) -> int:
    """The seed that a case has unless another is asked for."""
    return zlib.crc32(f"{loss.name}:{name}".encode())


def _settle(what: SKU | Loss | LossKind, dtype: str | None) -> tuple[Loss, str]:
    if isinstance(what, SKU):
        return LOSSES[what.kind], what.dtype
    if dtype is None:
        raise TypeError("cases of a loss need a dtype")
    return (what if isinstance(what, Loss) else LOSSES[what]), dtype


@lru_cache(maxsize=64)
def accepted(loss: Loss) -> tuple[Recipe, ...]:
    """The recipes whose shapes the loss takes: which broadcast and which numbers of axes differ from loss to loss.

    Raises:
        ValueError, RuntimeError: a shape that every loss must take was refused.
    """
    kept = []
    for recipe in sequences.recipes(loss) if loss.family is Family.CTC else recipes(loss):
        made = _make(loss, "float32", recipe, 0)
        defaults = {option.name: option.default for option in loss.options}
        try:
            loss.arrangement.shapes({**defaults, **made.options}, specs(made.operands))
        except (ValueError, RuntimeError, IndexError, NotImplementedError):
            if not recipe.tentative:
                raise
        else:
            kept.append(recipe)
    return tuple(kept)


def _make(loss: Loss, dtype: str, recipe: Recipe, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    resolved = arrays.dtype_of(dtype)
    if loss.family is Family.CTC:
        operands = sequences.build(recipe, rng)
    else:
        operands = _Builder(loss, resolved, recipe, rng).operands()
    rounded = {
        name: draws.lay_out(array.astype(resolved) if array.dtype.kind == "f" else array, recipe.layout)
        for name, array in operands.items()
    }
    return Case(recipe.name, seed, rounded, dict(recipe.options), recipe.layout, prod(recipe.shape))


class _Builder:
    """Draws the operands of one case."""

    def __init__(self, loss: Loss, dtype: np.dtype[Any], recipe: Recipe, rng: np.random.Generator) -> None:
        self._loss = loss
        self._dtype = dtype
        self._recipe = recipe
        self._rng = rng
        self._options: Mapping[str, Any] = {
            **{option.name: option.default for option in loss.options},
            **dict(recipe.options),
        }
        self._axis = min(1, len(recipe.shape) - 1)

    def operands(self) -> dict[str, Array]:
        """Every operand of the recipe, in the catalogue's order, floating ones in float64."""
        present = [row for row in self._loss.operands if not row.optional or row.name in self._recipe.present]
        made = {row.name: self._operand(row) for row in present}
        self._relate(made)
        return made

    def _operand(self, row: Operand) -> Array:
        recipe, rng = self._recipe, self._rng
        domain = self._domain(row)
        shape = self._shape(row, domain)
        if domain is Domain.CLASS_INDEX:
            ignore_index = self._options.get("ignore_index")
            indices = draws.class_indices(rng, shape, self._classes(), ignore_index, recipe.ignored)
            return indices.astype(recipe.integers)
        if domain is Domain.CLASS_SET:
            return draws.class_sets(rng, shape).astype(recipe.integers)
        if row.other_domain is not None and row.other_when is None:
            return draws.soft_targets(rng, shape, min(1, len(shape) - 1), recipe.targets)
        values = self._values(row, domain, shape)
        if recipe.integers != "int64" and domain in {Domain.SIGN, Domain.COUNT} and row is not self._loss.operands[0]:
            return values.astype(recipe.integers)
        return values

    def _values(self, row: Operand, domain: Domain, shape: Shape) -> Array:
        recipe, rng = self._recipe, self._rng
        first = row is self._loss.operands[0]
        weight = row.optional and domain is Domain.NON_NEGATIVE
        if weight and recipe.weights == "all zero":
            return np.zeros(shape)
        if recipe.values == "kinks" and not self._pairs_of_rows:
            values = draws.kinks(domain, rng, shape, self._points())
        elif recipe.values == "extremes" and row.name != "linear_weight":  # products of two 1e4 say nothing more
            values = draws.extremes(domain, rng, shape, self._dtype, first=first)
        else:
            values = draws.typical(domain, rng, shape)
        if recipe.values == "minus-inf" and first and domain in {Domain.REAL, Domain.LOG_PROBABILITY}:
            values = draws.sprinkle(values, rng, [-np.inf])
        if recipe.values == "not-finite" and domain in {Domain.REAL, Domain.LOG_PROBABILITY}:
            values = draws.sprinkle(values, rng, [-np.inf, np.nan] + [np.inf] * (domain is Domain.REAL))
        if recipe.values == "zero-log-zero" and domain in {Domain.PROBABILITY, Domain.LOG_PROBABILITY}:
            values = draws.sprinkle(values, rng, [0.0, 1.0] if domain is Domain.PROBABILITY else [0.0, -np.inf])
        if weight and recipe.weights == "zeros":
            values = np.where(rng.uniform(size=shape) < 0.4, 0.0, values)
        return values

    def _relate(self, made: dict[str, Array]) -> None:
        """Put operands at kinks with respect to each other."""
        if self._recipe.values != "kinks":
            return
        real = self._real()
        if self._pairs_of_rows:
            if len({made[name].shape for name in real}) == 1:
                made.update(zip(real, draws.related_rows([made[name] for name in real], self._rng), strict=True))
        elif len(real) > 1 and self._loss.family is Family.POINTWISE:
            for name in real[1:]:
                if made[name].shape == made[real[0]].shape:
                    made[name] = draws.near(made[real[0]], self._rng, self._points())

    def _real(self) -> list[str]:
        return [
            row.name for row in self._loss.operands if row.domain is Domain.REAL and self._domain(row) is row.domain
        ]

    @property
    def _pairs_of_rows(self) -> bool:
        """Whether the loss measures vectors against each other."""
        return self._loss.family is Family.ROWWISE and len(self._real()) > 1

    def _points(self) -> list[float]:
        """0, some numbers that are exact in every dtype, and the values that options take: kinks are there."""
        numbers = {0.0, 0.25, 1.0}
        for option in self._loss.options:
            for value in (option.default, *option.others):
                if isinstance(value, float) and 0.01 < abs(value) < 100.0:
                    numbers.add(abs(value))
        return sorted(numbers)

    def _domain(self, row: Operand) -> Domain:
        if row.other_domain is None:
            return row.domain
        if row.other_when is None:
            return row.domain if self._recipe.targets == "index" else row.other_domain
        option, value = row.other_when
        return row.other_domain if self._options[option] == value else row.domain

    def _classes(self) -> int:
        return self._recipe.shape[self._axis]

    def _shape(self, row: Operand, domain: Domain) -> Shape:
        shape = dict(self._recipe.shapes).get(row.name, self._recipe.shape)
        if self._loss.family is Family.LINEAR_CROSS_ENTROPY:
            # the recipe's shape is that of the logits
            rows, inner = shape[: self._axis], shape[self._axis :]
            linear = {"input": (*rows, _FEATURES), "linear_weight": (*inner, _FEATURES), "linear_bias": inner}
            if row.name in linear:
                return linear[row.name]
        if row.extent is Extent.ONE:
            return ()
        if row.extent is Extent.CLASSES:
            return (self._classes(),)
        if row.extent is Extent.ROWS and (domain is row.domain or row.other_when is not None):
            return shape[: self._axis] + shape[self._axis + 1 :]
        return shape

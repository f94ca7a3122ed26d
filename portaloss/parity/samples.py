"""The cases of the parity matrix: the inputs of each loss, made from its entry in the catalogue.

A case is made from a recipe and a seed, so its name and seed are enough to make it again. The operands are random
numbers from the domains that the catalogue names. Only the operands of CTC depend on each other; ``sequences`` makes
them.
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
    size: int = 0  #: elements of the recipe's shape; for fused linear cross-entropy, of the logits

    def upstream(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """A random upstream gradient for a loss of that shape, laid out in memory as the operands are."""
        rng = np.random.default_rng((self.seed, 1))
        values = rng.normal(0.0, 1.0, shape)
        values = np.where(np.abs(values) < 0.1, 0.5, values)  # a factor near 0 would hide an error
        return draws.lay_out(np.asarray(values, dtype), self.layout)


def cases(what: SKU | Loss | LossKind, dtype: str | None = None) -> Iterator[Case]:
    """The cases of a SKU, or of a loss in a dtype. All reductions and directions have the same cases.

    Args:
        what: a SKU, an entry of the catalogue, or a kind.
        dtype: one of ``kinds.DTYPES``; not needed for a SKU, which has one.
    """
    loss, dtype = _settle(what, dtype)
    for recipe in accepted(loss):
        yield _make(loss, dtype, recipe, seed_of(loss, recipe.name))


def case(what: SKU | Loss | LossKind, dtype: str | None, name: str, seed: int | None = None) -> Case:
    """One case, made again from its name, and from a seed if it is not the usual one.

    Raises:
        KeyError: the loss has no case with that name.
    """
    loss, dtype = _settle(what, dtype)
    by_name = {recipe.name: recipe for recipe in accepted(loss)}
    return _make(loss, dtype, by_name[name], seed_of(loss, name) if seed is None else seed)


def names(what: SKU | Loss | LossKind) -> tuple[str, ...]:
    """The names of a loss's cases, which are the same in every dtype."""
    loss, _ = _settle(what, "float64")
    return tuple(recipe.name for recipe in accepted(loss))


def seed_of(loss: Loss, name: str) -> int:
    """The usual seed of a case."""
    return zlib.crc32(f"{loss.name}:{name}".encode())


def _settle(what: SKU | Loss | LossKind, dtype: str | None) -> tuple[Loss, str]:
    if isinstance(what, SKU):
        return LOSSES[what.kind], what.dtype
    if dtype is None:
        raise TypeError("cases of a loss need a dtype")
    return (what if isinstance(what, Loss) else LOSSES[what]), dtype


@lru_cache(maxsize=64)
def accepted(loss: Loss) -> tuple[Recipe, ...]:
    """The recipes whose shapes the loss takes. Losses differ in the broadcasting and the numbers of axes they take.

    Raises:
        ValueError, RuntimeError: the loss does not take a shape that every loss must take.
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
    """Makes the operands of one case from random numbers."""

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
        """Every operand of the recipe, in the catalogue's order; floating-point ones are float64."""
        given = self._recipe.present
        present = [operand for operand in self._loss.operands if not operand.optional or operand.name in given]
        made = {operand.name: self._operand(operand) for operand in present}
        self._relate(made)
        return made

    def _operand(self, operand: Operand) -> Array:
        recipe, rng = self._recipe, self._rng
        domain = self._domain(operand)
        shape = self._shape(operand, domain)
        if domain is Domain.CLASS_INDEX:
            ignore_index = self._options.get("ignore_index")
            indices = draws.class_indices(rng, shape, self._classes(), ignore_index, recipe.ignored)
            return indices.astype(recipe.integers)
        if domain is Domain.CLASS_SET:
            return draws.class_sets(rng, shape).astype(recipe.integers)
        if operand.other_domain is not None and operand.other_when is None:
            return draws.soft_targets(rng, shape, min(1, len(shape) - 1), recipe.targets)
        values = self._values(operand, domain, shape)
        first = operand is self._loss.operands[0]
        if recipe.integers != "int64" and domain in {Domain.SIGN, Domain.COUNT} and not first:
            return values.astype(recipe.integers)
        return values

    def _values(self, operand: Operand, domain: Domain, shape: Shape) -> Array:
        recipe, rng = self._recipe, self._rng
        first = operand is self._loss.operands[0]
        weight = operand.optional and domain is Domain.NON_NEGATIVE
        if weight and recipe.weights == "all zero":
            return np.zeros(shape)
        if recipe.values == "kinks" and not self._pairs_of_rows:
            values = draws.kinks(domain, rng, shape, self._points())
        elif recipe.values == "extremes" and operand.name != "linear_weight":  # 1e4 times 1e4 would test nothing more
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
        """Change some elements so that differences between operands lie at kinks."""
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
        operands = [operand for operand in self._loss.operands if operand.domain is Domain.REAL]
        return [operand.name for operand in operands if self._domain(operand) is Domain.REAL]

    @property
    def _pairs_of_rows(self) -> bool:
        """Whether the loss compares vectors with each other."""
        return self._loss.family is Family.ROWWISE and len(self._real()) > 1

    def _points(self) -> list[float]:
        """Where kinks may lie: 0, a few numbers that are exact in every dtype, and the values of options."""
        numbers = {0.0, 0.25, 1.0}
        for option in self._loss.options:
            for value in (option.default, *option.others):
                if isinstance(value, float) and 0.01 < abs(value) < 100.0:
                    numbers.add(abs(value))
        return sorted(numbers)

    def _domain(self, operand: Operand) -> Domain:
        if operand.other_domain is None:
            return operand.domain
        if operand.other_when is None:
            return operand.domain if self._recipe.targets == "index" else operand.other_domain
        option, value = operand.other_when
        return operand.other_domain if self._options[option] == value else operand.domain

    def _classes(self) -> int:
        return self._recipe.shape[self._axis]

    def _shape(self, operand: Operand, domain: Domain) -> Shape:
        shape = dict(self._recipe.shapes).get(operand.name, self._recipe.shape)
        if self._loss.family is Family.LINEAR_CROSS_ENTROPY:
            # the recipe's shape is that of the logits
            rows, inner = shape[: self._axis], shape[self._axis :]
            linear = {"input": (*rows, _FEATURES), "linear_weight": (*inner, _FEATURES), "linear_bias": inner}
            if operand.name in linear:
                return linear[operand.name]
        if operand.extent is Extent.ONE:
            return ()
        if operand.extent is Extent.CLASSES:
            return (self._classes(),)
        if operand.extent is Extent.ROWS and (domain is operand.domain or operand.other_when is not None):
            return shape[: self._axis] + shape[self._axis + 1 :]
        return shape

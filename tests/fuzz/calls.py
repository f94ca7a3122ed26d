"""Random calls of losses: which kind, on what, with which options, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from portaloss import arrays
from portaloss.catalogue import LOSSES, Domain, Extent, Family, Loss, Option
from portaloss.kinds import DTYPES, LossKind, LossReduction
from portaloss.parity import draws, samples
from portaloss.parity.recipes import Recipe

Array = np.ndarray

#: How an operand lies in memory. Tensors have no negative strides, and know no memory that is not writeable.
LAYOUTS = ("contiguous", "transposed", "stepped", "reversed", "permuted", "shifted", "read-only")
OF_ARRAYS_ONLY = {"reversed", "read-only"}

VALUES = ("typical", "kinks", "extremes", "minus-inf", "not-finite", "zero-log-zero")
OF_SEQUENCES = (
    "typical",
    "repeated",
    "one path",
    "impossible",
    "all impossible",
    "no labels",
    "no steps",
    "one label",
    "extremes",
    "minus-inf",
    "unnormalised",
    "not-finite",
)


@dataclass(frozen=True)
class Call:
    """A call of one loss. Numbers are drawn from the recipe and the seed."""

    kind: LossKind
    dtype: str
    reduction: LossReduction
    library: str
    recipe: Recipe
    seed: int
    layouts: tuple[str, ...]  #: by operand
    mixed: tuple[tuple[str, str], ...] = ()  #: operands of another dtype than the call's

    @property
    def loss(self) -> Loss:
        """The kind's entry in the catalogue."""
        return LOSSES[self.kind]

    @property
    def options(self) -> dict[str, Any]:
        """By the catalogue's names."""
        return dict(self.recipe.options)

    def operands(self) -> dict[str, Array]:
        """Arrays, laid out."""
        made = samples._make(self.loss, self.dtype, self.recipe, self.seed)
        dtypes = dict(self.mixed)
        operands = {}
        for (name, array), layout in zip(made.operands.items(), self.layouts, strict=False):
            if name in dtypes and array.dtype.kind != "i":
                with np.errstate(all="ignore"):
                    array = array.astype(arrays.dtype_of(dtypes[name]))
            operands[name] = lay_out(np.asarray(array), layout)
        return operands

    def upstream(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A gradient of what is differentiated with respect to the loss."""
        return samples.Case("", self.seed, {}).upstream(shape, arrays.dtype_of(dtype))


def lay_out(array: Array, layout: str) -> Array:
    """The same numbers in another memory layout."""
    if array.ndim == 0 or array.size == 0:
        return array
    if layout == "permuted":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -1, 0)), 0, -1)
    if layout == "shifted":
        room = np.zeros(array.size + 3, array.dtype)
        room[3:] = array.reshape(-1)
        return room[3:].reshape(array.shape)
    if layout == "read-only":
        array = array.copy()
        array.flags.writeable = False
        return array
    return draws.lay_out(array, layout)


@st.composite
def calls(draw: Any, library: str) -> Call:
    """Calls that nothing is wrong with, but for shapes that may not fit."""
    kind = draw(st.sampled_from(LossKind))
    loss = LOSSES[kind]
    dtype = draw(st.sampled_from(DTYPES))
    recipe = draw(_sequences() if loss.family is Family.CTC else _recipes(loss))
    possible = [layout for layout in LAYOUTS if library == arrays.NUMPY or layout not in OF_ARRAYS_ONLY]
    count = len(loss.operands)
    layouts = draw(st.lists(st.sampled_from(possible), min_size=count, max_size=count))
    mixed = ()
    if draw(st.integers(0, 4)) == 4:
        names = [operand.name for operand in loss.operands if operand.domain not in draws.INTEGER]
        names += [operand.name for operand in loss.operands if operand.other_domain is not None]
        mixed = tuple((name, draw(st.sampled_from(DTYPES))) for name in dict.fromkeys(names))
    return Call(
        kind,
        dtype,
        draw(st.sampled_from(LossReduction)),
        library,
        recipe,
        draw(st.integers(0, 2**32 - 1)),
        tuple(layouts),
        mixed,
    )


@st.composite
def _recipes(draw: Any, loss: Loss) -> Recipe:
    sizes = st.sampled_from([1, 2, 3, 5, 7, 0, 16, 17, 64, 65, 130])
    rowwise = loss.family is not Family.POINTWISE
    shape = tuple(draw(st.lists(sizes, min_size=1 if rowwise else 0, max_size=4 if draw(st.booleans()) else 2)))
    if draw(st.integers(0, 39)) == 39 and shape:
        shape = draw(st.sampled_from([(300, 257), (70000,), (3, 40000), (40000, 3), (5, 7, 2500)]))
        if loss.family is not Family.POINTWISE and not _many_labels(loss):
            shape = shape if len(shape) > 1 else (2, *shape)
        elif rowwise:
            shape = (9001, 8)
    while np.prod(shape) > 100000 or (_many_labels(loss) and np.prod(shape) > 20000 and shape != (9001, 8)):
        shape = shape[1:]
    optional = [operand.name for operand in loss.operands if operand.optional]
    present = tuple(name for name in optional if draw(st.booleans()))
    if loss.family is Family.LINEAR_CROSS_ENTROPY and len(shape) > 1:
        shape = shape[:1] + tuple(min(size, 65) for size in shape[1:3])
    soft = any(operand.other_domain is not None and operand.other_when is None for operand in loss.operands)
    options = draw(_options(loss))
    if soft and "ignore_index" not in dict(options) and len(shape) > 0:
        targets = draw(st.sampled_from(["index", "soft", "one-hot", "unnormalised"]))
    else:
        targets = "index"
    integers = draw(st.sampled_from(["int64", "int64", "int32", "int16", "uint8"]))
    if max((*shape, 0)) > 100:  # the classes of a row, which a byte would not hold
        integers = "int64"
    return Recipe(
        "fuzz",
        shape,
        draw(st.sampled_from(VALUES)),
        options,
        present,
        targets,
        draw(st.sampled_from(["none", "some", "all"])) if integers != "uint8" else "none",
        draw(st.sampled_from(["positive", "zeros", "all zero"])),
        shapes=draw(_smaller(loss, shape, targets)),
        integers=integers if integers != "uint8" or not _many_labels(loss) else "int8",
    )


def _many_labels(loss: Loss) -> bool:
    return any(operand.domain is Domain.CLASS_SET for operand in loss.operands)


@st.composite
def _smaller(draw: Any, loss: Loss, shape: tuple[int, ...], targets: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Operands that broadcast: axes of length one, or fewer axes."""
    classes = any(operand.domain in draws.INTEGER for operand in loss.operands)  # each would have a number of its own
    if classes or draw(st.integers(0, 2)) < 2:
        return ()
    found = []
    for operand in loss.operands:
        if operand.extent is Extent.FULL and draw(st.booleans()):
            axes = draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
            smaller = tuple(1 if one else size for one, size in zip(axes, shape, strict=True))
            found.append((operand.name, smaller[draw(st.integers(0, len(shape))) :]))
    return tuple(found)


@st.composite
def _sequences(draw: Any) -> Recipe:
    batched = draw(st.booleans()) or draw(st.booleans())
    steps, classes = draw(st.sampled_from([1, 2, 3, 5, 9, 17, 40])), draw(st.integers(2, 6))
    shape = (steps, draw(st.sampled_from([1, 2, 3, 7, 0])), classes) if batched else (steps, classes)
    blank = draw(st.sampled_from([0, 0, 1, classes - 1]))
    options = (("blank", blank), ("zero_infinity", draw(st.booleans())))
    return Recipe(
        "fuzz",
        shape,
        draw(st.sampled_from(OF_SEQUENCES)),
        options[0 if draw(st.booleans()) else 1 :] if blank == 0 else options,
        targets=draw(st.sampled_from(["padded", "concatenated"])) if batched else "padded",
        integers=draw(st.sampled_from(["int64", "int32"])),
    )


@st.composite
def _options(draw: Any, loss: Loss) -> tuple[tuple[str, Any], ...]:
    found = []
    for option in loss.options:
        if option.name == "return_extras" or not draw(st.booleans()):
            continue
        value = draw(_values(option))
        if option.limit is None or option.limit.holds(value):
            found.append((option.name, value))
    return tuple(found)


def _values(option: Option) -> st.SearchStrategy[Any]:
    listed: list[Any] = [option.default, *option.others]
    if option.type is float and option.name not in {"p"}:
        return st.one_of(st.sampled_from(listed), st.floats(0.01, 4.0).map(lambda value: round(value, 3)))
    if option.name == "p" and option.default == 2.0:
        return st.one_of(st.sampled_from(listed), st.floats(0.5, 4.0).map(lambda value: round(value, 3)))
    return st.sampled_from(listed)


__all__ = ["Call", "calls", "lay_out"]

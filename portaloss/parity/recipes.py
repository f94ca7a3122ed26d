"""The recipes of a loss's cases: shapes, values, options, memory layouts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from portaloss.catalogue import Domain, Extent, Family, Loss, Option

Shape = tuple[int, ...]

#: Elements in a tile of the ``cpu`` backend. The blocks of other backends are smaller powers of two.
TILE = 65536


@dataclass(frozen=True)
class Recipe:
    """How to make a case; its numbers are drawn from the case's seed."""

    name: str
    shape: Shape  #: of the first operand; of the logits for fused linear cross-entropy
    values: str = "typical"
    options: tuple[tuple[str, Any], ...] = ()
    present: tuple[str, ...] = ()  #: optional operands that are given
    targets: str = "index"  #: or soft, one-hot, unnormalised
    ignored: str = "none"  #: or some, all
    weights: str = "positive"  #: or zeros, all zero
    layout: str = "contiguous"
    shapes: tuple[tuple[str, Shape], ...] = ()  #: operands with another shape, which broadcast
    integers: str = "int64"  #: the dtype of integer operands; other than int64, signs and counts have it too
    tentative: bool = False  #: not every loss accepts this shape


def recipes(loss: Loss) -> list[Recipe]:
    """The recipes of a pointwise or rowwise loss, including tentative ones."""
    made = _pointwise(loss) if loss.family is Family.POINTWISE else _rowwise(loss)
    made += _optional_operands(loss, made[0].shape)
    made += _option_values(loss, made[0].shape)
    return [recipe for recipe in made if _has_its_point(loss, recipe)]


def _has_its_point(loss: Loss, recipe: Recipe) -> bool:
    """Whether an operand can have the values that the recipe tests."""
    domains = {operand.domain for operand in loss.operands}
    match recipe.values:
        case "minus-inf":
            return loss.operands[0].domain in {Domain.REAL, Domain.LOG_PROBABILITY}
        case "not-finite":
            return bool(domains & {Domain.REAL, Domain.LOG_PROBABILITY})
        case "zero-log-zero":
            return bool(domains & {Domain.PROBABILITY, Domain.LOG_PROBABILITY})
    return True


def _optional(loss: Loss) -> tuple[str, ...]:
    """The optional operands that PyTorch has too; the others have separate recipes, without PyTorch beside them."""
    return tuple(operand.name for operand in loss.operands if operand.optional and not operand.extension)


def _pointwise(loss: Loss) -> list[Recipe]:
    every = _optional(loss)
    made = [
        Recipe("plain", (7, 13)),
        Recipe("kinks", (11, 17), "kinks", present=every),
        Recipe("extremes", (11, 13), "extremes", present=every),
        Recipe("0-log-0", (5, 7), "zero-log-zero", present=every),
        Recipe("minus-inf", (5, 7), "minus-inf"),
        Recipe("not-finite", (5, 7), "not-finite", tentative=True),
        Recipe("scalar", ()),
        Recipe("length-one", (1,), present=every),
        Recipe("empty", (0,), present=every),
        Recipe("empty-rows", (0, 3)),
        Recipe("block-1", (1023,)),
        Recipe("block+1", (1025,), present=every),
        Recipe("tile-1", (TILE - 1,), present=every),
        Recipe("tile+1", (TILE + 1,), "kinks"),
        Recipe("transposed", (5, 3, 7), layout="transposed", present=every),
        Recipe("stepped", (7, 6), layout="stepped", present=every),
        Recipe("reversed", (7, 6), layout="reversed"),
        Recipe("tile-transposed", (131, 509), layout="transposed"),
    ]
    if any(operand.domain in {Domain.SIGN, Domain.COUNT} for operand in loss.operands[1:]):
        made.append(Recipe("integer-targets", (5, 7), integers="int32"))
    return made + _broadcasts(loss)


def _broadcasts(loss: Loss) -> list[Recipe]:
    """Recipes in which each operand is smaller than the first, or the first smaller than the others."""
    rows, columns = 5, 6
    full = (rows, columns)
    smaller = {
        "leading-one": (1, columns),
        "trailing-one": (rows, 1),
        "lower-rank": (columns,),
        "row": (rows,),
        "0d": (),
    }
    every = _optional(loss)
    made = []
    names = [operand.name for operand in loss.operands]
    for name in names[1:]:
        present = (name,) if name in every else ()
        for how, shape in smaller.items():
            made.append(Recipe(f"broadcast-{name}-{how}", full, shapes=((name, shape),), present=present))
        made.append(Recipe(f"tile-broadcast-{name}", (257, 258), shapes=((name, (1, 258)),), present=present))
    first, second = names[0], names[1]
    made.append(Recipe(f"broadcast-{first}", full, shapes=((first, (1, columns)),)))
    made.append(Recipe("broadcast-both", full, shapes=((first, (rows, 1)), (second, (1, columns)))))
    # operands that must have the first one's shape become smaller with it
    together = ((first, (1, columns)), *((name, (1, columns)) for name in every))
    if every:
        made.append(Recipe("broadcast-weighted", full, shapes=together, present=every))
    return [replace(recipe, tentative=True) for recipe in made]


def _rowwise(loss: Loss) -> list[Recipe]:
    every = _optional(loss)
    long = 1025 if any(operand.domain is Domain.CLASS_SET for operand in loss.operands) else TILE + 1
    made = [
        Recipe("plain", (7, 11)),
        Recipe("kinks", (23, 5), "kinks", present=every),
        Recipe("extremes", (17, 7), "extremes", present=every, ignored="some"),
        Recipe("minus-inf", (9, 7), "minus-inf", present=every),
        Recipe("not-finite", (16, 7), "not-finite", ignored="some"),
        Recipe("unbatched", (7,), present=every),
        Recipe("one-row", (1, 7)),
        Recipe("one-class", (5, 1), present=every),
        Recipe("length-one", (1, 1)),
        Recipe("empty", (0, 7), present=every),
        Recipe("block-1", (127, 3)),
        Recipe("block+1", (129, 3), present=every, ignored="some"),
        Recipe("classes-1", (3, 1023), present=every),
        Recipe("classes+1", (3, 1025)),
        Recipe("tile-of-rows-1", (TILE // 4 - 1, 4), ignored="some"),
        Recipe("tile-of-rows+1", (TILE // 4 + 1, 4), "kinks", present=every),
        Recipe("row-longer-than-a-tile", (2, long), present=every),
        Recipe("transposed", (5, 7), layout="transposed", present=every),
        Recipe("stepped", (5, 7), layout="stepped", present=every, ignored="some"),
        Recipe("reversed", (5, 7), layout="reversed"),
        Recipe("1-dimension-more", (3, 5, 4), present=every, ignored="some", tentative=True),
        Recipe("2-dimensions-more", (2, 5, 3, 2), tentative=True),
        Recipe("dimensions-transposed", (3, 5, 4), layout="transposed", present=every, tentative=True),
        Recipe("dimensions-empty", (2, 5, 0), tentative=True),
        Recipe("dimensions-tile", (2, 3, TILE // 6 + 31), present=every, tentative=True),
    ]
    if any(operand.domain in {Domain.CLASS_INDEX, Domain.CLASS_SET, Domain.SIGN} for operand in loss.operands[1:]):
        made.append(Recipe("int32-targets", (5, 7), integers="int32"))
    if loss.family is Family.LINEAR_CROSS_ENTROPY:
        # more rows than the cpu backend puts in a chunk
        made.append(Recipe("chunks", (2051, 2053), present=every, ignored="some"))
        made += _extensions(loss)
    if any(option.name == "ignore_index" for option in loss.options):
        made += _ignored(every)
    if any(operand.other_domain is not None and operand.other_when is None for operand in loss.operands):
        made += _soft(every)
    return made + _row_broadcasts(loss)


def _ignored(every: tuple[str, ...]) -> list[Recipe]:
    zero = (("ignore_index", 0),)
    return [
        Recipe("ignored", (13, 5), ignored="some", present=every),
        Recipe("all-ignored", (5, 4), ignored="all"),
        Recipe("all-ignored-weighted", (5, 4), ignored="all", present=every),
        Recipe("all-ignored-unbatched", (4,), ignored="all"),
        Recipe("ignored-class", (13, 5), ignored="some", options=zero, present=every),
        Recipe("ignored-kinks", (13, 5), "kinks", ignored="some"),
    ]


def _soft(every: tuple[str, ...]) -> list[Recipe]:
    smooth = (("label_smoothing", 0.1),)
    made = []
    for targets in ("soft", "one-hot", "unnormalised"):
        made.append(Recipe(targets, (7, 5), targets=targets))
        made.append(Recipe(f"{targets}-weighted", (7, 5), targets=targets, present=every, weights="zeros"))
    return [
        *made,
        Recipe("soft-smoothed", (7, 5), targets="soft", present=every, options=smooth),
        Recipe("soft-unbatched", (5,), targets="soft", present=every),
        Recipe("soft-empty", (0, 5), targets="soft"),
        Recipe("soft-extremes", (9, 5), "extremes", targets="unnormalised"),
        Recipe("soft-minus-inf", (9, 5), "minus-inf", targets="soft"),
        Recipe("soft-dimensions", (3, 5, 4), targets="soft", present=every, layout="transposed", tentative=True),
    ]


def _extensions(loss: Loss) -> list[Recipe]:
    """Recipes of the operands and options that PyTorch does not have, used together."""
    every = tuple(operand.name for operand in loss.operands if operand.optional)
    unnormalised = tuple(name for name in every if name != "normalizer")
    options = (("softcap", 2.0), ("z_loss", 0.25))
    smooth = (*options, ("label_smoothing", 0.1))
    made = [
        Recipe("beyond", (13, 5), present=every, ignored="some"),
        Recipe("beyond-divisor", (13, 5), present=unnormalised, ignored="some"),
        Recipe("beyond-smoothed", (13, 5), present=unnormalised, ignored="some", options=smooth),
        Recipe("beyond-kinks", (23, 5), "kinks", present=unnormalised),
        Recipe("beyond-extremes", (17, 7), "extremes", present=every, ignored="some"),
        Recipe("beyond-not-finite", (16, 7), "not-finite", present=unnormalised, ignored="some"),
        Recipe("beyond-unbatched", (7,), present=unnormalised),
        Recipe("beyond-empty", (0, 7), present=unnormalised),
        Recipe("beyond-all-ignored", (5, 4), present=unnormalised, ignored="all"),
        Recipe("beyond-dimensions", (3, 5, 4), present=unnormalised, ignored="some", layout="transposed"),
        Recipe("beyond-soft", (7, 5), present=unnormalised, targets="unnormalised", weights="zeros"),
        Recipe("beyond-soft-smoothed", (3, 5, 4), present=every, targets="soft", options=smooth),
        Recipe("beyond-chunks", (129, 33), present=unnormalised, options=(*options, ("max_memory", 1))),
    ]
    return [recipe if recipe.options else replace(recipe, options=options) for recipe in made]


def _row_broadcasts(loss: Loss) -> list[Recipe]:
    """Recipes in which one operand broadcasts along the rows or along the features."""
    if loss.family is Family.LINEAR_CROSS_ENTROPY:
        return []
    every = _optional(loss)
    full = (4, 6)
    made = []
    for operand in loss.operands[1:]:
        if operand.extent is not Extent.FULL:
            continue
        name = operand.name
        present = (name,) if name in every else ()
        for how, shape in {"leading-one": (1, 6), "trailing-one": (4, 1), "lower-rank": (6,)}.items():
            made.append(Recipe(f"broadcast-{name}-{how}", full, shapes=((name, shape),), present=present))
        made.append(Recipe(f"tile-broadcast-{name}", (9001, 8), shapes=((name, (1, 8)),), present=present))
    first = loss.operands[0].name
    made.append(Recipe(f"broadcast-{first}", full, shapes=((first, (1, 6)),)))
    return [replace(recipe, tentative=True) for recipe in made]


def _optional_operands(loss: Loss, shape: Shape) -> list[Recipe]:
    """Each optional operand alone, and weights that contain zeros."""
    every = _optional(loss)
    optional = [operand for operand in loss.operands if operand.optional]
    made = [Recipe(f"with-{operand.name}", shape, present=(operand.name,)) for operand in optional]
    weights = tuple(operand.name for operand in optional if operand.domain is Domain.NON_NEGATIVE)
    if weights:
        made.append(Recipe("weights-with-zeros", shape, present=every, weights="zeros", ignored="some"))
        made.append(Recipe("weights-all-zero", shape, present=every, weights="all zero"))
    return made


def _option_values(loss: Loss, shape: Shape) -> list[Recipe]:
    """Every value of every option alone; and every flag with every value of every other option."""
    every = _optional(loss)
    made = []
    for option in loss.options:
        for value in option.others:
            made.append(Recipe(_named((option.name, value)), shape, "kinks", ((option.name, value),), ignored="some"))
            if every:
                weighted = Recipe(_named((option.name, value)) + "-weighted", shape, options=((option.name, value),))
                made.append(replace(weighted, present=every, ignored="some"))
    for first, second in combinations(loss.options, 2):
        if _is_flag(first) or _is_flag(second):
            for one in first.others:
                for two in second.others:
                    pair = ((first.name, one), (second.name, two))
                    made.append(Recipe(_named(*pair), shape, options=pair))
    return made


def _is_flag(option: Option) -> bool:
    return isinstance(option.default, bool)


def _named(*options: tuple[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options)

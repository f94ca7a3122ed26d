"""Mutants: wrong versions of the ``cpu`` backend, each with one deliberate mistake. Here it is in the chapter."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from portaloss.backends.cpu.chapters import CHAPTERS
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind as K
from portaloss.parity import run


@dataclass(frozen=True)
class Mutant:
    """A mistake, and a kind and dtype in which parity must find it."""

    name: str
    kind: K
    apply: Callable  # makes the mistake with pytest's monkeypatch
    dtype: str = "float32"


MUTANTS: list[Mutant] = []


def mutant(name, kind, dtype="float32"):
    """Register a function as a mutant: it takes monkeypatch and makes the mistake."""

    def register(apply):
        MUTANTS.append(Mutant(name, kind, apply, dtype))
        return apply

    return register


def outcome(backend, kind, dtype):
    """The failures of the lines of a kind in a dtype."""
    return {line.sku: line.failures for line in run.run_kind([backend], LOSSES[kind], dtype) if line.status != "passed"}


def assert_caught(one, backend, patch):
    """A backend with a mutant's mistake fails parity, by a comparison and not by an exception."""
    one.apply(patch)
    failures = outcome(backend, one.kind, one.dtype)
    assert failures, "parity passed a wrong backend"
    # parity itself asserts that operands are left as they were
    raised = [text for texts in failures.values() for text in texts if re.search(r"\b(?!Assertion)\w+Error: ", text)]
    assert not raised, f"caught by an exception, not by a comparison: {raised[0]}"


def chapter(kind):
    """The function of a kind's chapter, without a mistake."""
    return getattr(importlib.import_module(f"portaloss.reference.{kind.name.lower()}"), kind.name.lower())


def math_mutant(name, kind, dtype="float32"):
    """Register a function (right, *operands, **options) -> (items, derivatives) as a mutant of a chapter.

    ``right`` is the chapter's function. Operands come by name, for CTC by position.
    """

    def register(wrong):
        right = chapter_or_none(kind)

        def function(*args, **kwargs):
            return wrong(right or chapter(kind), *args, **kwargs)

        MUTANTS.append(Mutant(name, kind, lambda patch: patch.setitem(CHAPTERS, kind, function), dtype))
        return wrong

    return register


def chapter_or_none(kind):
    """The function of a kind's chapter; None if it cannot be imported while pytest collects the tests."""
    try:
        return chapter(kind)
    except ImportError:
        return None


# Mistakes in chapters


@math_mutant("gradient of the target has the input's sign", K.MSE)
def _(right, wants, **operands):
    items, derivatives = right(wants=wants, **operands)
    if "target" in derivatives:
        derivatives["target"] = -np.asarray(derivatives["target"])
    return items, derivatives


@math_mutant("half of the square", K.MSE)
def _(right, wants, **operands):
    items, derivatives = right(wants=wants, **operands)
    return 0.5 * items, derivatives


@math_mutant("weight dropped", K.MSE)
def _(right, wants, weight=None, **operands):
    return right(**operands)[0], right(wants=wants, weight=weight, **operands)[1]


@math_mutant("derivative 1 where input equals target", K.L1)
def _(right, input, target, wants, **operands):
    items, derivatives = right(input=input, target=target, wants=wants, **operands)
    if "input" in derivatives:
        derivatives["input"] = np.where(input == target, input.dtype.type(1), derivatives["input"])
    return items, derivatives


@math_mutant("beta is always 1", K.SMOOTH_L1)
def _(right, beta, **rest):
    return right(beta=1.0, **rest)


@math_mutant("slope delta squared outside", K.HUBER)
def _(right, delta, wants, **operands):
    items, derivatives = right(delta=delta, wants=wants, **operands)
    return items, {name: value * delta for name, value in derivatives.items()}


@math_mutant("margin ignored", K.HINGE_EMBEDDING)
def _(right, margin, **rest):
    return right(margin=1.0, **rest)


@math_mutant("no gradient at the hinge", K.MARGIN_RANKING)
def _(right, wants, **rest):
    items, derivatives = right(wants=wants, **rest)
    return items, {name: np.where(items == 0, items * 0, value) for name, value in derivatives.items()}


@math_mutant("margin has the wrong sign", K.MARGIN_RANKING)
def _(right, margin, **rest):
    return right(margin=-margin, **rest)


@math_mutant("logarithms not clamped at -100", K.BCE)
def _(right, input, target, weight=None, **rest):
    _, derivatives = right(input=input, target=target, weight=weight, **rest)
    one = input.dtype.type(1)
    items = -(target * np.log(input) + (one - target) * np.log1p(-input))
    return (items if weight is None else items * weight), derivatives


@math_mutant("pos_weight multiplies both terms", K.BCE_WITH_LOGITS)
def _(right, pos_weight=None, **rest):
    items, derivatives = right(**rest)
    if pos_weight is None:
        return items, derivatives
    return items * pos_weight, {name: value * pos_weight for name, value in derivatives.items()}


@math_mutant("log(1 + exp(x)) overflows", K.BCE_WITH_LOGITS)
def _(right, input, target, weight=None, pos_weight=None, **rest):
    items, derivatives = right(input=input, target=target, weight=weight, pos_weight=pos_weight, **rest)
    if weight is None and pos_weight is None:
        items = np.log1p(np.exp(input)) - input * target
    return items + 0 * np.exp(np.abs(input)), derivatives


@math_mutant("log_target swapped", K.KL_DIV)
def _(right, log_target, **rest):
    return right(log_target=not log_target, **rest)


@math_mutant("0 log 0 is nan", K.KL_DIV)
def _(right, input, target, log_target, **rest):
    items, derivatives = right(input=input, target=target, log_target=log_target, **rest)
    return (items if log_target else target * (np.log(target) - input)), derivatives


@math_mutant("Stirling's term dropped", K.POISSON_NLL)
def _(right, full, **rest):
    return right(full=False, **rest)


@math_mutant("log_input ignored", K.POISSON_NLL)
def _(right, log_input, **rest):
    return right(log_input=True, **rest)


@math_mutant("variance not clamped", K.GAUSSIAN_NLL)
def _(right, eps, **rest):
    return right(eps=0.0, **rest)


@math_mutant("no gradient to the variance", K.GAUSSIAN_NLL)
def _(right, wants, **rest):
    items, derivatives = right(wants=wants, **rest)
    return items, {name: value * 0 if name == "var" else value for name, value in derivatives.items()}


@math_mutant("ignore_index dropped", K.NLL)
def _(right, input, target, ignore_index, **rest):
    return right(input=input, target=np.where(target == ignore_index, 0, target), ignore_index=-1000, **rest)


@math_mutant("class weight dropped", K.NLL)
def _(right, weight=None, **rest):
    return right(**rest)


@math_mutant("smoothing spread over the other C - 1 classes", K.CROSS_ENTROPY)
def _(right, label_smoothing, input, **rest):
    classes = input.shape[1]
    return right(label_smoothing=min(1.0, label_smoothing * classes / max(classes - 1, 1)), input=input, **rest)


@math_mutant("soft targets taken to sum to 1", K.CROSS_ENTROPY)
def _(right, input, target, wants, **rest):
    items, derivatives = right(input=input, target=target, wants=wants, **rest)
    if "input" in derivatives and target.dtype.kind == "f":
        p = np.exp(input - input.max(axis=1, keepdims=True))
        derivatives["input"] = p / p.sum(axis=1, keepdims=True) - target
    return items, derivatives


@math_mutant("softmax without subtracting the maximum", K.CROSS_ENTROPY)
def _(right, input, **rest):
    items, derivatives = right(input=input, **rest)
    return items + 0 * np.log(np.exp(input).sum(axis=1, keepdims=True)), derivatives


@math_mutant("ignored rows keep their gradient", K.CROSS_ENTROPY)
def _(right, input, target, ignore_index, wants, **rest):
    items, derivatives = right(input=input, target=target, ignore_index=ignore_index, wants=wants, **rest)
    if "input" in derivatives and target.dtype.kind != "f":
        kept = np.where(target == ignore_index, 0, target)
        derivatives = right(input=input, target=kept, ignore_index=-1000, wants=wants, **rest)[1]
    return items, derivatives


@math_mutant("factor 1 / C missing", K.MULTI_MARGIN)
def _(right, input, **rest):
    items, derivatives = right(input=input, **rest)
    return items * input.shape[1], {name: value * input.shape[1] for name, value in derivatives.items()}


@math_mutant("p is always 1", K.MULTI_MARGIN)
def _(right, p, **rest):
    return right(p=1, **rest)


@math_mutant("labels after the first -1 are read", K.MULTILABEL_MARGIN)
def _(right, target, **rest):
    return right(target=-np.sort(-target, axis=1), **rest)


@math_mutant("summed over classes, not averaged", K.MULTILABEL_SOFT_MARGIN)
def _(right, input, **rest):
    items, derivatives = right(input=input, **rest)
    return items * input.shape[1], derivatives


@math_mutant("swap ignored", K.TRIPLET_MARGIN)
def _(right, swap, **rest):
    return right(swap=False, **rest)


@math_mutant("p is always 2", K.TRIPLET_MARGIN)
def _(right, p, **rest):
    return right(p=2.0, **rest)


@math_mutant("eps ignored", K.TRIPLET_MARGIN)
def _(right, eps, **rest):
    return right(eps=0.0, **rest)


@math_mutant("margin ignored", K.COSINE_EMBEDDING)
def _(right, margin, **rest):
    return right(margin=0.0, **rest)


@math_mutant("blank is always class 0", K.CTC)
def _(right, *operands, blank, **rest):
    return right(*operands, blank=0, **rest)


@math_mutant("zero_infinity ignored", K.CTC)
def _(right, *operands, zero_infinity, **rest):
    return right(*operands, zero_infinity=False, **rest)


@math_mutant("steps beyond the length are read", K.CTC)
def _(right, log_probs, targets, input_lengths, target_lengths, **rest):
    return right(log_probs, targets, np.full_like(input_lengths, len(log_probs)), target_lengths, **rest)


@math_mutant("gradient rounded before it is multiplied by upstream", K.HUBER, "float16")
def _(right, wants, **rest):
    items, derivatives = right(wants=wants, **rest)
    return items, {name: value.astype(np.float16).astype(np.float32) for name, value in derivatives.items()}


@math_mutant("an operand is overwritten", K.HUBER)
def _(right, input, **rest):
    terms = right(input=input.copy(), **rest)
    input[...] = 0
    return terms

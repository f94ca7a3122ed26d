"""Each chapter's fast code against the definition above it: in mpmath, and through PyTorch's autograd."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch

from portaloss.arrange import arrange
from portaloss.catalogue import LOSSES, Domain, Family
from portaloss.kinds import LossKind, LossReduction
from portaloss.parity import eager, samples
from portaloss.parity.truth import Truth

pytestmark = pytest.mark.usefixtures("quiet")

#: Twice the 50 that results are good to: a central difference of step 1e-25 loses 25, and is off by the step's square.
DIGITS = 100
STEP = mpmath.mpf(10) ** -25

EPS = 2.0**-52

#: Where a second derivative jumps, a central difference is off by as much as a step.
NOISE = 1e-24

#: Values of cases whose numbers are of ordinary size, at kinks among others.
ORDINARY = {"typical", "kinks", "repeated", "one path", "no labels", "one label"}

#: Where a domain ends, a definition has at most one side.
ENDS = {Domain.PROBABILITY: (0, 1), Domain.NON_NEGATIVE: (0,), Domain.COUNT: (0,)}


class Exact:
    """NumPy's functions, for arrays of mpmath's numbers."""

    pi = mpmath.pi

    def __getattr__(self, name):
        return getattr(np, name)


for name in ("exp", "log", "sqrt", "tanh"):
    setattr(Exact, name, staticmethod(np.frompyfunc(getattr(mpmath, name), 1, 1)))


def exact(array):
    """The same numbers, in which every further operation has so many digits; integers stay as they are."""
    to_mpf = np.frompyfunc(lambda number: mpmath.mpf(float(number)), 1, 1)
    return np.asarray(to_mpf(array), object) if array.dtype.kind == "f" else array


class Definition:
    """The definition of a case, as a function of its operands in the chapter's shapes."""

    def __init__(self, loss, case):
        options = {option.name: option.default for option in loss.options} | case.options
        self.arranged = arrange(loss, options, case.operands)
        self.function = importlib.import_module(f"portaloss.reference.{loss.name}").definition
        self.options = {option.name: options[option.name] for option in loss.options if option.changes_items}
        taken = inspect.signature(self.function).parameters  # a mean's normalizer is no operand of the items
        self.operands = {name: array for name, array in self.arranged.operands.items() if name in taken}

    def __call__(self, operands, xp, options=None):
        return self.function(**operands, **(self.options if options is None else options), xp=xp)

    def in_mpmath(self, operands):
        exact_options = {n: mpmath.mpf(v) if isinstance(v, float) else v for n, v in self.options.items()}
        return np.asarray(self(operands, Exact(), exact_options), object)


def small_cases(loss):
    """The parity matrix's recipes, of a few rows and classes."""
    most = {Family.CTC: (8, 2, 3), Family.LINEAR_CROSS_ENTROPY: (3, 3, 2, 2)}.get(loss.family, (7, 4, 3, 2))
    seen = set()
    for recipe in samples.accepted(loss):
        shape = tuple(map(min, recipe.shape, most))
        small = replace(recipe, shape=shape, integers="int64")
        about = replace(small, name="", tentative=False)
        if (
            0 not in shape
            and recipe.values in ORDINARY
            and recipe.layout == "contiguous"
            and not recipe.shapes
            and about not in seen
        ):
            seen.add(about)
            yield samples._make(loss, "float64", small, samples.seed_of(loss, recipe.name))


def parts(loss, array):
    """Elements that no item has two of: what can be moved all at once."""
    if loss.family is Family.POINTWISE:
        return [...]
    if loss.family is Family.ROWWISE:
        return [np.s_[:, j : j + 1] for j in range(array.shape[1])]
    if loss.family is Family.CTC:
        return [(t, slice(None), k) for t in range(array.shape[0]) for k in range(array.shape[2])]
    return list(np.ndindex(array.shape))


def sum_to(array, shape):
    """The sum along the axes that an operand was broadcast along."""
    if not shape:
        return array.sum()
    return array.sum(axis=tuple(axis for axis, size in enumerate(shape) if size != array.shape[axis]), keepdims=True)


def numerical_gradient(loss, define, operands, name, upstream):
    """The gradient by central differences, and where it has one: not at kinks, nor where a domain ends."""
    array, row = operands[name], loss.operand(name)
    ends = {end for domain in (row.domain, row.other_domain) for end in ENDS.get(domain, ())}
    inside = ~np.isin(array.astype(float), list(ends))
    steps = np.asarray(np.where(array == 0, STEP, abs(array) * STEP) * inside, object)
    middle = define.in_mpmath(operands)
    gradient, smooth = np.zeros(array.shape, object), np.zeros(array.shape, bool)
    for part in parts(loss, array):
        step = np.zeros(array.shape, object)
        step[part] = steps[part]
        above, below = (define.in_mpmath(operands | {name: array + sign * step}) for sign in (1, -1))
        change = np.asarray((above - below) * upstream)
        bend = np.asarray(abs(above - 2 * middle + below))
        size = step[part]
        # a second derivative bends by the square of the step; 1e-10 of the step itself is a kink
        bent = sum_to(~(bend <= 1e-10 * (abs(above - below) + abs(size))), np.shape(size))
        smooth[part] = inside[part] & (bent == 0)
        gradient[part] = sum_to(change, np.shape(size)) / (2 * np.where(inside[part], size, 1))
    return through_softmax(loss, gradient, Exact.exp(array)), smooth


def through_softmax(loss, gradient, probabilities):
    """CTC's derivative, by PyTorch's convention: with respect to the logits that the log-probabilities are made of."""
    if loss.family is not Family.CTC:
        return gradient
    return gradient - probabilities * gradient.sum(axis=2, keepdims=True)


def worst(got, want, size, where=True):
    """The largest error, in eps of the size."""
    judged = np.broadcast_to(where, got.shape) & np.isfinite(got)
    units = np.maximum(abs(want[judged]), size[judged]) * EPS + NOISE
    return float((abs(got[judged] - want[judged]) / units).max(initial=0.0))


@pytest.mark.parametrize("kind", LossKind, ids=lambda kind: kind.name.lower())
def test_the_fast_code_in_float64_is_its_definition(kind):
    loss = LOSSES[kind]
    bound = 8
    compared = set()
    with mpmath.workdps(DIGITS):
        for case in small_cases(loss):
            define, truth = Definition(loss, case), Truth(loss, case)
            arranged, operands = define.arranged, {n: exact(a) for n, a in define.operands.items()}
            want = define.in_mpmath(operands)
            items = truth.loss(LossReduction.NONE)
            got, size = (arranged.items_view(array).reshape(want.shape) for array in (items.value, items.magnitude))
            print(case.name, worst(got, want, size))
            assert worst(got, want, size) <= bound, (case.name, "items")
            upstream = case.upstream(items.value.shape, np.dtype(np.float64))
            u = arranged.items_view(upstream).reshape(want.shape)
            for name, gradient in truth.gradients(LossReduction.NONE, upstream).items():
                got, size = (arranged.view(name, array) for array in (gradient.value, gradient.magnitude))
                want, smooth = numerical_gradient(loss, define, operands, name, u)
                print(case.name, name, worst(got, want, size, smooth))
                assert worst(got, want, size, smooth) <= bound, (case.name, name)
                compared |= {name} if smooth.any() else set()
    assert compared == {operand.name for operand in loss.differentiable}


@pytest.mark.parametrize("kind", LossKind, ids=lambda kind: kind.name.lower())
def test_the_definition_of_torch_tensors_is_pytorch_s_loss(kind):
    loss = LOSSES[kind]
    case = next(small_cases(loss))
    define = Definition(loss, case)
    truth = Truth(loss, case)
    upstream = case.upstream(truth.items_shape, np.dtype(np.float64))
    pytorch = eager.run(loss, case, dict.fromkeys(LossReduction, upstream))
    wants = truth.wants
    tensors = {n: torch.tensor(a, requires_grad=n in wants) for n, a in define.operands.items()}
    items = define(tensors, torch)
    theirs = define.arranged.items_view(pytorch.losses[LossReduction.NONE]).reshape(items.shape)
    np.testing.assert_allclose(items.detach().numpy(), theirs, rtol=1e-13, atol=1e-13)
    u = torch.tensor(define.arranged.items_view(upstream).reshape(items.shape))
    gradients = torch.autograd.grad(items, [tensors[n] for n in wants], u)
    for name, gradient in zip(wants, gradients, strict=True):
        ours = through_softmax(loss, gradient.numpy(), np.exp(define.operands[name]))
        theirs = define.arranged.view(name, pytorch.gradients[LossReduction.NONE][name])
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12, err_msg=name)

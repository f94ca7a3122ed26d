"""Each chapter's fast code against its definition, in mpmath; and the definition against PyTorch's autograd.

The file is long because one test of all kinds takes the place of a test for each.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch

from portaloss.arrange import specs
from portaloss.catalogue import LOSSES, Family
from portaloss.kinds import LossKind, LossReduction
from portaloss.parity import eager, samples
from portaloss.parity.truth import Truth, arranged
from portaloss.plan import differentiable

pytestmark = pytest.mark.usefixtures("quiet")

#: Twice the 50 that results are good to: a central difference loses the 25 of its step, and is off by its square.
DIGITS = 100
STEP = mpmath.mpf(10) ** -25

#: Values of cases whose numbers are of ordinary size, kinks among them: a definition has no care for others.
ORDINARY = {"typical", "kinks", "repeated", "one path", "no labels", "one label"}

EVERY_KIND = pytest.mark.parametrize("kind", LossKind, ids=lambda kind: kind.name.lower())


class Exact:
    """NumPy's functions, for arrays of mpmath's numbers; nan where a result is not real."""

    pi = mpmath.pi
    exp, tanh = (staticmethod(np.frompyfunc(function, 1, 1)) for function in (mpmath.exp, mpmath.tanh))
    log = staticmethod(np.frompyfunc(lambda x: mpmath.log(x) if x >= 0 else mpmath.nan, 1, 1))
    sqrt = staticmethod(np.frompyfunc(lambda x: mpmath.sqrt(x) if x >= 0 else mpmath.nan, 1, 1))

    def __getattr__(self, name):
        return getattr(np, name)


def exact(array):
    """The same numbers as mpmath's; integers stay as they are."""
    to_mpf = np.frompyfunc(lambda number: mpmath.mpf(float(number)), 1, 1)
    return np.asarray(to_mpf(array), object) if array.dtype.kind == "f" else array


class Definition:
    """The definition of a loss in one case."""

    def __init__(self, loss, case):
        options = {option.name: option.default for option in loss.options} | case.options
        self.layout = loss.arrangement.shapes(options, specs(case.operands))
        self.function = importlib.import_module(f"portaloss.reference.{loss.name}").definition
        self.options = loss.item_options(options)
        taken = inspect.signature(self.function).parameters  # a mean's normalizer is no operand of the items
        operands = arranged(loss, self.layout, case.operands)
        self.operands = {name: array for name, array in operands.items() if name in taken}

    def exact_items(self, operands):
        options = {name: mpmath.mpf(v) if isinstance(v, float) else v for name, v in self.options.items()}
        return np.asarray(self.function(**operands, **options, xp=Exact()), object)


def small_cases(loss):
    """The parity matrix's recipes of ordinary numbers, in float64 and cut to a few rows and classes."""
    most = {Family.CTC: (8, 2, 3), Family.LINEAR_CROSS_ENTROPY: (3, 3, 2, 2)}.get(loss.family, (7, 4, 3, 2))
    seen = set()
    for recipe in samples.accepted(loss):
        small = replace(recipe, shape=tuple(map(min, recipe.shape, most)), integers="int64")
        about = replace(small, name="", tentative=False)
        plain = recipe.values in ORDINARY and recipe.layout == "contiguous" and not recipe.shapes
        if plain and 0 not in small.shape and about not in seen:
            seen.add(about)
            yield samples._make(loss, "float64", small, samples.seed_of(loss, recipe.name))


def parts(loss, array):
    """Sets of elements of which each item depends on one at most: they are moved together."""
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
    """The gradient by central differences, and where it is one: not at kinks, nor where a domain ends."""
    array = operands[name]
    steps = np.asarray(np.where(array == 0, STEP, abs(array) * STEP), object)
    middle = define.exact_items(operands)
    gradient, smooth = np.zeros(array.shape, object), np.zeros(array.shape, bool)
    for part in parts(loss, array):
        step = np.zeros(array.shape, object)
        step[part] = steps[part]
        above, below = (define.exact_items(operands | {name: array + sign * step}) for sign in (1, -1))
        change, bend = np.asarray(above - below), np.asarray(abs(above - 2 * middle + below))
        # a curve bends by about the square of the step, and a kink by the step
        bent = np.logical_not(bend <= 1e-10 * (abs(change) + steps[part]))
        smooth[part] = sum_to(np.asarray(bent), np.shape(step[part])) == 0
        gradient[part] = sum_to(np.asarray(change * upstream), np.shape(step[part])) / (2 * steps[part])
    smooth &= has_a_derivative(loss.kind, name, operands, define.options)
    return through_softmax(loss, gradient, Exact.exp(array)), smooth


def has_a_derivative(kind, name, operands, options):
    """Not where PyTorch, and so the chapter, has a gradient that is not the definition's, or none."""
    kind_and_name = kind, name
    x = operands[name]
    if kind_and_name == (LossKind.GAUSSIAN_NLL, "var"):
        return np.asarray(x > options["eps"], bool)  # below, v is constant, but the gradient of v is passed on
    if kind is LossKind.BCE:
        rest = operands["input"] * (1 - operands["input"])
        return np.asarray(rest > (1e-12 if name == "input" else np.exp(-100)), bool)  # its denominator; its logarithms
    if kind_and_name == (LossKind.POISSON_NLL, "target") and options["full"]:
        return np.asarray(x > 0, bool)  # nan at 0, of a term that is masked
    return True


def through_softmax(loss, gradient, probabilities):
    """CTC's derivative, by PyTorch's convention: with respect to the logits that the log-probabilities are made of."""
    if loss.family is not Family.CTC:
        return gradient
    return gradient - probabilities * gradient.sum(axis=2, keepdims=True)


def worst(got, want, size, where=True, dtype=np.float64):
    """The largest error, in eps of the size: of the number or, where terms cancel, of the sum of theirs."""
    info = np.finfo(dtype)
    beyond = np.asarray(abs(want) > float(info.max), bool) & where
    assert np.isinf(got[beyond]).all()
    judged = np.asarray(abs(want) <= float(info.max), bool) & where
    assert np.isfinite(got[judged]).all()
    # where a second derivative jumps, a central difference is off by a step, of numbers below 1e4; subnormals are below
    units = np.maximum(abs(want[judged]), size[judged]) * float(info.eps)
    floor = np.where(size[judged] == 0, 1e-21, float(info.smallest_subnormal))
    return float((abs(exact(got[judged]) - want[judged]) / np.maximum(units, floor)).max(initial=0.0))


#: Eight roundings of half an eps each: a term has up to five, and a sum of up to four classes three.
ROUNDINGS = 4.0


@EVERY_KIND
def test_the_fast_code_in_float64_is_its_definition(kind):
    loss = LOSSES[kind]
    compared = set()
    with mpmath.workdps(DIGITS):
        for case in small_cases(loss):
            define, truth = Definition(loss, case), Truth(loss, case)
            layout, operands = define.layout, {name: exact(array) for name, array in define.operands.items()}
            want = define.exact_items(operands)
            items = truth.loss(LossReduction.NONE)
            got, size = (layout.items_view(array).reshape(want.shape) for array in (items.value, items.magnitude))
            assert worst(got, want, size) <= ROUNDINGS, (case.name, "items")
            upstream = case.upstream(items.value.shape, np.dtype(np.float64))
            u = layout.items_view(upstream).reshape(want.shape)
            for name, gradient in truth.gradients(LossReduction.NONE, upstream).items():
                got, size = (layout.view(name, array) for array in (gradient.value, gradient.magnitude))
                want, smooth = numerical_gradient(loss, define, operands, name, u)
                assert worst(got, want, size, smooth) <= ROUNDINGS, (case.name, name)
                compared |= {name} if smooth.any() else set()
    assert compared == {operand.name for operand in loss.differentiable}


@EVERY_KIND
def test_the_definition_of_torch_tensors_is_pytorch_s_loss(kind):
    loss = LOSSES[kind]
    compared = set()
    for case in small_cases(loss):
        define, truth = Definition(loss, case), Truth(loss, case)
        upstream = case.upstream(truth.items_shape, np.dtype(np.float64))
        pytorch = eager.run(loss, case, dict.fromkeys(LossReduction, upstream))
        if LossReduction.NONE not in pytorch.losses:
            continue  # an extension
        tensors = {n: torch.tensor(array, requires_grad=n in truth.wants) for n, array in define.operands.items()}
        items = define.function(**tensors, **define.options, xp=torch)
        theirs = define.layout.items_view(pytorch.losses[LossReduction.NONE]).reshape(items.shape)
        np.testing.assert_allclose(items.detach().numpy(), theirs, rtol=1e-13, atol=1e-13)
        u = torch.tensor(define.layout.items_view(upstream).reshape(items.shape))
        gradients = torch.autograd.grad(items, [tensors[name] for name in truth.wants], u)
        for name, gradient in zip(truth.wants, gradients, strict=True):
            ours = through_softmax(loss, gradient.numpy(), np.exp(define.operands[name]))
            theirs = define.layout.view(name, pytorch.gradients[LossReduction.NONE][name])
            where = has_a_derivative(kind, name, define.operands, define.options) & np.isfinite(theirs)
            if define.options.get("eps") == 0:
                where &= np.isfinite(ours)  # a norm of 0, whose root has no slope; PyTorch's norms take 0 for it
            np.testing.assert_allclose(ours[where], theirs[where], 1e-12, 1e-12, err_msg=f"{case.name} {name}")
            compared |= {name}
    assert compared == {operand.name for operand in loss.differentiable if not operand.extension}


@EVERY_KIND
def test_each_derivative_alone_is_the_same(kind):
    loss = LOSSES[kind]
    chapter = getattr(importlib.import_module(f"portaloss.reference.{loss.name}"), loss.name)
    for case in small_cases(loss):
        define, wants = Definition(loss, case), differentiable(loss, case.operands)
        items, derivatives = chapter(**define.operands, **define.options, wants=wants)
        for names in ((), *((name,) for name in wants)):
            again, alone = chapter(**define.operands, **define.options, wants=names)
            np.testing.assert_array_equal(again, items)
            assert tuple(alone) == names
            for name in names:
                np.testing.assert_array_equal(np.asarray(alone[name]), np.asarray(derivatives[name]))


#: Logits and targets: confident; more than float64 resolves; and wrong; below zero; far below; just shifted; small and
#: large; a tie; beyond float32's exp.
LOGITS = [
    *([40.25, 3.1, -2.7, 0.0], [88.1, 3.1, -2.7, 0.0], [40.25, 3.1, -2.7, 0.0], [-3.3, -70.1, -85.7, -44.4]),
    *([-100.1, -100.3, -130.7, -177.7], [60.1, 59.7, 0.123, -31.7], [1e-3, 17.77, -17.77, 17.7], [2.5, 2.5, -80.1, 1]),
    [95.3, 94.1, -2.7, 0.0],
]
CLASSES = [0, 0, 2, 0, 0, 1, 1, 1, 1]
SOFT = [[0.0, 0.233, 0.467, 0.7]] * len(LOGITS)
WEIGHTS = [0.3, 0.767, 1.233, 1.7]

#: Leads within a rounding of the margin, on both sides, and a plain shortfall. 1.1 - 0.1 is not 1 in either dtype.
EDGES = [[1.1, 0.1, 0.10000001, 0.7], [-3.3, -4.3, -4.2999997, 5.0], [1000.1, 999.1, 999.0999, 1000.1]]

#: Close distances, and in the second row equal vectors, whose distance is that of eps alone.
TRIPLETS = {
    "anchor": [[1.0, 2.0, 3.0], [0.5, 0.25, 1.0]],
    "positive": [[4.0, 6.5, 1.0], [0.5, 0.25, 1.0]],
    "negative": [[1.0 + 2.0**-10, 7.0, 5.5], [1.0, 2.0, 2.5]],
}

#: 1 - cos is 2e-10; cos is -3e-8; a zero vector; squares the size of ε.
PAIRS = [
    ([1.0, 2.0, 3.0], [1.0, 2.0, 3.000244140625]),
    ([1.0, 2.0, -1.0], [1.0, 1.0, 3.000000238418579]),
    ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]),
    ([1e-6, 2e-6, -1e-6], [3e-6, 1e-6, 1e-6]),
]

#: Kind, options, and operands by name, or rows of them in the catalogue's order; as decimals that both dtypes round.
HARD = [
    # neighbours; a square that overflows or underflows float32 without its weight; large and small together
    ("mse", {}, [(1.0000001, 1, 0.3), (3e22, 1e20, 1.1e-30), (1.1e-22, 0, 3e30), (-1e4, 1e-4, 0.7), (0.1, 0.3, 1.3)]),
    ("l1", {}, [(1.0000001, 1, 0.3), (3e38, 1e-38, 0.1), (1e-40, 2e-40, 1.7), (-1e4, 1e-4, 0.7), (0.1, 0.3, 1.3)]),
    # within a rounding of the edge; far inside; far outside
    *(
        ("smooth_l1", {"beta": b}, [(0.1, 0.35), (0.1, 0.3499999), (1.0000001, 1), (1e25, 1), (-1e-15, 1e-16)])
        for b in (0.25, 3e30, 1e-5)
    ),
    *(
        (
            "huber",
            {"delta": d},
            [(0.1, 0.35, 0.3), (0.1, 0.3499999, 1.3), (1.0000001, 1, 1.7), (1e25, 1, 0.1), (-1e-15, 1e-16, 7.7)],
        )
        for d in (0.25, 3e5)
    ),
    # 1 - x rounds to 1; log x near 1; both logs nearly -log 2; cut off; not quite cut off; a subnormal in float32
    ("bce", {}, [(1e-10, 0, 1.3), (1e-10, 0.7, 0.3), (0.99999994, 1, 0.7), (0.99999994, 1e-9, 0.7)]),
    ("bce", {}, [(0.7828563, 1, 1.1), (0.7828563, 0.999, 1.1), (0.5000001, 0.3, 1.7), (0.4999999, 1, 1.7)]),
    ("bce", {}, [(0.5, 0.5000001, 1), (1e-44, 1, 1.1), (1e-42, 1, 1.1), (3e-39, 0.4, 1), (4e-13, 0.6, 1)]),
    # surely right, which PyTorch's float32 calls 0 or worse; surely wrong; a small p; between
    ("bce_with_logits", {}, [(20.1, 1, 0.3, 1), (-40.3, 0, 1.3, 1), (80.7, 1, 1.3, 3.3), (-80.7, 1, 1.3, 3.3)]),
    ("bce_with_logits", {}, [(80.7, 0, 1.3, 3.3), (-2.3, 1, 1, 1e-9), (2.3, 1, 1, 1e-9), (-17.7, 1e-8, 1, 0.7)]),
    ("bce_with_logits", {}, [(0.7, 0.3, 1.7, 1), (-1e4, 0.9, 0.7, 1.3), (1e-20, 0.5, 0.7, 1.3), (0.847, 0.7, 1, 1)]),
    # the log where NumPy's own is worst, next to 1, and of what is subnormal in float32
    ("kl_div", {}, [(-1e-9, 0.7828563), (-1e-9, 0.99999994), (-1e-30, 1.0000001), (-90, 1e-42), (-3, 1.3e-38)]),
    # a model that is right, almost; a derivative that is 0, almost
    ("kl_div", {}, [(-0.6931472, 0.5), (-1.2039728, 0.3), (-0.2039728, 0.3), (1e-9, 0.36787944)]),
    ("kl_div", {"log_target": True}, [(-2, -2.0000002), (-1e4, -80.5), (-1.2, -2.2), (-1e-30, -0.34358), (0, 0)]),
    ("poisson_nll", {}, [(0, 1), (1.0986123, 3), (88.5, 3), (-80.3, 0), (-87, 1e-38), (1e-30, 1000)]),
    # 1 - t/(x + ε) at x = t and next to it; the log where ε is all of it; a rate of 0; ε beside what it is added to
    (
        "poisson_nll",
        {"log_input": False, "eps": 1e-8},
        [(3, 3), (3.0000002, 3), (1, 2), (0.99999994, 1), (1.0000001, 1), (0, 2), (1e-8, 1)],
    ),
    (
        "poisson_nll",
        {"log_input": False, "eps": 1e-2},
        [(0.99, 1), (0.9900001, 3), (1e-20, 1), (2e30, 1), (0.78, 0)],
    ),
    # Stirling's terms: next to where they start, where they cancel, large
    ("poisson_nll", {"full": True}, [(0, 1.0000001), (-30, 1.15), (-1, 2.7182817), (2, 1e6), (0, 1), (0.3, 1e-40)]),
    ("poisson_nll", {"full": True, "log_input": False}, [(1, 1.15), (2.7182817, 2.7182817), (1e6, 1e6)]),
    # v = e² exactly and almost; log v next to 1, and cancelling e²/v
    ("gaussian_nll", {}, [(3, 1, 4), (3, 1.0000001, 4), (0, 0, 1.0000001), (0, 0, 0.7828563)]),
    ("gaussian_nll", {}, [(0.5, 0, 0.7034674), (1e-30, 0, 0.9999999), (0.75, 1, 1e-30), (1e-4, 0, 0)]),
    # e² overflows float32, e²/v does not
    ("gaussian_nll", {}, [(1e20, 0, 1e10), (-3e25, 1e20, 1e20)]),
    ("gaussian_nll", {"eps": 1e-2, "full": True}, [(0.1, 0.3, 0.159155), (0.1, 0.3, 0.01), (0, 0, 0.1591549)]),
    ("hinge_embedding", {"margin": 0.25}, [(0.25, -1), (0.24999999, -1), (0.2500001, -1), (1e-30, -1), (1e-40, 1)]),
    ("hinge_embedding", {"margin": 1.0}, [(0.1, -1), (-1e30, -1), (0.1, 1), (3e38, -1)]),
    ("margin_ranking", {}, [(1.0000001, 1, 1), (1.0000001, 1, -1), (0.3, 0.3, -1), (1e-40, 2e-40, 1)]),
    ("margin_ranking", {"margin": 0.5}, [(0.75, 0.25, 1), (0.7500001, 0.25, 1), (0.1, 0.7, -1), (0.3, -0.19, 1)]),
    ("margin_ranking", {"margin": -0.25}, [(0.1, 0.3, 1), (1e30, -1e30, -1), (0.1, 0.36, 1), (0.3, -0.1, 0.7)]),
    ("nll", {}, {"input": [[-0.1, -1e-30, -88.7]] * 3, "target": [0, 1, 2], "weight": [0.3, 1.1, 0.7]}),
    *(
        ("multi_margin", {"p": p, "margin": margin}, {"input": EDGES, "target": [0, 0, 0]})
        for p in (1, 2)
        for margin in (1.0, 0.1)
    ),
    ("multilabel_margin", {}, {"input": EDGES, "target": [[0, -1, -1, -1]] * 3}),
    # sure and right: σ(x) is within 1e-9 of the label, and -log σ of 0
    (
        "multilabel_soft_margin",
        {},
        {"input": [[20.5, -30.25, 14.125]], "target": [[1.0, 0.0, 1.0]], "weight": [[0.3, 1.0, 1.7]]},
    ),
    ("cross_entropy", {}, {"input": LOGITS, "target": CLASSES}),
    *(
        ("cross_entropy", {"label_smoothing": 0.1}, {"input": LOGITS, "target": target, **weight})
        for target in (CLASSES, SOFT)
        for weight in ({}, {"weight": WEIGHTS})
    ),
    *(
        (
            "cosine_embedding",
            {"margin": -0.5},
            {"input1": [x for x, _ in PAIRS], "input2": [y for _, y in PAIRS], "target": [target] * len(PAIRS)},
        )
        for target in (1.0, -1.0)
    ),
    *(
        ("triplet_margin", {"p": p, "swap": swap, "margin": 3.0}, TRIPLETS)
        for p in (1.0, 2.0, 3.0, 1.5, np.inf)
        for swap in (False, True)
    ),
    # logits of up to 36 from features of both signs
    (
        "fused_linear_cross_entropy",
        {},
        {
            "input": [[1.3, -2.7, 0.1, 3.9], [-0.7, 4.1, 2.3, -1.9]],
            "linear_weight": [[2.9, -3.1, 1.7, 0.3], [-1.1, 0.9, 5.3, 2.1], [0.7, 3.3, -0.1, -2.3]],
            "linear_bias": [0.3, -0.1, 0.7],
            "target": [0, 1],
        },
    ),
    # everything at once, at two positions
    *(
        (
            "fused_linear_cross_entropy",
            {"label_smoothing": 0.1, **beyond},
            {
                "input": [[1.3, -0.7, 0.1], [-0.7, 1.1, 0.3]],
                "linear_weight": [[[0.9, -0.1, 0.7], [0.3, 1.1, -0.9]], [[0.3, 0.1, -0.7], [1.3, 0.1, -0.1]]],
                "linear_bias": [[0.3, -0.1], [0.7, 0.9]],
                "target": [[[0.3, 0.9], [0.7, 0.1]], [[0.2, 0.6], [0.8, 0.4]]],
                "weight": [0.3, 1.7],
                "token_weight": [[0.7, 1.3], [0.1, 0.9]],
            },
        )
        for beyond in ({}, {"softcap": 1.5}, {"z_loss": 0.3}, {"softcap": 0.7, "z_loss": 0.1})
    ),
]

#: What may be lost, in eps. A function of NumPy's float32 costs up to 2.4 (exp), 2.2 (log1p) and 1.9 (log), a rounding
#: half. The longest way is that of bce_with_logits with both weights: log1p(exp) 3.1 together, and six roundings.
HARD_EPS = 6.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options", "given"), HARD, ids=lambda value: value if isinstance(value, str) else "")
def test_hard_numbers_are_right_to_working_precision(name, options, given, dtype):
    loss = LOSSES[LossKind[name.upper()]]
    if not isinstance(given, dict):
        columns = zip(loss.operands, zip(*given, strict=True), strict=False)
        given = {row.name: np.array(column, float) for row, column in columns}
    arrays = {operand: np.array(value) for operand, value in given.items()}
    case = samples.Case(
        "hard", 0, {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in arrays.items()}, options
    )
    define, truth = Definition(loss, case), Truth(loss, case)
    chapter = getattr(importlib.import_module(f"portaloss.reference.{name}"), name)
    items, derivatives = chapter(**define.operands, **define.options, wants=truth.wants)
    assert {np.asarray(array).dtype for array in (items, *derivatives.values())} == {np.dtype(dtype)}
    sizes = truth.gradients(LossReduction.NONE, np.ones(truth.items_shape))
    with mpmath.workdps(2 * DIGITS):  # a step is added to numbers that are up to 1e76 times as large
        operands = {operand: exact(array) for operand, array in define.operands.items()}
        want = define.exact_items(operands)
        size = define.layout.items_view(truth.loss(LossReduction.NONE).magnitude).reshape(want.shape)
        assert worst(np.asarray(items, np.float64), want, size, dtype=dtype) <= HARD_EPS
        for operand, derivative in derivatives.items():
            want, smooth = numerical_gradient(loss, define, operands, operand, 1)
            got = sum_to(np.asarray(derivative, np.float64), want.shape)
            size = define.layout.view(operand, sizes[operand].magnitude)
            assert worst(got, want, size, smooth, dtype) <= HARD_EPS, operand


@EVERY_KIND
def test_a_definition_takes_what_the_fast_code_takes(kind):
    chapter = importlib.import_module(f"portaloss.reference.{LOSSES[kind].name}")
    fast, plain = (
        inspect.signature(function).parameters for function in (getattr(chapter, LOSSES[kind].name), chapter.definition)
    )
    assert [name for name in plain if name != "xp"] == [name for name in fast if name not in ("wants", "upstream")]
    options = {option.name: fast[option.name].default for option in LOSSES[kind].options if option.changes_items}
    assert {name: plain[name].default for name in options} == options
    if LOSSES[kind].family is Family.POINTWISE:
        operands = [0.25 for row in LOSSES[kind].operands if not row.optional]
        assert chapter.definition(*operands) == chapter.definition(*map(np.array, operands))

"""Likelihoods, divergence and margins: against PyTorch in float64, and float32 against float64."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from portaloss.reference.gaussian_nll import gaussian_nll
from portaloss.reference.hinge_embedding import hinge_embedding
from portaloss.reference.kl_div import kl_div
from portaloss.reference.margin_ranking import margin_ranking
from portaloss.reference.notation import log
from portaloss.reference.poisson_nll import poisson_nll

pytestmark = pytest.mark.usefixtures("quiet")

INF, NAN = float("inf"), float("nan")

#: Kind -> the chapter, PyTorch's function, and the operands: the differentiable ones, then the others.
CHAPTERS = {
    "kl_div": (kl_div, F.kl_div, ("input", "target"), ()),
    "poisson_nll": (poisson_nll, F.poisson_nll_loss, ("input", "target"), ()),
    "gaussian_nll": (gaussian_nll, F.gaussian_nll_loss, ("input", "target", "var"), ()),
    "hinge_embedding": (hinge_embedding, F.hinge_embedding_loss, ("input",), ("target",)),
    "margin_ranking": (margin_ranking, F.margin_ranking_loss, ("input1", "input2", "target"), ()),
}


def names(kind):
    """The operands in the order of the signature."""
    return [*CHAPTERS[kind][2], *CHAPTERS[kind][3]]


def evaluate(kind, operands, **options):
    """Items, and all derivatives, under one name each."""
    chapter, _, wants, _ = CHAPTERS[kind]
    items, derivatives = chapter(*(operands[name] for name in names(kind)), **options, wants=wants)
    assert set(derivatives) == set(wants)
    return {"items": items, **derivatives}


def sizes(kind, operands, **options):
    """The chapter's magnitudes, by the same names; none where the chapter has none."""
    module = importlib.import_module(f"portaloss.reference.{kind}")
    if not hasattr(module, "magnitudes"):
        return {}
    items, derivatives = module.magnitudes(*(operands[name] for name in names(kind)), **options)
    return {"items": items, **derivatives}


def grid(kind, *values):
    """Every combination, for the operands in order."""
    axes = np.meshgrid(*(np.array(value, dtype=float) for value in values), indexing="ij")
    return {name: axis.ravel() for name, axis in zip(names(kind), axes, strict=True)}


# Against PyTorch in float64


def sizes_in_pytorch(kind, operands, options):
    """Where PyTorch adds terms that the chapter does not: 1 - t/(x + ε), and an x + ε that is rounded."""
    if kind == "poisson_nll" and not options.get("log_input", True):
        x, t = operands["input"], operands["target"]
        return {"items": np.abs(x) + np.abs(t), "input": 1 + np.abs(t / (x + options["eps"])), "target": 1.0}
    return {}


def against_torch(kind, operands, **options):
    """Run both; items and gradients must agree, nan and inf included, to 1e-12 of the size of the terms."""
    _, function, wants, _ = CHAPTERS[kind]
    before = {name: array.copy() for name, array in operands.items()}
    found = evaluate(kind, operands, **options)
    for name, array in operands.items():
        np.testing.assert_array_equal(array, before[name], err_msg=f"{name} was changed")
    assert {array.dtype for array in found.values()} == {np.dtype(np.float64)}

    tensors = {name: torch.tensor(array, requires_grad=name in wants) for name, array in operands.items()}
    theirs = function(**tensors, **options, reduction="none")
    upstream = np.random.default_rng(0).uniform(0.5, 2.0, found["items"].shape)
    gradients = torch.autograd.grad(theirs, [tensors[name] for name in wants], torch.tensor(upstream))

    terms, further = sizes(kind, operands, **options), sizes_in_pytorch(kind, operands, options)
    want = {"items": theirs.detach().numpy(), **{w: g.numpy() for w, g in zip(wants, gradients, strict=True)}}
    for name, expected in want.items():
        factor = 1.0 if name == "items" else upstream
        got, size = found[name] * factor, (terms.get(name, 0.0) + further.get(name, 0.0)) * factor
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=f"nan in {name}")
        infinite = np.isinf(expected)
        np.testing.assert_array_equal(got[infinite], expected[infinite], err_msg=f"inf in {name}")
        size = np.fmax(np.abs(expected), np.where(np.isfinite(size), size, 0.0))
        judged = np.isfinite(expected)
        error = np.abs(got - expected)[judged]
        # among subnormals PyTorch's vectorised exp is 0
        excess = error - (1e-12 * size[judged] + np.finfo(float).tiny)
        assert (excess <= 0).all(), (name, options, np.argwhere(judged)[excess.argmax()], excess.max())


#: None below 1e-310: PyTorch's gradient multiplies by t and divides by it.
PROBABILITIES = [0.0, -0.0, 1e-310, 1e-300, 1e-20, 0.25, 0.5, 0.7828563, 1 - 2.0**-53, 1.0]


def test_kl_div_is_pytorchs_at_zero_probabilities_and_beyond():
    x = [0.0, -0.0, -1e-300, -0.3, -1.0, -1e4, -1e300, 2.0, INF, -INF, NAN]
    against_torch("kl_div", grid("kl_div", x, [*PROBABILITIES, 2.0, 1e200, -1.0, INF, -INF, NAN]))
    logs = [0.0, -0.3, -1.0, -700.0, -745.0, -800.0, -1e4, 1.0, 700.0, 800.0, INF, -INF, NAN]
    against_torch("kl_div", grid("kl_div", x, logs), log_target=True)


def test_kl_div_where_the_model_is_right_is_zero():
    t = np.random.default_rng(4).uniform(0.0, 1.0, 1000)
    # t and exp(log t) differ by as much as log t does from its rounding
    against_torch("kl_div", {"input": np.log(t), "target": t})
    items, _ = kl_div(np.log(t), np.log(t), log_target=True)
    np.testing.assert_array_equal(items, 0.0)


COUNTS = [0.0, -0.0, 1e-310, 1e-9, 0.5, 1 - 2.0**-53, 1.0, 1 + 2.0**-52, 1.1, 1.15, 2.0, np.e, 3.0, 1e4, 1e15]
OUTSIDE = [-1.0, -2.5, INF, -INF, NAN]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("eps", [1e-8, 1e-2, 0.0, 1.0])
def test_poisson_nll_is_pytorchs_at_extremes(full, eps):
    x = [0.0, -0.0, 1e-300, 0.5, 1.0, -1.0, 3.0, 700.0, -700.0, -745.0, 800.0, -800.0, 1e4, -1e4, INF, -INF, NAN]
    against_torch("poisson_nll", grid("poisson_nll", x, COUNTS + OUTSIDE), full=full)
    near_one = [1 - 2.0**-53, 1 + 2.0**-52, 1 - eps, 1 - 2 * eps, 1 + eps]
    rates = [0.0, -0.0, 5e-324, 1e-300, eps, eps / 3, -eps, -eps / 2, -1.0, 0.5, 3.0, 1e4, 1e300, INF, -INF, NAN]
    options = {"log_input": False, "full": full, "eps": eps}
    against_torch("poisson_nll", grid("poisson_nll", rates, COUNTS + OUTSIDE), **options)
    # no infinite counts: they multiply what PyTorch rounds to 0, and the chapter does not
    against_torch("poisson_nll", grid("poisson_nll", near_one, [*COUNTS, -1.0, NAN]), **options)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_gaussian_nll_is_pytorchs_at_extremes(full, eps):
    # squares that overflow are for the next test
    numbers = [0.0, -0.0, 1.0, -1.0, 0.3, 1e-200, 1e4, -1e150, INF, -INF, NAN]
    below, above = np.nextafter(eps, 0.0), np.nextafter(eps, 1.0)
    variances = [0.0, -0.0, 5e-324, 1e-300, below, eps, above, 0.3, 1.0, 1 + 2.0**-52, 1e4, 1e300, INF, NAN]
    operands = grid("gaussian_nll", numbers, numbers, variances)
    against_torch("gaussian_nll", operands, full=full, eps=eps)


@pytest.mark.parametrize("margin", [1.0, 0.25, 0.0, -0.5, 1e300, INF, -INF, NAN])
def test_hinge_embedding_is_pytorchs_at_kinks_and_extremes(margin):
    """Targets other than 1 and -1 too."""
    x = [*np.arange(-16, 17) / 8, -0.0, 1e4, -1e4, 1.7e308, -1.7e308, INF, -INF, NAN]
    x += [np.nextafter(edge, to) for edge in (1.0, 0.25, -0.5) for to in (INF, -INF)]
    targets = [1.0, -1.0, 0.0, -0.0, 2.0, 0.5, 1 + 2.0**-52, INF, -INF, NAN]
    against_torch("hinge_embedding", grid("hinge_embedding", x, targets), margin=margin)


@pytest.mark.parametrize("margin", [0.0, 0.5, -0.25, INF, -INF, NAN])
def test_margin_ranking_is_pytorchs_at_kinks_and_extremes(margin):
    """On a grid of quarters, with ties and leads that are the margin exactly; and targets other than 1 and -1."""
    x = [*np.arange(-4, 5) / 4, -0.0, np.nextafter(0.5, 1.0), 1e4, -1.7e308, 1.7e308, INF, -INF, NAN]
    targets = [1.0, -1.0, 0.0, -0.0, 3.0, -0.5, INF, -INF, NAN]
    operands = grid("margin_ranking", x, x, targets)
    against_torch("margin_ranking", operands, margin=margin)
    if np.isfinite(margin):
        short = margin - operands["target"] * (operands["input1"] - operands["input2"])
        assert (short == 0).sum() >= 9  # the kink is met


# float32 against float64 on the same numbers

#: In units in the last place, at max(|truth|, magnitude).
ULPS = 4.0
COUNT = 20_000


def check_float32(kind, operands, options):
    narrow = {name: array.astype(np.float32) for name, array in operands.items()}
    wide = {name: array.astype(np.float64) for name, array in narrow.items()}
    found, truth = evaluate(kind, narrow, **options), evaluate(kind, wide, **options)
    terms = sizes(kind, wide, **options)
    for name, want in truth.items():
        got = found[name]
        assert got.dtype == np.float32, name
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=f"nan in {name}")
        size = np.fmax(np.abs(want), terms.get(name, 0.0))
        error = np.abs(got - want) / np.spacing(size.astype(np.float32)).astype(np.float64)
        error = np.where(np.isfinite(want), error, 0.0)
        worst = error.argmax()
        at = {operand: array[worst] for operand, array in narrow.items()}
        assert error[worst] <= ULPS, (kind, options, name, error[worst], at)


def test_float32_kl_div_of_a_sure_model_and_of_a_right_one():
    """x next to 0, so that the log stands alone; and x next to log t, so that little is left of it."""
    rng = np.random.default_rng(8)
    for t in (rng.uniform(0.5, 1.0, COUNT), 10.0 ** rng.uniform(-44, 0, COUNT), 1 - 10.0 ** rng.uniform(-7, -1, COUNT)):
        for x in (-1e-6 * rng.random(COUNT), np.log(t) * (1 + 1e-3 * rng.standard_normal(COUNT))):
            check_float32("kl_div", {"input": x, "target": t}, {})
            # exp(t) is subnormal below -87, where the last place of p is a large part of it
            check_float32("kl_div", {"input": x, "target": np.maximum(np.log(t), -87.0)}, {"log_target": True})


@pytest.mark.parametrize("full", [False, True])
def test_float32_poisson_nll_next_to_its_best(full):
    """Rates next to the counts, and next to 1, where log is next to 0."""
    rng = np.random.default_rng(9)
    t = rng.poisson(3.0, COUNT) + rng.random(COUNT)
    check_float32("poisson_nll", {"input": np.log(t), "target": t}, {"full": full})
    near_one = 1 + 10.0 ** rng.uniform(-8, -0.5, COUNT) * rng.choice([-1, 1], COUNT)
    for eps in (1e-8, 1e-2):
        options = {"log_input": False, "full": full, "eps": eps}
        check_float32("poisson_nll", {"input": t * (1 + 1e-4 * rng.standard_normal(COUNT)), "target": t}, options)
        check_float32("poisson_nll", {"input": near_one - eps, "target": t}, options)
        check_float32("poisson_nll", {"input": 10.0 ** rng.uniform(-20, 10, COUNT), "target": t}, options)


def test_float32_gaussian_nll_of_variances_next_to_one_and_to_the_square():
    rng = np.random.default_rng(10)
    x, t = 2 * rng.standard_normal((2, COUNT))
    for var in (1 + 0.3 * (rng.random(COUNT) - 0.5), (x - t) ** 2 * (1 + 1e-3 * rng.standard_normal(COUNT))):
        check_float32("gaussian_nll", {"input": x, "target": t, "var": np.abs(var)}, {})
        check_float32("gaussian_nll", {"input": t + 1e-3 * x, "target": t, "var": np.abs(var)}, {})


def test_log_is_within_two_and_a_half_units_in_the_last_place():
    rng = np.random.default_rng(11)
    for low, high in ((-100.0, 88.0), (-0.7, 0.7), (-1e-3, 1e-3)):
        x = np.exp(rng.uniform(low, high, COUNT)).astype(np.float32)
        truth = np.log(x.astype(np.float64))
        error = np.abs(log(x) - truth) / np.spacing(np.abs(truth).astype(np.float32))
        assert error.max() <= 2.5
    np.testing.assert_array_equal(log(np.array([0.0, -0.0, 1.0, INF, -1.0, NAN])), [-INF, -INF, 0.0, INF, NAN, NAN])

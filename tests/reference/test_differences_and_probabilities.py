"""Squared, absolute and binary losses: against PyTorch in float64, and float32 against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from portaloss.reference import bce_with_logits as logits_module
from portaloss.reference.bce import bce
from portaloss.reference.bce_with_logits import bce_with_logits
from portaloss.reference.huber import huber
from portaloss.reference.l1 import l1
from portaloss.reference.mse import mse
from portaloss.reference.smooth_l1 import smooth_l1

pytestmark = pytest.mark.usefixtures("quiet")

INF, NAN = float("inf"), float("nan")
CHAPTERS = {
    "mse": (mse, F.mse_loss),
    "l1": (l1, F.l1_loss),
    "smooth_l1": (smooth_l1, F.smooth_l1_loss),
    "huber": (huber, F.huber_loss),
    "bce": (bce, F.binary_cross_entropy),
    "bce_with_logits": (bce_with_logits, F.binary_cross_entropy_with_logits),
}
#: Kinds of a difference x - t: the chapter, its options, and whether it takes a weight.
DIFFERENCES = [
    ("mse", {}, True),
    ("l1", {}, True),
    *[("smooth_l1", {"beta": beta}, False) for beta in (0.0, 0.25, 1.0, 3.0)],
    *[("huber", {"delta": delta}, True) for delta in (0.25, 1.0, 3.0)],
]


def differentiable(kind, operands):
    """The operands that both PyTorch and the catalogue differentiate."""
    fixed = {"pos_weight"} if kind in ("mse", "l1", "huber") else {"weight", "pos_weight"}
    return [name for name in operands if name not in fixed]


def sizes_in_pytorch(kind, *, input, target, weight=None, pos_weight=None):
    """The sums of the |terms| that PyTorch adds up, where they may cancel: its own error is relative to those."""
    x, t = input, target
    w = 1.0 if weight is None else np.abs(weight)
    if kind == "bce":
        # each log, also where a chapter takes one of the two out
        return {"target": (np.abs(np.log(x)) + np.abs(np.log1p(-x))) * w}
    if kind == "bce_with_logits":
        p = 1.0 if pos_weight is None else pos_weight
        soft = np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0)
        both = 1 + np.abs((p - 1) * t)
        return {
            "items": (np.abs(1 - t) * np.abs(x) + both * soft) * w,
            "input": (both + np.abs(p * t)) * w,
            "target": (p * soft + (soft + np.abs(x))) * w,
        }
    return {}


def against_torch(kind, operands, **options):
    """Run both; items and gradients must agree, nan and inf included, to 1e-12 of the size of PyTorch's terms."""
    chapter, function = CHAPTERS[kind]
    wants = differentiable(kind, operands)
    before = {name: array.copy() for name, array in operands.items()}
    items, derivatives = chapter(**operands, **options, wants=wants)
    for name, array in operands.items():
        np.testing.assert_array_equal(array, before[name], err_msg=f"{name} was changed")
    assert set(derivatives) == set(wants)
    assert {array.dtype for array in (items, *derivatives.values())} == {np.dtype(np.float64)}

    tensors = {name: torch.tensor(array, requires_grad=name in wants) for name, array in operands.items()}
    theirs = function(**tensors, **options, reduction="none")
    upstream = np.random.default_rng(0).uniform(0.5, 2.0, items.shape)
    grads = torch.autograd.grad(theirs, [tensors[name] for name in wants], torch.tensor(upstream))

    found = {"items": (items, theirs.detach().numpy(), 1.0)}
    for name, grad in zip(wants, grads, strict=True):
        found[name] = (derivatives[name] * upstream, grad.numpy(), np.abs(upstream))
    terms = sizes_in_pytorch(kind, **operands)
    for name, (got, want, scale) in found.items():
        size = np.nan_to_num(np.abs(want)) + np.nan_to_num(terms.get(name, 0.0) * scale, nan=0.0, posinf=0.0)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=f"nan in {name}")
        np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)], err_msg=f"inf in {name}")
        judged = np.isfinite(want)
        error = np.abs(got[judged] - want[judged])
        # among subnormals PyTorch's vectorised exp is 0
        excess = error - (1e-12 * size[judged] + np.finfo(float).tiny)
        assert (excess <= 0).all(), (name, options, {n: a[judged][excess.argmax()] for n, a in operands.items()})


def grid(*values):
    """Every combination."""
    return [axis.ravel() for axis in np.meshgrid(*(np.array(value, dtype=float) for value in values), indexing="ij")]


# Against PyTorch in float64


@pytest.mark.parametrize(("kind", "options", "takes_weight"), DIFFERENCES)
def test_ties_and_kinks_are_pytorchs(kind, options, takes_weight):
    # on a grid of eighths, with every |e| up to 4: x == t, |e| == beta and |e| == delta, exactly and on both sides
    x, t = grid(np.arange(-16, 17) / 8, np.arange(-16, 17) / 8)
    against_torch(kind, {"input": x, "target": t}, **options)
    if takes_weight:
        w = np.random.default_rng(3).choice([0.0, 0.5, 1.0, 3.0], x.shape)
        against_torch(kind, {"input": x, "target": t, "weight": w}, **options)
    # one rounding away from the kink: e = ±(edge ± one unit in the last place)
    edge = options.get("beta", options.get("delta", 1.0))
    e = np.array([np.nextafter(edge, -INF), edge, np.nextafter(edge, INF)])
    against_torch(kind, {"input": np.concatenate([e, -e]), "target": np.zeros(6)}, **options)


@pytest.mark.parametrize(("kind", "options", "takes_weight"), DIFFERENCES)
@pytest.mark.parametrize("weight", [None, 0.0, 0.7, INF, NAN])
def test_differences_treat_extremes_nan_and_inf_as_pytorch_does(kind, options, takes_weight, weight):
    if weight is not None and not takes_weight:
        pytest.skip("takes no weight")
    values = [0.0, -0.0, 1.0, -1.0, 0.3, 1e4, -1e4, INF, -INF, NAN]
    if weight is None or kind != "mse":
        # squares that are inf or 0; a weight of 0 or inf makes nan of PyTorch's, but not of (w e) e
        values += [1e-170, -1e160, 1.7e308, -1.7e308]
    x, t = grid(values, values)
    operands = {"input": x, "target": t}
    if weight is not None:
        operands["weight"] = np.full_like(x, weight)
    against_torch(kind, operands, **options)


# PyTorch refuses probabilities that are nan or outside [0, 1].
PROBABILITIES = [0.0, -0.0, 5e-324, 1e-310, 1e-300, 1e-45, 3e-44, 5e-44, 1e-13, 5e-13, 1e-12, 1e-3, 0.25, 0.3, 0.49999]
PROBABILITIES += [0.5, 0.5 + 2.0**-52, 0.50001, 0.75, 0.999, 1 - 1e-12, 1 - 1e-13, 1 - 2.0**-53, 1.0]


@pytest.mark.parametrize("weight", [None, 0.0, 0.7, INF, NAN])
def test_bce_clamps_as_pytorch_does(weight):
    x, t = grid(PROBABILITIES, [0.0, 1e-300, 0.3, 0.5, 0.75, 1 - 2.0**-53, 1.0])
    operands = {"input": x, "target": t}
    if weight is not None:
        operands["weight"] = np.full_like(x, weight)
    against_torch("bce", operands)


def test_bce_passes_nan_on():
    """PyTorch raises for such a probability; a chapter has no errors to raise."""
    x, t = np.array([NAN, 0.3, NAN]), np.array([0.3, NAN, NAN])
    items, derivatives = bce(x, t, wants=("input", "target"))
    assert np.isnan(items).all()
    assert np.isnan(derivatives["input"]).all()
    np.testing.assert_array_equal(np.isnan(derivatives["target"]), np.isnan(x))


LOGITS = [0.0, 1e-20, 0.5, 2.0, 17.0, 40.0, 700.0, 745.0, 1e4, 1e300, INF]


@pytest.mark.parametrize("weight", [None, 0.0, 2.0, INF, NAN])
@pytest.mark.parametrize("pos_weight", [None, 0.0, 1e-9, 0.5, 1.0, 2.5, NAN])
def test_bce_with_logits_treats_extremes_nan_and_inf_as_pytorch_does(weight, pos_weight):
    if weight == INF and pos_weight in (1e-9, 1.0):
        pytest.skip("inf times what PyTorch rounds to 0, or does not: (p - 1) t + 1 and p t differ by a rounding")
    # likewise between 17 and the logits whose exp(-|x|) is 0 here too: PyTorch rounds small costs to 0
    logits = [x for x in LOGITS if weight != INF or not 17 < x < 1e4]
    x, t = grid([*logits, *[-x for x in logits], NAN], [0.0, 0.3, 1.0, 1.5, -1.0, NAN])
    operands = {"input": x, "target": t}
    if weight is not None:
        operands["weight"] = np.full_like(x, weight)
    if pos_weight is not None:
        operands["pos_weight"] = np.full_like(x, pos_weight)
    against_torch("bce_with_logits", operands)


def test_smooth_l1_with_a_beta_that_float32_rounds_to_zero_is_l1():
    x, t = np.array([0.0, 1e-30, -2.0], np.float32), np.zeros(3, np.float32)
    for beta in (0.0, 1e-60):
        items, derivatives = smooth_l1(x, t, beta=beta, wants=("input",))
        np.testing.assert_array_equal(items, np.abs(x))
        assert derivatives["input"].tolist() == [0.0, 1.0, -1.0]
    # the smallest that it does not
    items, derivatives = smooth_l1(x, t, beta=1e-45, wants=("input",))
    np.testing.assert_array_equal(items, np.abs(x))
    assert derivatives["input"].tolist() == [0.0, 1.0, -1.0]


# float32 against float64 on the same numbers

#: In units in the last place, at max(|truth|, magnitude). log1p(e) alone is off by up to 3.1, and rounding a product
#: moves a result by up to half a unit, or a whole one if it is then just above a power of two. A pos_weight takes five
#: roundings, of which some cancel: 1 element in 100,000 is off by more than 4, and none of 20 million by 6.
ULPS = 4.0
ULPS_WITH_POS_WEIGHT = 6.0


def check_float32(kind, operands, **options):
    assert {array.dtype for array in operands.values()} == {np.dtype(np.float32)}
    chapter, _ = CHAPTERS[kind]
    wants = differentiable(kind, operands)
    wide = {name: array.astype(np.float64) for name, array in operands.items()}
    items, derivatives = chapter(**operands, **options, wants=wants)
    truth, slopes = chapter(**wide, **options, wants=wants)
    sizes = logits_module.magnitudes(**wide) if kind == "bce_with_logits" else (truth, slopes)
    found = {"items": (items, truth, sizes[0])}
    found |= {name: (derivatives[name], slopes[name], sizes[1][name]) for name in wants}
    allowed = ULPS_WITH_POS_WEIGHT if "pos_weight" in operands else ULPS
    for name, (got, want, size) in found.items():
        assert got.dtype == np.float32, name
        unit = np.spacing(np.maximum(np.abs(want), np.abs(size)).astype(np.float32)).astype(np.float64)
        error = np.abs(got - want) / unit
        assert error.max() <= allowed, (kind, name, error.max(), {n: a[error.argmax()] for n, a in operands.items()})


COUNT = 20_000


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("hard", [False, True])
def test_float32_bce_near_zero_one_and_a_half(weighted, hard):
    rng = np.random.default_rng(8)
    small, large = 10.0 ** rng.uniform(-45, 0, COUNT), 1 - 10.0 ** rng.uniform(-7, 0, COUNT)
    for x in (small, large, 0.5 + 1e-3 * rng.standard_normal(COUNT), 0.75 + 0.03 * rng.standard_normal(COUNT)):
        operands = {"input": x, "target": rng.integers(0, 2, COUNT) if hard else rng.random(COUNT)}
        if weighted:
            operands["weight"] = rng.uniform(0.5, 2.0, COUNT)
        check_float32("bce", {name: array.astype(np.float32) for name, array in operands.items()})


@pytest.mark.parametrize("weights", [(), ("weight",), ("pos_weight",), ("weight", "pos_weight")])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("scale", [0.1, 5.0, 30.0, 1e4])
def test_float32_bce_with_logits_of_small_and_large_logits(weights, hard, scale):
    rng = np.random.default_rng(9)
    operands = {
        "input": scale * rng.standard_normal(COUNT),
        "target": rng.integers(0, 2, COUNT) if hard else rng.random(COUNT),
    }
    for name in weights:
        # not above 1: a weight would multiply the last place of a subnormal, too
        operands[name] = rng.uniform(0.1, 1.0, COUNT)
    check_float32("bce_with_logits", {name: array.astype(np.float32) for name, array in operands.items()})

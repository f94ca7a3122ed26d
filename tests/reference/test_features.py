"""Multilabel soft margin, cosine embedding and triplet margin: against PyTorch, and float32 against float64."""

import importlib
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from portaloss.reference.cosine_embedding import cosine_embedding
from portaloss.reference.multilabel_soft_margin import multilabel_soft_margin
from portaloss.reference.rows import sum_products
from portaloss.reference.triplet_margin import triplet_margin

INF, NAN = math.inf, math.nan

#: Chapter -> PyTorch's function, operands, and which of them have derivatives.
KINDS = {
    multilabel_soft_margin: (
        functional.multilabel_soft_margin_loss,
        ("input", "target", "weight"),
        ("input", "target", "weight"),
    ),
    cosine_embedding: (functional.cosine_embedding_loss, ("input1", "input2", "target"), ("input1", "input2")),
    triplet_margin: (
        functional.triplet_margin_loss,
        ("anchor", "positive", "negative"),
        ("anchor", "positive", "negative"),
    ),
}


def magnitudes(chapter, operands, options):
    module = importlib.import_module(chapter.__module__)
    return module.magnitudes(*operands, **options)


def evaluate(chapter, operands, options):
    """Items and all derivatives."""
    names = KINDS[chapter][1][: len(operands)]
    wants = [name for name in KINDS[chapter][2] if name in names]
    with np.errstate(all="ignore"):
        return chapter(*operands, **options, wants=wants)


def evaluate_torch(chapter, operands, options):
    """The same from PyTorch's autograd. Its features are last, ours on axis 1."""
    function, names, differentiable = KINDS[chapter]
    tensors = {}
    for name, array in zip(names, operands, strict=False):
        tensor = torch.from_numpy(np.moveaxis(array, 1, -1).copy())
        if name == "target" and chapter is cosine_embedding:
            tensor = tensor[..., 0]
        tensors[name] = tensor.requires_grad_(name in differentiable)
    items = function(**tensors, **options, reduction="none")
    wanted = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(items.sum(), list(wanted.values()), allow_unused=True)
    derivatives = {
        # no gradient at all (p = 0) is PyTorch's way to say zero
        name: np.moveaxis((torch.zeros_like(tensor) if gradient is None else gradient).numpy(), -1, 1)
        for (name, tensor), gradient in zip(wanted.items(), gradients, strict=True)
    }
    return items.detach().numpy()[:, None], derivatives


def assert_same(actual, truth, magnitude, bound):
    """The same pattern of nan and inf, and elsewhere an error within bound times max(|truth|, magnitude)."""
    assert actual.shape == truth.shape
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(actual[~finite], truth[~finite])
    scale = np.maximum(np.abs(truth), np.nan_to_num(magnitude, nan=0.0, posinf=0.0))
    error, allowed = np.abs(actual - truth)[finite], (bound * scale)[finite]
    assert (error <= allowed).all(), f"{(error - allowed).max():.3g} more than the {bound} of the magnitude allowed"


def compare_with_torch(chapter, operands, options):
    """In float64, within 1e-12 of the magnitude: thousands of roundings; PyTorch's pow alone makes 100 at 1e200."""
    before = [operand.copy() for operand in operands]
    with np.errstate(all="ignore"):
        item_size, sizes = magnitudes(chapter, operands, options)
        if chapter is multilabel_soft_margin:
            # ours is -x; PyTorch's is a difference of log σ(x) and log σ(-x), of which one is at least log 2
            weight = 1.0 if len(operands) < 3 else np.abs(operands[2])
            sizes["target"] = sizes["target"] + weight / operands[0].shape[1]
        items, derivatives = evaluate(chapter, operands, options)
        expected, gradients = evaluate_torch(chapter, operands, options)
        assert_same(items, expected, np.broadcast_to(item_size, items.shape), 1e-12)
        assert derivatives.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert_same(derivatives[name], gradient, np.broadcast_to(sizes[name], gradient.shape), 1e-12)
    for operand, copy in zip(operands, before, strict=True):
        np.testing.assert_array_equal(operand, copy)


def random(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng((seed, *shape)).standard_normal(shape)


# Against PyTorch: multilabel soft margin


def test_multilabel_soft_margin_extremes():
    values = [0.0, 1e-300, 1.0, 30.0, 800.0, 1e4, 1e300, INF, NAN]
    values += [-value for value in values]
    x, t = (grid.reshape(-1, 1) for grid in np.meshgrid(values, [0.0, 1.0, 0.5, NAN, 2.0, -1.0]))
    for weight in (None, 0.0, 2.0, NAN):
        compare_with_torch(multilabel_soft_margin, [x, t] if weight is None else [x, t, np.full_like(x, weight)], {})


def test_multilabel_soft_margin_without_classes():
    with np.errstate(invalid="ignore"):
        items, derivatives = multilabel_soft_margin(np.ones((2, 0)), np.ones((2, 0)), wants=("input", "target"))
    expected = functional.multilabel_soft_margin_loss(*torch.ones(2, 2, 0), reduction="none")
    np.testing.assert_array_equal(items[:, 0], expected)
    assert derivatives["input"].shape == derivatives["target"].shape == (2, 0)


# Against PyTorch: cosine embedding

#: Similar, not similar, and what counts as neither.
TARGETS = np.array([1.0, -1.0, 0.0, 0.5, -2.0, NAN])[:, None]


@pytest.mark.parametrize("margin", [0.0, 0.5, -0.25])
@pytest.mark.parametrize("features", [1, 2, 7, 300])
def test_cosine_embedding_is_torchs(features, margin):
    for scale in (1.0, 1e-6, 1e5):  # the middle one is where ε matters
        x, y = random(6, features, scale=scale), random(6, features, seed=1, scale=scale)
        for shift in range(len(TARGETS)):
            compare_with_torch(cosine_embedding, [x, y, np.roll(TARGETS, shift)], {"margin": margin})


@pytest.mark.parametrize(
    ("x", "y", "margin"),
    [
        ([1.0, 0.0], [0.0, 1.0], 0.0),  # cos = margin exactly
        ([3.0, 4.0], [4.0, 3.0], 0.96),
        ([0.0, 0.0], [1.0, 2.0], 0.0),
        ([0.0, 0.0], [0.0, 0.0], -0.25),
        ([1.0, 2.0], [1.0, 2.0], 1.0),
        ([1.0, 2.0], [-1.0, -2.0], -1.0),
        ([1e-200, 0.0], [1e-100, 0.0], 0.0),
        ([1e100, 0.0], [1e-100, 0.0], 0.0),
        ([1e200, 0.0], [0.0, 1.0], 0.0),  # x·x overflows, x·y does not
        ([1e200, 0.0], [1e200, 0.0], 0.0),
        ([INF, 1.0], [1.0, 1.0], 0.0),
        ([INF, 1.0], [0.0, 1.0], 0.0),
        ([NAN, 1.0], [1.0, 1.0], 0.0),
        ([NAN, INF], [0.0, 0.0], 0.0),
    ],
)
def test_cosine_embedding_at_ties_zeros_and_extremes(x, y, margin):
    rows = len(TARGETS)
    x, y = np.tile(x, (rows, 1)), np.tile(y, (rows, 1))
    compare_with_torch(cosine_embedding, [x, y, TARGETS], {"margin": margin})
    compare_with_torch(cosine_embedding, [y, x, TARGETS], {"margin": margin})


def test_cosine_embedding_where_torchs_product_of_squares_overflows():
    x = np.array([[3e100, 4e100], [4e100, 3e100]])
    y, t = x[::-1] * 1e3, np.array([[1.0], [-1.0]])
    items, derivatives = evaluate(cosine_embedding, [x, y, t], {})
    np.testing.assert_allclose(items[:, 0], [0.04, 0.96], rtol=1e-13)  # 1 - cos has lost two digits
    np.testing.assert_allclose(derivatives["input1"][0] * 1e100, [-0.0448, 0.0336], rtol=1e-13)
    # PyTorch's cosine is 0 there, as finite as ours
    expected, gradients = evaluate_torch(cosine_embedding, [x, y, t], {})
    assert expected.tolist() == [[1.0], [0.0]]
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_cosine_embedding_along_axis_1():
    """PyTorch has two dimensions at most; with more, each column is a pair of its own."""
    x, y, t = random(4, 3, 2), random(4, 3, 2, seed=1), np.resize([1.0, -1.0], (4, 1, 2))
    items, derivatives = evaluate(cosine_embedding, [x, y, t], {})
    for i in range(2):
        column, slopes = evaluate(cosine_embedding, [x[..., i], y[..., i], t[..., i]], {})
        np.testing.assert_allclose(items[..., i], column, rtol=1e-13)
        np.testing.assert_allclose(derivatives["input2"][..., i], slopes["input2"], rtol=1e-13)


# Against PyTorch: triplet margin

EXPONENTS = [1.0, 2.0, 3.0, 1.5, INF, 0.0, 2.5, 0.5, -1.0, -INF]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("p", EXPONENTS)
def test_triplet_margin_at_ties_and_zeros(p, swap):
    """Small whole numbers: zero differences, equal maxima, equal distances, and margin + d - d = 0, all of it often."""
    rng = np.random.default_rng(3)
    operands = list(rng.integers(0, 3, (3, 400, 2)).astype(float))
    # other powers of whole numbers are not exact, so that a whole margin would leave ±1e-16 where it should leave 0
    margin = 1.0 if p in (0.0, 1.0, 2.0, INF, -INF) else 0.5
    options = {"p": p, "swap": swap, "margin": margin, "eps": 0.0}
    compare_with_torch(triplet_margin, operands, options)

    a, b, c = operands
    assert (a == b).all(axis=1).any()
    if margin == 1.0:
        near = np.linalg.norm(a - b, p, axis=1)
        far = np.linalg.norm(a - c, p, axis=1)
        assert (1 + near == far).any()


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("p", [p for p in EXPONENTS if p != -1.0])  # its powers overflow in another order
def test_triplet_margin_extremes(p, swap):
    values = np.array([0.0, 1.0, -2.0, 1e-200, 1e200, -1e200, 1e160, INF, -INF, NAN])
    rng = np.random.default_rng(4)
    operands = [rng.choice(values, (600, 2)) for _ in range(3)]
    compare_with_torch(triplet_margin, operands, {"p": p, "swap": swap, "eps": 0.0})


def test_equal_sides_of_a_triplet_share_the_gradient_in_any_layout():
    """Where a = b, d(a, c) = d(b, c) exactly, however the operands are stored."""
    rng = np.random.default_rng(5)
    a = rng.standard_normal((50, 300)).astype(np.float32)
    c = rng.standard_normal((50, 300)).astype(np.float32)
    by_columns = [np.asfortranarray(array) for array in (a, c)]
    options = {"p": 2.0, "swap": True, "margin": 100.0, "eps": 0.0}
    for operands in ([a, by_columns[0], by_columns[1]], [by_columns[0], a, c], [a, by_columns[0], c]):
        _, derivatives = evaluate(triplet_margin, operands, options)
        # half of g(a, c) for each of a and b, whose own distance is 0 and has no slope
        np.testing.assert_array_equal(derivatives["anchor"], derivatives["positive"])
        assert (derivatives["anchor"] != 0).any()


def test_a_power_of_a_cancelled_difference():
    """u^0.555 magnifies the error of a small u = x - y + ε, which is therefore rounded once: to half a unit."""
    rng = np.random.default_rng(6)
    x, far = np.zeros((2000, 5), np.float32), np.full((2000, 5), 9, np.float32)
    y = (1.555 + 10.0 ** rng.uniform(-7, -3, x.shape)).astype(np.float32)
    options = {"p": 1.555, "eps": 1.555, "margin": 100.0}
    _, derivatives = evaluate(triplet_margin, [x, y, far], options)
    _, truth = evaluate(triplet_margin, [x.astype(float), y.astype(float), far.astype(float)], options)
    error = np.abs(derivatives["positive"] - truth["positive"]) / np.spacing(
        np.abs(truth["positive"], dtype=np.float32)
    )
    assert error.max() <= 4


def test_an_exponent_that_float32_rounds():
    """u^3.3 of u = e^9: an error of the exponent is multiplied by 9."""
    rng = np.random.default_rng(7)
    a, b, c = (np.exp(rng.uniform(0, 9, (500, 5))).astype(np.float32) for _ in range(3))
    options = {"p": 4.3, "eps": 0.0, "margin": 1e9}
    _, derivatives = evaluate(triplet_margin, [a, b, c], options)
    _, truth = evaluate(triplet_margin, [each.astype(float) for each in (a, b, c)], options)
    unit = np.spacing(np.abs(truth["positive"], dtype=np.float32))
    assert (np.abs(derivatives["positive"] - truth["positive"]) <= unit).all()


def test_triplet_margin_without_features():
    operands = [np.ones((2, 0))] * 3
    for p in (1.0, 2.0, 3.0, 0.0):
        compare_with_torch(triplet_margin, operands, {"p": p})


# float32 against float64


def worst_ulps(actual, truth, magnitude):
    size = np.maximum(np.abs(truth), magnitude).astype(np.float32)
    return (np.abs(actual.astype(float) - truth) / np.spacing(size).astype(float)).max()


@pytest.mark.parametrize("length", [1, 3, 256, 257, 1000, 40_000])
def test_sums_of_long_rows_stay_accurate(length):
    """float32 terms within 3 of its ulp of the sum of |terms|, whatever the length: chains of 32, added in float64.

    The worst case is half an ulp for each of 32 additions and the product; signs that are not all equal leave a root.
    """
    x, y = (random(3, length, 2, seed=i).astype(np.float32) for i in range(2))
    exact_x, exact_y = x.astype(float), y.astype(float)
    for actual, terms in (
        (sum_products(x, y), exact_x * exact_y),
        (sum_products(x, x[:1]), exact_x * exact_x[:1]),
        (sum_products(np.abs(x)), np.abs(exact_x)),
        (sum_products(x, y[:, :1]), exact_x * exact_y[:, :1]),
        (sum_products(x.T.copy().T, y), exact_x * exact_y),
        (sum_products(np.moveaxis(np.moveaxis(x, 1, 2).copy(), 2, 1), x), exact_x * exact_x),
    ):
        assert actual.shape == (3, 1, 2)
        assert actual.dtype == np.float64
        truth, size = terms.sum(axis=1, keepdims=True), np.abs(terms).sum(axis=1, keepdims=True)
        assert worst_ulps(actual, truth, size) <= 3

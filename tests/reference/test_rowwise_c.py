"""The chapters whose target is a class: against PyTorch in float64, against mpmath, and float32 against float64."""

from __future__ import annotations

import doctest
import importlib

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from portaloss.reference.cross_entropy import cross_entropy, magnitudes
from portaloss.reference.multi_margin import multi_margin
from portaloss.reference.multilabel_margin import multilabel_margin
from portaloss.reference.nll import divisor
from portaloss.reference.nll import nll as nll_one_hot
from portaloss.reference.notation import OneHot
from portaloss.reference.rows import rows, sum_rows, unrows

INF, NAN = float("inf"), float("nan")
#: Short and long rows, both ways of storing them, one class, one row, no rows.
SHAPES = [(4, 7), (70, 3), (3, 100), (5, 1), (1, 6), (0, 4), (2, 5, 3), (2, 66, 3, 2), (1, 70, 80)]


def nll(*operands, **options):
    """The chapter, with its derivatives as whole arrays."""
    items, derivatives = nll_one_hot(*operands, **options)
    return items, {name: np.asarray(derivative) for name, derivative in derivatives.items()}


@pytest.fixture(autouse=True)
def _quiet():
    """As the tile driver does: infinities and nans are results, not errors."""
    with np.errstate(all="ignore"):
        yield


def against_torch(chapter, function, x, t, w=None, *, wants=("input",), upstream=None, scale=None, **options):
    """Run both; items and gradients must agree, nan and inf included, to 1e-12 of the size of the terms."""
    operands = {"input": x, "target": t} | ({} if w is None else {"weight": w})
    before = {name: array.copy() for name, array in operands.items()}
    items, derivatives = chapter(**operands, **options, wants=wants)
    for name, array in operands.items():
        np.testing.assert_array_equal(array, before[name], err_msg=f"{name} was changed")
    assert items.shape == (x.shape[0], 1, *x.shape[2:])
    assert set(derivatives) == set(wants)
    assert {array.dtype for array in (items, *derivatives.values())} == {x.dtype}

    tensors = {name: torch.tensor(array) for name, array in operands.items()}
    if t.dtype.kind != "f":
        tensors["target"] = tensors["target"].long()
        if function is not F.multilabel_margin_loss:
            tensors["target"] = tensors["target"][:, 0]
    if w is not None:
        tensors["weight"] = tensors["weight"].reshape(-1)
    for name in wants:
        tensors[name].requires_grad_()
    theirs = function(**tensors, **options, reduction="none")
    upstream = np.ones(items.shape) if upstream is None else upstream
    grads = torch.autograd.grad(theirs, [tensors[name] for name in wants], torch.tensor(upstream[:, 0]))

    # PyTorch's own error is a few units in the last place of the largest logit, times the factor it meets
    finite = np.abs(x[np.isfinite(x)]).max(initial=1.0)
    scale = finite * (1.0 if w is None else float(w.max(initial=1.0))) if scale is None else scale
    np.testing.assert_allclose(items[:, 0], theirs.detach().numpy(), rtol=1e-12, atol=1e-12 * scale)
    for name, grad in zip(wants, grads, strict=True):
        ours = np.broadcast_to(derivatives[name] * upstream, x.shape)
        if name == "weight":
            ours = ours.sum(axis=tuple(axis for axis in range(x.ndim) if axis != 1))
        size = scale * np.abs(upstream).max(initial=1.0) * (max(upstream.size, 1) if name == "weight" else 1)
        np.testing.assert_allclose(ours, grad.numpy(), rtol=1e-12, atol=1e-12 * size, err_msg=name)


def classes_of(rng, shape, dtype=np.int64):
    return rng.integers(0, shape[1], (shape[0], 1, *shape[2:])).astype(dtype)


def weights_of(rng, shape):
    return rng.uniform(0.0, 2.0, (1, shape[1], *[1] * (len(shape) - 2)))


def label_sets(rng, shape):
    """A random subset of the classes in random order, -1, then anything."""
    target = np.argsort(rng.random(shape), axis=1)
    for row in target:
        length = rng.integers(0, shape[1] + 1)
        row[length : length + 1] = -1
    return target


# Against PyTorch in float64


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 0, 10**6])
def test_nll_is_pytorchs(shape, weighted, ignore_index):
    rng = np.random.default_rng(1)
    x, t, w = -rng.exponential(size=shape), classes_of(rng, shape), weights_of(rng, shape) if weighted else None
    t[rng.random(t.shape) < 0.3] = ignore_index
    against_torch(nll, F.nll_loss, x, t, w, ignore_index=ignore_index, upstream=rng.standard_normal(t.shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("scale", [1.0, 40.0, 1e4])  # rows that are not shifted, some that are, all
def test_cross_entropy_of_classes_is_pytorchs(shape, weighted, ignore_index, label_smoothing, scale):
    rng = np.random.default_rng(2)
    x, t, w = scale * rng.standard_normal(shape), classes_of(rng, shape), weights_of(rng, shape) if weighted else None
    t[rng.random(t.shape) < 0.3] = ignore_index
    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    against_torch(cross_entropy, F.cross_entropy, x, t, w, upstream=rng.standard_normal(t.shape), **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("scale", [1.0, 40.0, 1e4])
@pytest.mark.parametrize("normalised", [False, True])
def test_cross_entropy_of_distributions_is_pytorchs(shape, weighted, label_smoothing, scale, normalised):
    rng = np.random.default_rng(3)
    x, t, w = scale * rng.standard_normal(shape), rng.random(shape), weights_of(rng, shape) if weighted else None
    t[rng.random(shape) < 0.3] = 0.0
    if normalised:
        t /= np.maximum(t.sum(axis=1, keepdims=True), 1e-3)
    wants = ("input", "target", "weight") if weighted else ("input", "target")
    upstream = rng.standard_normal((shape[0], 1, *shape[2:]))
    # a row has C terms, each as large as a logit
    size = 10.0 * scale * shape[1]
    options = {"label_smoothing": label_smoothing, "upstream": upstream, "scale": size}
    against_torch(cross_entropy, F.cross_entropy, x, t, w, wants=wants, **options)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("margin", [1.0, 0.25, 0.0, -0.5])
@pytest.mark.parametrize("grid", [False, True])  # on a grid of quarters, many leads are exactly the margin
def test_multi_margin_is_pytorchs(shape, weighted, p, margin, grid):
    rng = np.random.default_rng(4)
    x, t, w = rng.standard_normal(shape), classes_of(rng, shape), weights_of(rng, shape) if weighted else None
    x = np.round(4 * x) / 4 if grid else x
    options = {"p": p, "margin": margin, "upstream": rng.standard_normal(t.shape)}
    against_torch(multi_margin, F.multi_margin_loss, x, t, w, scale=100.0, **options)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 2])
@pytest.mark.parametrize("grid", [False, True])
def test_multilabel_margin_is_pytorchs(shape, grid):
    rng = np.random.default_rng(5)
    x, t = rng.standard_normal(shape), label_sets(rng, shape)
    x = np.round(4 * x) / 4 if grid else x
    # sums of up to C² / 4 hinges, over C
    options = {"upstream": rng.standard_normal((shape[0], 1)), "scale": 10.0 * shape[1]}
    against_torch(multilabel_margin, F.multilabel_margin_loss, x, t, **options)


LOGITS = [
    [-INF, 1.0, 2.0],
    [1.0, -INF, -INF],
    [-INF, -1.0, -90.0],
    [-INF, -INF, -INF],
    [INF, 1.0, 2.0],
    [INF, INF, 2.0],
    [INF, -INF, 2.0],
    [NAN, 1.0, 2.0],
    [2.0, 2.0, 2.0],
    [1e4, -1e4, 0.0],
    [-1e4, -1e4, -2e4],
    [61.0, 3.3, -50.1],
]


@pytest.mark.parametrize("row", LOGITS)
@pytest.mark.parametrize("target", [0, 1, -100])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weight", [None, [0.0, 1.0, 2.0]])
def test_cross_entropy_treats_nan_and_inf_as_pytorch_does(row, target, label_smoothing, weight):
    x, t = np.array([row, [0.5, 0.25, 0.0]]), np.array([[target], [2]])
    w = None if weight is None else np.array([weight])
    against_torch(cross_entropy, F.cross_entropy, x, t, w, label_smoothing=label_smoothing)
    against_torch(nll, F.nll_loss, x, t, w)


@pytest.mark.parametrize("row", LOGITS)
@pytest.mark.parametrize("target", [[0.0, 0.5, 0.5], [0.2, 0.8, 0.0], [0.0, 0.0, 0.0], [NAN, 0.5, 0.5]])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weight", [None, [0.0, 1.0, 2.0]])
def test_soft_cross_entropy_treats_nan_and_inf_as_pytorch_does(row, target, label_smoothing, weight):
    x, t = np.array([row]), np.array([target])
    w = None if weight is None else np.array([weight])
    wants = ("input", "target") if weight is None else ("input", "target", "weight")
    against_torch(cross_entropy, F.cross_entropy, x, t, w, wants=wants, label_smoothing=label_smoothing)


@pytest.mark.parametrize("row", LOGITS)
def test_the_margin_losses_treat_nan_and_inf_as_pytorch_does(row):
    x = np.array([row, [0.5, 0.25, 0.0]])
    for target in (0, 1, 2):
        for p in (1, 2):
            for w in (None, np.array([[0.0, 1.0, 2.0]])):
                against_torch(multi_margin, F.multi_margin_loss, x, np.array([[target], [1]]), w, p=p)
    for labels in ([0, -1, 2], [1, 0, -1], [2, 1, 0], [-1, 0, 0], [2, 2, -1]):
        against_torch(multilabel_margin, F.multilabel_margin_loss, x, np.array([labels, [1, -1, 1]]))


def test_ignored_rows_cost_nothing_and_pull_nowhere():
    x = np.random.default_rng(6).standard_normal((3, 5))
    t = np.full((3, 1), -100)
    for chapter, options in ((nll, {}), (cross_entropy, {}), (cross_entropy, {"label_smoothing": 0.3})):
        items, derivatives = chapter(x, t, **options, wants=("input",))
        assert not items.any()
        assert not derivatives["input"].any()
    # the item is 0 whatever is in the row
    assert nll(np.full((1, 2), NAN), t[:1])[0] == 0
    assert cross_entropy(np.array([[INF, NAN]]), t[:1])[0] == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_targets_are_of_any_integer_dtype(dtype):
    rng = np.random.default_rng(7)
    x = rng.standard_normal((300, 200))
    t = classes_of(rng, x.shape, np.int64)
    t %= 100  # fits them all
    for chapter in (nll, cross_entropy, multi_margin):
        for got, want in zip(chapter(x, t.astype(dtype)), chapter(x, t), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_divisor_is_pytorchs(weighted, label_smoothing):
    rng = np.random.default_rng(8)
    x, t = rng.standard_normal((4, 3, 5)), rng.integers(0, 3, (4, 1, 5))
    w = weights_of(rng, x.shape) if weighted else None
    by = divisor(t, w, ignore_index=1)
    items, _ = cross_entropy(x, t, w, ignore_index=1, label_smoothing=label_smoothing)
    want = F.cross_entropy(
        torch.tensor(x),
        torch.tensor(t[:, 0]),
        None if w is None else torch.tensor(w.reshape(-1)),
        ignore_index=1,
        label_smoothing=label_smoothing,
    )
    assert items.sum() / by == pytest.approx(float(want), rel=1e-13)
    assert divisor(np.full((2, 1), 1), w, ignore_index=1) == 0.0
    # in float32, 2**24 + 1 is 2**24: the sum must not be in the weights' dtype
    assert divisor(np.array([[0], [1]]), np.array([[2.0**24, 1.0]], np.float32)) == 2.0**24 + 1


# Against mpmath at 50 digits

#: What an item or derivative may be off by, in units of eps, where every operation is in working precision. NumPy's
#: float32 exp is good to 1.7 eps, log1p to 1.9 and a derivative V e / (r + e[t]) has two exps, a sum, a division and
#: a product: 4.9 if all were at their worst together, which they are not for any input here.
ULPS = 4.0


def off_by(got, want, size=None):
    """The largest error in units of eps; of the wanted value, or of the size of what was added up to it."""
    got, eps = np.asarray(got), np.finfo(got.dtype).eps
    worst = 0.0
    sizes = want if size is None else size
    for g, v, s in zip(got.ravel().tolist(), np.ravel(want).tolist(), np.ravel(sizes).tolist(), strict=True):
        unit = max(abs(mpmath.mpf(s)) * float(eps), mpmath.mpf(float(np.finfo(got.dtype).smallest_subnormal)))
        worst = max(worst, float(abs(mpmath.mpf(g) - v) / unit))
    return worst


def exact(array):
    """The same numbers, in which every further operation has 50 digits."""
    return np.array([mpmath.mpf(float(value)) for value in array.ravel()], dtype=object).reshape(array.shape)


def exact_softmax(row):
    terms = [mpmath.exp(value) for value in row]
    return [term / mpmath.fsum(terms) for term in terms]


HARD_ROWS = {
    "confident": ([40.25, 3.1, -2.7, 0.0], 0),
    "more confident than float64 resolves": ([88.1, 3.1, -2.7, 0.0], 0),
    "confident and wrong": ([40.25, 3.1, -2.7, 0.0], 2),
    "confident below zero": ([-3.3, -70.1, -85.7, -44.4], 0),
    "all far below zero": ([-100.1, -100.3, -130.7, -177.7], 0),
    "just shifted": ([60.1, 59.7, 0.123, -31.7], 1),
    "small and large": ([1e-3, 17.77, -17.77, 17.7], 1),
    "masked": ([-INF, 0.3, 0.1, -0.2], 1),
    "a tie": ([2.5, 2.5, -80.1, 1.0], 1),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", HARD_ROWS)
def test_cross_entropy_is_exact_to_working_precision(name, dtype):
    values, target = HARD_ROWS[name]
    x = np.array([values], dtype)
    items, derivatives = cross_entropy(x, np.array([[target]]), wants=("input",))
    with mpmath.workdps(80):  # 50 digits and more: of 1 - p, where p[t] is 1 to 38
        p = exact_softmax(exact(x)[0])
        rest = mpmath.fsum(value for j, value in enumerate(p) if j != target)
        cost = -mpmath.log1p(-rest) if rest < 0.5 else -mpmath.log(p[target])
        slope = [-rest if j == target else value for j, value in enumerate(p)]
        assert off_by(items, [cost]) <= ULPS
        assert off_by(derivatives["input"], slope) <= ULPS


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", HARD_ROWS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_smoothed_cross_entropy_is_exact_to_the_size_of_its_terms(name, dtype, weighted, soft):
    values, target = HARD_ROWS[name]
    x = np.array([values], dtype)[:, 1:] if values[0] == -INF else np.array([values], dtype)
    classes = x.shape[1]
    target %= classes
    t = np.linspace(0.0, 0.7, classes, dtype=dtype)[None] if soft else np.array([[target]])
    w = np.linspace(0.3, 1.7, classes, dtype=dtype)[None] if weighted else None
    wants = ["input"] + ["target"] * soft + ["weight"] * (soft and weighted)
    items, derivatives = cross_entropy(x, t, w, label_smoothing=0.1, wants=wants)
    item_sizes, sizes = magnitudes(x.astype(np.float64), t, w, label_smoothing=0.1)
    assert set(sizes) == set(wants)
    with mpmath.workdps(80):
        p = exact_softmax(exact(x)[0])
        s, weights = mpmath.mpf(0.1), exact(w)[0] if weighted else [mpmath.mpf(1)] * classes
        labels = exact(t)[0] if soft else [mpmath.mpf(j == target) for j in range(classes)]
        own = weights if soft else [weights[target]] * classes
        v = [own[j] * (1 - s) * labels[j] + weights[j] * s / classes for j in range(classes)]
        costs = [-mpmath.log(value) for value in p]
        total = mpmath.fsum(v)
        # two factors, a product with the cost and a sum round once more each, on top of the cost itself
        assert off_by(items, [mpmath.fdot(v, costs)]) <= ULPS
        slope = [total * p[j] - v[j] for j in range(classes)]
        assert off_by(derivatives["input"], slope, sizes["input"]) <= ULPS
        np.testing.assert_allclose(
            sizes["input"][0], [float(total * p[j] + v[j]) for j in range(classes)], rtol=1e-6, err_msg="magnitudes"
        )
        np.testing.assert_allclose(item_sizes[0], [float(mpmath.fdot(v, costs))], rtol=1e-6)
        if soft:
            assert off_by(derivatives["target"], [(1 - s) * weights[j] * costs[j] for j in range(classes)]) <= ULPS
        if soft and weighted:
            mixed = [(1 - s) * labels[j] + s / classes for j in range(classes)]
            assert off_by(derivatives["weight"], [mixed[j] * costs[j] for j in range(classes)]) <= ULPS


@pytest.mark.parametrize("name", ["confident", "more confident than float64 resolves", "confident below zero"])
def test_a_soft_target_that_is_one_class_keeps_the_precision_of_a_hard_one(name):
    x = np.array([HARD_ROWS[name][0]], np.float32)
    soft, soft_slopes = cross_entropy(x, np.eye(4, dtype=np.float32)[:1], wants=("input",))
    hard, hard_slopes = cross_entropy(x, np.array([[0]]), wants=("input",))
    # the same formula, but for a product with V = 1: relative to what is left of 1 - p, not to 1
    np.testing.assert_allclose(soft, hard, rtol=2.0**-22)
    np.testing.assert_allclose(soft_slopes["input"], hard_slopes["input"], rtol=2.0**-22)


def test_what_a_one_hot_derivative_is_not_it_stays_whatever_multiplies_it():
    one = OneHot(np.array([[1], [-1], [0]]), np.array([[2.0], [3.0], [4.0]]), (3, 2))
    assert one.times(np.array([[5.0], [np.nan], [np.inf]])).tolist() == [[0, 10], [0, 0], [np.inf, 0]]
    out = np.zeros((3, 2), np.float16)
    one.put(-1.0, out)
    assert out.tolist() == [[0, -2], [0, 0], [-4, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nll_rounds_once(dtype):
    x, w = np.array([[-0.1, -1e-30, -88.7]], dtype), np.array([[0.3, 1.1, 0.7]], dtype)
    for target in range(3):
        items, derivatives = nll(x, np.array([[target]]), w, wants=("input",))
        with mpmath.workdps(50):
            # one product: half a unit in the last place, which is half an eps at most
            assert off_by(items, [-exact(x)[0][target] * exact(w)[0][target]]) <= 0.5
        assert derivatives["input"][0, target] == -w[0, target]


#: Leads within a rounding of the margin, on both sides, and a plain shortfall. 1.1 - 0.1 is not 1 in either dtype.
EDGES = [[1.1, 0.1, 0.10000001, 0.7], [-3.3, -4.3, -4.2999997, 5.0], [1000.1, 999.1, 999.0999, 1000.1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [1.0, 0.1])
@pytest.mark.parametrize("row", EDGES)
def test_margins_are_exact_at_the_edge(row, margin, dtype):
    x = np.array([row], dtype)
    with mpmath.workdps(50):
        exact_x = exact(x)[0]
        z = [max(mpmath.mpf(margin) - exact_x[0] + value, 0) for value in exact_x[1:]]
        for p in (1, 2):
            items, derivatives = multi_margin(x, np.array([[0]]), p=p, margin=margin, wants=("input",))
            slopes = [mpmath.mpf(value > 0) if p == 1 else 2 * value for value in z]
            # each z is two roundings, 1 eps, off; a square doubles that and rounds; so do the sum and the share
            assert off_by(items, [mpmath.fsum(value**p for value in z) / 4]) <= ULPS
            want = [-mpmath.fsum(slopes) / 4, *[slope / 4 for slope in slopes]]
            assert off_by(derivatives["input"], want) <= ULPS
        if margin == 1.0:
            items, derivatives = multilabel_margin(x, np.array([[0, -1, -1, -1]]), wants=("input",))
            signs = [mpmath.mpf(value > 0) for value in z]
            assert off_by(items, [mpmath.fsum(z) / 4]) <= ULPS
            assert off_by(derivatives["input"], [-mpmath.fsum(signs) / 4, *[sign / 4 for sign in signs]]) <= ULPS


# float32 against float64 on the same numbers


def check_float32(chapter, x, t, w=None, *, wants=("input",), sizes=None, **options):
    """float32 within ULPS of float64; sizes measures what is inherent."""
    assert {array.dtype for array in (x, *([] if w is None else [w]))} == {np.dtype(np.float32)}
    operands = [x, t] if w is None else [x, t, w]
    wide = [array.astype(np.float64) if array.dtype.kind == "f" else array for array in operands]
    items, derivatives = chapter(*operands, **options, wants=wants)
    truth, slopes = chapter(*wide, **options, wants=wants)
    item_sizes, slope_sizes = (truth, slopes) if sizes is None else sizes(*wide, **options)
    found = {"items": (items, truth, item_sizes)}
    found |= {name: (derivatives[name], slopes[name], slope_sizes[name]) for name in wants}
    for name, (got, want, size) in found.items():
        assert got.dtype == np.float32
        unit = np.maximum(np.abs(size) * 2.0**-23, 2.0**-149)  # at the bottom, a subnormal's own last place
        assert (np.abs(got - want) <= ULPS * unit).all(), (name, (np.abs(got - want) / unit).max())


FLOAT32_SHAPES = [(2, 32000), (64, 100), (200, 10), (2, 19, 50), (1, 150, 70), (2, 3000, 3)]


def float32(rng, shape, scale=1.0, shift=0.0):
    return (scale * rng.standard_normal(shape) + shift).astype(np.float32)


@pytest.mark.parametrize("shape", FLOAT32_SHAPES)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (6.0, 0.0), (25.0, 0.0), (1.0, -30.0), (30.0, 900.0)])
def test_float32_cross_entropy_of_classes(shape, scale, shift):
    rng = np.random.default_rng(9)
    x, t = float32(rng, shape, scale, shift), classes_of(rng, shape)
    check_float32(cross_entropy, x, t)
    check_float32(cross_entropy, x, x.argmax(axis=1, keepdims=True))  # every row right
    check_float32(cross_entropy, x, t, label_smoothing=0.1, sizes=magnitudes)
    check_float32(cross_entropy, x, t, weights_of(rng, shape).astype(np.float32), label_smoothing=0.1, sizes=magnitudes)


@pytest.mark.parametrize("shape", FLOAT32_SHAPES)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (6.0, 0.0), (1.0, -30.0), (30.0, 900.0)])
def test_float32_cross_entropy_of_distributions(shape, scale, shift):
    rng = np.random.default_rng(10)
    x, t = float32(rng, shape, scale, shift), rng.random(shape).astype(np.float32)
    w = weights_of(rng, shape).astype(np.float32)
    check_float32(cross_entropy, x, t, wants=("input", "target"), sizes=magnitudes)
    wants = ("input", "target", "weight")
    check_float32(cross_entropy, x, t, w, label_smoothing=0.1, wants=wants, sizes=magnitudes)


@pytest.mark.parametrize("shape", FLOAT32_SHAPES)
def test_float32_nll_and_multi_margin(shape):
    rng = np.random.default_rng(11)
    x, t, w = float32(rng, shape), classes_of(rng, shape), weights_of(rng, shape).astype(np.float32)
    check_float32(nll, x, t)
    check_float32(nll, x, t, w)
    for margin in (1.0, 0.1):
        for p in (1, 2):
            check_float32(multi_margin, x, t, p=p, margin=margin)
            check_float32(multi_margin, x, t, w, p=p, margin=margin)


@pytest.mark.parametrize("shape", [(64, 100), (200, 10), (2, 300)])
def test_float32_multilabel_margin(shape):
    rng = np.random.default_rng(12)
    check_float32(multilabel_margin, float32(rng, shape), label_sets(rng, shape))


# Rows in memory


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_come_back(shape):
    a = np.random.default_rng(13).standard_normal(shape)
    for array in (a, np.asfortranarray(a), a[::-1]):
        (stored,) = rows(array)
        assert stored.shape == (a.size // shape[1], shape[1])
        back = unrows(stored, array)
        np.testing.assert_array_equal(back, array)
        assert back.strides == np.empty_like(array).strides


@pytest.mark.parametrize("shape", [(2, 32000), (80, 3000), (2, 3000, 80)])
def test_sums_of_long_rows_are_pairwise(shape):
    a = np.random.default_rng(14).random(shape, dtype=np.float32)
    for array in (a, np.asfortranarray(a)):
        (stored,) = rows(array)
        truth = stored.sum(axis=1, keepdims=True, dtype=np.float64)
        # naive summation is off by tens of eps here; a tree of 15 levels, each adding half an eps at worst and the
        # lower ones averaged away, by about one
        assert (np.abs(sum_rows(stored) / truth - 1.0) <= 1.5 * 2.0**-23).all()


@pytest.mark.parametrize("chapter", [nll, cross_entropy, multi_margin])
def test_memory_order_and_neighbours_do_not_matter(chapter):
    rng = np.random.default_rng(15)
    x, t = float32(rng, (100, 9), 30.0), classes_of(rng, (100, 9))
    items, derivatives = chapter(x, t, wants=("input",))
    strided = np.full((200, 18), NAN, np.float32)
    strided[::2, 1::2] = x
    for same in (np.asfortranarray(x), strided[::2, 1::2]):
        again, again_derivatives = chapter(same, t, wants=("input",))
        np.testing.assert_array_equal(again, items)
        np.testing.assert_array_equal(again_derivatives["input"], derivatives["input"])
    # a row that has to be shifted does not change another's bits
    changed = x.copy()
    changed[1:] += 1000.0
    again, again_derivatives = chapter(changed, t, wants=("input",))
    np.testing.assert_array_equal(again[0], items[0])
    np.testing.assert_array_equal(again_derivatives["input"][0], derivatives["input"][0])


def test_cross_entropy_of_rows_that_need_no_maximum_beside_rows_that_do():
    x = float32(np.random.default_rng(18), (10, 12), 2.0)
    x[1, 5] = -200.0  # exp vanishes, and so does p
    x[2, 5] = -INF
    x[3] -= np.log(np.exp(x[3]).sum())  # log-probabilities: the sum is 1
    x[4] -= 100.0  # the sum vanishes
    x[5, 0] = -35.0  # the target's term is small
    x[6, 3], x[7, 3], x[8, 3] = 58.0, 61.0, 1000.0
    x[9] -= 85.0  # exp is normal for some only
    t = np.zeros((10, 1), np.int64)
    items, derivatives = cross_entropy(x, t, wants=("input",))
    for i in range(len(x)):
        alike, alike_derivatives = cross_entropy(np.repeat(x[i : i + 1], len(x), axis=0), t, wants=("input",))
        np.testing.assert_array_equal(alike[0], items[i])
        np.testing.assert_array_equal(alike_derivatives["input"][0], derivatives["input"][i])

    wide = x.astype(np.longdouble)
    p = np.exp(wide - wide.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    slope = p.copy()
    slope[:, 0] -= 1.0
    # parity's bound is seven units in the last place, of a number that is normal
    np.testing.assert_allclose(items[:, 0], -np.log(p[:, 0]), rtol=8 * 2.0**-23)
    np.testing.assert_allclose(np.asarray(derivatives["input"]), slope, rtol=8 * 2.0**-23, atol=2.0**-126)


def test_the_margin_losses_take_more_axes_too():
    rng = np.random.default_rng(16)
    x = rng.standard_normal((3, 4, 5))
    t, labels = classes_of(rng, x.shape), np.stack([label_sets(rng, (3, 4)) for _ in range(5)], axis=2)
    for chapter, target in ((multi_margin, t), (multilabel_margin, labels)):
        items, derivatives = chapter(x, target, wants=("input",))
        for k in range(5):
            one, one_derivatives = chapter(x[..., k], target[..., k], wants=("input",))
            np.testing.assert_allclose(items[..., k], one, rtol=1e-14)
            np.testing.assert_allclose(derivatives["input"][..., k], one_derivatives["input"], rtol=1e-14)


@pytest.mark.parametrize("name", ["nll", "cross_entropy", "multi_margin", "multilabel_margin"])
def test_the_examples_hold(name):
    results = doctest.testmod(importlib.import_module(f"portaloss.reference.{name}"))
    assert results.attempted > 3
    assert results.failed == 0

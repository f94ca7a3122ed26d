"""Cross-entropy, NLL and the margin losses, whose targets are classes: against PyTorch, and what chapters share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from portaloss.reference.cross_entropy import cross_entropy
from portaloss.reference.lazy import OneHot
from portaloss.reference.multi_margin import multi_margin
from portaloss.reference.multilabel_margin import multilabel_margin
from portaloss.reference.nll import divisor
from portaloss.reference.nll import nll as nll_one_hot
from portaloss.reference.rows import rows, sum_rows, unrows

pytestmark = pytest.mark.usefixtures("quiet")

INF, NAN = float("inf"), float("nan")


#: Short and long rows, both ways of storing them, one class, one row, no rows.
SHAPES = [(4, 7), (70, 3), (3, 100), (5, 1), (1, 6), (0, 4), (2, 5, 3), (2, 66, 3, 2), (1, 70, 80)]


def nll(*operands, **options):
    """The chapter, with its derivatives as whole arrays."""
    items, derivatives = nll_one_hot(*operands, **options)
    return items, {name: np.asarray(derivative) for name, derivative in derivatives.items()}


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


def float32(rng, shape, scale=1.0, shift=0.0):
    return (scale * rng.standard_normal(shape) + shift).astype(np.float32)


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


@pytest.mark.parametrize("row", [[40.25, 3.1, -2.7, 0.0], [88.1, 3.1, -2.7, 0.0], [-3.3, -70.1, -85.7, -44.4]])
def test_a_soft_target_that_is_one_class_keeps_the_precision_of_a_hard_one(row):
    x = np.array([row], np.float32)
    soft, soft_slopes = cross_entropy(x, np.eye(4, dtype=np.float32)[:1], wants=("input",))
    hard, hard_slopes = cross_entropy(x, np.array([[0]]), wants=("input",))
    # the same formula, but for a product with V = 1: relative to what is left of 1 - p, not to 1
    np.testing.assert_allclose(soft, hard, rtol=2.0**-22)
    np.testing.assert_allclose(soft_slopes["input"], hard_slopes["input"], rtol=2.0**-22)


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


def test_what_a_one_hot_derivative_is_not_it_stays_whatever_multiplies_it():
    one = OneHot(np.array([[1], [-1], [0]]), np.array([[2.0], [3.0], [4.0]]), (3, 2))
    assert one.times(np.array([[5.0], [np.nan], [np.inf]])).tolist() == [[0, 10], [0, 0], [np.inf, 0]]
    out = np.zeros((3, 2), np.float16)
    one.put(-1.0, out)
    assert out.tolist() == [[0, -2], [0, 0], [-4, 0]]


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

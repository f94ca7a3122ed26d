"""NLL, the margin losses, and what chapters with classes for targets share: against PyTorch, and float32."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from portaloss.reference.cross_entropy import cross_entropy
from portaloss.reference.lazy import OneHot
from portaloss.reference.multi_margin import multi_margin
from portaloss.reference.multilabel_margin import multilabel_margin
from portaloss.reference.nll import divisor
from portaloss.reference.rows import rows, sum_rows, unrows

from .class_targets import (
    FLOAT32_SHAPES,
    INF,
    LOGITS,
    NAN,
    SHAPES,
    against_torch,
    check_float32,
    classes_of,
    float32,
    label_sets,
    nll,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 0, 10**6])
def test_nll_is_pytorchs(shape, weighted, ignore_index):
    rng = np.random.default_rng(1)
    x, t, w = -rng.exponential(size=shape), classes_of(rng, shape), weights_of(rng, shape) if weighted else None
    t[rng.random(t.shape) < 0.3] = ignore_index
    against_torch(nll, F.nll_loss, x, t, w, ignore_index=ignore_index, upstream=rng.standard_normal(t.shape))


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


@pytest.mark.parametrize("name", ["nll", "cross_entropy", "multi_margin", "multilabel_margin"])
def test_the_examples_hold(name):
    results = doctest.testmod(importlib.import_module(f"portaloss.reference.{name}"))
    assert results.attempted > 3
    assert results.failed == 0

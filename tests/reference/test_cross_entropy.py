"""Cross-entropy's chapter: against PyTorch in float64, and float32 against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch.nn.functional as F

from portaloss.reference.cross_entropy import cross_entropy, magnitudes

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
    nll,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("quiet")


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

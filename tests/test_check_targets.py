"""check_targets: what a class out of range does on the CPU. tests/triton_interpret has the kernels' side of it."""

from __future__ import annotations

import numpy as np
import pytest

import portaloss
import portaloss.functional as P
from portaloss import check_targets, value_and_grad


@pytest.fixture(autouse=True)
def defaults():
    with check_targets(None):
        yield


RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3))
TARGET = np.array([0, 7, 2, -1])
LOST = np.array([False, True, False, True])
SAFE = np.array([0, -100, 2, -100])

#: Log-probabilities (T, N, C) and the labels of three samples, of which the second has one that is no class.
LOG_P = np.log(RNG.dirichlet(np.ones(4), (6, 3)))
LABELS = np.array([[1, 2], [3, 9], [2, 9]])
LENGTHS = np.array([2, 2, 1])  # the third's 9 is beyond its length


def test_the_cpu_raises_by_default():
    with pytest.raises(IndexError, match=r"target\[1\] is 7"):
        P.cross_entropy(X, TARGET)


def test_setting_and_restoring():
    outer = check_targets("nan")
    assert np.isnan(P.cross_entropy(X, TARGET))
    with check_targets("raise"), pytest.raises(IndexError):
        P.cross_entropy(X, TARGET)
    assert np.isnan(P.cross_entropy(X, TARGET))
    with outer:
        pass
    with pytest.raises(IndexError):
        P.cross_entropy(X, TARGET)


def test_an_error_in_the_block_restores_too():
    with pytest.raises(KeyError), check_targets("nan"):
        raise KeyError
    with pytest.raises(IndexError):
        P.nll_loss(X, TARGET)


def test_an_unknown_mode():
    with pytest.raises(ValueError, match="'ignore'"):
        check_targets("ignore")


@pytest.mark.parametrize("function", [P.nll_loss, P.cross_entropy])
@pytest.mark.parametrize("weight", [None, np.array([1.0, 2.0, 4.0])])
def test_rows_out_of_range_are_nan_and_the_others_as_ever(function, weight):
    with check_targets("nan"):
        items = function(X, TARGET, weight, reduction="none")
        assert np.isnan(items).tolist() == LOST.tolist()
        assert items[~LOST].tolist() == function(X, SAFE, weight, reduction="none")[~LOST].tolist()
        value, gradient = value_and_grad(lambda x: function(x, TARGET, weight, reduction="sum"))(X)
        assert np.isnan(value)
        assert gradient.tolist() == value_and_grad(lambda x: function(x, SAFE, weight, reduction="sum"))(X)[1].tolist()


@pytest.mark.parametrize("function", [P.nll_loss, P.cross_entropy])
def test_what_a_mean_divides_by(function):
    weight = np.array([1.0, 2.0, 4.0])
    with check_targets("nan"):
        summed = value_and_grad(lambda x: function(x, TARGET, reduction="sum"))(X)[1]
        mean = value_and_grad(lambda x: function(x, TARGET))(X)[1]
        np.testing.assert_allclose(mean, summed / 4, rtol=1e-15)  # all four rows count
        summed = value_and_grad(lambda x: function(x, TARGET, weight, reduction="sum"))(X)[1]
        mean = value_and_grad(lambda x: function(x, TARGET, weight))(X)[1]
        np.testing.assert_allclose(mean, summed / (1.0 + 4.0), rtol=1e-15)  # the weights of classes 0 and 2


def test_ignored_rows_stay_ignored():
    target = np.array([0, -100, 7])
    with check_targets("nan"):
        assert np.isnan(P.cross_entropy(X[:3], target, reduction="none")).tolist() == [False, False, True]


def test_unbatched_and_k_dimensional():
    with check_targets("nan"):
        assert np.isnan(P.cross_entropy(X[0], np.array(3)))
        k = np.moveaxis(X.reshape(2, 2, 3), -1, 1)
        assert np.isnan(P.cross_entropy(k, TARGET.reshape(2, 2), reduction="none")).ravel().tolist() == LOST.tolist()
        assert np.isnan(P.multi_margin_loss(X[0], np.array(3)))
        assert np.isnan(P.multilabel_margin_loss(X[0], np.array([3, -1, -1])))


@pytest.mark.parametrize("p", [1, 2])
def test_multi_margin(p):
    logits = X.copy()
    logits[1] = np.inf, np.nan, 0.0  # the row that is lost: nothing of it may be seen
    safe = np.where(LOST, 0, TARGET)
    with check_targets("nan"):
        items = P.multi_margin_loss(logits, TARGET, p=p, reduction="none")
        assert np.isnan(items).tolist() == LOST.tolist()
        gradient = value_and_grad(lambda x: P.multi_margin_loss(x, TARGET, p=p))(logits)[1]
        expected = value_and_grad(lambda x: P.multi_margin_loss(x, safe, p=p))(X)[1]
    assert gradient[~LOST].tolist() == expected[~LOST].tolist()
    assert (gradient[LOST] == 0).all()


def test_multilabel_margin():
    sets = np.array([[0, -1, 77], [1, 7, -1], [2, -2, 0], [2, 0, 1], [-3, 0, 1]])
    expected = [False, True, True, False, True]  # 77 is beyond the end; -2 and -3 are no end
    x = np.concatenate([X, X[:1]])
    with check_targets("nan"):
        items = P.multilabel_margin_loss(x, sets, reduction="none")
        gradient = value_and_grad(lambda x: P.multilabel_margin_loss(x, sets, reduction="sum"))(x)[1]
    assert np.isnan(items).tolist() == expected
    assert items[0] == P.multilabel_margin_loss(x[0], np.array([0, -1, -1]))
    assert (gradient[expected] == 0).all()
    assert (gradient[0] != 0).any()
    with pytest.raises(IndexError):
        P.multilabel_margin_loss(x, sets)


@pytest.mark.parametrize("labels", [LABELS, LABELS[np.arange(2) < LENGTHS[:, None]]], ids=["padded", "concatenated"])
def test_ctc(labels):
    lengths = np.array([6, 6, 6])
    with check_targets("nan"):
        items = P.ctc_loss(LOG_P, labels, lengths, LENGTHS, reduction="none")
        gradient = value_and_grad(lambda x: P.ctc_loss(x, labels, lengths, LENGTHS))(LOG_P)[1]
    safe = np.where(LABELS == 9, 1, LABELS)
    expected = value_and_grad(lambda x: P.ctc_loss(x, safe, lengths, LENGTHS))(LOG_P)[1]
    assert np.isnan(items).tolist() == [False, True, False]
    assert (gradient[:, 1] == 0).all()
    assert gradient[:, ::2].tolist() == expected[:, ::2].tolist()
    with pytest.raises(IndexError):
        P.ctc_loss(LOG_P, labels, lengths, LENGTHS)


def test_linear_cross_entropy():
    features, linear_weight = RNG.normal(size=(4, 5)), RNG.normal(size=(3, 5))

    def loss(target):
        return lambda x, w: P.linear_cross_entropy(x, w, target, reduction="sum")

    with check_targets("nan"):
        items = P.linear_cross_entropy(features, linear_weight, TARGET, reduction="none")
        value, gradients = value_and_grad(loss(TARGET), argnums=(0, 1))(features, linear_weight)
    expected = value_and_grad(loss(SAFE), argnums=(0, 1))(features, linear_weight)[1]
    assert np.isnan(items).tolist() == LOST.tolist()
    assert np.isnan(value)
    for got, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, other, rtol=1e-12, atol=1e-15)
    assert (gradients[0][LOST] == 0).all()


def test_tensors_and_plans():
    torch = pytest.importorskip("torch")
    x, target = torch.from_numpy(X).requires_grad_(), torch.from_numpy(TARGET)
    plan = portaloss.select(portaloss.LossKind.CROSS_ENTROPY, dtype="float64", reduction="none")
    assert not plan.can_implement(input=x, target=target)
    with check_targets("nan"):
        assert plan.can_implement(input=x, target=target)
        items = P.cross_entropy(x, target, reduction="none")
        (gradient,) = torch.autograd.grad(items, x, torch.tensor([1.0, torch.inf, 2.0, torch.nan]).double())
    assert items.isnan().tolist() == LOST.tolist()
    assert (gradient[LOST] == 0).all()  # whatever upstream is
    assert gradient.isfinite().all()


def test_narrow_targets():
    with check_targets("nan"):  # -100 fits neither
        for dtype in (np.uint8, np.int8):
            target = np.array([0, 7, 2, 1], dtype)
            assert np.isnan(P.cross_entropy(X, target, reduction="none")).tolist() == [False, True, False, False]

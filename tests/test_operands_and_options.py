"""What is taken for an operand or an option: converted where the meaning is clear, refused by name where it is not."""

from __future__ import annotations

import fractions

import ml_dtypes
import numpy as np
import pytest
import torch

import portaloss.functional as P
from portaloss import LOSSES, value_and_grad
from portaloss.catalogue import Domain
from portaloss.kinds import LossKind, LossReduction
from portaloss.parity import samples
from portaloss.parity.samples import Case
from portaloss.parity.truth import Truth

X = np.array([[1.0, 2.0], [3.0, 4.0]])
LOGITS, TARGET = np.array([[0.5, -1.0, 2.0], [0.0, 1.0, 3.0]]), np.array([0, 2])


# NumPy's subclasses and dtypes


def test_a_mask_is_not_ignored():
    masked = np.ma.masked_array([1.0, 2.0], mask=[True, False])
    for operands in ((masked, np.zeros(2)), (np.zeros(2), masked)):
        for _ in range(2):  # nothing is remembered of a call that was refused
            with pytest.raises(TypeError, match=r"(input|target) is a masked array"):
                P.mse_loss(*operands)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of np.matrix
def test_a_matrix_is_an_array():
    value, gradient = value_and_grad(P.mse_loss)(np.matrix(X), np.zeros((2, 2)))
    assert value == 7.5  # the mean of 1, 4, 9, 16: a product of matrices would give another
    assert type(gradient) is np.ndarray
    assert gradient.tolist() == (X / 2).tolist()


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_the_order_of_bytes_makes_no_difference(dtype):
    swapped = X.astype(dtype)
    value, gradient = value_and_grad(P.mse_loss)(swapped, np.zeros_like(swapped))
    assert value == 7.5
    assert gradient.tolist() == (X / 2).tolist()


@pytest.mark.parametrize("dtype", [ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.int4, ml_dtypes.uint4, ">i4", np.uint16])
def test_class_targets_of_any_integer_dtype(dtype):
    target = np.array([0, 1])  # int2 ends at 1
    assert P.cross_entropy(LOGITS, target.astype(dtype)) == P.cross_entropy(LOGITS, target)


@pytest.mark.parametrize("dtype", [object, "U1", "M8[s]", [("a", "f4")]])
def test_what_is_no_number_is_refused_by_name(dtype):
    with pytest.raises(TypeError, match="target must be of a numeric dtype"):
        P.mse_loss(X, np.zeros((2, 2), dtype))


def test_float16_beside_bfloat16():
    narrow = [np.ones((2, 3), dtype) for dtype in (np.float16, ml_dtypes.bfloat16)]
    assert P.cosine_embedding_loss(*narrow, np.ones(2)).dtype == np.float32


@pytest.mark.parametrize("function", [P.huber_loss, P.mse_loss, P.hinge_embedding_loss])
def test_floats_of_8_bits_are_refused_by_name(function):
    with pytest.raises(NotImplementedError, match="target is of dtype float8_e4m3fn"):
        function(torch.ones(2), torch.ones(2).to(torch.float8_e4m3fn))


def test_a_missing_operand_is_named():
    with pytest.raises(TypeError, match="input must be a NumPy array or a torch tensor, got None"):
        P.mse_loss(None, X)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both:UserWarning")  # of kl_div
@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_complex_operands_raise_as_in_pytorch(loss):
    """PyTorch raises NotImplementedError or another RuntimeError, or gives a complex loss; never half of one."""
    if loss.function in ("l1_loss", "triplet_margin_loss"):
        pytest.skip("these have a meaning for complex numbers, and tests of their own")
    case = next(iter(samples.cases(loss, "float32")))
    for operand in loss.operands:
        if operand.domain in (Domain.LENGTH, Domain.LABEL):
            continue
        shape = case.operands[operand.name].shape if operand.name in case.operands else ()
        given = {**case.operands, operand.name: np.full(shape, 3 + 4j, np.complex64)}
        for operands in (given, {name: torch.from_numpy(array.copy()) for name, array in given.items()}):
            with pytest.raises(RuntimeError, match=operand.name):
                getattr(P, loss.function)(**operands, **case.options)


# Options


@pytest.mark.parametrize("convert", [np.float16, np.float32, np.float64, np.array, torch.tensor, fractions.Fraction])
def test_an_option_is_the_number_that_it_holds(convert):
    smoothing = convert(0.1)
    expected = P.cross_entropy(LOGITS, TARGET, label_smoothing=float(smoothing))
    assert P.cross_entropy(LOGITS, TARGET, label_smoothing=smoothing) == expected  # all digits of float64


@pytest.mark.parametrize("three", [np.float32(3), np.int32(3), np.array(3), torch.tensor(3), torch.tensor(3.0)])
def test_numbers_of_any_library(three):
    for function, operands, name in (
        (P.huber_loss, (X, X + 5), "delta"),
        (P.smooth_l1_loss, (X, X + 5), "beta"),
        (P.triplet_margin_loss, (X, X + 1, X - 2), "p"),
        (P.triplet_margin_loss, (X, X + 1, X - 2), "margin"),
        (P.hinge_embedding_loss, (X, np.sign(X - 2.5)), "margin"),
    ):
        assert function(*operands, **{name: three}) == function(*operands, **{name: 3})
    if "float" not in str(three.dtype):
        ignored = P.cross_entropy(LOGITS, np.array([3, 2]), ignore_index=three)
        assert ignored == P.cross_entropy(LOGITS, np.array([3, 2]), ignore_index=3)


def test_an_option_that_is_changed_in_place_counts_as_it_is():
    delta = torch.tensor(1.0)
    assert P.huber_loss(X, X + 5, delta=delta) == P.huber_loss(X, X + 5, delta=1.0)
    delta.fill_(0.5)
    assert P.huber_loss(X, X + 5, delta=delta) == P.huber_loss(X, X + 5, delta=0.5)


@pytest.mark.parametrize("wrong", [[0.1], np.array([0.1]), torch.tensor([0.1]), "0.1", None, True, 0.1j])
def test_what_is_no_option_is_refused_by_name(wrong):
    with pytest.raises(TypeError, match="label_smoothing must be a number"):
        P.cross_entropy(LOGITS, TARGET, label_smoothing=wrong)
    with pytest.raises(TypeError, match="ignore_index must be an int"):
        P.cross_entropy(LOGITS, TARGET, ignore_index=wrong)


def test_an_option_beyond_float64_is_named():
    with pytest.raises(ValueError, match="beta must fit a float64"):
        P.smooth_l1_loss(X, X, beta=10**400)


# Numbers at the edge


@pytest.mark.parametrize("shape", [(0, 128), (0, 300), (2, 128, 0)])
def test_no_rows_of_many_classes(shape):
    target = np.zeros((shape[0], *shape[2:]), np.int64)
    assert P.cross_entropy(np.ones(shape), target, reduction="sum") == 0.0
    assert np.isnan(P.cross_entropy(np.ones(shape), target))


@pytest.mark.parametrize("loss", [P.cross_entropy, P.nll_loss])
def test_no_classes_all_of_whose_rows_are_ignored(loss):
    nothing, ignored, no_weight = np.zeros((2, 0)), np.zeros(2, int), np.zeros(0)
    assert loss(nothing, ignored, no_weight, ignore_index=0, reduction="sum") == 0.0
    assert np.isnan(loss(nothing, ignored, no_weight, ignore_index=0))
    with pytest.raises(IndexError, match="target"):
        loss(nothing, ignored, no_weight)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (2, 0, 3)])
def test_the_mean_over_soft_targets_of_no_classes_is_nan(shape):
    nothing = torch.zeros(shape)
    assert torch.nn.functional.cross_entropy(nothing, nothing).isnan()
    assert P.cross_entropy(nothing, nothing).isnan()
    assert np.isnan(P.cross_entropy(nothing.numpy(), nothing.numpy()))
    assert P.cross_entropy(nothing, nothing, reduction="sum") == 0.0


def test_batchmean_divides_by_the_first_axis_of_the_input_as_it_was_given():
    random = np.random.default_rng(0)
    operands = {"input": np.log(random.uniform(0.1, 1, 5)), "target": random.uniform(0.1, 1, (3, 5))}
    loss = P.kl_div(**operands, reduction="batchmean")
    assert loss == pytest.approx(P.kl_div(**operands, reduction="sum") / 5)
    truth = Truth(LOSSES[LossKind.KL_DIV], Case("", 0, operands, {"log_target": False, "batchmean": True}))
    assert truth.loss(LossReduction.MEAN).value == pytest.approx(loss)


def test_a_target_without_axes_has_no_say_in_the_dtype():
    given = torch.ones(3, dtype=torch.bfloat16), torch.ones((), dtype=torch.float16)
    theirs = torch.nn.functional.multilabel_soft_margin_loss(*given)
    assert P.multilabel_soft_margin_loss(*given).dtype is theirs.dtype is torch.bfloat16


def test_a_variance_of_integers():
    assert P.gaussian_nll_loss(X, X + 2, np.full((2, 2), 4)) == P.gaussian_nll_loss(X, X + 2, np.full((2, 2), 4.0))
    with pytest.raises(ValueError, match="var has negative"):
        P.gaussian_nll_loss(X, X, np.full((2, 2), -1))


def test_no_features_have_no_largest():
    nothing = np.zeros((2, 0))
    assert P.triplet_margin_loss(nothing, nothing, nothing) == 1.0
    with pytest.raises(RuntimeError, match="anchor and the others have no features"):
        P.triplet_margin_loss(nothing, nothing, nothing, p=np.inf)


def test_a_class_of_infinite_weight_costs_inf_unless_it_is_certain():
    """As in PyTorch: no part of a cost is 0 where the whole is not."""
    for weight in ([1.0, np.inf, 1.0], [np.inf, 1.0, 1.0], [1.0, 1.0, np.inf]):
        for row in np.eye(3):
            ours = P.cross_entropy(row[None], TARGET[:1], np.array(weight), label_smoothing=0.1, reduction="none")
            tensors = [torch.from_numpy(array) for array in (row[None], TARGET[:1], np.array(weight))]
            theirs = torch.nn.functional.cross_entropy(*tensors, label_smoothing=0.1, reduction="none")
            np.testing.assert_array_equal(ours, theirs.numpy())


def test_weights_that_sum_to_0():
    """The mean is nan, as in PyTorch, though with smoothing the sum of the items is not 0."""
    weight = np.array([0.0, 1.0, 0.0])
    assert P.cross_entropy(LOGITS, TARGET, weight, label_smoothing=0.1, reduction="sum") > 0
    assert np.isnan(P.cross_entropy(LOGITS, TARGET, weight, label_smoothing=0.1))


@pytest.mark.parametrize("target", [np.zeros((2, 0)), np.full(2, -100)], ids=["soft", "ignored"])
def test_no_classes(target):
    x = np.zeros((2, 0))
    assert P.cross_entropy(x, target, reduction="none").tolist() == [0.0, 0.0]
    assert value_and_grad(lambda x: P.cross_entropy(x, target, reduction="sum"))(x)[1].shape == (2, 0)
    if target.ndim == 1:
        assert P.nll_loss(x, target, reduction="none").tolist() == [0.0, 0.0]
        assert np.isnan(P.nll_loss(x, target))
        with pytest.raises(IndexError):
            P.nll_loss(x, target + 100)


def test_ctc_s_mean_of_no_samples_is_nan_and_its_sum_0():
    nothing = np.zeros(0, np.int64)
    operands = (np.zeros((5, 0, 3)), np.zeros((0, 2), np.int64), nothing, nothing)
    assert np.isnan(P.ctc_loss(*operands))
    assert P.ctc_loss(*operands, reduction="sum") == 0.0

"""Errors for bad input: their types are PyTorch's, and their messages name the argument."""

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import portaloss.functional as P
from portaloss.checks import is_from_0_to
from portaloss.kinds import LossReduction


def real(*shape):
    return torch.zeros(shape)


def half(*shape):
    return torch.full(shape, 0.5)


def index(*shape, value=0):
    return torch.full(shape, value, dtype=torch.int64)


CASES = {
    "mse: shapes": ("mse_loss", (real(3), real(4)), {}, "target"),
    "mse: weight": ("mse_loss", (real(3), real(3)), {"weight": real(4)}, "[Ww]eight"),
    "mse: reduction": ("mse_loss", (real(3), real(3)), {"reduction": "max"}, "max is not a valid value"),
    "mse: integers": ("mse_loss", (index(3), index(3)), {}, "input"),
    "l1: shapes": ("l1_loss", (real(3), real(4)), {}, "target"),
    "smooth_l1: beta": ("smooth_l1_loss", (real(3), real(3)), {"beta": -1.0}, "beta"),
    "huber: delta": ("huber_loss", (real(3), real(3)), {"delta": 0.0}, "delta"),
    "huber: weight": ("huber_loss", (real(3), real(3)), {"weight": real(2)}, "[Ww]eight"),
    "bce: shapes": ("binary_cross_entropy", (half(3), half(4)), {}, "target"),
    "bce: input range": ("binary_cross_entropy", (real(3) + 2, half(3)), {}, r"input\[0\] is 2"),
    "bce: target range": ("binary_cross_entropy", (half(3), real(3) - 1), {}, r"target\[0\] is -1"),
    "bce: nan": ("binary_cross_entropy", (real(3) + torch.nan, half(3)), {}, r"input\[0\] is nan"),
    "bce: dtypes": ("binary_cross_entropy", (half(3), half(3).double()), {}, "target"),
    "bce: weight": ("binary_cross_entropy", (half(3), half(3), half(4)), {}, "weight"),
    "bce: larger weight": ("binary_cross_entropy", (half(3), half(3), half(2, 3)), {}, "weight"),
    "bce_with_logits: shapes": ("binary_cross_entropy_with_logits", (real(3), half(4)), {}, "Target size"),
    "bce_with_logits: weight": ("binary_cross_entropy_with_logits", (real(3), half(3), half(4)), {}, "weight"),
    "bce_with_logits: pos_weight": (
        "binary_cross_entropy_with_logits",
        (real(3), half(3)),
        {"pos_weight": half(2, 3)},
        "pos_weight",
    ),
    "nll: no axes": ("nll_loss", (real(), index()), {}, "input"),
    "nll: batch": ("nll_loss", (real(3, 4), index(2)), {}, r"input batch_size \(3\) to match target batch_size \(2\)"),
    "nll: target axes": ("nll_loss", (real(3, 4), index(3, 1)), {}, "target"),
    "nll: K-dimensional target": ("nll_loss", (real(3, 4, 5), index(3, 6)), {}, r"target size \[3, 5\], got \[3, 6\]"),
    "nll: weight": ("nll_loss", (real(3, 4), index(3), real(5)), {}, "weight"),
    "nll: weight axes": ("nll_loss", (real(3, 4), index(3), real(4, 1)), {}, "weight"),
    "nll: weight dtype": ("nll_loss", (real(3, 4), index(3), real(4).double()), {}, "weight"),
    "nll: float target": ("nll_loss", (real(3, 4), real(3)), {}, "target"),
    "nll: class": ("nll_loss", (real(3, 4), index(3, value=7)), {}, r"target\[0\] is 7"),
    "nll: integers": ("nll_loss", (index(3, 4), index(3)), {}, "input"),
    "cross_entropy: class": ("cross_entropy", (real(3, 4), index(3, value=-1)), {}, r"target\[0\] is -1"),
    "cross_entropy: smoothing": ("cross_entropy", (real(3, 4), index(3)), {"label_smoothing": 1.5}, "label_smoothing"),
    "cross_entropy: soft ignore": (
        "cross_entropy",
        (real(3, 4), half(3, 4)),
        {"ignore_index": 0},
        "ignore_index is not supported",
    ),
    "cross_entropy: soft target's shape": ("cross_entropy", (real(3, 4), real(3)), {}, "target"),
    "cross_entropy: integer probabilities": ("cross_entropy", (real(3, 4), index(3, 4)), {}, "target"),
    "cross_entropy: weight": ("cross_entropy", (real(3, 4), half(3, 4), real(5)), {}, "weight"),
    "cross_entropy: weight dtype": ("cross_entropy", (real(3, 4), index(3), real(4).double()), {}, "weight"),
    "kl_div: shapes": ("kl_div", (real(3), real(4)), {"reduction": "sum"}, "target"),
    "kl_div: integers": ("kl_div", (real(3), index(3)), {"reduction": "sum"}, "target"),
    "hinge_embedding: shapes": ("hinge_embedding_loss", (real(3), real(4)), {}, "target"),
    "margin_ranking: axes": ("margin_ranking_loss", (real(3), real(3, 1), real(3)), {}, "input2"),
    "margin_ranking: shapes": ("margin_ranking_loss", (real(3), real(4), real(3)), {}, "input2"),
    "triplet_margin: axes": ("triplet_margin_loss", (real(3, 4), real(4), real(3, 4)), {}, "positive"),
    "triplet_margin: shapes": ("triplet_margin_loss", (real(3, 4), real(3, 5), real(3, 4)), {}, "positive"),
    "triplet_margin: margin": ("triplet_margin_loss", (real(3, 4),) * 3, {"margin": 0.0}, "margin"),
    "cosine_embedding: target axes": ("cosine_embedding_loss", (real(3, 4), real(3, 4), real(3, 1)), {}, "target"),
    "cosine_embedding: target": ("cosine_embedding_loss", (real(3, 4), real(3, 4), real(4)), {}, "target"),
    "cosine_embedding: input axes": ("cosine_embedding_loss", (real(2, 3, 4), real(2, 3, 4), real(2)), {}, "input"),
    "cosine_embedding: features": ("cosine_embedding_loss", (real(3, 4), real(3, 5), real(3)), {}, "input2"),
    "multi_margin: batch": ("multi_margin_loss", (real(3, 4), index(2)), {}, "target"),
    "multi_margin: class": ("multi_margin_loss", (real(3, 4), index(3, value=9)), {}, r"target\[0\] is 9"),
    "multi_margin: weight": ("multi_margin_loss", (real(3, 4), index(3)), {"weight": real(5)}, "weight"),
    "multi_margin: weight axes": ("multi_margin_loss", (real(3, 4), index(3)), {"weight": real(4, 1)}, "weight"),
    "multi_margin: axes": ("multi_margin_loss", (real(3, 4, 2), index(3)), {}, r"\[3, 4, 2\]"),
    "multi_margin: no classes": ("multi_margin_loss", (real(3, 0), index(3)), {}, r"\[3, 0\]"),
    "multi_margin: p": ("multi_margin_loss", (real(3, 4), index(3)), {"p": 3}, "p == 1 and p == 2"),
    "multilabel_margin: shapes": ("multilabel_margin_loss", (real(3, 4), index(3, 5)), {}, "target"),
    "multilabel_margin: class": ("multilabel_margin_loss", (real(3, 4), index(3, 4, value=4)), {}, "target"),
    "multilabel_margin: below -1": ("multilabel_margin_loss", (real(3, 4), index(3, 4, value=-2)), {}, "target"),
    "multilabel_soft_margin: shapes": ("multilabel_soft_margin_loss", (real(3, 4), half(4, 4)), {}, "target"),
    "multilabel_soft_margin: no axes": ("multilabel_soft_margin_loss", (real(), half()), {}, "input"),
    "poisson_nll: shapes": ("poisson_nll_loss", (real(3), real(4)), {}, "target"),
    "poisson_nll: reduction": ("poisson_nll_loss", (real(3), real(3)), {"reduction": "max"}, "max is not a valid"),
    "gaussian_nll: negative": ("gaussian_nll_loss", (real(3), real(3), real(3) - 1), {}, "var has negative"),
    "gaussian_nll: negative number": ("gaussian_nll_loss", (real(3), real(3), -1.0), {}, "var has negative"),
    "gaussian_nll: shape": ("gaussian_nll_loss", (real(3, 4), real(3, 4), half(2)), {}, "var is of incorrect size"),
    "ctc: blank": ("ctc_loss", (real(5, 2, 4), index(2, 2) + 1, (5, 5), (2, 2)), {"blank": 7}, "blank"),
    "ctc: input_lengths": ("ctc_loss", (real(5, 2, 4), index(2, 2) + 1, (6, 5), (2, 2)), {}, "input_lengths"),
    "ctc: number of lengths": ("ctc_loss", (real(5, 2, 4), index(2, 2) + 1, (5,), (2, 2)), {}, "input_lengths"),
    "ctc: target_lengths": ("ctc_loss", (real(5, 2, 4), index(2, 2) + 1, (5, 5), (3, 2)), {}, "targets"),
    "ctc: negative length": ("ctc_loss", (real(5, 2, 4), index(2, 2) + 1, (5, 5), (-1, 2)), {}, "target_lengths"),
    "ctc: concatenation": ("ctc_loss", (real(5, 2, 4), index(5) + 1, (5, 5), (2, 2)), {}, "targets"),
    "ctc: batch": ("ctc_loss", (real(5, 2, 4), index(3, 2) + 1, (5, 5), (2, 2)), {}, "targets"),
    "linear: axes": ("linear_cross_entropy", (real(3, 6, 4), real(5, 4), index(3, 6)), {}, "input"),
    "linear: features": ("linear_cross_entropy", (real(3, 4), real(5, 3), index(3)), {}, "linear_weight"),
    "linear: class": ("linear_cross_entropy", (real(3, 4), real(5, 4), index(3, value=5)), {}, r"target\[0\] is 5"),
    "linear: bias": (
        "linear_cross_entropy",
        (real(3, 4), real(5, 4), index(3)),
        {"linear_bias": real(4)},
        "linear_bias",
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of sizes that differ, before the error that says why
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_errors_are_of_torchs_type_and_name_the_argument(case, library):
    function, arguments, options, named = CASES[case]
    theirs = getattr(F, function, None)
    if theirs is None:
        pytest.skip("this PyTorch does not have the function")
    with pytest.raises(Exception) as expected:  # noqa: PT011  # whatever PyTorch raises is what we want to know
        theirs(*arguments, **options)
    if library == "numpy":
        arguments = tuple(value.numpy() if isinstance(value, torch.Tensor) else value for value in arguments)
        options = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    with pytest.raises(expected.type, match=named):
        getattr(P, function)(*arguments, **options)


def test_a_class_out_of_range_says_which_and_where():
    target = np.array([[0, 1, 2], [3, 9, -100]])
    with pytest.raises(IndexError, match=r"target\[1, 1\] is 9, expected a class from 0 to 3, or ignore_index -100"):
        P.cross_entropy(np.zeros((2, 4, 3)), target)
    with pytest.raises(IndexError, match=r"target\[2\] is 4, expected a class from 0 to 3"):
        P.multi_margin_loss(np.zeros((3, 4)), np.array([0, 1, 4]))
    with pytest.raises(IndexError, match=r"target\[0, 2\] is -3, expected a class from 0 to 3, or -1"):
        P.multilabel_margin_loss(np.zeros((1, 4)), np.array([[0, 1, -3, -1]]))
    with pytest.raises(IndexError, match=r"targets\[0, 1\] is 9, expected a class from 0 to 3"):
        P.ctc_loss(np.zeros((5, 1, 4)), np.array([[1, 9]]), np.array([5]), np.array([2]))


def test_labels_past_a_targets_length_do_not_matter():
    log_probs = np.log(np.full((5, 1, 4), 0.25))
    padded = P.ctc_loss(log_probs, np.array([[1, 99]]), np.array([5]), np.array([1]))
    assert padded == P.ctc_loss(log_probs, np.array([[1, 2]]), np.array([5]), np.array([1]))


def test_a_failed_call_changes_nothing():
    input = np.zeros((2, 4))
    target = np.array([0, 9])
    with pytest.raises(IndexError):
        P.cross_entropy(input, target)
    assert not input.any()
    assert target.tolist() == [0, 9]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", ">f4"])
def test_one_look_at_the_bits_is_enough(dtype):
    """``is_from_0_to`` says yes of no array that a comparison would refuse, and no of few others."""
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    numbers = [0.0, 2.0**-24, 0.5, 1.0, 1.0078125, 3.0, np.inf, np.nan]
    for value in [*numbers, *(np.copysign(number, -1.0) for number in numbers)]:
        array = np.array([0.25, value, 0.75]).astype(kind)
        for largest in (1.0, np.inf):
            right = bool(0.0 <= value <= largest)
            minus_zero = value == 0.0 and np.signbit(value)
            assert is_from_0_to(array, largest) == (right and not minus_zero), (value, largest)
    assert is_from_0_to(np.zeros((0, 3), kind), 1.0)
    assert is_from_0_to(np.array(1.0).astype(kind), 1.0)
    assert is_from_0_to(np.ones((4, 6)).astype(kind)[::2, ::-2], 1.0)


def test_minus_zero_is_a_probability_and_a_variance():
    zeros = np.array([-0.0, 0.5], np.float32)
    assert np.isfinite(P.binary_cross_entropy(zeros, zeros))
    assert np.isfinite(P.gaussian_nll_loss(zeros, zeros, zeros))


def test_a_number_is_no_reduction_whatever_was_called_before():
    x = real(3)
    P.mse_loss(x, x, reduction=LossReduction.MEAN)
    for reduction in (1, True, 1.0):
        with pytest.raises(ValueError, match="is not a valid value for reduction"):
            P.mse_loss(x, x, reduction=reduction)

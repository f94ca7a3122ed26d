"""Operands of different dtypes: where PyTorch takes them, ours gives PyTorch's dtypes; what it refuses is not asked."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from . import judge
from .material import FUNCTIONS, PLAIN_OPS, arguments, dtypes, each, pair, samples, show

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64]

R, FEATURES, ROW, CLASS, SIGN, INDEX = "rows", "features", "row", "classes", "signs", "indices"  # what an operand is


def operand(kind):
    """Numbers in (0, 1), or signs, or classes."""
    shape = {R: (3, 4), FEATURES: (4, 4), ROW: (3,), CLASS: (4,), SIGN: (3, 4), INDEX: (3,)}[kind]
    if kind == INDEX:
        return torch.randint(4, shape)
    if kind == SIGN:
        return torch.randint(2, shape).double() * 2 - 1
    return torch.rand(shape, dtype=torch.float64) * 0.8 + 0.1


ROWS = [
    ("mse_loss", {"input": R, "target": R}, {}),
    ("mse_loss", {"input": R, "target": R, "weight": R}, {}),
    ("l1_loss", {"input": R, "target": R}, {}),
    ("l1_loss", {"input": R, "target": R, "weight": R}, {}),
    ("smooth_l1_loss", {"input": R, "target": R}, {}),
    ("huber_loss", {"input": R, "target": R}, {}),
    ("huber_loss", {"input": R, "target": R, "weight": R}, {}),
    ("binary_cross_entropy", {"input": R, "target": R, "weight": CLASS}, {}),
    ("binary_cross_entropy_with_logits", {"input": R, "target": R}, {}),
    ("binary_cross_entropy_with_logits", {"input": R, "target": R, "weight": CLASS}, {}),
    ("binary_cross_entropy_with_logits", {"input": R, "target": R, "pos_weight": CLASS}, {}),
    ("kl_div", {"input": R, "target": R}, {"log_target": False}),
    ("kl_div", {"input": R, "target": R}, {"log_target": True}),
    ("hinge_embedding_loss", {"input": R, "target": SIGN}, {}),
    ("margin_ranking_loss", {"input1": R, "input2": R, "target": SIGN}, {}),
    ("triplet_margin_loss", {"anchor": R, "positive": R, "negative": R}, {"swap": False}),
    ("triplet_margin_loss", {"anchor": R, "positive": R, "negative": R}, {"swap": True}),
    ("cosine_embedding_loss", {"input1": R, "input2": R, "target": ROW}, {}),
    ("poisson_nll_loss", {"input": R, "target": R}, {}),
    ("poisson_nll_loss", {"input": R, "target": R}, {"log_input": False, "full": True}),
    ("gaussian_nll_loss", {"input": R, "target": R, "var": R}, {"full": True}),
    ("multi_margin_loss", {"input": R, "target": INDEX, "weight": CLASS}, {}),
    ("multilabel_soft_margin_loss", {"input": R, "target": R, "weight": CLASS}, {}),
    ("nll_loss", {"input": R, "target": INDEX, "weight": CLASS}, {}),
    ("cross_entropy", {"input": R, "target": INDEX, "weight": CLASS}, {}),
    ("cross_entropy", {"input": R, "target": R}, {}),
    ("cross_entropy", {"input": R, "target": R, "weight": CLASS}, {"label_smoothing": 0.1}),
    ("linear_cross_entropy", {"input": R, "linear_weight": FEATURES, "target": R, "weight": CLASS}, {}),
]


#: Ours refuses integer inputs of these. PyTorch takes them with some reductions, or with a weight, and not with others.
NO_INTEGERS = {"mse_loss", "l1_loss", "hinge_embedding_loss"}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("function", "kinds", "options"), ROWS)
def test_dtypes(function, kinds, options, reduction, tally):
    ours, theirs = pair(function)
    made = {name: operand(kind) for name, kind in kinds.items()}
    names = judge.inexact(made)

    def cases():
        for chosen in itertools.product(DTYPES, repeat=len(names)):
            cast = {
                name: (made[name] if dtype.is_floating_point else made[name] * 3).to(dtype)
                for name, dtype in zip(names, chosen, strict=True)
            }
            case = made | cast | options | {"reduction": reduction}
            if len(set(chosen)) == 1 and judge.inexact(cast):
                continue  # not mixed
            if function in NO_INTEGERS and "input" not in judge.inexact(cast):
                continue
            for wants in ([], judge.inexact(cast)):
                if takes(case, wants):
                    yield show(case), functools.partial(judge.compare, ours, theirs, case, wants)

    def takes(case, wants):
        try:
            judge.run(theirs, judge.leaves(case, wants))
        except Exception:
            return False
        return True

    tally["samples"] += each(cases())


#: The functions of which PyTorch tests dtypes beside the floating ones.
OTHERS = [
    pytest.param(op, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")
    for name, op in PLAIN_OPS.items()
    for dtype in dtypes(op)
    if not dtype.is_floating_point
]


@pytest.mark.parametrize(("op", "dtype"), OTHERS)
def test_integers_and_complex_numbers_in_numpy(op, dtype):
    """The same number in either library."""
    function, _ = pair(FUNCTIONS[op.name])

    def same(case):
        in_numpy = {name: value.numpy() for name, value in judge.tensors(case).items()}
        value = function(**case)
        torch.testing.assert_close(torch.as_tensor(function(**case | in_numpy)), value, equal_nan=True)

    cases = [arguments(op, sample) for sample in samples(op, dtype, requires_grad=False)]
    assert each((show(case), functools.partial(same, case)) for case in cases)

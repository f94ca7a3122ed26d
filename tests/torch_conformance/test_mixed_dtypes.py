"""Operands of different dtypes: where PyTorch takes them, ours gives PyTorch's dtypes; what it refuses is not asked."""

from __future__ import annotations

import functools
import itertools
import re

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


@pytest.mark.parametrize(("function", "count"), [("kl_div", 2), ("poisson_nll_loss", 2), ("gaussian_nll_loss", 3)])
def test_dtypes_of_operands_without_axes(function, count):
    """PyTorch's arithmetic lets an operand with axes decide, unless one without is of a higher category."""
    ours, theirs = pair(function)
    compared = 0
    for chosen in itertools.product([torch.uint8, *DTYPES], repeat=count):
        for shapes in itertools.product([(), (3,)], repeat=count):
            case = [torch.ones(shape, dtype=dtype) for shape, dtype in zip(shapes, chosen, strict=True)]
            for reduction in ("none", "sum"):
                try:
                    right = theirs(*case, reduction=reduction)
                except (RuntimeError, ValueError):
                    continue
                if right.dtype.is_floating_point and any(tensor.is_floating_point() for tensor in case):
                    assert ours(*case, reduction=reduction).dtype == right.dtype, (chosen, shapes)
                    compared += 1
    assert compared > 100


@pytest.mark.parametrize("function", ["l1_loss", "margin_ranking_loss", "triplet_margin_loss"])
def test_dtypes_that_pytorch_does_not_promote_are_errors_with_names(function):
    ours, _ = pair(function)
    names = {"l1_loss": ["input", "target"], "margin_ranking_loss": ["input1", "input2", "target"]}
    dtypes = [torch.uint16, torch.uint32, torch.complex64, torch.int32, torch.uint8, torch.bool, torch.float32]
    refused = []
    for chosen in itertools.product(dtypes, repeat=len(names.get(function, "123"))):
        case = [torch.ones(2, 3).to(dtype) for dtype in chosen]
        try:
            ours(*case)
        except (TypeError, RuntimeError, ValueError) as error:
            refused.append(str(error))
    known = "|".join(names.get(function, ["anchor", "positive", "negative"]))
    assert refused
    assert not [text for text in refused if not re.search(rf"\b({known})\b", text)]


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

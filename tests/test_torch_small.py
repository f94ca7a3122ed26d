"""Small tensors on the CPU: when PyTorch's operators compute them, and that their results are as good as ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.utils.checkpoint

import portaloss
from portaloss import functional
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind, LossReduction
from portaloss.parity import samples
from portaloss.parity.compare import bound, compare
from portaloss.parity.truth import Truth
from portaloss.plan import differentiable
from portaloss.torch_ops import small

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both:UserWarning")

#: Units in the last place beyond the bounds of our own kernels. On parity's cases PyTorch's derivatives of
#: cross-entropy are within ten units where ours are within seven, its cosines and norms within 5.2 and 4.5 where ours
#: are within four, and BCE's divides by a product that it rounds.
BEYOND = 3.0


def taken(loss, **given):
    """Whether a call goes to PyTorch's operator: its graph then has no node of ours."""
    value = loss(**given)
    return "_Loss" not in type(value.grad_fn).__name__


def pair(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x, t = (torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return {"input": x.requires_grad_(), "target": t}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", list(LossKind), ids=lambda kind: kind.name.lower())
def test_results_keep_the_bounds(kind, dtype):
    loss = LOSSES[kind]
    calls = 0
    for name in samples.names(kind):
        case = samples.case(loss, dtype, name)
        if name == "extremes" or max(np.size(array) for array in case.operands.values()) > small.LIMIT:
            continue  # subnormal numbers have no relative precision, and other rows are too long to be small
        truth = Truth(loss, case)
        options = {option.name: case.options.get(option.name, option.default) for option in loss.options}
        possible = differentiable(loss, case.operands)
        for reduction in LossReduction:
            for wants in {possible, possible[:1], ()}:
                operands = {n: torch.from_numpy(np.array(array, order="C")) for n, array in case.operands.items()}
                for operand in wants:
                    operands[operand].requires_grad_()
                value = small.loss(kind, reduction.name.lower(), operands, options)
                if value is None:
                    continue
                calls += 1
                if not value.requires_grad:
                    found = compare(value.numpy(), truth.loss(reduction), dtype)
                    assert found.ulp <= bound(kind, dtype) + BEYOND, (name, reduction, found)
                    continue
                shape = truth.items_shape if reduction is LossReduction.NONE else ()
                upstream = case.upstream(shape, np.dtype(dtype))
                results = torch.autograd.grad(
                    value, [operands[n] for n in wants], torch.from_numpy(np.array(upstream, order="C"))
                )
                expected = truth.gradients(reduction, upstream)
                pairs = [("loss", value.detach(), truth.loss(reduction))]
                pairs += [(n, result, expected[n]) for n, result in zip(wants, results, strict=True)]
                for what, got, right in pairs:
                    found = compare(got.numpy(), right, dtype)
                    assert found.ulp <= bound(kind, dtype) + BEYOND, (name, reduction, what, found)
    # computed in float64, which nothing is wider than; so would linear cross-entropy's unlikely classes have to be
    not_in_float64 = {LossKind.CTC, LossKind.BCE_WITH_LOGITS, LossKind.FUSED_LINEAR_CROSS_ENTROPY}
    assert calls > 0 or (kind in not_in_float64 and dtype == "float64")


def test_it_is_for_the_ordinary_only():
    mse = functional.mse_loss
    ordinary = pair(8, 8)
    assert taken(mse, **ordinary)
    assert taken(mse, **ordinary, reduction="none")
    x, t = ordinary.values()
    assert not taken(mse, input=x, target=t, weight=t.abs())
    assert not taken(mse, input=x, target=t.double())
    assert not taken(mse, input=x.T, target=t)
    with pytest.warns(UserWarning, match="different to the input size"):
        assert not taken(mse, input=x, target=t[:1])
    assert taken(mse, **pair(small.LIMIT + 1))
    assert not taken(mse, **pair(5003, 7))  # rows so short are as much work again
    assert not taken(mse, **pair(1, 39999))
    assert not taken(mse, **pair(small.MEDIUM_LIMIT + 1024))
    assert not taken(functional.kl_div, **pair(64, 1024), reduction="sum")  # of medium size ours is faster
    for dtype in (torch.float16, torch.bfloat16):
        assert not taken(mse, **pair(8, 8, dtype=dtype))
    empty = torch.empty(0, 3, requires_grad=True)
    assert not taken(functional.multi_margin_loss, input=empty, target=torch.empty(0, dtype=torch.int64))


def test_modes_are_not_for_it(monkeypatch):
    x, t = pair(8, 5)["input"], torch.arange(8) % 5
    assert taken(functional.nll_loss, input=x, target=t)
    with portaloss.check_targets("nan"):
        assert not taken(functional.nll_loss, input=x, target=t)
    with torch.device("cpu"):  # a mode that sees PyTorch's functions
        assert not taken(functional.nll_loss, input=x, target=t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not taken(functional.nll_loss, input=x, target=t)
    monkeypatch.setattr(small, "enabled", False)
    assert not taken(functional.nll_loss, input=x, target=t)


def test_options_of_a_wrong_type_are_our_errors():
    operands = pair(8)
    with pytest.raises(TypeError, match="margin must be a number, got 'x'"):
        functional.hinge_embedding_loss(**operands, margin="x")
    assert small.loss(LossKind.SMOOTH_L1, "mean", operands, {"beta": 1.0}) is not None
    assert small.loss(LossKind.SMOOTH_L1, "mean", operands, {"beta": True}) is None
    assert small.loss(LossKind.KL_DIV, "mean", operands, {"log_target": 1, "batchmean": False}) is None
    with pytest.raises(IndexError, match=r"target\[1\] is 5, expected a class from 0 to 4"):
        functional.nll_loss(torch.zeros(2, 5), torch.tensor([0, 5]))


def test_cross_entropy_that_would_lose_digits_is_not_pytorchs():
    """With the target ahead by g, 1 - p is (C - 1) exp(-g): less than a hundredth of it is lost in any way we take."""
    for gap in (0.0, 3.0, 9.0, 15.0, 25.0):
        x = torch.zeros(4, 5)
        x[:, 2] = gap
        x.requires_grad_()
        functional.cross_entropy(x, torch.full((4,), 2), reduction="sum").backward()
        right = -4 * np.exp(-gap) / (1 + 4 * np.exp(-gap))
        assert float(x.grad[0, 2]) == pytest.approx(right, rel=10 * 2.0**-23)


def test_ties_and_ignored_rows():
    x = torch.tensor([1.0, -1.0, 2.0], requires_grad=True)
    functional.l1_loss(x, x.detach().clone(), reduction="sum").backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]
    log_p = torch.full((2, 3), -1.0, requires_grad=True)
    loss = functional.nll_loss(log_p, torch.tensor([-100, -100]))
    assert loss.isnan()


@pytest.mark.parametrize("kind", list(LossKind), ids=lambda kind: kind.name.lower())
def test_a_small_loss_can_be_differentiated_twice(kind):
    """In float32 and float64, whichever way they go."""
    loss = LOSSES[kind]
    for dtype in ("float32", "float64"):
        case = next(samples.cases(loss, dtype))
        operands = {n: torch.from_numpy(np.array(array, order="C")) for n, array in case.operands.items()}
        first = operands[loss.operands[0].name].requires_grad_()
        options = {name: value for name, value in case.options.items() if name != "batchmean"}
        value = getattr(functional, loss.function)(**operands, **options)
        (gradient,) = torch.autograd.grad(value, first, create_graph=True)
        if gradient.requires_grad:  # else it is constant in the operand, as L1's
            (second,) = torch.autograd.grad(gradient.sum(), first, allow_unused=True)
            assert second is None or second.isfinite().all()


def test_a_gradient_that_pytorch_differentiates_once():
    """Its own is taken where it is not part of a graph; it can be had again, and notices operands that were changed."""
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
    t = torch.arange(8) % 5
    loss = functional.multi_margin_loss(x, t)
    assert "_Once" in type(loss.grad_fn).__name__
    first, again = (torch.autograd.grad(3 * loss, x, retain_graph=True)[0] for _ in range(2))
    (ours,) = torch.autograd.grad(3 * loss, x, create_graph=True)
    (theirs,) = torch.autograd.grad(3 * torch.nn.functional.multi_margin_loss(x, t), x)
    assert torch.equal(first, again)
    assert torch.equal(first, theirs)
    assert ours.requires_grad
    torch.testing.assert_close(ours.detach(), first, rtol=2.0**-22, atol=0)
    torch.autograd.grad(loss, x)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, x)
    loss = functional.multi_margin_loss(x, t)
    with torch.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x)


def test_what_a_node_keeps_goes_with_the_backward_pass():
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
    loss = functional.multi_margin_loss(x, torch.arange(8) % 5)
    loss.backward(retain_graph=True)
    assert loss.grad_fn.call is not None
    loss.backward()
    assert loss.grad_fn.call is None


def test_a_checkpoint_computes_its_part_once_more_and_not_twice():
    calls = []

    def part(x):
        calls.append(1)
        return functional.multi_margin_loss(2 * x, torch.arange(8) % 5)

    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
    torch.utils.checkpoint.checkpoint(part, x, use_reentrant=False).backward()
    assert len(calls) == 2


def sequences(targets, steps=6, classes=5):
    generator = torch.Generator().manual_seed(4)
    targets = torch.tensor(targets)
    samples, labels = targets.shape
    log_probs = torch.randn(steps, samples, classes, generator=generator).log_softmax(2)
    lengths = torch.full((samples,), steps), torch.full((samples,), labels)
    return log_probs.requires_grad_(), targets, *lengths


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("targets", [[[1, 7], [2, 3]], [[1, 10**8], [2, 3]], [[1, 2], [2, -4]]])
def test_labels_that_there_are_not_never_reach_pytorch(targets, learning):
    """It looks at none of them before it reads, and in its backward pass writes, where they say."""
    log_probs, *rest = sequences(targets)
    with torch.set_grad_enabled(learning), pytest.raises(IndexError, match="is out of bounds"):
        functional.ctc_loss(log_probs, *rest)


def test_lengths_that_there_are_not_never_reach_pytorch():
    log_probs, targets, *lengths = sequences([[1, 2], [2, 3]])
    for which, wrong in ((0, 7), (0, -1), (1, 3), (1, -1)):
        given = [length.clone() for length in lengths]
        given[which][1] = wrong
        operands = dict(
            zip(("log_probs", "targets", "input_lengths", "target_lengths"), (log_probs, targets, *given), strict=True)
        )
        options = {"blank": 0, "zero_infinity": False}
        assert small.loss(LossKind.CTC, "mean", operands, options) is None


def test_a_label_that_is_the_blank_has_our_gradient(monkeypatch):
    log_probs, *rest = sequences([[1, 2], [2, 3]])
    (found,) = torch.autograd.grad(functional.ctc_loss(log_probs, *rest, blank=2), log_probs)
    monkeypatch.setattr(small, "enabled", False)
    (ours,) = torch.autograd.grad(functional.ctc_loss(log_probs, *rest, blank=2), log_probs)
    assert torch.equal(found, ours)


def test_long_sequences_are_ours():
    operands = sequences([[1, 2, 3] * 40], steps=400)
    assert "_Once" not in type(functional.ctc_loss(*operands).grad_fn).__name__


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_a_mean_of_medium_tensors_does_not_overflow_before_it_is_one(name):
    x = torch.full((256, 256), 1e17 if name == "mse_loss" else 1e35, requires_grad=True)
    mean = getattr(functional, name)(x, torch.zeros(256, 256))
    assert mean.item() == pytest.approx(1e34 if name == "mse_loss" else 1e35, rel=1e-6)


def test_second_derivatives():
    x = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    loss = functional.mse_loss(x, torch.zeros(6, dtype=torch.float64), reduction="sum")
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [2.0] * 6


def vectors(rows, features):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(rows, features, generator=generator) for _ in range(3)]


#: Medium operands: shapes that PyTorch would spread over threads along rows, along columns, and evenly.
MEDIUM = {
    "mse_loss": [pair(65536), pair(2, 32767), pair(301, 4, 33)],
    "l1_loss": [pair(256, 256)],
    "smooth_l1_loss": [pair(256, 257)],
    "huber_loss": [pair(32, 32, 33)],
    "poisson_nll_loss": [pair(300, 128)],
    "nll_loss": [{"input": pair(n, c)["input"], "target": torch.arange(n) % c} for n, c in ((64, 1000), (32767, 3))],
    "cosine_embedding_loss": [
        dict(zip(("input1", "input2", "target"), (*vectors(n, d)[:2], torch.ones(n)), strict=True))
        for n, d in ((2, 32767), (20000, 4))
    ],
    "triplet_margin_loss": [
        dict(zip(("anchor", "positive", "negative"), vectors(n, d), strict=True)) for n, d in ((2, 32767), (20000, 4))
    ],
}
MEDIUM["cross_entropy"] = [
    {
        "input": pair(n, c)["input"].detach() * scale,
        "target": (torch.arange(n) % c).masked_fill(torch.arange(n) % skip == 1, -100),
    }
    for n, c, scale, skip in ((64, 1000, 1.0, 99), (2, 32767, 5.0, 3), (32767, 3, 0.1, 7), (300, 129, 6.0, 5))
]
#: How large the terms are that an item is a difference of, where it may be smaller than they are.
TERMS = {
    "poisson_nll_loss": lambda given: float((given["input"].exp() + (given["input"] * given["target"]).abs()).max()),
    "cosine_embedding_loss": lambda given: 1.0,
    "triplet_margin_loss": lambda given: float((given["anchor"] - given["negative"]).norm(dim=1).max()),
}
MEDIUM_CASES = [(name, operands) for name, cases in MEDIUM.items() for operands in cases]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "operands"), MEDIUM_CASES, ids=[name for name, _ in MEDIUM_CASES])
def test_medium_tensors(name, operands, reduction, monkeypatch):
    """The same bits on any number of threads, and the results of our own kernels in float64, rounded."""
    function = getattr(functional, name)
    first = next(iter(operands))
    given = {n: value.detach().clone() for n, value in operands.items()}
    given[first].requires_grad_()
    assert taken(function, **given, reduction=reduction)

    def results(given):
        value = function(**given, reduction=reduction)
        return value.detach(), *torch.autograd.grad(value, given[first], torch.ones_like(value))

    found = set()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.add(tuple(result.numpy().tobytes() for result in results(given)))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1

    monkeypatch.setattr(small, "enabled", False)
    wide = {n: v.detach().double() if v.is_floating_point() else v for n, v in given.items()}
    wide[first].requires_grad_()
    value, gradient = results(given)  # our float32 kernel's
    right_value, right = results(wide)
    monkeypatch.undo()
    got_value, got = results(given)
    # each of an item's few operations rounds once, rows are added in pairs, and our own kernel is as far off
    terms = TERMS[name]({n: value.detach() for n, value in wide.items()}) if name in TERMS else 0.0
    items = function(**wide, reduction="none").detach().abs().clamp_min(terms)
    scale = {"none": items, "mean": items.mean(), "sum": items.sum()}[reduction]
    assert ((got_value - right_value).abs() <= 8 * 2.0**-24 * scale + (value - right_value).abs()).all()
    # derivatives of cosines and norms are differences of terms as large as the largest of them
    assert ((got - right).abs() <= 8 * 2.0**-24 * right.abs().max() + (gradient - right).abs()).all()


@pytest.mark.parametrize("lead", [0.0, 8.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_of_medium_tensors_keeps_the_bounds_where_pytorch_does_not(dtype, lead):
    """Of p near 0, and of 1 - p where the target leads by so much, PyTorch loses digits."""
    x, t = pair(64, 1000, dtype=dtype)["input"].detach(), torch.arange(64)
    x[t, t] += lead
    wide = x.numpy().astype(np.longdouble)
    terms = np.exp(wide)
    own = np.take_along_axis(terms, t[:, None].numpy(), 1)
    np.put_along_axis(terms, t[:, None].numpy(), 0, 1)
    rest = terms.sum(1, keepdims=True)
    np.put_along_axis(terms, t[:, None].numpy(), -rest, 1)
    truth = np.log1p(rest / own)[:, 0], terms / (own + rest)

    def ulp(function):
        leaf = x.clone().requires_grad_()
        items = function(leaf, t, reduction="none")
        (gradient,) = torch.autograd.grad(items.sum(), leaf)
        worst = 0.0
        for got, right in zip((items.detach().numpy(), gradient.numpy()), truth, strict=True):
            worst = max(worst, (np.abs(got - right) / np.spacing(np.abs(right).astype(got.dtype))).max())
        return worst

    limit = bound(LossKind.CROSS_ENTROPY, str(dtype).removeprefix("torch.")) + BEYOND
    assert taken(functional.cross_entropy, input=x.clone().requires_grad_(), target=t)
    assert ulp(functional.cross_entropy) <= limit < ulp(torch.nn.functional.cross_entropy)


def test_what_of_medium_cross_entropy_is_left_to_our_own_way():
    x, t = pair(64, 1000)["input"], torch.arange(64)
    loss = functional.cross_entropy
    assert taken(loss, input=x, target=t)
    assert taken(loss, input=x, target=t, ignore_index=5)
    assert not taken(loss, input=x, target=t, weight=torch.ones(1000))
    assert not taken(loss, input=x, target=t, label_smoothing=0.1)
    assert not taken(loss, input=x, target=x.detach().softmax(1))
    assert not taken(loss, input=x, target=torch.full_like(t, -100))  # the mean of none is nan
    with torch.no_grad():
        shifted = [x + 70, x - 70, x.clone(), x.clone()]
        shifted[2][3, 3] = -40.0  # of a target
        shifted[3][3, 4] = float("nan")
    for y in shifted:  # rows need their maximum
        assert not taken(loss, input=y.requires_grad_(), target=t)
    for wrong in (-1, 1000):
        with pytest.raises(IndexError, match=f"target.3. is {wrong}, expected a class from 0 to 999"):
            loss(x, torch.where(t == 3, wrong, t))


def test_medium_cross_entropy_is_a_node_like_others():
    x, t = pair(64, 1000, dtype=torch.float64)["input"], torch.arange(64)
    value = functional.cross_entropy(x, t)
    first, second = (torch.autograd.grad(value, x, torch.tensor(2.0), retain_graph=kept)[0] for kept in (True, False))
    assert torch.equal(first, second)
    assert first is not second
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(value, x)
    (one,) = torch.autograd.grad(functional.cross_entropy(x, t), x)
    assert torch.equal(first, 2 * one)

    value = functional.cross_entropy(x, t)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    (of_norm,) = torch.autograd.grad((gradient**2).sum(), x)
    theirs = torch.nn.functional.cross_entropy(x, t)
    (gradient,) = torch.autograd.grad(theirs, x, create_graph=True)
    (right,) = torch.autograd.grad((gradient**2).sum(), x)
    torch.testing.assert_close(of_norm, right)

    value = functional.cross_entropy(x, t)
    (many,) = torch.autograd.grad(value, x, torch.tensor([1.0, 2.0], dtype=torch.float64), is_grads_batched=True)
    torch.testing.assert_close(many, torch.stack([one, 2 * one]))
    items = functional.cross_entropy(x, t, reduction="none")
    items += 1  # which a view would not allow

    value = functional.cross_entropy(x, t)
    with torch.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(value, x)
    y = torch.utils.checkpoint.checkpoint(lambda x: functional.cross_entropy(x, t), x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y, x)[0], one)  # a constant more changes nothing


def test_the_same_bits_on_any_number_of_threads():
    before = torch.get_num_threads()
    try:
        for kind, operands in (("mse_loss", pair(small.LIMIT)), ("kl_div", pair(7, small.LIMIT // 7))):
            found = set()
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                value = getattr(functional, kind)(**operands, reduction="sum")
                assert taken(getattr(functional, kind), **operands)
                results = value.detach(), *torch.autograd.grad(value, operands["input"])
                found.add(tuple(result.numpy().tobytes() for result in results))
            assert len(found) == 1
    finally:
        torch.set_num_threads(before)

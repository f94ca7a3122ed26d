"""Options of linear_cross_entropy that PyTorch's lacks, compared with the same computed by other PyTorch functions."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import portaloss
from portaloss.functional import LinearCrossEntropyExtras, linear_cross_entropy

ROWS, FEATURES, CLASSES = 9, 5, 11
GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


X, W, B = (rand(*shape).requires_grad_() for shape in ((ROWS, FEATURES), (CLASSES, FEATURES), (CLASSES,)))
T = torch.randint(CLASSES, (ROWS,), generator=GENERATOR)
T[2] = -100
CLASS_WEIGHT, TOKEN_WEIGHT = rand(CLASSES).abs(), rand(ROWS)
SCALE = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
SOFT = rand(ROWS, CLASSES).softmax(1)


def written_out(target, reduction, softcap, z_loss, label_smoothing, weight, token_weight, scale, normalizer):
    """The loss by way of the logits."""
    logits = F.linear(X, W, B)
    if scale is not None:
        logits = scale * logits
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    hard = not target.is_floating_point()
    counted = (target != -100) if hard else torch.ones(ROWS, dtype=torch.bool)
    items = F.cross_entropy(logits, target, weight, reduction="none", label_smoothing=label_smoothing)
    items = items + counted.double() * z_loss * torch.logsumexp(logits, 1) ** 2
    each = counted.double()
    if hard and weight is not None:
        each = each * weight[target.clamp(min=0)]
    if token_weight is not None:
        items, each = items * token_weight, each * token_weight
    if reduction == "mean":
        return items.sum() / (each.sum() if normalizer is None else normalizer)
    return items if reduction == "none" else items.sum()


CHOICES = list(
    itertools.product(
        (T, SOFT),
        ("none", "mean", "sum"),
        (None, 1.5),
        (0.0, 0.3),
        (0.0, 0.1),
        (None, CLASS_WEIGHT),
        (None, TOKEN_WEIGHT),
        (None, SCALE),
    )
)


@pytest.mark.parametrize("max_memory", [None, 1])
def test_every_combination_like_what_one_would_write(max_memory):
    for target, reduction, softcap, z_loss, smoothing, weight, token_weight, scale in CHOICES:
        leaves = (X, W, B) if scale is None else (X, W, B, scale)
        for normalizer in (None, 7.5, torch.tensor(7)) if reduction == "mean" else (None,):
            expected = written_out(
                target, reduction, softcap, z_loss, smoothing, weight, token_weight, scale, normalizer
            )
            loss = linear_cross_entropy(
                X,
                W,
                target,
                linear_bias=B,
                weight=weight,
                reduction=reduction,
                label_smoothing=smoothing,
                softcap=softcap,
                z_loss=z_loss,
                token_weight=token_weight,
                normalizer=normalizer,
                logit_scale=scale,
                max_memory=max_memory,
            )
            # sums of 9 items of a few units that may cancel; each is off by some roundings of that
            torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
            upstream = torch.ones_like(expected) * 1.25
            ours = torch.autograd.grad(loss, leaves, upstream)
            for gradient, right in zip(ours, torch.autograd.grad(expected, leaves, upstream), strict=True):
                torch.testing.assert_close(gradient, right, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("number", [0.25, 2, np.float32(0.25), np.array(0.25), torch.tensor(0.25), torch.tensor(2)])
def test_a_scale_may_be_any_number(number):
    operands = [X.detach(), W.detach(), T]
    expected = F.cross_entropy(float(number) * F.linear(*operands[:2]), T)
    if isinstance(number, (np.generic, np.ndarray)):
        operands = [tensor.numpy() for tensor in operands]
    loss = linear_cross_entropy(*operands, logit_scale=number)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)


def test_the_scale_comes_after_the_bias_and_before_the_cap():
    loss = linear_cross_entropy(X, W, T, linear_bias=B, logit_scale=3.0, softcap=1.5)
    expected = F.cross_entropy(1.5 * torch.tanh(3.0 * F.linear(X, W, B) / 1.5), T)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_a_scale_of_zero_and_its_gradient_in_a_dtype_of_its_own():
    scale = torch.zeros((), dtype=torch.float32, requires_grad=True)
    loss = linear_cross_entropy(X, W, T, linear_bias=B, logit_scale=scale)
    assert loss.dtype is torch.float64
    assert float(loss.detach()) == pytest.approx(np.log(CLASSES), rel=1e-15)
    gradient, of_input = torch.autograd.grad(loss, (scale, X))
    assert not of_input.any()
    logits = F.linear(X, W, B).detach()
    other = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (right,) = torch.autograd.grad(F.cross_entropy(other * logits, T), other)
    assert gradient.dtype is torch.float32
    torch.testing.assert_close(gradient.double(), right, rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_learned_temperature_beside_narrow_operands(dtype):
    """The parameter is float32, as in mixed precision, and so is its gradient; it is wanted alone or with others."""
    x, w = X.detach().to(dtype), W.detach().to(dtype)
    scale = torch.tensor(1.25, requires_grad=True)
    loss = linear_cross_entropy(x, w, T, logit_scale=scale)
    (alone,) = torch.autograd.grad(loss, scale)
    wide = torch.tensor(1.25, dtype=torch.float64, requires_grad=True)
    (right,) = torch.autograd.grad(F.cross_entropy(wide * F.linear(x.double(), w.double()), T), wide)
    assert loss.dtype is dtype
    assert alone.dtype is torch.float32
    torch.testing.assert_close(alone.double(), right, rtol=1e-6, atol=1e-6)  # computed in float32, whatever dtype is
    x.requires_grad_()
    both = torch.autograd.grad(linear_cross_entropy(x, w, T, logit_scale=scale), (scale, x))
    assert both[0] == alone


def test_a_scale_under_autocast_and_transforms():
    x, w = X.detach().bfloat16(), W.detach().bfloat16()
    scale = torch.tensor(0.5, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(x, w, T, logit_scale=scale)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(0.5 * F.linear(x.float(), w.float()), T))

    def at(scale):
        return linear_cross_entropy(X.detach(), W.detach(), T, logit_scale=scale)

    scales = torch.tensor([0.5, 2.0], dtype=torch.float64)
    each = torch.stack([at(s) for s in scales])
    torch.testing.assert_close(torch.func.vmap(at)(scales), each)
    slopes = torch.func.vmap(torch.func.grad(at))(scales)
    s = scales.clone().requires_grad_()
    (right,) = torch.autograd.grad(torch.stack([at(one) for one in s]).sum(), s)
    torch.testing.assert_close(slopes, right)


def test_the_gradient_of_a_scale_of_arrays():
    x, w, t = (tensor.detach().numpy() for tensor in (X, W, T))
    loss, gradient = portaloss.value_and_grad(lambda s: linear_cross_entropy(x, w, t, logit_scale=s))(np.array(0.75))
    s = torch.tensor(0.75, dtype=torch.float64, requires_grad=True)
    expected = F.cross_entropy(s * F.linear(X, W), T)
    (right,) = torch.autograd.grad(expected, s)
    assert loss == pytest.approx(expected.item(), rel=1e-13)
    assert gradient == pytest.approx(float(right), rel=1e-12)


@pytest.mark.parametrize("target", [T, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_extras(target, softcap):
    loss, extras = linear_cross_entropy(X, W, target, linear_bias=B, softcap=softcap, return_extras=True, max_memory=1)
    assert loss.requires_grad
    assert [name for name, value in extras._asdict().items() if value.requires_grad] == ["entropy"]
    logits = F.linear(X, W, B).detach()
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    log_p = logits.log_softmax(1)
    torch.testing.assert_close(extras.logsumexp, logits.logsumexp(1))
    torch.testing.assert_close(extras.entropy, torch.distributions.Categorical(logits=logits).entropy())
    if target is SOFT:
        torch.testing.assert_close(extras.log_probs, (SOFT * log_p).sum(1))
        assert extras.accuracy.tolist() == (SOFT.argmax(1) == logits.argmax(1)).double().tolist()
        return
    counted = T != -100
    right = log_p.gather(1, T.clamp(min=0)[:, None])[:, 0]
    torch.testing.assert_close(extras.log_probs, torch.where(counted, right, 0.0))
    assert torch.equal(extras.accuracy.isnan(), ~counted)
    assert extras.accuracy[counted].tolist() == (logits.argmax(1) == T)[counted].double().tolist()
    loss.backward()  # of the loss alone: extras are no part of it
    X.grad = W.grad = B.grad = None


def with_bonus(target, x=X, w=W, b=B, s=SCALE, upstream=0.3, **options):
    """A loss with an entropy bonus, each token's with a factor of its own, where return_extras gives the entropy."""
    loss, extras = linear_cross_entropy(x, w, target, linear_bias=b, logit_scale=s, return_extras=True, **options)
    return (upstream * loss).sum() - (BONUS * extras.entropy).sum()


def bonus_written_out(target, x=X, w=W, b=B, s=SCALE, upstream=0.3, softcap=None, reduction="mean"):
    logits = F.linear(x, w, b)
    logits = logits if s is None else s * logits
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    return (upstream * F.cross_entropy(logits, target, reduction=reduction)).sum() - (BONUS * entropy).sum()


BONUS = rand(ROWS)


@pytest.mark.parametrize("target", [T, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("max_memory", [None, 1])
def test_an_entropy_bonus(target, reduction, softcap, max_memory):
    for scale in (None, SCALE):
        leaves = (X, W, B) if scale is None else (X, W, B, scale)
        ours = with_bonus(target, s=scale, softcap=softcap, reduction=reduction, max_memory=max_memory)
        expected = bonus_written_out(target, s=scale, softcap=softcap, reduction=reduction)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)
        for gradient, right in zip(
            torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True
        ):
            # sums of 99 terms of a few units that may cancel
            torch.testing.assert_close(gradient, right, rtol=1e-11, atol=1e-13)


def test_the_gradient_of_an_entropy_by_differences():
    for target in (T, SOFT):
        leaves = (X, W, B, SCALE)
        assert torch.autograd.gradcheck(lambda *leaves, t=target: with_bonus(t, *leaves, softcap=2.0), leaves)
        assert torch.autograd.gradgradcheck(lambda *leaves, t=target: with_bonus(t, *leaves, softcap=2.0), leaves)


def test_loss_and_entropy_may_go_backward_in_any_order_and_alone():
    (of_loss,) = torch.autograd.grad(bonus_written_out(T, s=None) + (BONUS * entropy_of(X)).sum(), X)
    (of_entropy,) = torch.autograd.grad((BONUS * entropy_of(X)).sum(), X)
    for first, second in ((0, 1), (1, 0)):
        loss, extras = linear_cross_entropy(X, W, T, linear_bias=B, return_extras=True)
        outputs = [(0.3 * loss, of_loss), ((BONUS * extras.entropy).sum(), of_entropy)]
        for output, right in (outputs[first], outputs[second]):
            (gradient,) = torch.autograd.grad(output, X, retain_graph=True)
            torch.testing.assert_close(gradient, right, rtol=1e-11, atol=1e-13)
    target = SOFT.clone().requires_grad_()
    _, extras = linear_cross_entropy(X.detach(), W.detach(), target, return_extras=True)
    assert not extras.entropy.requires_grad  # the target is no part of it


def entropy_of(x):
    return torch.distributions.Categorical(logits=F.linear(x, W, B)).entropy()


def test_the_entropy_of_ignored_tokens_only():
    """The loss is 0/0, and no part of what is differentiated."""
    _, extras = linear_cross_entropy(X, W, torch.full_like(T, -100), linear_bias=B, return_extras=True)
    (gradient,) = torch.autograd.grad(extras.entropy.sum(), X)
    (right,) = torch.autograd.grad(entropy_of(X).sum(), X)
    torch.testing.assert_close(gradient, right, rtol=1e-11, atol=1e-13)


def test_the_entropy_where_a_class_is_impossible():
    """A logit of -inf has a probability of 0: 0 log 0 is 0, and so is its derivative."""
    bias = B.detach().clone()
    bias[3] = float("-inf")
    others = torch.arange(CLASSES) != 3
    target = torch.zeros_like(T)
    leaves = (X, W)
    loss, extras = linear_cross_entropy(X, W, target, linear_bias=bias, return_extras=True)
    some = F.linear(X, W[others], bias[others])
    right = torch.distributions.Categorical(logits=some).entropy()
    torch.testing.assert_close(extras.entropy, right, rtol=1e-12, atol=0)
    for create_graph in (False, True):
        ours = torch.autograd.grad((loss - extras.entropy.sum()), leaves, retain_graph=True, create_graph=create_graph)
        expected = torch.autograd.grad(F.cross_entropy(some, target) - right.sum(), leaves, retain_graph=True)
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("soft", [False, True])
def test_the_entropy_of_positions_and_of_one_row(soft):
    x, w = rand(4, 3).requires_grad_(), rand(5, 2, 3).requires_grad_()
    target = rand(4, 5, 2).softmax(1) if soft else torch.tensor([[0, 4], [1, 1], [2, -100], [3, 0]])
    upstream = rand(4, 2)
    _, extras = linear_cross_entropy(x, w, target, return_extras=True)
    logits = torch.einsum("nd,cpd->ncp", x, w)
    right = torch.special.entr(logits.softmax(1)).sum(1)
    for output, expected in ((extras.entropy, right), (one_row(x, w[:, 0], target), right[0, 0])):
        factor = upstream if output.ndim else 1.5
        ours = torch.autograd.grad((factor * output).sum(), (x, w), retain_graph=True)
        theirs = torch.autograd.grad((factor * expected).sum(), (x, w), retain_graph=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def one_row(x, w, target):
    _, extras = linear_cross_entropy(x[0], w, target[0, ..., 0], return_extras=True)
    return extras.entropy


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_entropy_bonus_of_narrow_operands(dtype):
    x, w = (tensor.detach().to(dtype).requires_grad_() for tensor in (X, W))
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, w)]
    # the upstream gradient of the loss is of its dtype, and 0.25 is exact in each
    ours = torch.autograd.grad(with_bonus(T, x, w, None, None, upstream=0.25), (x, w))
    expected = torch.autograd.grad(bonus_written_out(T, *wide, None, None, upstream=0.25), wide)
    for gradient, right in zip(ours, expected, strict=True):
        assert gradient.dtype is dtype
        # computed in float32, then rounded
        torch.testing.assert_close(gradient.double(), right, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.func's, of PyTorch's own
def test_an_entropy_bonus_in_transforms():
    leaves = tuple(tensor.detach() for tensor in (X, W, B, SCALE))
    ours = torch.func.grad(lambda *given: with_bonus(T, *given), argnums=(0, 1, 2, 3))(*leaves)
    right = torch.func.grad(lambda *given: bonus_written_out(T, *given), argnums=(0, 1, 2, 3))(*leaves)
    torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-13)
    _, extras = linear_cross_entropy(X, W, T, return_extras=True)
    each = torch.autograd.grad(extras.entropy, X, torch.eye(ROWS, dtype=torch.float64), is_grads_batched=True)[0]
    (total,) = torch.autograd.grad(torch.special.entr(F.linear(X, W).softmax(1)).sum(), X)
    torch.testing.assert_close(each.sum(0), total, rtol=1e-11, atol=1e-13)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's compiler, about itself
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_an_entropy_bonus_compiles(backend):
    compiled = torch.compile(lambda *leaves: with_bonus(T, *leaves, softcap=2.0), fullgraph=True, backend=backend)
    leaves = (X, W, B, SCALE)
    ours, right = compiled(*leaves), with_bonus(T, *leaves, softcap=2.0)
    torch.testing.assert_close(ours, right, rtol=1e-13, atol=0)
    # two passes in a graph, one without
    torch.testing.assert_close(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(right, leaves), rtol=1e-12, atol=1e-14
    )


def test_the_operator_of_the_extras_is_one_that_pytorch_accepts():
    operator = torch.ops.portaloss.linear_cross_entropy_extras
    target = T.clamp(min=0)  # the accuracy of an ignored one is nan, which opcheck does not find equal to itself
    torch.library.opcheck(operator, (X, W, target, B, SCALE, -100, 1.5, 0))
    upstream = BONUS.clone()
    leaves = [tensor.detach() for tensor in (X, W, target, B, SCALE)]
    torch.library.opcheck(
        torch.ops.portaloss.linear_cross_entropy_entropy_backward,
        (upstream, *leaves, -100, 1.5, 0, ["input", "logit_scale"]),
    )


def test_extras_of_arrays_and_with_a_gradient():
    x, w, t = (tensor.detach().numpy() for tensor in (X, W, T))
    loss, extras = linear_cross_entropy(x, w, t, return_extras=True)
    assert isinstance(extras, LinearCrossEntropyExtras)
    again, gradient = portaloss.value_and_grad(lambda x: linear_cross_entropy(x, w, t, return_extras=True)[0])(x)
    assert again == loss
    assert gradient.shape == x.shape
    # a plain row's item is what its target's logarithm lacks of 0
    items = linear_cross_entropy(x, w, t, reduction="none")
    np.testing.assert_allclose(extras.log_probs, -items, rtol=1e-13, atol=1e-14)
    one, extra = linear_cross_entropy(x[0], w, t[0], return_extras=True)
    assert np.shape(one) == np.shape(extra.entropy) == ()
    assert extra.entropy == pytest.approx(extras.entropy[0], rel=1e-12)  # BLAS has another product for one row


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's compiler, about itself
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_all_of_it_compiles(backend):
    def loss(x, w, k, n, s):
        return linear_cross_entropy(
            x,
            w,
            T,
            softcap=2.0,
            z_loss=0.1,
            token_weight=k,
            normalizer=n,
            logit_scale=s,
            max_memory=1,
            return_extras=True,
        )

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    arguments = (X, W, TOKEN_WEIGHT, torch.tensor(3), SCALE)
    (value, extras), (right, right_extras) = compiled(*arguments), loss(*arguments)
    torch.testing.assert_close(value, right, rtol=0, atol=0)  # it is the same operator
    torch.testing.assert_close(tuple(extras), tuple(right_extras), rtol=0, atol=0, equal_nan=True)
    for ours, theirs in zip(*(torch.autograd.grad(one, (X, W, SCALE)) for one in (value, right)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-16)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.func's, of PyTorch's own
def test_derivatives_of_any_order_and_transforms():
    def loss(x, w, b, s):
        return linear_cross_entropy(
            x, w, T, linear_bias=b, softcap=1.5, z_loss=0.2, token_weight=TOKEN_WEIGHT, normalizer=5.0, logit_scale=s
        )

    def expected(x, w, b, s):
        logits = 1.5 * torch.tanh(s * F.linear(x, w, b) / 1.5)
        items = F.cross_entropy(logits, T, reduction="none") + 0.2 * (T != -100).double() * logits.logsumexp(1) ** 2
        return (items * TOKEN_WEIGHT).sum() / 5.0

    assert torch.autograd.gradgradcheck(loss, (X, W, B, SCALE))
    arguments = tuple(tensor.detach() for tensor in (X, W, B, SCALE))
    torch.testing.assert_close(torch.func.hessian(loss)(*arguments), torch.func.hessian(expected)(*arguments))


def test_a_normalizer_may_add_up_the_batches_of_a_step():
    """Gradient accumulation: two halves over the tokens of both are one batch."""
    whole = linear_cross_entropy(X, W, T)
    tokens = (T != -100).sum()
    halves = [linear_cross_entropy(X[rows], W, T[rows], normalizer=tokens) for rows in (slice(4), slice(4, None))]
    torch.testing.assert_close(sum(halves), whole, rtol=1e-14, atol=0)


def test_narrow_operands_keep_their_dtype_whatever_the_factors_are():
    x, w = X.detach().bfloat16(), W.detach().bfloat16()
    loss, extras = linear_cross_entropy(x, w, T, token_weight=TOKEN_WEIGHT, normalizer=4, return_extras=True)
    assert loss.dtype is torch.bfloat16
    assert extras.entropy.dtype is torch.float32


def test_max_memory_bounds_the_scratch():
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((2048, 16), (4096, 16)))
    t = rng.integers(0, 4096, 2048)
    peaks = {}
    for max_memory in (1 << 20, 8 << 20):
        linear_cross_entropy(x, w, t, max_memory=max_memory)
        tracemalloc.start()
        linear_cross_entropy(x, w, t, max_memory=max_memory)
        peaks[max_memory] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    logits = 2048 * 4096 * 4
    # three quarters of the memory are for chunks of logits; the rest are tiles, 256 KiB each and a few a thread
    assert peaks[1 << 20] < peaks[8 << 20] < logits / 2
    assert peaks[8 << 20] - peaks[1 << 20] < 8 << 20


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"softcap": 0.0}, ValueError, "softcap must be positive, or None, got 0.0"),
        ({"softcap": -1.0}, ValueError, "softcap must be positive"),
        ({"softcap": "1"}, TypeError, "softcap must be a number, got '1'"),
        ({"z_loss": -0.1}, ValueError, "z_loss must not be negative, got -0.1"),
        ({"max_memory": 0}, ValueError, "max_memory must be positive"),
        ({"max_memory": 0.5}, TypeError, "max_memory must be an int"),
        ({"token_weight": torch.ones(3)}, RuntimeError, r"expected token_weight shape \(9,\).*got \(3,\)"),
        ({"token_weight": torch.ones(9, dtype=torch.int64)}, NotImplementedError, "token_weight"),
        ({"token_weight": TOKEN_WEIGHT.clone().requires_grad_()}, RuntimeError, "argument 'token_weight'"),
        ({"normalizer": torch.ones(2)}, RuntimeError, r"normalizer to be one number.*got shape \(2,\)"),
        ({"logit_scale": torch.ones(1)}, RuntimeError, r"logit_scale to be one number.*got shape \(1,\)"),
        ({"logit_scale": torch.ones((), dtype=torch.complex64)}, NotImplementedError, "logit_scale is of dtype"),
        ({"logit_scale": "2"}, TypeError, "logit_scale must be a NumPy array or a torch tensor"),
        ({"logit_scale": True}, TypeError, "logit_scale must be a NumPy array or a torch tensor"),
        ({"normalizer": 2.0, "reduction": "sum"}, ValueError, "got one with reduction 'sum'"),
        ({"normalizer": "2"}, TypeError, "normalizer must be a NumPy array or a torch tensor"),
        ({"return_extras": 1}, TypeError, "return_extras must be a bool"),
    ],
)
def test_errors(arguments, error, text):
    with pytest.raises(error, match=text):
        linear_cross_entropy(X, W, T, **arguments)

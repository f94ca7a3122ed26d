from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from portaloss.backends.triton import linear_cross_entropy
from portaloss.torch_ops import composites

OPTIONS = {"ignore_index": -100, "label_smoothing": 0.0, "softcap": 0.0, "z_loss": 0.0, "max_memory": 0}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: Relative to the largest of its kind: half a unit of the result's dtype, and float32 roundings of sums over rows.
TOLERANCE = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 2e-6, torch.float64: 1e-13}


def sample(rows, features, classes, extra=(), dtype=torch.float64, soft=False, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def real(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    operands = {"input": real(rows, features), "linear_weight": real(classes, *extra, features)}
    if soft:
        operands["target"] = real(rows, classes, *extra).double().softmax(1).to(dtype)
    else:
        operands["target"] = torch.randint(classes, (rows, *extra), generator=generator)
    operands["linear_bias"] = real(classes, *extra)
    operands["weight"] = real(classes).abs()
    return operands


def run(operands, options=OPTIONS, items=None, wants=(), upstream=None, scale=None):
    x, w = operands["input"], operands["linear_weight"]
    math = torch.float64 if x.dtype == torch.float64 else torch.float32
    shape = () if x.ndim == 1 else (len(x), *w.shape[1:-1])
    if x.ndim == 1:
        target = operands["target"]
        target = target[None] if target.is_floating_point() else target.reshape(1)
        operands = {**operands, "input": x[None], "target": target}
    arranged = SimpleNamespace(items_shape=shape)
    return linear_cross_entropy.run(operands, options, math, items, wants, upstream, scale, arranged)


def truth(operands, options, wants, upstream):
    leaves = {name: value.double() if value.is_floating_point() else value for name, value in operands.items()}
    leaves = {name: value.detach().clone() for name, value in leaves.items()}
    for name in wants:
        leaves[name].requires_grad_()
    x, w = leaves["input"], leaves["linear_weight"]
    flat = x.reshape(-1, x.shape[-1]) @ w.reshape(-1, w.shape[-1]).t()
    logits = flat.reshape(*x.shape[:-1], *w.shape[:-1])
    if "linear_bias" in leaves:
        logits = logits + leaves["linear_bias"]
    # PyTorch has no gradient of class weights: take cross-entropy from its definition
    scores = logits.unsqueeze(0) if x.ndim == 1 else logits
    log_p = scores.log_softmax(1)
    target, classes = leaves["target"], scores.shape[1]
    smoothing = options["label_smoothing"]
    if target.is_floating_point():
        shares = target.unsqueeze(0) if x.ndim == 1 else target
        counted = torch.ones(())
    else:
        target = target.reshape(log_p[:, 0].shape)
        counted = (target != options["ignore_index"]).unsqueeze(1)
        index = torch.where(target == options["ignore_index"], 0, target).unsqueeze(1)
        shares = torch.zeros_like(log_p).scatter(1, index, 1.0)
    shares = (1.0 - smoothing) * shares + smoothing / classes
    if "weight" in leaves:
        shares = shares * leaves["weight"].reshape(1, -1, *(1,) * (log_p.ndim - 2))
    items = -(shares * log_p * counted).sum(1)
    (items * upstream).sum().backward() if wants else None
    return items.detach(), {name: leaves[name].grad for name in wants}


def close(got, expected, dtype):
    assert got.shape == expected.shape
    assert got.dtype == dtype
    if got.numel():
        error = (got.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
        assert error <= TOLERANCE[dtype]


def check(operands, options=OPTIONS):
    soft = operands["target"].is_floating_point()
    dtype = operands["input"].dtype
    wants = ["input", "linear_weight"]
    if "linear_bias" in operands:
        wants.append("linear_bias")
    if soft:
        wants += ["target", *(["weight"] if "weight" in operands else [])]
    math = torch.float64 if dtype == torch.float64 else torch.float32

    # reduction none: items, and gradients with an upstream gradient one an item
    items, nothing = run(operands, options, items=dtype)
    assert nothing == {}
    upstream = torch.linspace(-1.0, 2.0, items.numel(), dtype=torch.float64).reshape(items.shape).to(dtype)
    expected, gradients = truth(operands, options, wants, upstream.double().reshape(items.shape or (1,)))
    close(items, expected.reshape(items.shape), dtype)
    _, got = run(operands, options, items=dtype, wants=wants, upstream=upstream.reshape(items.shape or (1,)))
    assert set(got) == set(wants)
    for name in wants:
        close(got[name], gradients[name], dtype)

    # sum: all in one pass
    total, got = run(operands, options, wants=wants, scale=torch.tensor(0.25, dtype=math))
    expected, gradients = truth(operands, options, wants, 0.25)
    close(total, expected.sum(), torch.float64) if dtype == torch.float64 else close(
        total.float(), expected.sum(), torch.float32
    )
    for name in wants:
        close(got[name], gradients[name], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("soft", [False, True])
def test_each_dtype(dtype, soft):
    check(sample(5, 4, 7, dtype=dtype, soft=soft))


@pytest.mark.parametrize("soft", [False, True])
def test_smoothing(soft):
    check(sample(5, 4, 7, soft=soft), {**OPTIONS, "label_smoothing": 0.2})


@pytest.mark.parametrize("extra", [(3,), (2, 3), (1,)])
@pytest.mark.parametrize("soft", [False, True])
def test_more_axes(extra, soft):
    check(sample(4, 3, 5, extra, soft=soft))


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 31])
@pytest.mark.parametrize("soft", [False, True])
def test_chunks(rows, soft, monkeypatch):
    # eight rows of 6 logits in float64, with the gradients that soft targets have
    monkeypatch.setattr(linear_cross_entropy, "LOGITS_BUDGET", 8 * 6 * 8 * (4 if soft else 2))
    check(sample(rows, 4, 6, soft=soft))


@pytest.mark.parametrize("extra", [(), (3,)])
@pytest.mark.parametrize("soft", [False, True])
def test_extras(soft, extra):
    operands = sample(5, 4, 7, extra, soft=soft)
    if not soft:
        operands["target"].view(-1)[1] = -100
    options = {**OPTIONS, "softcap": 1.5, "max_memory": 1}  # a chunk a row
    extras = tuple(torch.full((5, *extra), -1.0, dtype=torch.float64) for _ in range(4))
    arranged = SimpleNamespace(items_shape=(5, *extra))
    linear_cross_entropy.run(operands, options, torch.float64, None, (), None, None, arranged, extras)
    expected = composites.linear_cross_entropy_extras(operands, options)
    for ours, right in zip(extras, expected, strict=True):
        torch.testing.assert_close(ours, right, equal_nan=True)


@pytest.mark.parametrize("extra", [(), (3,)])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_a_loss_and_an_entropy(soft, extra, softcap, dtype):
    operands = sample(5, 4, 7, extra, soft=soft, dtype=dtype)
    operands["logit_scale"] = torch.tensor(0.75, dtype=dtype)
    wants = ("input", "linear_weight", "linear_bias", "logit_scale")
    upstream, of_entropy = torch.linspace(-1.0, 2.0, 5, dtype=dtype), torch.linspace(0.5, -0.25, 5, dtype=dtype)
    if extra:
        upstream, of_entropy = (one[:, None] * torch.ones(extra, dtype=dtype) for one in (upstream, of_entropy))
    options = {**OPTIONS, "softcap": softcap, "max_memory": 1}  # a chunk a row
    leaves = {name: value.double().requires_grad_(name in wants) for name, value in operands.items()}
    if not soft:
        leaves["target"] = operands["target"]
    entropy = composites.linear_cross_entropy_extras(leaves, options)[1]
    more = (entropy * of_entropy).sum()
    for each, scale in ((upstream, None), (None, torch.tensor(0.25, dtype=dtype))):
        arranged = SimpleNamespace(items_shape=(5, *extra))
        items = dtype if each is not None else None
        given = (operands, options, dtype, items, wants, each, scale, arranged, None, of_entropy)
        _, ours = linear_cross_entropy.run(*given)
        loss = composites.linear_cross_entropy(leaves, options, "none")
        loss = (loss * (upstream if each is not None else scale)).sum()
        right = torch.autograd.grad(loss + more, [leaves[name] for name in wants], retain_graph=True)
        for name, gradient in zip(wants, right, strict=True):
            close(ours[name], gradient, dtype)


@pytest.mark.parametrize("classes", [1, 2, 31, 32, 33])
def test_class_counts(classes):
    check(sample(3, 2, classes, dtype=torch.float32))


@pytest.mark.parametrize("soft", [False, True])
def test_unbatched(soft):
    operands = sample(1, 4, 6, soft=soft)
    operands["input"] = operands["input"][0]
    operands["target"] = operands["target"][0]
    check(operands)


def test_without_bias_or_weight():
    operands = sample(5, 4, 7)
    check({name: operands[name] for name in ("input", "linear_weight", "target")})


def test_ignored():
    operands = sample(5, 4, 7)
    operands["target"][1:3] = -100
    check(operands)


def test_out_of_range_is_nan_with_no_gradient():
    operands = sample(5, 4, 7)
    operands["target"][1] = 7
    operands["target"][3] = -1
    wants = ("input", "linear_weight", "linear_bias")
    items, gradients = run(operands, items=torch.float64, wants=wants)
    assert items.isnan().tolist() == [False, True, False, True, False]
    right = torch.tensor([0, 2, 4])
    some = {**operands, "input": operands["input"][right], "target": operands["target"][right]}
    expected, expected_gradients = run(some, items=torch.float64, wants=wants)
    # to some roundings: BLAS may add in another order where there are fewer rows
    assert torch.allclose(items[right], expected, rtol=1e-14, atol=1e-14)
    assert bool((gradients["input"][[1, 3]] == 0).all())
    assert torch.allclose(gradients["input"][right], expected_gradients["input"], rtol=1e-14, atol=1e-14)
    for name in wants[1:]:
        assert torch.allclose(gradients[name], expected_gradients[name], rtol=1e-14, atol=1e-14)


def test_strided():
    operands = sample(6, 4, 7)
    operands["input"] = operands["input"].t().contiguous().t()
    operands["linear_weight"] = operands["linear_weight"].t().contiguous().t()
    check(operands)


def test_chunk_is_bounded():
    rows = linear_cross_entropy.rows_of_chunk(128000, 8192, 4, True, 0)
    assert rows % linear_cross_entropy.TILE == 0
    assert 0 < rows * 128000 * 8 <= linear_cross_entropy.LOGITS_BUDGET
    assert linear_cross_entropy.rows_of_chunk(1 << 40, 8192, 4, True, 2) == 1

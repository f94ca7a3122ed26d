from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from portaloss.backends.triton import ctc

OPTIONS = {"blank": 0, "zero_infinity": False}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: Half a unit in the last place of the result's dtype, and float32's or float64's four units for what is computed:
#: exp, posterior and their difference.
TOLERANCE = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-21, torch.float64: 1e-12}


def run(operands, options=OPTIONS, items=None, upstream=None, scale=None, wants=("log_probs",)):
    log_probs = operands["log_probs"]
    shape = () if log_probs.ndim == 2 else (log_probs.shape[1],)
    if log_probs.ndim == 2:
        operands = {**operands, "log_probs": log_probs[:, None]}
    math = torch.float64 if log_probs.dtype == torch.float64 else torch.float32
    items = items or math
    result, gradients = ctc.run(
        operands, options, math, items, wants, upstream, scale, SimpleNamespace(items_shape=shape)
    )
    return result, gradients.get("log_probs")


def truth(operands, options=OPTIONS, upstream=None):
    log_probs = operands["log_probs"].detach().double().contiguous().requires_grad_()
    items = torch.nn.functional.ctc_loss(
        log_probs, operands["targets"].long(), operands["input_lengths"], operands["target_lengths"],
        reduction="none", **options,
    )  # fmt: skip
    items.backward(torch.ones_like(items) if upstream is None else upstream.double())
    return items.detach(), log_probs.grad


def close(got, expected, magnitude, dtype):
    assert got.dtype == dtype
    assert torch.equal(got.isnan(), expected.isnan())
    same = (got == expected) | expected.isnan()
    error = torch.where(same, 0.0, (got.double() - expected).abs() / torch.maximum(expected.abs(), magnitude))
    # a 16-bit gradient below the smallest normal number has an absolute error instead
    tiny = (got.double() - expected).abs() <= torch.finfo(dtype).tiny * 2.0**-10
    assert bool((tiny | (error <= TOLERANCE[dtype])).all()), error.max()


def check(operands, options=OPTIONS, upstream=None, scale=None):
    items, gradient = run(operands, options, upstream=upstream, scale=scale)
    factor = torch.ones(items.numel(), dtype=torch.float64)
    if upstream is not None:
        factor = factor * upstream.double()
    if scale is not None:
        factor = factor * scale.double()
    expected, expected_gradient = truth(operands, options, factor.reshape(items.shape))
    dtype = operands["log_probs"].dtype
    close(items, expected, expected.abs() + 1.0, items.dtype)
    factor = factor if operands["log_probs"].ndim == 2 else factor[:, None]
    close(gradient, expected_gradient, operands["log_probs"].double().exp() * factor.abs(), dtype)
    alone, none = run(operands, options, wants=())
    assert none is None
    torch.testing.assert_close(alone, items, rtol=0, atol=0, equal_nan=True)


def sample(steps, samples, classes, labels, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(steps, samples, classes, generator=generator, dtype=torch.float64).mul(2).log_softmax(-1)
    return {
        "log_probs": log_probs.to(dtype),
        "targets": torch.randint(1, max(2, classes), (samples, labels), generator=generator),
        "input_lengths": torch.full((samples,), steps),
        "target_lengths": torch.full((samples,), labels),
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype(dtype):
    operands = sample(17, 3, 6, 5, dtype)
    operands["input_lengths"] = torch.tensor([17, 12, 14])
    operands["target_lengths"] = torch.tensor([5, 3, 0])
    upstream = torch.tensor([1.0, -2.0, 0.5]).to(dtype)
    check(operands, upstream=upstream)


# Blocks are of 16 labels or more: one less, the same, one more; the next block begins with the last blank at 16 labels.
@pytest.mark.parametrize("labels", [0, 1, 2, 14, 15, 16, 17, 31, 32])
def test_label_counts(labels):
    check(sample(2 * labels + 3, 1, 5, labels, torch.float32))


def test_blocks_of_labels_and_classes(monkeypatch):
    # small blocks: labels of one class span several of them
    original = ctc._power_of_two_from
    monkeypatch.setattr(ctc, "_power_of_two_from", lambda count, least, most: original(count, 8, 8))
    for labels in (7, 8, 9, 31):
        operands = sample(labels * 2 + 4, 2, 19, labels)
        operands["targets"][0] = torch.arange(labels) % 2 + 1
        operands["target_lengths"] = torch.tensor([labels, max(0, labels - 2)])
        check(operands)


@pytest.mark.parametrize("classes", [1, 2, 31, 32, 33, 4097])
def test_class_counts(classes):
    check(sample(4, 2, classes, 0 if classes == 1 else 2, torch.float32))


@pytest.mark.parametrize(("steps", "samples"), [(0, 2), (1, 1), (2, 1), (3, 0), (0, 0)])
def test_empty_and_short(steps, samples):
    operands = sample(max(1, steps), samples, 4, 1)
    operands["log_probs"] = operands["log_probs"][:steps]
    operands["input_lengths"] = torch.full((samples,), steps)
    if steps and samples:
        check(operands)
        return
    operands["target_lengths"] = torch.arange(samples)  # no labels in no steps are certain, one is impossible
    items, gradient = run(operands)
    assert items.tolist() == [0.0, float("inf")][:samples]
    assert gradient.shape == operands["log_probs"].shape


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_impossible(zero_infinity):
    operands = sample(4, 3, 5, 4)
    operands["targets"] = torch.tensor([[1, 1, 2, 2], [1, 2, 3, 4], [1, 1, 1, 2]])
    operands["target_lengths"] = torch.tensor([4, 4, 2])
    check(operands, {"blank": 0, "zero_infinity": zero_infinity})


def test_infinities_and_nan():
    for value in (float("-inf"), float("nan")):
        for at in ((2, 0, 1), (0, 0, 0), (5, 0, 4)):
            operands = sample(6, 2, 5, 2)
            operands["targets"][0] = torch.tensor([1, 2])
            operands["log_probs"][at] = value
            check(operands)


def test_hidden_far_below():
    # probabilities that no float64 holds, and a difference of 2e6 between neighbours
    operands = sample(12, 2, 4, 3)
    operands["log_probs"] = operands["log_probs"] * 1e3
    operands["log_probs"][3, :, 1] = -2e6
    items, gradient = run(operands)
    expected, expected_gradient = truth(operands)
    # PyTorch's log space rounds at 2e6 x 2^-53 a step, and an error of log alpha is a relative error of the posterior
    assert torch.allclose(items, expected, rtol=1e-13, atol=0)
    assert torch.allclose(gradient, expected_gradient, atol=12 * 2e6 * 2.0**-52)


def test_long_float32_keeps_its_digits():
    operands = sample(400, 1, 5, 40, torch.float32)
    check(operands)


def test_concatenated_targets_are_the_padded_ones():
    padded = sample(9, 4, 6, 4)
    lengths = torch.tensor([2, 0, 4, 1])
    padded["target_lengths"] = lengths
    flat = torch.cat([row[:count] for row, count in zip(padded["targets"], lengths.tolist(), strict=True)])
    joined = {**padded, "targets": flat}
    for got, expected in zip(run(joined), run(padded), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_integer_dtypes(dtype):
    operands = sample(7, 2, 5, 3)
    small = {name: value.to(dtype) for name, value in operands.items() if name != "log_probs"}
    for got, expected in zip(run({**operands, **small}), run(operands), strict=True):
        assert torch.equal(got, expected)


def test_strides_and_blank():
    operands = sample(6, 3, 5, 2, torch.float32)
    operands["log_probs"] = operands["log_probs"].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    operands["targets"] = torch.tensor([[0, 1], [3, 3], [2, 4]])
    check(operands, {"blank": 2, "zero_infinity": False})


def test_unbatched():
    operands = sample(6, 1, 5, 2)
    operands = {
        "log_probs": operands["log_probs"][:, 0],
        "targets": operands["targets"][0],
        "input_lengths": torch.tensor(6),
        "target_lengths": torch.tensor(2),
    }
    check(operands)


def test_scale_one_an_item():
    check(sample(6, 3, 5, 2), scale=torch.tensor([0.5, -1.0, 3.0], dtype=torch.float64))
    check(sample(6, 3, 5, 2), scale=torch.tensor(0.25, dtype=torch.float64))


def test_out_of_range_is_nan_with_no_gradient():
    operands = sample(6, 7, 5, 3)
    operands["targets"][0, 1] = 5
    operands["targets"][1, 0] = -1
    operands["targets"][2, 2] = 1 << 40
    operands["targets"][3, 2] = 99  # beyond the sample's labels: nobody looks
    operands["target_lengths"] = torch.tensor([3, 3, 3, 2, 4, 3, -1])
    operands["input_lengths"] = torch.tensor([6, 6, 6, 6, 6, 7, 6])
    items, gradient = run(operands)
    wrong = torch.tensor([True, True, True, False, True, True, True])
    assert torch.equal(items.isnan(), wrong)
    assert bool((gradient[:, wrong] == 0).all())
    right = {name: value[:, 3:4] if name == "log_probs" else value[3:4] for name, value in operands.items()}
    expected, expected_gradient = run({**right, "targets": right["targets"][:, :2]})
    assert torch.equal(items[3:4], expected)
    assert torch.equal(gradient[:, 3:4], expected_gradient)


def test_concatenation_that_is_too_short():
    operands = sample(6, 3, 5, 3)
    operands["targets"] = operands["targets"].reshape(-1)[:7]
    items, gradient = run(operands)
    assert items.isnan().tolist() == [False, False, True]
    assert bool((gradient[:, 2] == 0).all())


def test_parts_of_a_batch(monkeypatch):
    operands = sample(6, 5, 5, 2)
    whole = run(operands)
    monkeypatch.setattr(ctc, "STATES_BUDGET", 2 * 6 * 32 * 5)  # two samples at a time
    for got, expected in zip(run(operands), whole, strict=True):
        assert torch.equal(got, expected)


def test_sum_is_made_of_items():
    operands = sample(6, 3, 5, 2, torch.float16)
    values, _ = ctc.run(
        operands, OPTIONS, torch.float32, None, (), None, None, SimpleNamespace(items_shape=(3,))
    )  # fmt: skip
    assert values.dtype == torch.float64
    assert torch.allclose(values, truth(operands)[0], rtol=1e-14)

"""The chapter on CTC: against PyTorch and mpmath; and that scaled space is used only where it is right."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from portaloss.reference import ctc as chapter
from portaloss.reference import ctc_scaled
from portaloss.reference.ctc import ctc, magnitudes

INF, NAN = float("inf"), float("nan")
WANTS = ("log_probs",)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def draw(rng, steps, samples, classes, length, *, scale=1.0, blank=0, ragged=True):
    """log_probs, targets, input_lengths, target_lengths; what targets hold past a length is out of range."""
    log_probs = log_softmax(rng.normal(size=(steps, samples, classes)) * scale)
    targets = rng.integers(0, classes - 1, size=(samples, length))
    targets += targets >= blank
    input_lengths, target_lengths = np.full(samples, steps), np.full(samples, length)
    if ragged:
        input_lengths = rng.integers(0, steps + 1, size=samples)
        target_lengths = rng.integers(0, length + 1, size=samples)
    targets[np.arange(length) >= target_lengths[:, None]] = 10**6
    return log_probs, targets, input_lengths, target_lengths


def pytorch(log_probs, targets, input_lengths, target_lengths, *, blank=0, zero_infinity=False):
    log_probs = torch.tensor(log_probs).requires_grad_()
    within = np.arange(targets.shape[1]) < target_lengths[:, None]
    lengths = torch.tensor(input_lengths), torch.tensor(target_lengths)
    targets = torch.tensor(np.where(within, targets, 0))
    items = F.ctc_loss(log_probs, targets, *lengths, blank, "none", zero_infinity)
    items.backward(torch.ones_like(items))
    return items.detach().numpy(), log_probs.grad.numpy()


def assert_like_pytorch(operands, relative=1e-12, **options):
    items, derivatives = ctc(*operands, **options, wants=WANTS)
    expected_items, expected = pytorch(*operands, **options)
    item_sizes, sizes = magnitudes(*operands, **options)
    # PyTorch's log alphas have at most five digits before the point here: 1e-12 is some units of their last place
    for name, got, right, size in (
        ("items", items, expected_items, item_sizes),
        ("derivative", derivatives["log_probs"], expected, sizes["log_probs"]),
    ):
        finite = np.isfinite(right)
        np.testing.assert_array_equal(np.where(finite, 0.0, got), np.where(finite, 0.0, right), err_msg=name)
        error = np.abs(got[finite] - right[finite])
        assert (error <= relative * np.maximum(size[finite], np.abs(right[finite]))).all(), name


@pytest.mark.parametrize("seed", range(60))
def test_like_pytorch(seed):
    rng = np.random.default_rng(seed)
    steps, samples, classes, length = rng.integers((1, 1, 2, 1), (14, 5, 7, 6))
    blank = int(rng.integers(classes))
    operands = draw(rng, steps, samples, classes, length, scale=rng.choice([1.0, 5.0, 30.0]), blank=blank)
    for zero_infinity in (False, True):
        assert_like_pytorch(operands, blank=blank, zero_infinity=zero_infinity)


@pytest.mark.parametrize("seed", range(40))
def test_infinities_and_nans_like_pytorch(seed):
    rng = np.random.default_rng(seed)
    operands = draw(rng, 6, 4, 4, 3)
    for value in (-INF, NAN)[seed % 2 :]:
        operands[0][rng.random(operands[0].shape) < 0.06] = value
    for zero_infinity in (False, True):
        assert_like_pytorch(operands, zero_infinity=zero_infinity)


@pytest.mark.parametrize(
    ("targets", "steps", "length"),
    [
        ([1, 2], 2, 2),  # exactly enough steps
        ([1, 1], 3, 2),  # exactly enough, a blank between
        ([1, 1], 2, 2),  # one too few
        ([1, 2], 1, 2),
        ([1, 1], 4, 0),  # no labels
        ([1, 1], 0, 0),  # nothing at all
        ([1, 1], 0, 2),  # no steps for labels
    ],
)
def test_few_steps(targets, steps, length):
    rng = np.random.default_rng(0)
    log_probs = log_softmax(rng.normal(size=(4, 1, 3)))
    for zero_infinity in (False, True):
        operands = log_probs, np.array([targets]), np.array([steps]), np.array([length])
        assert_like_pytorch(operands, zero_infinity=zero_infinity)


def in_50_digits(log_probs, labels):
    """The recursions of the chapter's text, on one sample; γ by state, then by class."""
    steps = len(log_probs)
    extended = [0] * (2 * len(labels) + 1)
    extended[1::2] = labels
    states = range(len(extended))
    with mpmath.workdps(50):
        y = [[mpmath.exp(mpmath.mpf(float(value))) for value in row] for row in log_probs]

        def jumps(s):
            return s % 2 == 1 and s > 1 and extended[s] != extended[s - 2]

        alpha = [[y[0][extended[s]] if s < 2 else mpmath.mpf(0) for s in states]]
        for t in range(1, steps):
            last = alpha[-1]
            alpha.append(
                [
                    y[t][extended[s]]
                    * (last[s] + (last[s - 1] if s > 0 else 0) + (last[s - 2] if jumps(s) else mpmath.mpf(0)))
                    for s in states
                ]
            )
        beta = [[mpmath.mpf(s >= len(extended) - 2) for s in states]]
        for t in range(steps - 1, 0, -1):
            ahead = [y[t][extended[s]] * beta[0][s] for s in states] + [mpmath.mpf(0)] * 2
            beta.insert(
                0,
                [
                    ahead[s] + ahead[s + 1] + (ahead[s + 2] if s + 2 in states and jumps(s + 2) else mpmath.mpf(0))
                    for s in states
                ],
            )
        z = sum(alpha[-1][-2:])
        derivative = [list(row) for row in y]
        for t in range(steps):
            for s in states:
                derivative[t][extended[s]] -= alpha[t][s] * beta[t][s] / z
        return float(-mpmath.log(z)), np.array([[float(value) for value in row] for row in derivative])


#: Logits: flat; confident and right; confident and wrong; confident beyond what scaled space takes.
HARD = [(1.0, 0.0), (1.0, 25.0), (8.0, -10.0), (60.0, 0.0)]


@pytest.mark.parametrize(("scale", "confidence"), HARD)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_against_50_digits(dtype, scale, confidence):
    rng = np.random.default_rng(7)
    steps, classes, labels = 40, 6, [2, 2, 5, 1, 3, 3, 4]
    logits = rng.normal(size=(steps, classes)) * scale
    places = np.arange(steps) // 2 % 10  # every label has two of twenty steps, so that blanks have to part the repeats
    for t, place in enumerate(places):
        logits[t, labels[place] if place < len(labels) and t < 20 and t % 2 else 0] += confidence
    log_probs = log_softmax(logits).astype(dtype)[:, None]
    operands = log_probs, np.array([labels]), np.array([steps]), np.array([len(labels)])
    item, derivative = in_50_digits(log_probs[:, 0], labels)
    items, derivatives = ctc(*operands, wants=WANTS)
    item_sizes, sizes = magnitudes(log_probs.astype(np.float64), *operands[1:])
    assert items.dtype == derivatives["log_probs"].dtype == dtype

    # float32 is rounded once, and NumPy's exp is off by up to 2.4 units in the last place. In float64, logarithms are
    # rounded: each of 40 steps adds one, and log alpha is the sum of them. What is not a normal number is not counted.
    largest = {np.float32: 4.0, np.float64: 4.0 + steps * np.abs(log_probs).max()}[dtype]
    bound, tiny = largest * np.finfo(dtype).eps, np.finfo(dtype).tiny
    assert abs(items[0] - item) <= bound * item_sizes[0]
    assert (np.abs(derivatives["log_probs"][:, 0] - derivative) <= bound * sizes["log_probs"][:, 0] + tiny).all()


def test_float32_is_better_than_pytorchs():
    """Log space in float32 loses digits to the size of log alpha: here they are 300 and PyTorch keeps five digits."""
    operands = draw(np.random.default_rng(0), 100, 4, 20, 20, ragged=False)
    single = operands[0].astype(np.float32), *operands[1:]
    exact = pytorch(single[0].astype(np.float64), *operands[1:])
    theirs = pytorch(*single)
    items, derivatives = ctc(*single, wants=WANTS)
    # an item is the right one, rounded
    np.testing.assert_allclose(items, exact[0], rtol=np.finfo(np.float32).eps / 2 * 1.01)
    assert np.abs(derivatives["log_probs"] - exact[1]).max() <= 0.1 * np.abs(theirs[1] - exact[1]).max()


def both_spaces(operands):
    """log Z and γ, of labels and of blanks at all steps, in scaled space; whether they are safe; and those in pairs."""
    batch = chapter._batch(*operands, 0)
    found = []
    with np.errstate(all="ignore"):
        for space in (chapter.in_scaled_space, chapter.in_pairs):
            parts = []
            log_z = space(batch, lambda first, *gamma, parts=parts: parts.append((first, [g.copy() for g in gamma])))
            parts.sort(key=lambda part: part[0])
            labels, blanks = (np.concatenate([gamma[i] for _, gamma in parts]) for i in (0, 1))
            found.append((log_z, labels, blanks))
    (scaled, safe), *posterior = found[0]
    return (scaled, *posterior), safe, found[1]


@pytest.mark.parametrize(("steps", "length", "scale"), [(60, 20, 1.0), (300, 40, 1.0), (300, 100, 5.0), (40, 30, 9.0)])
def test_scaled_space_gives_the_same_as_pairs(steps, length, scale):
    operands = draw(np.random.default_rng(1), steps, 3, 40, length, scale=scale, ragged=False)
    scaled, safe, pairs = both_spaces(operands)
    assert safe.all()
    # probabilities in units of the step's best are rounded at up to 79 x 1e-16, once a step
    for got, want, rtol in zip(scaled, pairs, (1e-13, 1e-10, 1e-10), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-100)


@pytest.mark.parametrize("block", [1, 1000, 1 << 30])
def test_blocks_of_steps_do_not_change_a_bit(block, monkeypatch):
    """Two steps a block, several, and all: lengths that end in a block's midst, and a rescaling at a block's start."""
    operands = draw(np.random.default_rng(3), 67, 5, 12, 7, scale=4.0, ragged=True)
    items, derivatives = ctc(*operands, wants=WANTS)
    for module in (chapter, ctc_scaled):
        monkeypatch.setattr(module, "BLOCK", block)
    again, again_derivatives = ctc(*operands, wants=WANTS)
    np.testing.assert_array_equal(again, items)
    np.testing.assert_array_equal(again_derivatives["log_probs"], derivatives["log_probs"])


def late_turn():
    """50 labels in 200 steps; the walk that matters falls to e^-2000 of the best first, and is overtaken only later.

    For 100 steps the last label is the likely one, and the first costs 20 a step. Then only the first is likely, and
    from step 150 on the labels one by one.
    """
    steps, length = 200, 50
    logits = np.full((steps, 1, length + 1), -70.0)
    logits[:50, 0, 1:] = 0.0
    logits[:100, 0, length] = 0.0
    logits[:100, 0, 1] = -20.0
    logits[100:150, 0, 1] = 0.0
    logits[np.arange(150, 200), 0, np.arange(1, 51)] = 0.0
    labels = np.arange(1, length + 1)[None]
    return log_softmax(logits), labels, np.array([steps]), np.array([length])


def test_scaled_space_knows_when_it_is_wrong():
    operands = late_turn()
    scaled, safe, pairs = both_spaces(operands)
    assert not safe.any()
    assert abs(scaled[0][0] - pairs[0][0]) > 100.0  # the sample is one that needs the check
    # PyTorch's log alphas go down to -4000, where half a unit is 2e-13, and are rounded 200 times
    assert_like_pytorch(operands, relative=200 * 2e-13)


def test_samples_in_either_space_share_a_batch():
    """A sample is the same whatever stands beside it."""
    rng = np.random.default_rng(2)
    easy = draw(rng, 200, 2, 51, 50, ragged=False)
    wild = draw(rng, 200, 2, 51, 50, scale=1e4, ragged=False)
    late = late_turn()
    order = [4, 0, 2, 1, 3]
    batch = [
        np.concatenate(parts, axis=1 if axis == 0 else 0).take(order, axis=1 if axis == 0 else 0)
        for axis, parts in enumerate(zip(easy, wild, late, strict=True))
    ]
    _, safe, _ = both_spaces(batch)
    assert safe.tolist() == [False, True, False, True, False]
    items, derivatives = ctc(*batch, wants=WANTS)
    for n in range(5):
        alone = batch[0][:, n : n + 1], *(array[n : n + 1] for array in batch[1:])
        item, derivative = ctc(*alone, wants=WANTS)
        np.testing.assert_allclose(items[n], item[0], rtol=1e-15)
        # sums over states may be in another order
        np.testing.assert_allclose(derivatives["log_probs"][:, n], derivative["log_probs"][:, 0], atol=1e-15)
    np.testing.assert_array_equal(ctc(*batch)[0], items)  # with and without a derivative


def test_what_lies_beyond_the_lengths_does_not_matter():
    rng = np.random.default_rng(4)
    log_probs, targets, _, _ = draw(rng, 9, 3, 5, 4, ragged=False)
    input_lengths, target_lengths = np.array([9, 6, 0]), np.array([4, 2, 0])
    items, derivatives = ctc(log_probs, targets, input_lengths, target_lengths, wants=WANTS)
    beyond = np.arange(9)[:, None] >= input_lengths
    spoiled = log_probs.copy()
    spoiled[beyond] = NAN
    wide = np.full((3, 9), -7)
    wide[:, :4] = np.where(np.arange(4) < target_lengths[:, None], targets, 10**9)
    again, spoiled_derivatives = ctc(spoiled, wide, input_lengths, target_lengths, wants=WANTS)
    np.testing.assert_array_equal(again, items)
    np.testing.assert_array_equal(spoiled_derivatives["log_probs"], derivatives["log_probs"])
    assert not derivatives["log_probs"][beyond].any()

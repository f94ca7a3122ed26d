"""The chapter on fused linear cross-entropy: against PyTorch, and what PyTorch does not have."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from portaloss import LOSSES, LossKind, pytorch
from portaloss.reference import fused_linear_cross_entropy as chapter
from portaloss.reference.fused_linear_cross_entropy import fused_linear_cross_entropy

WANTS = {False: ("input", "linear_weight", "linear_bias"), True: ("target", "weight")}

#: Rows, features, classes, positions.
SHAPES = [(5, 3, 7, ()), (1, 1, 1, ()), (4, 2, 3, (2,)), (3, 4, 5, (2, 3)), (0, 3, 4, ()), (40, 6, 70, ())]


def draw(rng, shape, *, soft, bias=True, weight=True, ignored=True):
    rows, features, classes, positions = shape
    operands = {
        "input": rng.normal(size=(rows, features)),
        "linear_weight": rng.normal(size=(classes, *positions, features)),
        "target": rng.integers(0, classes, (rows, *positions)),
    }
    if soft:
        operands["target"] = rng.dirichlet(np.ones(classes), (rows, *positions))
        operands["target"] = np.ascontiguousarray(np.moveaxis(operands["target"], -1, 1))
    elif ignored:
        operands["target"][rng.random(operands["target"].shape) < 0.3] = -100
    if bias:
        operands["linear_bias"] = rng.normal(size=(classes, *positions))
    if weight:
        operands["weight"] = rng.random(classes) + 0.1
    return operands


def assert_like_pytorch(operands, upstream, **options):
    soft = operands["target"].dtype.kind == "f"
    wants = [name for name in WANTS[False] + WANTS[soft] * soft if name in operands]
    copies = {name: array.copy() for name, array in operands.items()}
    items, gradients = fused_linear_cross_entropy(**operands, **options, upstream=upstream, wants=wants)
    for name, array in operands.items():
        np.testing.assert_array_equal(array, copies[name], err_msg=f"{name} was changed")
    assert sorted(gradients) == sorted(wants)

    tensors = {name: torch.tensor(array) for name, array in operands.items()}
    for name in wants:
        tensors[name].requires_grad_()
    known = {name: value for name, value in options.items() if not (soft and name == "ignore_index")}
    expected = pytorch.function(LOSSES[LossKind.FUSED_LINEAR_CROSS_ENTROPY])(**tensors, **known, reduction="none")
    incoming = np.broadcast_to(1.0 if upstream is None else upstream, items.shape)
    expected.backward(torch.tensor(incoming.copy()))
    # sums of up to 280 terms of about 1
    np.testing.assert_allclose(items, expected.detach().numpy(), rtol=1e-12, atol=1e-13)
    for name in wants:
        right = tensors[name].grad.numpy()
        assert gradients[name].shape == right.shape
        np.testing.assert_allclose(gradients[name], right, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_like_pytorch(shape, soft):
    rng = np.random.default_rng(0)
    for smoothing in (0.0, 0.3, 1.0):
        for bias, weight in ((True, True), (False, False)):
            operands = draw(rng, shape, soft=soft, bias=bias, weight=weight)
            upstream = rng.normal(size=(shape[0], *shape[3]))
            assert_like_pytorch(operands, upstream, label_smoothing=smoothing)


def test_upstream_and_ignore_index():
    rng = np.random.default_rng(1)
    operands = draw(rng, (6, 3, 4, ()), soft=False, ignored=False)
    for upstream in (None, 0.25, rng.normal(size=6)):
        assert_like_pytorch(operands, upstream, ignore_index=2)
    items, gradients = fused_linear_cross_entropy(
        operands["input"], operands["linear_weight"], np.full(6, 2), ignore_index=2, wants=WANTS[False]
    )
    assert not items.any()
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_a_token_weight_is_an_upstream_gradient_and_a_factor(soft):
    rng = np.random.default_rng(5)
    operands = draw(rng, (6, 3, 4, (2,)), soft=soft)
    k, u = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
    wants = WANTS[False] + WANTS[True] * soft
    items, gradients = fused_linear_cross_entropy(**operands, upstream=u * k, wants=wants)
    weighted, same = fused_linear_cross_entropy(**operands, token_weight=k, upstream=u, wants=wants)
    np.testing.assert_array_equal(weighted, items * k)
    for name in wants:
        np.testing.assert_array_equal(same[name], gradients[name])


def test_the_slope_of_a_soft_cap_keeps_its_digits_where_it_is_flat():
    z = np.array([0.0, 1e-5, 1.0, -10.0, 30.0, 80.0, np.inf], np.float32)
    with np.errstate(over="ignore"):
        capped, slope = chapter.soft_cap(z, 1.0)
    with mpmath.workdps(50):
        right = [float(mpmath.sech(mpmath.mpf(float(value))) ** 2) for value in z]
    # cosh and its square, each off by a few units in the last place; below the normal numbers by one of those there
    np.testing.assert_allclose(slope, right, rtol=8 * np.finfo(np.float32).eps, atol=2e-45)
    np.testing.assert_allclose(capped, np.tanh(z.astype(np.float64)), rtol=4 * np.finfo(np.float32).eps)
    assert slope[3] > 0.0
    assert 1.0 - capped[3] * capped[3] == 0.0  # what the difference would have said

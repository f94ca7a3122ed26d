"""The truth against PyTorch: in float64 to 1e-12; and no error of ours, once it is not small, more than twice its."""

from __future__ import annotations

from functools import cache
from math import prod

import numpy as np
import pytest

from portaloss.catalogue import LOSSES
from portaloss.kinds import DTYPES, LossKind, LossReduction
from portaloss.parity import eager, run, samples
from portaloss.parity.truth import Truth

pytest.importorskip("torch")

#: Of the sum of |terms|: 4500 units of float64's last place, for PyTorch's own rounding.
TOLERANCE = 1e-12

#: Below this, float64's numbers have lost digits to underflow on the way.
UNDERFLOW = 1e-290

#: Where PyTorch's own formula cancels and ours does not: its error is relative to the terms that cancel. Those are at
#: most the product of its largest operands; 8 roundings of that are allowed.
PYTORCH_CANCELS = {
    LossKind.CROSS_ENTROPY: "-log p is (max + log sum) - x",
    LossKind.FUSED_LINEAR_CROSS_ENTROPY: "-log p is (max + log sum) - x",
    LossKind.CTC: "probabilities are exp of sums of log probabilities",
    LossKind.MULTILABEL_SOFT_MARGIN: "the derivative of the target is log sigmoid(x) - log sigmoid(-x)",
    LossKind.BCE_WITH_LOGITS: "(1 - t) x + v log(1 + exp(-x)) with v = 1 + (pos_weight - 1) t, for negative x",
    LossKind.POISSON_NLL: "the derivative without log_input is 1 - t / (x + eps)",
}
ROUNDINGS = 8 * 2.0**-53

#: Where PyTorch's kernels disagree with PyTorch's other kernels, and we follow the others.
PYTORCH_DIFFERS = {
    (LossKind.MULTI_MARGIN, "empty"): "the mean of no items is 0, not nan as for every other loss",
    (LossKind.MULTILABEL_MARGIN, "empty"): "the mean of no items is 0, not nan as for every other loss",
}

CASES = [(kind, name) for kind in LossKind for name in samples.names(kind)]


def assert_close(what, got, expected, floor=0.0):
    assert got.shape == expected.value.shape, what
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected.value), err_msg=f"{what}: nan")
    infinite = np.isinf(expected.value)
    np.testing.assert_array_equal(got[infinite], expected.value[infinite], err_msg=f"{what}: inf")
    finite = np.isfinite(expected.value)
    value = expected.value[finite]
    size = np.fmax(np.abs(value), expected.magnitude[finite])
    size = np.where(np.isfinite(size), size, np.abs(value))
    error = np.abs(got[finite] - value)
    allowed = TOLERANCE * size + floor + UNDERFLOW
    assert (error <= allowed).all(), f"{what}: off by {np.max(error / np.maximum(size, UNDERFLOW)):.3g} of its size"


def largest(array):
    """The largest finite |number| of an array of floats; of others 0."""
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) if array.dtype.kind == "f" else 0.0


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.name.lower()}-{name}" for kind, name in CASES])
def test_value_and_gradients_in_float64(kind, name):
    if (kind, name) in PYTORCH_DIFFERS:
        pytest.skip(PYTORCH_DIFFERS[kind, name])
    loss = LOSSES[kind]
    case = samples.case(loss, "float64", name)
    truth = Truth(loss, case)
    shapes = {reduction: truth.items_shape if reduction is LossReduction.NONE else () for reduction in LossReduction}
    upstreams = {reduction: case.upstream(shape, np.dtype("float64")) for reduction, shape in shapes.items()}
    pytorch = eager.run(loss, case, upstreams)
    if not pytorch.losses:
        pytest.skip("PyTorch does not support the case")
    fused = kind is LossKind.FUSED_LINEAR_CROSS_ENTROPY
    scale = prod(max(largest(array), 1.0) for array in case.operands.values())
    scale *= case.operands["input"].shape[-1] if fused else 1  # terms of a logit
    floor = ROUNDINGS * scale if kind in PYTORCH_CANCELS else 0.0
    count = max(truth.items_size, 1)
    for reduction, value in pytorch.losses.items():
        terms = 1 if reduction is LossReduction.NONE else count
        assert_close(f"loss, {reduction.name}", value, truth.loss(reduction), floor * terms)
    for reduction, gradients in pytorch.gradients.items():
        expected = truth.gradients(reduction, upstreams[reduction])
        assert gradients.keys() == expected.keys()
        factor = max(largest(upstreams[reduction]), 1.0)
        for operand, gradient in gradients.items():
            terms = count if fused or gradient.size < count else 1
            factor *= largest(case.operands["input"]) if fused else 1.0
            assert_close(
                f"gradient of {operand}, {reduction.name}", gradient, expected[operand], floor * factor * terms
            )


@cache
def rows(kind, dtype):
    """The matrix of a kind in a dtype."""
    return list(run.run_kind(["cpu"], LOSSES[kind], dtype))


MATRIX = [(kind, dtype) for kind in LossKind for dtype in DTYPES]
IDS = [f"{kind.name.lower()}-{dtype}" for kind, dtype in MATRIX]


@pytest.mark.parametrize(("kind", "dtype"), MATRIX, ids=IDS)
def test_the_matrix_passes(kind, dtype):
    failed = {row.sku: row.failures for row in rows(kind, dtype) if not row.passed}
    assert failed == {}


#: An error of one ulp is small whatever PyTorch's is: it is what two roundings may add up to, and where there are few
#: cases PyTorch's may all have rounded well.
SMALL = 1.0


@pytest.mark.parametrize(("kind", "dtype"), MATRIX, ids=IDS)
def test_no_error_above_the_small_ones_is_more_than_twice_pytorch_s(kind, dtype):
    worse = {
        row.sku: (row.ulp_beside_torch, row.torch_ulp, row.worst_case)
        for row in rows(kind, dtype)
        if row.torch_ulp is not None
        and not (row.ulp_beside_torch is not None and row.ulp_beside_torch <= max(2.0 * row.torch_ulp, SMALL))
    }
    assert worse == {}

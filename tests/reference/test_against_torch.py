"""The truth against PyTorch: in float64 to 1e-12, and in every dtype no error of ours more than twice PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind, LossReduction
from portaloss.parity import eager, samples
from portaloss.parity.truth import Truth

pytest.importorskip("torch")

#: Of the sum of |terms|: 4500 units of float64's last place, for PyTorch's own rounding.
TOLERANCE = 1e-12

CASES = [(kind, name) for kind in LossKind for name in samples.names(kind)]


def assert_close(name, got, expected):
    assert got.shape == expected.value.shape, name
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected.value), err_msg=f"{name}: nan")
    size = np.fmax(np.abs(expected.value), expected.magnitude)
    finite = np.isfinite(expected.value)
    np.testing.assert_array_equal(got[~finite], expected.value[~finite], err_msg=f"{name}: inf")
    error = np.abs(got - expected.value)[finite]
    allowed = TOLERANCE * np.where(np.isfinite(size), size, np.abs(expected.value))[finite]
    # below 1e-300 numbers have lost digits to underflow
    worst = np.max(error - allowed, initial=0.0)
    assert worst <= 1e-300, f"{name}: off by {np.max(error / np.maximum(allowed, 1e-300)) * TOLERANCE:.3g} of its size"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.name.lower()}-{name}" for kind, name in CASES])
def test_value_and_gradients_in_float64(kind, name):
    loss = LOSSES[kind]
    case = samples.case(loss, "float64", name)
    truth = Truth(loss, case)
    shapes = {reduction: truth.items_shape if reduction is LossReduction.NONE else () for reduction in LossReduction}
    upstreams = {reduction: case.upstream(shape, np.dtype("float64")) for reduction, shape in shapes.items()}
    pytorch = eager.run(loss, case, upstreams)
    if not pytorch.losses:
        pytest.skip("PyTorch does not support the case")
    for reduction, value in pytorch.losses.items():
        assert_close(f"loss, {reduction.name}", value, truth.loss(reduction))
    for reduction, gradients in pytorch.gradients.items():
        expected = truth.gradients(reduction, upstreams[reduction])
        assert gradients.keys() == expected.keys()
        for operand, gradient in gradients.items():
            assert_close(f"gradient of {operand}, {reduction.name}", gradient, expected[operand])

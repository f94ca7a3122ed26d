"""``value_and_grad`` on NumPy arrays."""

import numpy as np
import pytest

from portaloss import LossKind, dispatch, value_and_grad

X, T = np.array([0.5, 3.0, -2.0]), np.array([0.0, 1.0, 2.0])


def mse(input, target, weight=None, reduction="mean"):
    return dispatch.loss(LossKind.MSE, reduction, {"input": input, "target": target, "weight": weight})


def test_value_and_gradient_by_hand():
    loss, gradient = value_and_grad(mse)(X, T)
    assert loss == (0.25 + 4 + 16) / 3
    np.testing.assert_allclose(gradient, 2 * (X - T) / 3, rtol=1e-15)  # one product and one quotient


def test_several_arguments():
    _, gradients = value_and_grad(mse, argnums=(1, 0))(X, T, reduction="sum")
    assert [gradient.tolist() for gradient in gradients] == [(2 * (T - X)).tolist(), (2 * (X - T)).tolist()]


def test_a_weight_in_the_divisor_follows_the_quotient_rule():
    weight = np.array([1.0, 2.0, 1.0])
    loss, gradient = value_and_grad(mse, argnums=2)(X, T, weight)
    squares = (X - T) ** 2
    assert loss == (squares * weight).sum() / 4
    np.testing.assert_allclose(gradient, (squares - loss) / 4, rtol=1e-15)


def test_a_wrapper_may_bind_arguments():
    _, gradient = value_and_grad(lambda x: mse(x, T, reduction="sum"))(X)
    assert gradient.tolist() == (2 * (X - T)).tolist()


def test_the_same_array_twice_sums_both_gradients():
    _, gradient = value_and_grad(lambda x: mse(x, x, reduction="sum"))(X)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


def test_what_cannot_be_differentiated_is_refused():
    with pytest.raises(ValueError, match="must return the loss itself"):
        value_and_grad(lambda x: 2 * mse(x, T))(X)
    with pytest.raises(ValueError, match="computes no loss"):
        value_and_grad(lambda x: x.sum())(X)
    with pytest.raises(ValueError, match="more than one loss"):
        value_and_grad(lambda x: mse(x, T) + mse(x, T))(X)
    with pytest.raises(ValueError, match="not an operand of the loss"):
        value_and_grad(lambda x: mse(2 * x, T))(X)
    with pytest.raises(ValueError, match=r"needs a scalar loss, got shape \(3,\)"):
        value_and_grad(lambda x: mse(x, T, reduction="none"))(X)
    with pytest.raises(ValueError, match="argnums has 3, but there are 2"):
        value_and_grad(mse, argnums=3)(X, T)
    with pytest.raises(TypeError, match="argnums must be an int"):
        value_and_grad(mse, argnums=1.5)
    with pytest.raises(TypeError, match="fn must be callable"):
        value_and_grad(3)


def test_a_failure_leaves_nothing_behind():
    with pytest.raises(ValueError, match="computes no loss"):
        value_and_grad(lambda x: x.sum())(X)
    assert mse(X, T) == (0.25 + 4 + 16) / 3

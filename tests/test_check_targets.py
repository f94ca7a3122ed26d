"""check_targets on the CPU: a class out of range always raises. tests/triton_emulated tests the GPU's kernels."""

from __future__ import annotations

import numpy as np
import pytest

import portaloss
import portaloss.functional as P
from portaloss import check_targets
from portaloss.targets_mode import mode

X = np.zeros((2, 3))

CALLS = {
    "nll": lambda: P.nll_loss(X, np.array([0, 3])),
    "cross_entropy": lambda: P.cross_entropy(X, np.array([0, -1])),
    "narrow targets": lambda: P.cross_entropy(X, np.array([0, 255], np.uint8)),
    "multi_margin": lambda: P.multi_margin_loss(X, np.array([0, 3])),
    "multilabel_margin": lambda: P.multilabel_margin_loss(X, np.array([[0, -1, 3], [0, 3, -1]])),
    "linear": lambda: P.linear_cross_entropy(X, np.zeros((4, 3)), np.array([0, 4])),
    "ctc": lambda: P.ctc_loss(np.zeros((5, 1, 3)), np.array([[1, 3]]), (5,), (2,)),
}


@pytest.mark.parametrize("setting", [None, "nan", "raise"])
@pytest.mark.parametrize("call", CALLS)
def test_the_cpu_raises(call, setting):
    with check_targets(setting):
        for _ in range(2):  # shapes that have been met are not checked again; values are
            with pytest.raises(IndexError):
                CALLS[call]()


def test_a_call_after_right_ones_of_the_same_shape_is_checked():
    P.cross_entropy(X, np.array([0, 2]))
    with pytest.raises(IndexError, match=r"target\[1\] is 3"):
        P.cross_entropy(X, np.array([0, 3]))


def test_setting_and_restoring():
    outer = check_targets("nan")
    with check_targets("raise"):
        assert mode("nan") == "raise"
    with pytest.raises(KeyError), check_targets("raise"):
        raise KeyError
    assert mode("raise") == "nan"
    with outer:
        pass
    assert mode("raise") == "raise"


def test_an_unknown_mode():
    with pytest.raises(ValueError, match="'ignore'"):
        check_targets("ignore")


def test_plans_say_what_forward_would_do():
    plan = portaloss.select(portaloss.LossKind.CROSS_ENTROPY, dtype="float64")
    assert plan.can_implement(X, np.array([0, 2]))
    assert not plan.can_implement(X, np.array([0, 3]))

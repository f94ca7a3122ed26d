"""check_targets in the Triton backend: nan by default, the CPU's IndexError if asked for, and the CPU's results."""

from __future__ import annotations

import pytest
import torch

from portaloss import check_targets
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import differentiable, make_plan

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(4, 3, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.tensor([0, 7, 2, -1])
STEPS = torch.randn(6, 3, 4, generator=GENERATOR, dtype=torch.float64).log_softmax(2)
LABELS = torch.tensor([[1, 2], [3, 9], [2, 1]])
LENGTHS = {"input_lengths": torch.tensor([6, 6, 6]), "target_lengths": torch.tensor([2, 2, 1])}
WEIGHT = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)

#: Kind and operands, of which the second item has a target out of range, in some cases also others.
CASES = {
    "nll": (LossKind.NLL, {"input": X.log_softmax(1), "target": TARGET}),
    "nll, weight": (LossKind.NLL, {"input": X.log_softmax(1), "target": TARGET, "weight": WEIGHT}),
    "cross_entropy": (LossKind.CROSS_ENTROPY, {"input": X, "target": TARGET}),
    "cross_entropy, weight": (LossKind.CROSS_ENTROPY, {"input": X, "target": TARGET, "weight": WEIGHT}),
    "multi_margin": (LossKind.MULTI_MARGIN, {"input": X, "target": TARGET}),
    "multilabel_margin": (
        LossKind.MULTILABEL_MARGIN,
        {"input": X, "target": torch.tensor([[0, -1, 2], [1, 7, -1], [2, -2, 0], [2, 0, 1]])},
    ),
    "ctc": (LossKind.CTC, {"log_probs": STEPS, "targets": LABELS, **LENGTHS}),
    "ctc, concatenated": (LossKind.CTC, {"log_probs": STEPS, "targets": torch.tensor([1, 2, 3, 9, 2]), **LENGTHS}),
    "linear": (
        LossKind.FUSED_LINEAR_CROSS_ENTROPY,
        {"input": X, "linear_weight": torch.randn(3, 3, generator=GENERATOR, dtype=torch.float64), "target": TARGET},
    ),
    "linear, weight": (
        LossKind.FUSED_LINEAR_CROSS_ENTROPY,
        {
            "input": X,
            "linear_weight": torch.randn(3, 3, generator=GENERATOR, dtype=torch.float64),
            "target": TARGET,
            "weight": WEIGHT,
        },
    ),
}


def plan_of(kind, reduction, backend):
    return make_plan(kind, "float64", reduction, backend, ())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduction", LossReduction)
def test_the_cpu_means_the_same_by_nan(case, reduction):
    kind, operands = CASES[case]
    ours, cpu = (plan_of(kind, reduction, backend) for backend in ("triton-interpret", "cpu"))
    with check_targets(None):
        value = ours.forward(**operands)
        upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).reshape(value.shape)
        gradients = ours.backward(upstream, **operands)
    assert value.isnan().reshape(-1)[min(1, value.numel() - 1)]
    with check_targets("nan"):
        # float64 and a few terms of the order of 1: 1e-14 is some tens of roundings
        torch.testing.assert_close(value, cpu.forward(**operands), rtol=1e-13, atol=1e-14, equal_nan=True)
        expected = cpu.backward(upstream, **operands)
    for name in differentiable(ours.loss, operands):
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-13, atol=1e-14)
        assert gradients[name].isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_raise_is_the_error_of_the_cpu(case):
    kind, operands = CASES[case]
    messages = []
    for backend in ("triton-interpret", "cpu"):
        plan = plan_of(kind, LossReduction.MEAN, backend)
        with check_targets("raise"):
            with pytest.raises(IndexError) as caught:
                plan.forward(**operands)
            messages.append(str(caught.value))
            with pytest.raises(IndexError):
                plan.backward(torch.tensor(1.0), **operands)
            assert not plan.can_implement(**operands)
    assert messages[0] == messages[1]


def test_raise_lets_right_targets_through():
    plan = plan_of(LossKind.CROSS_ENTROPY, LossReduction.NONE, "triton-interpret")
    target = torch.tensor([0, 1, 2, -100])
    with check_targets("raise"):
        checked = plan.forward(input=X, target=target)
    assert torch.equal(checked, plan.forward(input=X, target=target))
    assert checked[3] == 0

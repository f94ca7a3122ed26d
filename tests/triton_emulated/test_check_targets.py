"""check_targets in the Triton backend: nan by default, in kernels and compositions; the CPU's IndexError if asked."""

from __future__ import annotations

import pytest
import torch

from portaloss import backends, check_targets, engine, functional, select
from portaloss.arrange import specs
from portaloss.kinds import LossKind, LossReduction
from portaloss.torch_ops import composites

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
    return select(kind, dtype="float64", reduction=reduction, backend=backend)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduction", LossReduction)
def test_kernels_and_compositions_give_nan_to_the_same_items(case, reduction):
    kind, operands = CASES[case]
    plan = plan_of(kind, reduction, "triton")
    value = plan.forward(**operands)
    assert value.isnan().reshape(-1)[min(1, value.numel() - 1)]
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).reshape(value.shape)
    gradients = plan.backward(upstream, **operands)

    leaves = {name: operand.clone().requires_grad_(name in gradients) for name, operand in operands.items()}
    composed = composites.loss(plan, leaves)
    expected = torch.autograd.grad(composed, [leaves[name] for name in gradients], upstream)
    # float64 and a few terms of the order of 1: 1e-14 is some tens of roundings
    torch.testing.assert_close(value, composed.detach(), rtol=1e-13, atol=1e-14, equal_nan=True)
    for (name, gradient), other in zip(gradients.items(), expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-13, atol=1e-14, msg=name)
        assert gradient.isfinite().all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, about itself
@pytest.mark.parametrize("case", ["cross_entropy, weight", "multi_margin"])
def test_nan_holds_under_transforms_and_for_higher_derivatives(case, monkeypatch):
    monkeypatch.setattr(backends, "for_device", lambda device: "triton")
    kind, operands = CASES[case]
    function = {LossKind.CROSS_ENTROPY: functional.cross_entropy, LossKind.MULTI_MARGIN: functional.multi_margin_loss}

    def items(x):
        rest = {name: operand for name, operand in operands.items() if name != "input"}
        return function[kind](x, **rest, reduction="none")

    x = operands["input"].clone().requires_grad_()
    lost = items(x).isnan()
    assert lost[1]
    (gradient,) = torch.autograd.grad(items(x).sum(), x, create_graph=True)
    assert (gradient[lost] == 0).all()
    (second,) = torch.autograd.grad((gradient**2).sum(), x)
    assert (second[lost] == 0).all()
    assert second.isfinite().all()
    assert torch.equal(torch.func.vmap(items)(torch.stack([x, 2 * x])).isnan(), lost.expand(2, -1))
    value, slope = torch.func.jvp(items, (operands["input"],), (torch.ones_like(operands["input"]),))
    assert torch.equal(value.isnan(), lost)
    assert slope.isfinite().all()


def test_extras_of_a_target_out_of_range_are_nan():
    kind, operands = CASES["linear"]
    plan = select(kind, dtype="float64", backend="triton", return_extras=True)
    log_probs, entropy, accuracy, _ = engine.forward(engine.prepare(plan, specs(operands)), operands).extras
    assert log_probs.isnan().tolist() == accuracy.isnan().tolist() == [False, True, False, True]
    assert entropy.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_raise_is_the_error_of_the_cpu(case):
    kind, operands = CASES[case]
    messages = []
    for backend in ("triton", "cpu"):
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
    plan = plan_of(LossKind.CROSS_ENTROPY, LossReduction.NONE, "triton")
    target = torch.tensor([0, 1, 2, -100])
    with check_targets("raise"):
        checked = plan.forward(input=X, target=target)
    assert torch.equal(checked, plan.forward(input=X, target=target))
    assert checked[3] == 0

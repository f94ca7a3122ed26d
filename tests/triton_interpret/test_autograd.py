"""The way from portaloss.functional through autograd to kernels and back, as tensors on a GPU take it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from portaloss import arrays, backends, functional
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind, LossReduction
from portaloss.parity import samples
from portaloss.parity.run import Trial


@pytest.fixture(autouse=True)
def on_the_gpu(monkeypatch):
    """CPU tensors go where those of a GPU do."""
    monkeypatch.setattr(backends, "for_device", lambda device: "triton-interpret")


def first_case(kind):
    return next(iter(case for case in samples.cases(LOSSES[kind], "float64") if "batchmean" not in case.options))


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both:UserWarning")  # of kl_div
@pytest.mark.parametrize("retain_graph", [False, True])
@pytest.mark.parametrize("reduction", list(LossReduction))
@pytest.mark.parametrize("kind", list(LossKind))
def test_values_and_gradients_are_the_truth(kind, reduction, retain_graph):
    loss, case = LOSSES[kind], first_case(kind)
    trial = Trial(loss, case, "float64")
    tensors = {name: arrays.like(np.array(array), arrays.TORCH) for name, array in case.operands.items()}
    for name in trial.truth.wants:
        tensors[name].requires_grad_()
    value = getattr(functional, loss.function)(**tensors, **case.options, reduction=reduction.name.lower())
    expected = trial.truth.loss(reduction)
    # float64, a handful of operations: 1e-12 of what the numbers are made of is 4500 units
    np.testing.assert_allclose(value.detach(), expected.value, rtol=0, atol=1e-12 * np.max(expected.magnitude))

    upstream = trial.upstreams[reduction]
    assert reduction is LossReduction.NONE or upstream != 1.0  # what came with the loss is multiplied
    wanted = [tensors[name] for name in trial.truth.wants]
    tensor = torch.from_numpy(np.array(upstream)).reshape(value.shape)
    gradients = torch.autograd.grad(value, wanted, tensor, retain_graph=retain_graph)
    truths = trial.truth.gradients(reduction, upstream)
    for name, gradient in zip(trial.truth.wants, gradients, strict=True):
        size = np.max(truths[name].magnitude)
        np.testing.assert_allclose(gradient, truths[name].value, rtol=0, atol=1e-12 * size, err_msg=name)
    if retain_graph:  # computed again, and rounded otherwise
        for first, second in zip(gradients, torch.autograd.grad(value, wanted, tensor), strict=True):
            np.testing.assert_allclose(first, second, rtol=0, atol=1e-14 * float(first.abs().max()))


def test_tensors_of_a_gpu_go_to_triton(monkeypatch):
    monkeypatch.undo()
    assert backends.for_device("cuda") == "triton"
    assert backends.for_device("cpu") == "cpu"

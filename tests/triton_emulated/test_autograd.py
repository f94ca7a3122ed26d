"""The way from portaloss.functional through autograd to kernels and back, as tensors on a GPU take it."""

from __future__ import annotations

import pytest

from portaloss import backends
from portaloss.kinds import LossKind, LossReduction

from ..torch_samples import Sample, untrue


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both:UserWarning")  # of kl_div
@pytest.mark.parametrize("reduction", LossReduction)
@pytest.mark.parametrize("kind", LossKind)
def test_values_and_gradients_are_the_truth(kind, reduction, monkeypatch):
    monkeypatch.setattr(backends, "for_device", lambda device: "triton")  # where a GPU's tensors go
    assert untrue(Sample(kind), reduction) == []


def test_tensors_of_a_gpu_go_to_triton():
    assert backends.for_device("cuda") == "triton"
    assert backends.for_device("cpu") == "cpu"

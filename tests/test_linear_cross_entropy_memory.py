"""linear_cross_entropy beside PyTorch's: peak memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.nn.functional as F

from portaloss.bench import cases, memory
from portaloss.kinds import LossKind


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="elsewhere a peak is that of a process's life")
@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this PyTorch does not have it")
def test_memory_beyond_the_gradients_is_an_eighth_of_pytorchs():
    """2048 rows, 1024 features, 32000 classes: the logits alone are 250 MiB, and PyTorch has them more than once."""
    kind = LossKind.FUSED_LINEAR_CROSS_ENTROPY
    rows, features, classes = shape = cases.shape_of(kind, "large")
    assert shape == (2048, 1024, 32000)
    spec = cases.Spec(kind, "float32", "large", shape)
    gradients = (rows + classes) * features * 4
    ours, pytorchs = (
        memory.peak_extra(spec, name, 2)["forward_backward"] - gradients for name in ("portaloss", "eager")
    )
    assert pytorchs > 2 * rows * classes * 4
    assert ours < pytorchs / 8, f"{ours / 2**20:.0f} MiB to {pytorchs / 2**20:.0f}"

"""Kernels that Triton compiles for NVIDIA's chips, emulated, against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from portaloss.emulator.errors import RaceError
from portaloss.emulator.models import MODELS, Model
from portaloss.emulator.ptx.executor import Executor

from .triton_kernels import compiled, cumulative_kernel, emulate, layer_norm_kernel, softmax_kernel, sort_kernel

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget

CHIPS = {"sm_80": 80, "sm_90": 90, "sm_100": 100, "sm_120": 120}
COLUMNS = 300


def target(chip: str) -> GPUTarget:
    return GPUTarget("cuda", CHIPS[chip], 32)


def run(kernel: Any, chip: str, x: torch.Tensor, model: str = "exact") -> torch.Tensor:
    code = compiled(kernel, target(chip), x.dtype)
    return emulate(Executor(code.asm["ptx"], Model(model)), code.metadata, x, aligned=True)


@pytest.mark.parametrize("chip", CHIPS)
def test_rows(chip: str) -> None:
    x = torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(0))
    wide = x.double()
    torch.testing.assert_close(run(softmax_kernel, chip, x), torch.softmax(wide, 1).float(), rtol=2e-6, atol=0)
    expected = torch.nn.functional.layer_norm(wide, (COLUMNS,)).float()
    torch.testing.assert_close(run(layer_norm_kernel, chip, x), expected, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(run(cumulative_kernel, chip, x), wide.cumsum(1).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inputs_of_16_bits(dtype: torch.dtype) -> None:
    x = torch.randn(3, COLUMNS, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(run(sort_kernel, "sm_90", x), x.float().sort(1).values)
    torch.testing.assert_close(run(softmax_kernel, "sm_90", x), torch.softmax(x.double(), 1).float(), rtol=2e-6, atol=0)


def test_models_differ_within_the_bounds_of_the_manual() -> None:
    x = torch.randn(2, COLUMNS, generator=torch.Generator().manual_seed(3))
    results = [run(softmax_kernel, "sm_90", x, model) for model in MODELS]
    for result in results:  # 2 units each of the power and the quotient, and the exponent's rounding
        torch.testing.assert_close(result, torch.softmax(x.double(), 1).float(), rtol=2e-6, atol=0)
    assert all(not torch.equal(results[0], result) for result in results[1:])


def test_each_barrier_that_is_taken_out_is_noticed() -> None:
    x = torch.randn(2, COLUMNS, generator=torch.Generator().manual_seed(2))
    code = compiled(layer_norm_kernel, target("sm_90"), x.dtype)
    lines = code.asm["ptx"].split("\n")
    barriers = [k for k, line in enumerate(lines) if line.strip().startswith("bar.sync")]
    assert len(barriers) >= 3
    for k in barriers:
        without = "\n".join(lines[:k] + lines[k + 1 :])
        with pytest.raises(RaceError, match=r"layer_norm_kernel at standard.py:\d+: .* no barrier orders the two"):
            emulate(Executor(without), code.metadata, x, aligned=True)

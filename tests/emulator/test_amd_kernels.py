"""Kernels that Triton compiles for AMD's chips, emulated, against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from portaloss.emulator.amd.executor import Executor
from portaloss.emulator.errors import RaceError

from .triton_kernels import compiled, cumulative_kernel, emulate, layer_norm_kernel, softmax_kernel, sort_kernel

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget

CHIPS = {"gfx90a": 64, "gfx942": 64, "gfx950": 64, "gfx1100": 32, "gfx1201": 32}
COLUMNS = 300


def target(chip: str) -> GPUTarget:
    return GPUTarget("hip", chip, CHIPS[chip])


def run(kernel: Any, chip: str, x: torch.Tensor) -> torch.Tensor:
    code = compiled(kernel, target(chip), x.dtype)
    return emulate(Executor(code.asm["amdgcn"]), code.metadata, x, aligned=False)


@pytest.mark.parametrize("chip", CHIPS)
def test_rows(chip: str) -> None:
    x = torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(0))
    wide = x.double()
    torch.testing.assert_close(run(softmax_kernel, chip, x), torch.softmax(wide, 1).float(), rtol=2e-6, atol=0)
    expected = torch.nn.functional.layer_norm(wide, (COLUMNS,)).float()
    torch.testing.assert_close(run(layer_norm_kernel, chip, x), expected, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(run(cumulative_kernel, chip, x), wide.cumsum(1).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("chip", "dtype"), [("gfx942", torch.float16), ("gfx1201", torch.bfloat16)])
def test_inputs_of_16_bits(chip: str, dtype: torch.dtype) -> None:
    x = torch.randn(3, COLUMNS, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(run(sort_kernel, chip, x), x.float().sort(1).values)
    torch.testing.assert_close(run(softmax_kernel, chip, x), torch.softmax(x.double(), 1).float(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("chip", ["gfx942", "gfx1100"])
def test_each_barrier_that_is_taken_out_is_noticed(chip: str) -> None:
    x = torch.randn(2, COLUMNS, generator=torch.Generator().manual_seed(2))
    code = compiled(layer_norm_kernel, target(chip), x.dtype)
    lines = code.asm["amdgcn"].split("\n")
    barriers = [k for k, line in enumerate(lines) if line.strip() == "s_barrier"]
    assert len(barriers) >= 3
    noticed = 0
    for k in barriers:
        without = "\n".join(lines[:k] + lines[k + 1 :])
        try:
            emulate(Executor(without), code.metadata, x, aligned=False)
        except RaceError:
            noticed += 1
    assert noticed == len(barriers)

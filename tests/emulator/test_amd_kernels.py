"""Kernels that Triton compiles for AMD's chips, emulated, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from portaloss.emulator.amd.executor import Executor
from portaloss.emulator.errors import RaceError
from portaloss.emulator.launch import Argument, Launch, Settings
from portaloss.emulator.launch import run as run_launch
from portaloss.emulator.memory import GlobalMemory

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

CHIPS = {"gfx90a": 64, "gfx942": 64, "gfx950": 64, "gfx1100": 32, "gfx1201": 32}
COLUMNS = 300


@triton.jit
def softmax_kernel(x, out, columns, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    values = tl.load(x + row * columns + at, mask=at < columns, other=float("-inf")).to(tl.float32)
    e = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * columns + at, e / tl.sum(e, axis=0), mask=at < columns)


@triton.jit
def layer_norm_kernel(x, out, columns, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    values = tl.load(x + row * columns + at, mask=at < columns, other=0.0).to(tl.float32)
    mean = tl.sum(values, axis=0) / columns
    centred = tl.where(at < columns, values - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / columns
    tl.store(out + row * columns + at, centred / tl.sqrt(variance + 1e-5), mask=at < columns)


@triton.jit
def cumulative_kernel(x, out, columns, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    values = tl.load(x + row * columns + at, mask=at < columns, other=0.0).to(tl.float32)
    tl.store(out + row * columns + at, tl.cumsum(values, axis=0), mask=at < columns)


@triton.jit
def sort_kernel(x, out, columns, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    values = tl.load(x + row * columns + at, mask=at < columns, other=float("inf")).to(tl.float32)
    tl.store(out + row * columns + at, tl.sort(values), mask=at < columns)


def compiled(kernel: Any, chip: str, dtype: str, block: int) -> Any:
    signature = {"x": f"*{dtype}", "out": "*fp32", "columns": "i32", "BLOCK": "constexpr"}
    source = ASTSource(kernel, signature, {(3,): block}, {})
    return triton.compile(source, target=GPUTarget("hip", chip, CHIPS[chip]), options={"num_warps": 4})


def emulate(assembly: str, metadata: Any, x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    out = torch.full((rows, columns), float("nan"))
    memory = GlobalMemory(aligned=False, races=True)
    arguments = []
    for name, tensor in (("x", x), ("out", out)):
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        written = np.zeros(len(data), bool) if name == "out" else None
        arguments.append(Argument(memory.add(name, data, tensor.data_ptr(), written=written).base, 8))
    arguments.append(Argument(columns, 4))
    settings = Settings(races=True)
    launch = Launch(
        "kernel", arguments, (rows, 1, 1), metadata.num_warps, metadata.warp_size, metadata.shared, settings
    )
    run_launch(launch, Executor(assembly), memory)
    return out


def run(kernel: Any, chip: str, x: torch.Tensor) -> torch.Tensor:
    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    code = compiled(kernel, chip, names[x.dtype], 512)
    return emulate(code.asm["amdgcn"], code.metadata, x, *x.shape)


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
    code = compiled(layer_norm_kernel, chip, "fp32", 512)
    lines = code.asm["amdgcn"].split("\n")
    barriers = [k for k, line in enumerate(lines) if line.strip() == "s_barrier"]
    assert len(barriers) >= 3
    noticed = 0
    for k in barriers:
        without = "\n".join(lines[:k] + lines[k + 1 :])
        try:
            emulate(without, code.metadata, x, *x.shape)
        except RaceError:
            noticed += 1
    assert noticed == len(barriers)

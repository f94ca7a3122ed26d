"""Kernels of Triton over the rows of a matrix, which tests compile for a chip and emulate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from portaloss.emulator.launch import Argument, Launch, Settings
from portaloss.emulator.launch import run as run_launch
from portaloss.emulator.memory import GlobalMemory

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
from triton.compiler import ASTSource  # noqa: E402

NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


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


def compiled(kernel: Any, target: Any, dtype: torch.dtype, block: int = 512) -> Any:
    """A kernel that is compiled for a target, with 4 warps."""
    signature = {"x": f"*{NAMES[dtype]}", "out": "*fp32", "columns": "i32", "BLOCK": "constexpr"}
    source = ASTSource(kernel, signature, {(3,): block}, {})
    return triton.compile(source, target=target, options={"num_warps": 4})


def emulate(executor: Any, metadata: Any, x: torch.Tensor, *, aligned: bool) -> torch.Tensor:
    """What a kernel makes of a matrix; every check is on."""
    out = torch.full(x.shape, float("nan"))
    memory = GlobalMemory(aligned=aligned, races=True)
    arguments = []
    for name, tensor in (("x", x), ("out", out)):
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        written = np.zeros(len(data), bool) if name == "out" else None
        arguments.append(Argument(memory.add(name, data, tensor.data_ptr(), written=written).base, 8))
    arguments.append(Argument(x.shape[1], 4))
    grid = (x.shape[0], 1, 1)
    settings = Settings(races=True)
    launch = Launch("kernel", arguments, grid, metadata.num_warps, metadata.warp_size, metadata.shared, settings)
    run_launch(launch, executor, memory)
    return out

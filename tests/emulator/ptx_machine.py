"""Runs a few lines of PTX on arrays: each element is one thread's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from portaloss.emulator.launch import Argument, Launch, Settings
from portaloss.emulator.launch import run as run_launch
from portaloss.emulator.memory import GlobalMemory
from portaloss.emulator.models import Model
from portaloss.emulator.ptx.executor import Executor

THREADS = 128

TEXT = """
.version 8.7
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry kernel({parameters}
)
.reqntid 128
{{
	.reg .pred 	%p<9>;
	.reg .b16 	%h<9>;
	.reg .b32 	%r<9>;
	.reg .b64 	%d<9>;
	.reg .b32 	%index<9>;
	.reg .b64 	%at<99>;
{registers}
{code}
	ret;
}}
"""


def text(code: str, pointers: int, registers: str = "") -> str:
    """The PTX of a kernel of some instructions. Its parameters are the pointers ``p0``, ``p1`` and so on."""
    parameters = ",".join(f"\n\t.param .u64 .ptr .global .align 1 p{k}" for k in range(pointers))
    return TEXT.format(parameters=parameters, code=code, registers=registers)


def launch(
    code: str,
    tensors: Sequence[Any],
    *,
    registers: str = "",
    warps: int = 4,
    grid: tuple[int, int, int] = (1, 1, 1),
    shared: int = 0,
    races: bool = True,
    written: Sequence[Any] | None = None,
    model: str = "exact",
) -> None:
    """Launch a kernel of some instructions on NumPy arrays."""
    executor = Executor(text(code, len(tensors), registers), Model(model))
    memory = GlobalMemory(races=races)
    arguments = []
    for k, tensor in enumerate(tensors):
        flags = None if written is None else written[k]
        data = tensor.reshape(-1).view(np.uint8)
        region = memory.add(f"tensor {k}", data, tensor.ctypes.data, written=flags, granule=tensor.itemsize)
        arguments.append(Argument(region.base, 8))
    run_launch(Launch("kernel", arguments, grid, warps, 32, shared, Settings(races=races)), executor, memory)


def compute(code: str, *inputs: Any, out: Any, model: str = "exact") -> Any:
    """The register ``%out`` of each thread, as an array of the type ``out``.

    Args:
        code: the instructions; element k of input i is in thread k's register ``%a``, ``%b`` and so on.
        inputs: arrays of one length, of 2, 4 or 8 bytes an element; the register has these bits.
        out: the type of the result.
        model: of approximate instructions.
    """
    count = len(inputs[0])
    whole = -(-count // THREADS) * THREADS
    padded = [np.resize(np.ascontiguousarray(each), whole) for each in inputs]
    result = np.zeros(whole, out)
    declared, lines = [], ["mov.u32 %index1, %ctaid.x; mov.u32 %index2, %tid.x;"]
    lines.append(f"shl.b32 %index1, %index1, {THREADS.bit_length() - 1}; add.s32 %index1, %index1, %index2;")
    names = [f"%{chr(ord('a') + k)}" for k in range(len(padded))]
    for k, (name, each) in enumerate(zip([*names, "%out"], [*padded, result], strict=True)):
        bits = 8 * each.itemsize
        declared.append(f".reg .b{bits} {name};")
        lines.append(f"ld.param.b64 %at{k}, [p{k}];")
        lines.append(f"mul.wide.u32 %at{20 + k}, %index1, {each.itemsize}; add.s64 %at{k}, %at{k}, %at{20 + k};")
        if name != "%out":
            lines.append(f"ld.global.b{bits} {name}, [%at{k}];")
    lines.append(code)
    lines.append(f"st.global.b{8 * result.itemsize} [%at{len(padded)}], %out;")
    launch(
        "\n".join(lines), [*padded, result], registers="\n".join(declared), grid=(whole // THREADS, 1, 1), races=False,
        model=model,
    )  # fmt: skip
    return result[:count]


def floats(dtype: Any, count: int = 4096, seed: int = 0) -> Any:
    """Random bits of a float type, ordinary numbers, and special and subnormal ones next to each other."""
    generator = np.random.default_rng(seed)
    info = np.finfo(dtype)
    size = np.dtype(dtype).itemsize
    bits = generator.integers(0, 1 << 8 * size, count // 2, dtype=np.uint64, endpoint=False) if size < 8 else (
        generator.integers(0, 1 << 64, count // 2, dtype=np.uint64)
    )  # fmt: skip
    tiny = float(info.tiny)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, 1.5, 2.5, -2.5, tiny, -tiny, tiny / 2, -tiny / 4,
         float(info.smallest_subnormal), float(info.max), -float(info.max), 3, 1 + float(info.eps)], np.float64,
    ).astype(dtype)  # fmt: skip
    ordinary = generator.normal(size=count // 4).astype(dtype)
    rest = count - count // 2 - count // 4
    values = np.concatenate([bits.astype(f"u{size}").view(dtype), ordinary, generator.choice(special, rest)])
    return generator.permutation(values)


def same(got: Any, expected: Any) -> bool:
    """Whether floats are equal bit for bit; any nan is any other."""
    expected = np.asarray(expected, got.dtype)
    bits = f"u{got.itemsize}"
    return bool((((got != got) & (expected != expected)) | (got.view(bits) == expected.view(bits))).all())

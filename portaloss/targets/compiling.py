"""Compiles a recorded launch for a chip, and reads registers, spills and load widths from the result."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import triton
import triton.backends.nvidia
from triton.compiler import ASTSource

from portaloss.chips import Chip
from portaloss.targets.record import Launch
from portaloss.targets.report import Compiled

#: Kernels whose loads cannot be vector loads, and why.
NARROW_LOADS: Mapping[str, str] = {
    "nll_kernel": "it gathers one element a row",
    "walk_kernel": "labels gather their classes",
    "posterior_kernel": "labels gather their classes",
}

#: AMD only: masks and addresses that all lanes share are in scalar registers, of which there are about 100.
SCALAR_SPILLS = "scalar registers are kept in lanes of vector registers: no memory is touched"

#: NVIDIA only: there are registers left, but ptxas saves some, so that more programs run at once.
FEW_VALUES = "ptxas keeps a few values of a thread on the stack, so that more programs fit a multiprocessor"

#: The most bytes of stack that are excused for this.
FEW = 32

#: The narrowest load that counts as a vector load, in bits. Not 64: a single int64 has as many.
VECTOR = 128


def compile_launch(launch: Launch, kind: str, dtype: str, chip: Chip) -> Compiled:
    """Compile a launch, read the result, and find problems."""
    about: dict[str, Any] = {"kernel": launch.name, "variant": launch.variant, "kind": kind, "dtype": dtype}
    about |= {"chip": chip.name, "layout": launch.layout, "vector": launch.contiguous}
    start = time.perf_counter()
    try:
        source = ASTSource(launch.kernel, launch.signature, launch.constexprs, launch.attributes)
        compiled = triton.compile(source, target=chip.target(), options=launch.options)
    except Exception as error:  # whatever the compiler raises is the problem of this launch; the others go on
        text = str(error).strip().splitlines()
        problem = ": ".join([type(error).__name__, *text[-1:]])
        return Compiled(**about, seconds=time.perf_counter() - start, problem=problem)
    seconds = time.perf_counter() - start
    read = _read_nvidia(compiled.asm) if chip.backend == "cuda" else _read_amd(compiled.asm)
    shared, warps = int(compiled.metadata.shared), int(compiled.metadata.num_warps)
    problems, excuses = [], []
    most = min(255, 65536 // (warps * chip.lanes))
    if chip.backend == "cuda" and 0 < read["stack"] <= FEW and read["registers"] < most:
        excuses.append(FEW_VALUES)
    elif read["spills"]:
        problems.append(f"{read['spills']} spills")
    if read["scalar_spills"] and read["stack"] and not read["spills"]:
        problems.append(f"{read['scalar_spills']} spills of scalar registers, to memory")
    elif read["scalar_spills"]:
        excuses.append(SCALAR_SPILLS)
    if shared > chip.shared:
        problems.append(f"{shared} bytes of shared memory, at most {chip.shared}")
    if warps * chip.lanes > 1024:
        problems.append(f"{warps} warps of {chip.lanes} threads are more than 1024 threads")
    if launch.contiguous and read["widest_load"] < VECTOR:
        if launch.name in NARROW_LOADS:
            excuses.append(NARROW_LOADS[launch.name])
        else:
            problems.append(f"widest load is {read['widest_load']} bits")
    return Compiled(
        **about, seconds=seconds, shared=shared, shared_limit=chip.shared, num_warps=warps,
        problem="; ".join(problems), excuse="; ".join(excuses), **read,
    )  # fmt: skip


def _read_nvidia(asm: Mapping[str, str | bytes]) -> dict[str, Any]:
    ptx, cubin = str(asm["ptx"]), asm["cubin"]
    assert isinstance(cubin, bytes)
    tool = Path(triton.backends.nvidia.__file__).with_name("bin") / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage.stdout)}
    loads = re.findall(r"ld\.global(?:\.[a-zA-Z_0-9:]+)*?(?:\.v(\d))?\.[bus](\d+)", ptx)
    return {
        "registers": numbers["REG"],
        "spills": (numbers["STACK"] + numbers["LOCAL"]) // 4,  # kernels use the stack for nothing else
        "scalar_spills": 0,
        "stack": numbers["STACK"],
        "widest_load": max((int(vector or 1) * int(width) for vector, width in loads), default=0),
        "matrix": bool(re.search(r"\b(wgmma|tcgen05|mma\.sync)", ptx)),
    }


def _read_amd(asm: Mapping[str, str | bytes]) -> dict[str, Any]:
    code = str(asm["amdgcn"])

    def number(name: str) -> int:
        return max((int(value) for value in re.findall(rf"\.{name}:?\s+(\d+)", code)), default=0)

    loads = re.findall(r"(?:global|buffer)_load_(?:d16_)?(?:dword(?:x(\d))?|[bu](\d+)|(ushort|ubyte))", code)
    widths = [
        int(bits) if bits else {"ushort": 16, "ubyte": 8}.get(name, 32 * int(words or 1)) for words, bits, name in loads
    ]
    return {
        "registers": number("vgpr_count"),
        "spills": number("vgpr_spill_count"),
        "scalar_spills": number("sgpr_spill_count"),
        "stack": number("private_segment_fixed_size"),
        "widest_load": max(widths, default=0),
        "matrix": bool(re.search(r"\bv_(mfma|wmma)", code)),
    }

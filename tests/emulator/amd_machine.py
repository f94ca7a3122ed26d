"""Runs a few lines of AMD assembly on registers that a test sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from portaloss.emulator.amd.executor import Executor
from portaloss.emulator.amd.waves import Waves
from portaloss.emulator.launch import Argument, Launch, Settings
from portaloss.emulator.launch import run as run_launch
from portaloss.emulator.memory import GlobalMemory
from portaloss.emulator.models import Model

RDNA = ("gfx1100", "gfx1201")

TEXT = """
	.amdgcn_target "amdgcn-amd-amdhsa--{arch}"
	.text
kernel:
{code}
	s_endpgm
	.section	.rodata,"a",@progbits
	.amdhsa_kernel kernel
		.amdhsa_kernarg_size {size}
		.amdhsa_user_sgpr_count 2
		.amdhsa_user_sgpr_kernarg_segment_ptr 1
		.amdhsa_system_sgpr_workgroup_id_x 1
		.amdhsa_next_free_vgpr 64
		.amdhsa_float_denorm_mode_32 {denormals}
{more}
	.end_amdhsa_kernel
amdhsa.kernels:
  - .args:
{arguments}
    .name: kernel
"""


def text(code: str, arch: str = "gfx942", pointers: int = 0, denormals: int = 3) -> str:
    """The assembly of a kernel of some instructions, with pointers as arguments."""
    arguments = "\n".join(
        f"      - .offset: {8 * k}\n        .size: 8\n        .value_kind: global_buffer" for k in range(pointers)
    )
    more = "\t\t.amdhsa_wavefront_size32 1" if arch in RDNA else ""
    return TEXT.format(
        arch=arch, code=code, arguments=arguments, size=max(8 * pointers, 8), more=more, denormals=denormals
    )


def execute(
    code: str,
    vectors: dict[int, Any],
    scalars: dict[int, int] | None = None,
    *,
    arch: str = "gfx942",
    mask: int | None = None,
    model: str = "exact",
    denormals: int = 3,
    private: int = 0,
) -> Waves:
    """The waves after some instructions, as many as the values of the vector registers need.

    Args:
        code: the instructions.
        vectors: register -> values of 32 or 64 bits; one for each lane of one or more waves.
        scalars: register -> bits.
        arch: the chip.
        mask: EXEC; all lanes if not given.
        model: of approximate instructions.
        denormals: the mode of 32-bit subnormal numbers: 3 keeps them, 0 flushes them.
        private: bytes of private memory of each lane.
    """
    executor = Executor(text(code, arch, denormals=denormals), Model(model))
    lanes = executor.program.lanes
    count = max([-(-np.asarray(values).size // lanes) for values in vectors.values()], default=1)
    waves = Waves(64, lanes, count, 1, private=private)
    for register, values in vectors.items():
        values = np.resize(np.asarray(values), count * lanes)
        parts = values.view(np.uint32).reshape(count, lanes, -1)
        for k in range(parts.shape[2]):
            waves.vector["u32"][register + k] = parts[..., k]
    for register, bits in (scalars or {}).items():
        waves.scalar["u32"][:, register] = bits
    if mask is not None:
        waves.scalar["u32"][:, 126] = mask & 0xFFFFFFFF
        if lanes == 64:
            waves.scalar["u32"][:, 127] = mask >> 32
    with np.errstate(all="ignore"):
        executor.execute(waves)
    waves.select(np.arange(count))
    return waves


def vector(waves: Waves, register: int, dtype: Any = np.uint32) -> Any:
    """A vector register of all waves, or a pair for a type of 64 bits."""
    if np.dtype(dtype).itemsize == 8:
        return waves.read_pair(register).view(dtype).ravel()
    return np.ascontiguousarray(waves.vector["u32"][register]).view(dtype).ravel()


def launch(
    code: str,
    tensors: list[Any],
    *,
    arch: str = "gfx942",
    warps: int = 1,
    grid: int = 1,
    shared: int = 0,
    races: bool = True,
    written: list[Any] | None = None,
) -> None:
    """Launch a kernel of some instructions on NumPy arrays; their addresses are the arguments, from s[0:1] on."""
    executor = Executor(text(code, arch, pointers=len(tensors)))
    memory = GlobalMemory(aligned=False, races=races)
    arguments = []
    for k, tensor in enumerate(tensors):
        flags = None if written is None else written[k]
        region = memory.add(f"tensor {k}", tensor.view(np.uint8), tensor.ctypes.data, written=flags)
        arguments.append(Argument(region.base, 8))
    settings = Settings(races=races)
    run_launch(
        Launch("kernel", arguments, (grid, 1, 1), warps, executor.program.lanes, shared, settings), executor, memory
    )

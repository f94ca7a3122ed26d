"""The GPUs that kernels are compiled for and emulated on, and what each can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chip:
    """A compilation target."""

    name: str
    backend: str  #: Triton's name of the vendor's compiler
    arch: int | str
    lanes: int  #: threads in a warp
    shared: int  #: bytes of shared memory that a program may use

    def target(self) -> Any:
        """Triton's name for it."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget(self.backend, self.arch, self.lanes)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("sm_80", "cuda", 80, 32, 163 << 10),
        Chip("sm_90", "cuda", 90, 32, 227 << 10),
        Chip("sm_100", "cuda", 100, 32, 227 << 10),
        Chip("sm_120", "cuda", 120, 32, 99 << 10),
        Chip("gfx90a", "hip", "gfx90a", 64, 64 << 10),
        Chip("gfx942", "hip", "gfx942", 64, 64 << 10),
        Chip("gfx950", "hip", "gfx950", 64, 160 << 10),
        Chip("gfx1100", "hip", "gfx1100", 32, 64 << 10),
        Chip("gfx1201", "hip", "gfx1201", 32, 64 << 10),
    )
}

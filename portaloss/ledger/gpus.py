"""The GPUs that times are predicted for: what each can do in a second, from its maker's documents.

A prediction is a bound from below: each limit on its own, as if everything else were free and all units were busy. No
cache, no latency and no launch is in it. It says what would have to get cheaper, not how long a kernel takes.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from portaloss.emulator.ledger import CLASSES, Entry


@dataclass(frozen=True)
class Limit:
    """What some classes of instructions share."""

    name: str
    classes: tuple[str, ...]
    lanes: int  #: that a unit serves in a clock


@dataclass(frozen=True)
class Gpu:
    """A GPU, and the chip whose code it runs."""

    name: str
    chip: str
    units: int  #: multiprocessors, or compute units
    clock: float  #: of the units, in Hz
    bandwidth: float  #: of memory, in bytes a second
    limits: tuple[Limit, ...]
    warps: int  #: that a unit can hold
    registers: int  #: of 32 bits, in a unit
    granule: int  #: registers of a warp are allotted in multiples of this
    schedulers: int  #: of a unit, each of which holds as many warps as the others
    shared: int  #: bytes of shared memory of a unit

    def seconds(self, entries: Sequence[Entry]) -> dict[str, float]:
        """For each limit, how long launches take at least."""
        rate = self.units * self.clock
        found = {"memory": sum(entry.moved for entry in entries) / self.bandwidth}
        found["shared memory"] = sum(entry.wavefronts for entry in entries) / rate
        for limit in self.limits:
            lanes = sum(entry.instructions[name] * entry.warp_size for entry in entries for name in limit.classes)
            found[limit.name] = lanes / (limit.lanes * rate)
        return found

    def occupancy(self, entry: Entry, registers: int) -> float:
        """The share of the warps that a unit can hold which a launch can fill, by registers and shared memory."""
        warps = -(-entry.threads // entry.warp_size)
        each = -(-registers * entry.warp_size // self.granule) * self.granule
        by_registers = self.registers // max(each, 1) // self.schedulers * self.schedulers
        blocks = min(self.warps, by_registers) // warps
        if entry.shared:
            blocks = min(blocks, self.shared // entry.shared)
        return min(1.0, blocks * warps / self.warps)


#: H200 SXM. Units, clock and bandwidth: NVIDIA's data sheet and its white paper on the Hopper architecture. Lanes in a
#: clock: the table of arithmetic throughput for compute capability 9.0 in the CUDA C++ Programming Guide; four
#: schedulers of a multiprocessor issue one instruction of a warp each.
H200 = Gpu(
    "H200", "sm_90", 132, 1.98e9, 4.8e12,
    (
        Limit("issue", CLASSES, 128),
        Limit("float", ("float",), 128),
        Limit("integer", ("integer",), 64),
        Limit("double", ("double",), 64),
        Limit("special", ("special",), 16),
        Limit("shuffle", ("shuffle",), 32),
    ),
    warps=64, registers=1 << 16, granule=256, schedulers=4, shared=227 << 10,
)  # fmt: skip

#: MI300X. AMD's data sheet and its white paper on the CDNA 3 architecture: each of the four vector units of a compute
#: unit takes four clocks for an instruction of a wave of 64 lanes, and 16 for a transcendental function.
MI300X = Gpu(
    "MI300X", "gfx942", 304, 2.1e9, 5.3e12,
    (
        Limit("vector", ("float", "integer", "double", "shuffle"), 64),
        Limit("special", ("special",), 16),
        Limit("scalar", ("scalar", "control"), 64),
    ),
    warps=32, registers=4 * 512 * 64, granule=8 * 64, schedulers=4, shared=64 << 10,
)  # fmt: skip

GPUS: Mapping[str, Gpu] = {gpu.name: gpu for gpu in (H200, MI300X)}


@cache
def registers(text: str) -> int:
    """Registers of a thread: AMD's compiler writes them into the assembly, NVIDIA's assembler chooses them.

    Args:
        text: the assembly.
    """
    if found := re.findall(r"\.vgpr_count:\s+(\d+)", text):
        return max(map(int, found))
    from triton import knobs

    target = re.search(r"\.target\s+(sm_\w+)", text)
    assert target is not None, "PTX names its target"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(text)
        command = [
            knobs.nvidia.ptxas.path,
            "-v",
            f"--gpu-name={target[1]}",
            str(source),
            "-o",
            f"{folder}/kernel.cubin",
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    return max(int(number) for number in re.findall(r"Used (\d+) registers", said.stderr + said.stdout))


__all__ = ["GPUS", "H200", "MI300X", "Gpu", "Limit", "registers"]

"""What the emulator's checkers raise: one class for each kind of fault.

Every error names the kernel, the instruction, its source line, and the block and thread that met it.
"""

from __future__ import annotations

from dataclasses import dataclass


class EmulationError(RuntimeError):
    """A kernel did what it must not do, or something that the emulator does not know."""


class UnknownInstructionError(EmulationError, NotImplementedError):
    """An instruction, a modifier or a directive that the emulator does not implement."""


class OutOfBoundsError(EmulationError):
    """An access outside of every tensor that was passed to the kernel, or of shared memory."""


class MisalignedError(EmulationError):
    """An access whose address is no multiple of its size, where the hardware demands that."""


class UnwrittenError(EmulationError):
    """A read of memory, or of a register, that was never written."""


class StoreConflictError(EmulationError):
    """Two lanes of one instruction store different values to one address: which one stays is undefined."""


class RaceError(EmulationError):
    """Two warps access one address, at least one of them writes, and no barrier orders them."""


class BarrierError(EmulationError):
    """Threads wait for each other at barriers or in warps, and none of them can continue."""


class WaitError(EmulationError):
    """AMD: a register is read before an ``s_waitcnt`` has waited for the load that writes it."""


@dataclass(frozen=True)
class Site:
    """An instruction in a kernel."""

    kernel: str
    text: str  #: as in the assembly
    source: str = ""  #: file:line of the kernel's source, from the debug information

    def __str__(self) -> str:
        source = f" at {self.source}" if self.source else ""
        return f"{self.kernel}{source}: `{self.text}`"

"""Runs the kernels that Triton compiles for GPUs, instruction by instruction, on the CPU: no GPU is needed.

All threads of some blocks are lanes of NumPy arrays. The parts:

- ``driver``: a Triton driver: ordinary ``kernel[grid](...)`` calls on CPU tensors are compiled for a chip and emulated
- ``ptx``: NVIDIA's PTX: parser and executor
- ``amd``: AMD's assembly: parser and executor
- ``launch``: a launch, and the loop over its blocks
- ``memory``, ``races``: global and shared memory, and the checks on every access
- ``arithmetic``: fused products, roundings and conversions, bit for bit
- ``models``: what approximate instructions may return
- ``ledger``: counts of instructions and accesses
- ``errors``: what the checks raise

Nothing here knows of losses.
"""

from __future__ import annotations

from portaloss.emulator.driver import Driver, active, emulating, install
from portaloss.emulator.launch import Settings
from portaloss.emulator.ledger import Ledger
from portaloss.emulator.models import Model

__all__ = ["Driver", "Ledger", "Model", "Settings", "active", "emulating", "install"]

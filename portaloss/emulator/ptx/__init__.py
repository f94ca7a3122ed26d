"""NVIDIA's PTX: ``load`` gives the program of a PTX text, whose ``run`` is an executor's.

``syntax`` reads the text, ``decode`` turns instructions into steps, ``machine`` runs them. The instructions themselves
are in ``integer``, ``floating``, ``conversion``, ``access`` and ``control``.
"""

from __future__ import annotations

from portaloss.emulator.ptx import access, control, conversion, floating, integer
from portaloss.emulator.ptx.decode import decode
from portaloss.emulator.ptx.machine import Program
from portaloss.emulator.ptx.syntax import parse

__all__ = ["access", "control", "conversion", "floating", "integer", "load"]


def load(text: str) -> Program:
    """The program of a kernel.

    Raises:
        UnknownInstructionError: an instruction is not implemented.
    """
    return decode(parse(text))

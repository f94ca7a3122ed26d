"""Runs a PTX program in the lanes of a batch of blocks."""

from __future__ import annotations

from portaloss.emulator.launch import Batch
from portaloss.emulator.models import Model
from portaloss.emulator.ptx import access, control, conversion, floating, integer
from portaloss.emulator.ptx.decode import decode
from portaloss.emulator.ptx.machine import Machine, Program
from portaloss.emulator.ptx.syntax import parse

#: Modules whose import makes their instructions known.
INSTRUCTIONS = (access, control, conversion, floating, integer)


class Executor:
    """The program of a kernel, decoded.

    Args:
        ptx: the text.
        model: how approximate instructions err; exact where it is None.

    Raises:
        UnknownInstructionError: an instruction is not implemented.
    """

    def __init__(self, ptx: str, model: Model | None = None) -> None:
        self.text = ptx
        self.program: Program = decode(parse(ptx))
        self._model = model or Model()

    def run(self, batch: Batch) -> None:
        """Run the program in all lanes of a batch, to its end."""
        Machine(self.program, batch, self._model).run()

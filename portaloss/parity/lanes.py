"""Backends that need a process of their own: Triton's interpreter has to be chosen before kernels are decorated."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from portaloss.kinds import LossKind
from portaloss.parity import rows
from portaloss.parity.rows import Row

#: Backend -> what has to be in its process's environment.
ENVIRONMENTS = {"triton-interpret": {"TRITON_INTERPRET": "1"}}


def apart(name: str) -> bool:
    """Whether a backend must run in another process than this one, and can."""
    needed = ENVIRONMENTS.get(name)
    if needed is None or all(os.environ.get(key) == value for key, value in needed.items()):
        return False
    return find_spec("triton") is not None and find_spec("torch") is not None


class Lane:
    """The rows of one backend, computed by another process while this one goes on."""

    def __init__(self, name: str, kinds: Sequence[LossKind], dtypes: Sequence[str]) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="portaloss-")
        self._report = Path(self._folder.name) / "rows.json"
        command = [sys.executable, "-m", "portaloss", "parity", "--backend", name, "--json", str(self._report)]
        for kind in kinds:
            command += ["--kind", kind.name.lower()]
        for dtype in dtypes:
            command += ["--dtype", dtype]
        environment = {**os.environ, **ENVIRONMENTS[name]}
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def rows(self) -> list[Row]:
        """Wait for the process, and read what it made.

        Raises:
            RuntimeError: it ended without a report; with what it said.
        """
        _, said = self._process.communicate()
        try:
            if not self._report.is_file():
                raise RuntimeError(f"backend {self.name}: its process ended with {self._process.returncode}:\n{said}")
            return rows.read(self._report)
        finally:
            self._folder.cleanup()

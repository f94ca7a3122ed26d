"""Runs the files of tests/triton_interpret, each in a new process, as Triton's interpreter needs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path.name for path in (ROOT / "tests" / "triton_interpret").glob("test_*.py"))

pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process interprets already"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """One a file, all at once: most of the time goes into Python, of which a process uses one core."""
    folder = tmp_path_factory.mktemp("interpret")
    started = {}
    for name in FILES:
        command = [sys.executable, "-m", "pytest", f"tests/triton_interpret/{name}", "-q", "-p", "no:cacheprovider"]
        with (folder / name).open("w") as said:
            started[name] = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, stdout=said, stderr=subprocess.STDOUT
            )
    yield lambda name: (started[name].wait(), (folder / name).read_text())
    for process in started.values():
        if process.poll() is None:  # the tests were interrupted
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", FILES)
def test_in_the_interpreter(name, processes):
    code, said = processes(name)
    assert code == 0, said[-10000:]
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, said  # skipped tests alone are no success

"""The command ``python -m portaloss parity``: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest

from portaloss import skus
from portaloss.parity import lines, report

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

# one backend, because others may be absent
KIND = ("--kind", "huber", "--dtype", "float32", "--backend", "cpu")


def portaloss(*args, code=None, cwd=None):
    """Run the command in a new process, after some code if it is given."""
    command = [sys.executable, "-W", "error", "-m", "portaloss"]
    if code is not None:
        command = [sys.executable, "-c", f"{code}\nimport sys; from portaloss.cli import main; sys.exit(main())"]
    return subprocess.run([*command, *args], capture_output=True, text=True, cwd=cwd, check=False)


# Code that adds a backend that is absent, and code that makes a chapter wrong.
ABSENT = """
import sys, types
from portaloss import backends
backends._MODULES["imaginary"] = "imaginary"
sys.modules["imaginary"] = types.SimpleNamespace(unavailable=lambda: "it was never built")
"""
WRONG = """
from portaloss.backends.cpu.chapters import CHAPTERS
from portaloss.kinds import LossKind
right = CHAPTERS[LossKind.HUBER]
CHAPTERS[LossKind.HUBER] = lambda delta, **rest: right(delta=2 * delta, **rest)
"""


def test_a_run_ends_with_one_line_and_writes_its_reports(tmp_path):
    done = portaloss("parity", *KIND, "--json", "a.json", "--html", "a.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "parity: 6 passed, 0 failed, 0 absent"
    assert done.stderr == ""  # no progress bar, since stderr is not a terminal
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert len(rows) == 6
    for line in rows:
        assert line["kind"] == "huber"
        assert line["passed"] is True
        assert line["cases"] >= 15
        assert line["worst_ulp"] <= 4
        assert isinstance(line["worst_seed"], int)
        assert line["versions"].keys() >= {"python", "numpy", "scipy", "torch", "triton", "portaloss", "ml_dtypes"}
        assert line["device"]
    assert "huber" in (tmp_path / "a.html").read_text()
    if os.name == "posix":
        umask = os.umask(0)
        os.umask(umask)
        assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failure_is_exit_code_1_and_can_be_replayed():
    done = portaloss("parity", *KIND, code=WRONG)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "parity: 0 passed, 6 failed, 0 absent"
    assert "FAILED huber-float32-none-forward on cpu" in done.stderr
    assert "--replay 'huber-float32-none-forward:" in done.stderr
    name = done.stderr.split("--replay 'huber-float32-none-forward:")[1].split("'")[0]
    again = portaloss("parity", "--replay", f"huber-float32-none-forward:{name}", code=WRONG)
    assert again.returncode == 1
    assert "FAILED" in again.stdout
    assert "PyTorch" in again.stdout
    right = portaloss("parity", "--replay", f"huber-float32-none-forward:{name}")
    assert right.returncode == 0, right.stderr
    assert "passed: " in right.stdout


@needs_triton
def test_an_emulated_chip(tmp_path):
    args = "--kind", "l1", "--dtype", "float32", "--emulate", "sm_90", "--model", "high"
    done = portaloss("parity", *args, "--json", "a.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "parity: 6 passed, 0 failed, 0 absent"
    made = lines.read(tmp_path / "a.json")
    assert {(line.backend, line.device) for line in made} == {("triton", "emulated sm_90, high errors")}
    replay = report.replay(made[0])  # what a failure prints: the worst case again, on the same chip
    assert replay.startswith("python -m portaloss parity --emulate sm_90 --model high --replay 'l1-float32-")
    again = portaloss(*shlex.split(replay)[3:])
    assert again.returncode == 0, again.stderr
    assert "passed: " in again.stdout


def test_an_absent_backend_is_absent_and_not_passed(tmp_path):
    done = portaloss("parity", *KIND, "--backend", "imaginary", "--json", str(tmp_path / "a.json"), code=ABSENT)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "parity: 6 passed, 0 failed, 6 absent"
    assert "imaginary: absent, it was never built" in done.stdout
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert {line["reason"] for line in rows if line["backend"] == "imaginary"} == {"it was never built"}


def test_a_required_backend_that_is_absent_fails():
    done = portaloss("parity", *KIND, "--require", "imaginary", code=ABSENT)
    assert done.returncode == 1
    assert "imaginary is required but absent: it was never built" in done.stderr
    assert done.stdout.splitlines()[-1] == "parity: 6 passed, 0 failed, 6 absent"
    assert portaloss("parity", *KIND, "--require", "cpu").returncode == 0


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["parity", "--kind", "hube"], "hube"),
        (["parity", "--dtype", "float8"], "float8"),
        (["parity", "--backend", "tpu"], "tpu"),
        (["parity", "--require", "tpu"], "tpu"),
        (["parity", "--replay", "huber"], "SKU:CASE"),
        (["parity", "--replay", "huber-float32-none-forward:nothing"], "nothing"),
        (["parity", "--replay", "huber-float32-none-forward:plain@x"], "seed"),
        (["parity", "--emulate", "sm_1"], "sm_1"),
        (["parity", "--emulate", "sm_90", "--model", "best"], "best"),
        (["parity", "--json", "nowhere/a.json"], "nowhere"),
        (["parity", "merge"], "A.json"),
        (["parity", "merge", "missing.json"], "missing.json"),
        (["frobnicate"], "frobnicate"),
        ([], "COMMAND"),
    ],
)
def test_bad_usage_is_exit_code_2_and_names_what_is_bad(args, named, tmp_path):
    done = portaloss(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_merge(tmp_path):
    portaloss("parity", *KIND, "--json", "a.json", cwd=tmp_path)
    portaloss("parity", "--kind", "smooth_l1", *KIND[2:], "--json", "b.json", cwd=tmp_path)
    done = portaloss("parity", "merge", "a.json", "b.json", "--json", "c.json", "--html", "c.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "parity: 12 passed, 0 failed, 0 absent"
    assert len(json.loads((tmp_path / "c.json").read_text())["rows"]) == 12
    assert (tmp_path / "c.html").exists()


def test_merging_a_failure_fails(tmp_path):
    portaloss("parity", *KIND, "--json", str(tmp_path / "a.json"))
    portaloss("parity", *KIND, "--json", str(tmp_path / "b.json"), code=WRONG)
    done = portaloss("parity", "merge", "a.json", "b.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "passed in one report, failed in another; kept: failed" in done.stderr
    assert done.stdout.splitlines()[-1] == "parity: 0 passed, 6 failed, 0 absent"


def test_list_has_every_sku():
    done = portaloss("parity", "--list")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [str(sku) for sku in skus()]


def test_without_rich_the_last_line_is_printed(tmp_path):
    code = "import sys; sys.modules['rich'] = sys.modules['jinja2'] = None"
    done = portaloss("parity", *KIND, "--json", str(tmp_path / "a.json"), code=code)
    assert done.returncode == 0
    assert done.stdout == "parity: 6 passed, 0 failed, 0 absent\n"
    assert "portaloss[parity]" in done.stderr
    assert (tmp_path / "a.json").exists()
    done = portaloss("parity", *KIND, "--html", str(tmp_path / "a.html"), code=code)
    assert done.returncode == 2
    assert "portaloss[parity]" in done.stderr


def test_parity_runs_without_torch():
    # find_spec is replaced, because the code asks whether torch can be found
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "import sys; sys.modules['torch'] = None"
    )
    done = portaloss("parity", *KIND, code=code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "parity: 6 passed, 0 failed, 0 absent"


def test_info():
    done = portaloss("info")
    assert done.returncode == 0
    assert "backend cpu: available" in done.stdout
    assert "numpy" in done.stdout
    found = json.loads(portaloss("info", "--json").stdout)
    assert found["backends"]["cpu"]["available"] is True
    assert found["threads"] >= 1
    assert found["versions"]["numpy"]

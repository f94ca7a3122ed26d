"""The commands of this repository. ``nox -s NAME`` runs one and installs what it needs; ``nox -l`` lists them.

Arguments after ``--`` are passed on to the command: ``nox -s tests -- -k huber``.

torch is large, so parity, emulate, tests, fuzz, types, bench and targets share one environment, ``.nox/work-3.X``. It
is made when it is first needed, and updated when pyproject.toml or ci/constraints.txt changes. Delete ``.nox`` to start
afresh.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests", "parity"]

ROOT = Path(__file__).parent
PYPROJECT = ROOT / "pyproject.toml"
CONSTRAINTS = ROOT / "ci" / "constraints.txt"

#: What ``emulate`` takes: NVIDIA's and AMD's most common chips, then the others.
CHIPS = "sm_90", "gfx942", "sm_80", "sm_100", "sm_120", "gfx90a", "gfx950", "gfx1100", "gfx1201"

#: pytest runs one process for each core, up to 8; ``-- -n 0`` keeps it to one.
EACH_CORE = "--numprocesses", "auto", "--maxprocesses", "8", "--dist", "worksteal"


@nox.session(venv_backend="none")
def parity(session: nox.Session) -> None:
    """Accuracy of every loss on every backend of this machine: python -m portaloss parity."""
    version = machine_torch()
    if version is None:
        python = environment(session, "work", "-c", str(CONSTRAINTS), "-e", ".[torch,parity]")
    else:
        session.log(f"using this machine's torch {version}")
        # without constraints, pip leaves the numpy and triton that were installed with the machine's torch
        python = environment(session, "machine", "-e", ".[parity]", sees_machine=True)
    arguments = session.posargs or ["--json", "parity.json", "--html", "parity.html"]
    session.run(python, "-m", "portaloss", "parity", *arguments)


@nox.session(venv_backend="none")
def emulate(session: nox.Session) -> None:
    """Accuracy of the GPU's kernels on emulated chips: python -m portaloss parity --emulate sm_90; --all for nine."""
    python = environment(session, "work", "-c", str(CONSTRAINTS), "-e", ".[torch,triton,parity]")
    given = [argument for argument in session.posargs if argument != "--all"]
    chips = CHIPS if "--all" in session.posargs else () if "--emulate" in given else CHIPS[:2]
    flags = [flag for chip in chips for flag in ("--emulate", chip)]
    session.run(python, "-m", "portaloss", "parity", *flags, *given)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """The tests, and the examples in the book and in docstrings: pytest, in one process for each core."""
    extras = "-e", ".[all]"
    python = environment(session, "work", "-c", str(CONSTRAINTS), *extras, *group("test"))
    session.run(python, "-m", "pytest", *EACH_CORE, *session.posargs)


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Random calls of every loss, right and wrong ones: pytest tests/fuzz --examples 4000, or another number."""
    extras = "-e", ".[all]"
    python = environment(session, "work", "-c", str(CONSTRAINTS), *extras, *group("test"))
    session.run(python, "-m", "pytest", "tests/fuzz", *EACH_CORE, *(session.posargs or ["--examples", "4000"]))


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Ruff: its rules, and the format of the code."""
    session.install("-c", str(CONSTRAINTS), *group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Mypy in strict mode, on the package as it is laid out when installed."""
    extras = "-e", ".[parity,bench]"
    python = environment(session, "work", "-c", str(CONSTRAINTS), *extras, *group("types"))
    # mypy does not know that reference/ is portaloss.reference until it lies there
    tree = ROOT / ".nox" / "types"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT / "portaloss", tree / "portaloss")
    shutil.copytree(ROOT / "reference", tree / "portaloss" / "reference")
    with session.chdir(tree):
        cache = str(ROOT / ".mypy_cache")
        session.run(python, "-m", "mypy", "--config-file", str(PYPROJECT), "--cache-dir", cache, *session.posargs)


@nox.session(reuse_venv=True)
def build(session: nox.Session) -> None:
    """Build the sdist and the wheel into dist/, check their files, and try the wheel with only numpy and scipy."""
    session.install("-c", str(CONSTRAINTS), *group("build"))
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist")
    (wheel,) = (ROOT / "dist").glob("*.whl")
    (sdist,) = (ROOT / "dist").glob("*.tar.gz")
    session.run("python", "ci/check_dist.py", str(wheel), str(sdist))

    clean = Path(session.create_tmp()).resolve() / "clean"
    shutil.rmtree(clean, ignore_errors=True)
    python = create(session, clean)
    session.run(python, "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), str(wheel), external=True)
    with session.chdir(clean):  # outside the repository, so that Python imports the wheel
        session.run(python, str(ROOT / "ci" / "smoke.py"), external=True)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Speed and memory of every loss beside PyTorch's, on this machine: python -m portaloss bench."""
    if machine_torch() is None:
        python = environment(session, "work", "-c", str(CONSTRAINTS), "-e", ".[bench]")
    else:
        python = environment(session, "machine", "-e", ".[bench]", sees_machine=True)
    arguments = session.posargs or ["--json", "bench.json", "--picture", "bench.png"]
    session.run(python, "-m", "portaloss", "bench", *arguments)


@nox.session(venv_backend="none")
def targets(session: nox.Session) -> None:
    """Compile every Triton kernel for every supported GPU; no GPU is needed: python -m portaloss targets."""
    python = environment(session, "work", "-c", str(CONSTRAINTS), "-e", ".[triton,parity]")
    session.run(python, "-m", "portaloss", "targets", *(session.posargs or ["--json", "targets.json"]))


@nox.session(venv_backend="none")
def huggingface(session: nox.Session) -> None:
    """Hugging Face models with the patch and without: Trainer, PEFT, and every class by ci/huggingface.py."""
    # an environment of its own, since transformers behaves differently where these libraries are installed
    trainers = "accelerate", "peft"
    python = environment(
        session, "huggingface", "-c", str(CONSTRAINTS), "-e", ".[transformers]", *trainers, *group("test")
    )
    offline = {"HF_HUB_OFFLINE": "1"}
    session.run(python, "-m", "pytest", "tests/test_huggingface_trainers.py", "tests/test_integrations.py", env=offline)
    session.run(python, "ci/huggingface.py", *(session.posargs or ["--at-least", "80"]), env=offline)


# Helpers


def machine_torch() -> str | None:
    """The version of torch that the Python running nox can import, if it is a CUDA or ROCm build; otherwise None.

    It is read from torch's version file, because importing torch takes seconds.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return str(version["__version__"]) if version.get("cuda") or version.get("hip") else None


def environment(session: nox.Session, name: str, *arguments: str, sees_machine: bool = False) -> str:
    """Make a virtual environment in ``.nox``, or update it, and return the path of its Python.

    Args:
        session: the session that needs it.
        name: the first part of the folder's name.
        *arguments: what ``pip install`` gets.
        sees_machine: whether the environment can also import the packages of the Python that runs nox. pip counts
            these as installed and never changes them. (``--system-site-packages`` would not do: it has no effect if
            that Python is in a virtual environment itself.)
    """
    folder = ROOT / ".nox" / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    stamp = folder / f"{session.name}.installed"
    wanted = "\n".join([str(ROOT), sys.executable, *arguments, PYPROJECT.read_text(), CONSTRAINTS.read_text()])
    python = python_of(folder)
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    if not Path(python).exists():
        create(session, folder)
    if sees_machine:
        lines = [f"import site; site.addsitedir({path!r})\n" for path in sys.path if path.endswith("-packages")]
        purelib = session.run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True)
        Path(str(purelib).strip(), "machine.pth").write_text("".join(lines))
    if not sys.stdout.isatty():
        arguments = ("--quiet", *arguments)  # a log needs no progress bar
    session.run(python, "-m", "pip", "install", *arguments)
    stamp.write_text(wanted)
    return python


def create(session: nox.Session, folder: Path) -> str:
    """Make an empty virtual environment with virtualenv, which nox depends on. Returns the path of its Python."""
    session.run(sys.executable, "-m", "virtualenv", "--quiet", str(folder), external=True)
    return python_of(folder)


def python_of(folder: Path) -> str:
    """The path of a virtual environment's Python."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def group(name: str) -> list[str]:
    """The requirements of a dependency group in pyproject.toml, read here because older versions of pip cannot."""
    return list(nox.project.dependency_groups(nox.project.load_toml(PYPROJECT), name))

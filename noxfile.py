"""What there is to do here. ``nox -s NAME`` does it, with all set-up; what follows ``--`` is passed on.

torch is large, so parity, tests, types, bench and targets share one environment, ``.nox/work-3.X``, made the first time
and brought up to date when pyproject.toml or ci/constraints.txt changes. Delete ``.nox`` to start afresh.
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


@nox.session(venv_backend="none")
def parity(session: nox.Session) -> None:
    """Every loss on every backend of this machine, against the reference: python -m portaloss parity."""
    version = machine_torch()
    if version is None:
        extras = "torch,triton,parity" if "triton-interpret" in session.posargs else "torch,parity"
        python = environment(session, "work", "-c", str(CONSTRAINTS), "-e", f".[{extras}]")
    else:
        session.log(f"using this machine's torch {version}")
        # no constraints: the machine's own numpy and triton fit its torch, and stay
        python = environment(session, "machine", "-e", ".[parity]", sees_machine=True)
    arguments = session.posargs or ["--json", "parity.json", "--html", "parity.html"]
    session.run(python, "-m", "portaloss", "parity", *arguments)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """The test suite, and the examples in the book and in docstrings: pytest."""
    extras = "-e", ".[all]"
    python = environment(session, "work", "-c", str(CONSTRAINTS), *extras, *group("test"))
    session.run(python, "-m", "pytest", *session.posargs)


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("-c", str(CONSTRAINTS), *group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Mypy, strict, on the package as it installs."""
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
    """The sdist and the wheel into dist/; what they hold; and the wheel at work with only numpy and scipy."""
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
    with session.chdir(clean):  # away from the tree, so that it is the wheel that is imported
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
    """Every Triton kernel for every GPU, with none at hand: python -m portaloss targets."""
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


# How it is done


def machine_torch() -> str | None:
    """The version of a CUDA or ROCm torch that the python running nox can import, or None.

    Read from torch's version file, not by an import, which takes seconds.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return str(version["__version__"]) if version.get("cuda") or version.get("hip") else None


def environment(session: nox.Session, name: str, *arguments: str, sees_machine: bool = False) -> str:
    """The python of an environment with what pip's arguments name, made or updated if need be.

    One that sees the machine has the site-packages of the python running nox behind its own, so that pip counts what
    is there as installed and never changes it. (``--system-site-packages`` does that only where that python is itself
    no virtual environment.)
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
        arguments = ("--quiet", *arguments)  # nobody watches the progress
    session.run(python, "-m", "pip", "install", *arguments)
    stamp.write_text(wanted)
    return python


def create(session: nox.Session, folder: Path) -> str:
    """An empty virtual environment; nox brings virtualenv along. Returns its python."""
    session.run(sys.executable, "-m", "virtualenv", "--quiet", str(folder), external=True)
    return python_of(folder)


def python_of(folder: Path) -> str:
    """The python of a virtual environment."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def group(name: str) -> list[str]:
    """The requirements of a dependency group; not every pip reads them itself."""
    return list(nox.project.dependency_groups(nox.project.load_toml(PYPROJECT), name))

"""The package as a whole: what an import loads, what each kind must have, and the code in the README."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy
import pytest

import portaloss
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind
from portaloss.parity import samples

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

#: Put before a program, it makes these imports fail, as if the packages were not installed.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "triton", "ml_dtypes"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def modules_loaded_by(program: str) -> set[str]:
    return set(run(f"{program}\nimport sys\nprint(*sys.modules, sep='\\n')").splitlines())


@pytest.mark.parametrize(
    "program",
    [
        "import portaloss",
        "import portaloss.functional, portaloss.parity, portaloss.cli",
        "import numpy, portaloss; portaloss.functional.mse_loss(numpy.ones(2), numpy.ones(2))",
    ],
)
def test_numpy_users_load_neither_torch_nor_triton(program):
    assert {"torch", "triton"}.isdisjoint(modules_loaded_by(program))


def test_a_loss_and_its_gradient_without_torch():
    program = """
        import numpy as np
        import portaloss
        from portaloss.functional import cross_entropy

        loss, gradient = portaloss.value_and_grad(cross_entropy)(np.zeros((1, 2)), np.array([1]))
        print(float(loss) == float(np.log(2.0)), gradient.tolist())
    """
    assert run(BLOCKED + textwrap.dedent(program)) == "True [[0.5, -0.5]]"


def test_modules_without_torch_say_what_is_missing():
    program = """
        import portaloss
        try:
            portaloss.nn
        except ImportError as error:
            print(error)
    """
    assert "torch" in run(BLOCKED + textwrap.dedent(program))


def test_a_clone_reads_its_own_book_and_an_installed_package_its_own(tmp_path):
    """In a clone's root Python finds portaloss/ there, before the installed one; the book lies beside it, not in it."""
    installed, clone = tmp_path / "site-packages", tmp_path / "clone"
    for root, book in ((installed, "portaloss/reference"), (clone, "reference")):
        shutil.copytree(ROOT / "portaloss", root / "portaloss")
        shutil.copytree(ROOT / "reference", root / book)
    program = """
        import pydoc
        import portaloss
        assert "huber" in dir(portaloss.reference)
        assert "bounded force" in pydoc.render_doc(portaloss.reference.huber)
        import portaloss.reference.mse as mse
        print(mse.__file__)
    """
    # -S: an editable install, as of this tree, would find portaloss.reference by a hook of its own
    command = [sys.executable, "-S", "-c", textwrap.dedent(program)]
    path = os.pathsep.join([str(installed), str(Path(numpy.__file__).parents[1])])
    for folder, book in ((clone, clone / "reference"), (tmp_path, installed / "portaloss" / "reference")):
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()) == book / "mse.py"


def test_ten_lines_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks, "the README shows no code"
    for block in blocks:
        run(f"import warnings\nwarnings.simplefilter('error')\n{block}")


def chapter(kind: LossKind) -> str:
    path = ROOT / "reference" / f"{LOSSES[kind].name}.py"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def lacks(kind: LossKind) -> list[str]:
    """What a kind still lacks, and where it belongs."""
    loss = LOSSES.get(kind)
    if loss is None:
        return ["an entry in portaloss/catalogue.py"]
    functional, nn = importlib.import_module("portaloss.functional"), importlib.import_module("portaloss.nn")
    text, book = chapter(kind), (ROOT / "reference" / "README.md").read_text(encoding="utf-8")
    function = getattr(functional, loss.function, None)
    module = getattr(nn, loss.module, None)
    present = {
        f"the chapter reference/{loss.name}.py": text,
        f"a function {loss.name} in its chapter": f"\ndef {loss.name}(" in text,
        "a definition in its chapter": "\ndef definition(" in text,
        "a derivation in its chapter": "The derivative, step by step" in text,
        "a doctest in its chapter": "\n>>> " in text,
        "its chapter in reference/README.md": f"({loss.name}.py)" in book,
        f"portaloss.functional.{loss.function}": callable(function),
        f"an example in the docstring of {loss.function}": ">>> " in (getattr(function, "__doc__", None) or ""),
        f"{loss.function} in portaloss.functional.__all__": loss.function in functional.__all__,
        f"portaloss.nn.{loss.module}": isinstance(module, type),
        f"{loss.module} in portaloss.nn.__all__": loss.module in getattr(nn, "__all__", ()),
        "cases in the parity matrix": len(list(samples.names(kind))) > 0,
        "a line in the README's table": readme_line(kind) in README,
    }
    return [what for what, there in present.items() if not there]


def readme_line(kind: LossKind) -> str:
    loss = LOSSES[kind]
    gradients = ", ".join(operand.name for operand in loss.operands if operand.differentiable)
    return f"| {kind.value} | `{loss.function}` | {loss.family.value} | {gradients} |"


def test_what_a_kind_still_lacks():
    lacking = "\n".join(f"{kind.name.lower()} lacks {what}" for kind in LossKind for what in lacks(kind))
    assert not lacking, lacking


def test_the_packages_of_pyproject_are_those_of_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "portaloss").rglob("__init__.py")}
    modules = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "portaloss").rglob("*.py")}
    assert set(listed) == there | modules | {"portaloss.reference"}


def imports(path: Path, modules: set[str]) -> set[str]:
    """The modules of the package that a file imports, in functions too; not what it imports for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {full if (full := f"{node.module}.{name.name}") in modules else node.module for name in node.names}
    return found & modules


def test_no_module_imports_itself_by_way_of_others():
    files = {path.relative_to(ROOT).with_suffix(""): path for path in (ROOT / "portaloss").rglob("*.py")}
    names = {".".join(name.parts).removesuffix(".__init__"): path for name, path in files.items()}
    later = {name: imports(path, set(names)) - {name} for name, path in names.items()}
    while leaves := [name for name, wanted in later.items() if not wanted]:  # which import nothing that is left
        later = {name: wanted.difference(leaves) for name, wanted in later.items() if name not in leaves}
    assert not later, f"a circle of imports among {sorted(later)}"


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == portaloss.__version__
    assert f"## {portaloss.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_file_names_a_place_on_somebody_s_machine():
    # built from parts, so that this file passes its own test
    places = re.compile("|".join(rf"(?<![\w.]){root}/\w" for root in ("/home", "/root", "/Users", "/work", "/tmp")))
    names = {".py", ".md", ".toml", ".yaml", ".yml", ".html", ".txt", ".cfg", ".in", ""}
    folders = ("portaloss", "reference", "tests", "ci", ".ci", "examples", "docs")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in names]
    files += [path for path in ROOT.iterdir() if path.suffix in names]
    found = []
    for path in files:
        if path.is_file() and "__pycache__" not in path.parts:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if places.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)

"""Compare a wheel and an sdist with the source tree: ``python ci/check_dist.py WHEEL SDIST``."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

#: Beside the sources, what an sdist must hold: files that the tests read and that the README links to.
FILES = ("LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "noxfile.py", "pyproject.toml")
FOLDERS = (".ci", "benchmarks", "ci", "docs", "examples", "tests")


def sources() -> dict[str, str]:
    """The path in the wheel -> the path in the tree and in the sdist, for each file that users need."""
    found = {}
    for folder, package in (("portaloss", "portaloss"), ("reference", "portaloss/reference")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".html"} or path.name == "py.typed":
                tail = path.relative_to(ROOT / folder).as_posix()
                found[f"{package}/{tail}"] = f"{folder}/{tail}"
    return found


def files_of_folders() -> set[str]:
    """All files in FOLDERS, without what Python compiled."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}


def main(wheel: str, sdist: str) -> int:
    """Print which files are missing and which should not be there; returns how many."""
    wanted = sources()
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
        licensed = any(name.endswith("LICENSE") for name in archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}

    wrong = [f"wheel lacks {name}" for name in sorted(wanted.keys() - in_wheel)]
    wrong += [f"wheel has {name}, which is in no package of the tree" for name in sorted(in_wheel - wanted.keys())]
    wrong += [f"sdist lacks {name}" for name in sorted({*wanted.values(), *FILES, *files_of_folders()} - in_sdist)]
    if not licensed:
        wrong.append("wheel lacks the LICENSE")
    print("\n".join(wrong) or f"{Path(wheel).name}: {len(in_wheel)} files, all there; {Path(sdist).name}: complete")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(*sys.argv[1:]), 1))

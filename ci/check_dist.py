"""Compare a wheel and an sdist with the source tree: ``python ci/check_dist.py WHEEL SDIST``."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def sources() -> dict[str, str]:
    """File in the wheel -> file in the tree and in the sdist, for all files that a user needs."""
    found = {}
    for folder, package in (("portaloss", "portaloss"), ("reference", "portaloss/reference")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".html"} or path.name == "py.typed":
                tail = path.relative_to(ROOT / folder).as_posix()
                found[f"{package}/{tail}"] = f"{folder}/{tail}"
    return found


def main(wheel: str, sdist: str) -> int:
    """Print the files that are missing or superfluous; returns their number."""
    wanted = sources()
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
        licensed = any(name.endswith("LICENSE") for name in archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}

    wrong = [f"wheel lacks {name}" for name in sorted(wanted.keys() - in_wheel)]
    wrong += [f"wheel has {name}, which is in no package of the tree" for name in sorted(in_wheel - wanted.keys())]
    others = {"LICENSE", "README.md", "CHANGELOG.md", "noxfile.py", "pyproject.toml", "ci/constraints.txt"}
    others |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    wrong += [f"sdist lacks {name}" for name in sorted({*wanted.values(), *others} - in_sdist)]
    if not licensed:
        wrong.append("wheel lacks the LICENSE")
    print("\n".join(wrong) or f"{Path(wheel).name}: {len(in_wheel)} files, all there; {Path(sdist).name}: complete")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(*sys.argv[1:]), 1))

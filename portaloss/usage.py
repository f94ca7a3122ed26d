"""What the commands of ``python -m portaloss`` share: exit codes, and command lines that ask for what there is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from portaloss.kinds import LossKind

#: Exit codes. 2 is argparse's own, 130 what shells take for Ctrl-C.
PASSED, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(Exception):
    """A command line that asks for what there is not."""


def kinds(given: Sequence[str] | None) -> list[LossKind]:
    """The kinds of ``--kind``, in the order of their numbers; all where none is given.

    Raises:
        UsageError: there is no such kind.
    """
    if not given:
        return list(LossKind)
    by_name = {kind.name.lower(): kind for kind in LossKind}
    for name in given:
        if name not in by_name:
            raise UsageError(f"--kind {name}: there is no such kind; there are: {', '.join(by_name)}")
    return [kind for name, kind in by_name.items() if name in given]


def check_folder(path: Path | None) -> None:
    """Find out that a file can't be written before the work, not after.

    Raises:
        UsageError: its folder is not there.
    """
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {path}: {path.absolute().parent} is not a folder")

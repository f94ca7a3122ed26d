"""What the commands of ``python -m portaloss`` share: exit codes, and the error for a command line that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from portaloss.kinds import LossKind

#: Exit codes. 2 is also argparse's, and 130 is what shells return for Ctrl-C.
PASSED, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(Exception):
    """The command line is wrong: its message says why."""


def kinds(given: Sequence[str] | None) -> list[LossKind]:
    """The kinds named by ``--kind``, in the order of their numbers; all kinds where none is named.

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


def check_emulator(what: str) -> None:
    """Find out whether kernels can be emulated.

    Args:
        what: the command or option that needs it.

    Raises:
        UsageError: torch or triton is missing.
    """
    if find_spec("triton") is None or find_spec("torch") is None:
        raise UsageError(f"{what} needs torch and triton: pip install 'portaloss[torch,triton]'")


def check_folder(path: Path | None) -> None:
    """Find out before the work whether a file can be written.

    Raises:
        UsageError: its folder does not exist.
    """
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {path}: {path.absolute().parent} is not a folder")


@contextmanager
def writing(action: str = "write the report") -> Iterator[None]:
    """Turn an error of writing a file in this block into a ``UsageError``."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot {action}: {error}") from error

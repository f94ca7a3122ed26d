"""What a class index out of range does on a GPU: nan for its row, or an IndexError. On the CPU it always raises.

Nothing is ever read or written out of range, in either mode.
"""

from __future__ import annotations

from types import TracebackType
from typing import Literal

Mode = Literal["raise", "nan"]

_MODES = ("raise", "nan", None)
_mode: Mode | None = None


class _Setting:
    """What ``check_targets`` returns: as a context manager it puts back, at the end, what was set before."""

    def __init__(self, before: Mode | None) -> None:
        self._before = before

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _mode
        _mode = self._before


def check_targets(mode: Mode | None) -> _Setting:
    """Say what a class index out of range does on a GPU: for class targets, sets of classes and CTC's labels.

    ``"nan"``: no error, the default. The row's item is nan, and so is any mean or sum that it is part of; the row's
    gradient is zero, and other rows' gradients are not affected. The row counts in a mean's divisor; where there are
    class weights it adds nothing, since a class that doesn't exist has no weight. In a set of classes only what comes
    before the first -1 is looked at, and that first negative entry itself, which must be -1.

    ``"raise"``: IndexError. The targets are brought to the host first, which waits for the GPU and cannot be captured
    in a CUDA graph. Inside a transform of ``torch.func`` the row is nan all the same.

    On the CPU, where a look at the targets costs little, an index out of range always raises IndexError.

    The setting holds for the whole process, from here on, or as a context manager for the block.

    Args:
        mode: ``"raise"``, ``"nan"``, or None for the default.

    Raises:
        ValueError: any other mode.

    >>> with check_targets("raise"):
    ...     pass  # calls on a GPU raise IndexError here
    """
    global _mode
    if mode not in _MODES:
        raise ValueError(f"mode must be 'raise', 'nan' or None, got {mode!r}")
    before, _mode = _mode, mode
    return _Setting(before)


def mode(default: Mode) -> Mode:
    """What is set, or a backend's default."""
    return _mode or default

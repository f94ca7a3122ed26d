"""What a class index out of range does: an IndexError, or nan for its row. One setting, of one meaning on all backends.

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
    """Say what a class index out of range does, on every backend: for class targets, sets of classes, CTC's labels.

    ``"raise"``: IndexError, as on the CPU by default. On a GPU the targets are brought to the host first, which waits
    for the GPU and cannot be captured in a CUDA graph.

    ``"nan"``: no error, as on a GPU by default. The row's item is nan, and so is any mean or sum that it is part of;
    the row's gradient is zero, and other rows' gradients are not affected. The row counts in a mean's divisor; where
    there are class weights it adds nothing, since a class that doesn't exist has no weight. In a set of classes only
    what comes before the first -1 is looked at, and that first negative entry itself, which must be -1.

    The setting holds for the whole process, from here on, or as a context manager for the block.

    Args:
        mode: ``"raise"``, ``"nan"``, or None for each backend's default.

    Raises:
        ValueError: any other mode.

    >>> import numpy as np
    >>> from portaloss.functional import nll_loss
    >>> log_p, target = np.array([[-1.0, -2.0], [-3.0, -4.0]]), np.array([1, 5])
    >>> with check_targets("nan"):
    ...     nll_loss(log_p, target, reduction="none").tolist()
    [2.0, nan]
    """
    global _mode
    if mode not in _MODES:
        raise ValueError(f"mode must be 'raise', 'nan' or None, got {mode!r}")
    before, _mode = _mode, mode
    return _Setting(before)


def mode(default: Mode) -> Mode:
    """What is set, or a backend's default."""
    return _mode or default

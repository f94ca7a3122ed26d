"""Arguments that PyTorch accepts with a warning: size_average, reduce, and a target whose size is not the input's."""

from __future__ import annotations

import warnings
from typing import Any

from portaloss import dispatch
from portaloss.kinds import LossReduction


def warn(message: str, stacklevel: int = 4) -> None:
    """Warn the caller of the loss, except while a function is being compiled: a compiled function cannot warn."""
    if not dispatch.compiling():
        warnings.warn(message, stacklevel=stacklevel)


def reduction_of(reduction: str, size_average: bool | None, reduce: bool | None, *, own_text: str | None = None) -> str:
    """The reduction of a call. The deprecated arguments take precedence; one that is not given counts as True.

    ============  ======  =============
    size_average  reduce  reduction
    ============  ======  =============
    True          True    ``"mean"``
    False         True    ``"sum"``
    either        False   ``"none"``
    ============  ======  =============

    Args:
        reduction: as given. Most functions also accept ``"elementwise_mean"``, the old name of mean.
        size_average: deprecated.
        reduce: deprecated.
        own_text: for functions that do not accept it: a format string, PyTorch's message for a wrong reduction.

    Raises:
        ValueError: own_text is given and reduction is wrong. Without own_text, a wrong reduction is refused later.
    """
    if size_average is None and reduce is None:
        if own_text is not None:
            _require_reduction(reduction, own_text)
        elif reduction == "elementwise_mean":
            warn("reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.")
            return "mean"
        return reduction
    if reduce is not None and not reduce:
        meant = "none"
    elif size_average is not None and not size_average:
        meant = "sum"
    else:
        meant = "mean"
    warn(f"size_average and reduce args will be deprecated, please use reduction='{meant}' instead.")
    return meant


def _require_reduction(reduction: Any, text: str) -> None:
    if reduction not in ("none", "mean", "sum") and not isinstance(reduction, LossReduction):
        raise ValueError(
            f"{text.format(reduction)}: {reduction} is not a valid value for reduction, expected 'none', 'mean' or "
            "'sum'"
        )


def warn_of_sizes(input: Any, target: Any) -> None:
    """Warn where a target of another size will be broadcast, which is usually a mistake."""
    try:
        alike = input.shape == target.shape
    except AttributeError:  # a value without a shape is refused later
        return
    if not alike:
        warn(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}). This will "
            "likely lead to incorrect results due to broadcasting. Please ensure they have the same size."
        )

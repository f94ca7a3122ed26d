"""What PyTorch accepts with a warning: size_average and reduce, and a target of another size than the input's."""

from __future__ import annotations

import warnings
from typing import Any

from portaloss import dispatch
from portaloss.kinds import LossReduction


def warn(message: str, stacklevel: int = 4) -> None:
    """Warn the caller of the loss; not in a function that is being compiled, which can't warn when it runs."""
    if not dispatch.compiling():
        warnings.warn(message, stacklevel=stacklevel)


def reduction_of(reduction: str, size_average: bool | None, reduce: bool | None, *, own_text: str | None = None) -> str:
    """The reduction that a call means: the deprecated arguments take precedence, and what is left out counts as True.

    ============  ======  =============
    size_average  reduce  reduction
    ============  ======  =============
    True          True    ``"mean"``
    False         True    ``"sum"``
    either        False   ``"none"``
    ============  ======  =============

    Args:
        reduction: as given. Most functions take ``"elementwise_mean"`` too, the old name of mean.
        size_average: deprecated.
        reduce: deprecated.
        own_text: for functions that do not, what PyTorch says of a wrong reduction: a format.

    Raises:
        ValueError: own_text is given and reduction is wrong. Otherwise the plan says so.
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
    """Warn where a target of another size is about to be broadcast: more often a mistake than meant."""
    try:
        alike = input.shape == target.shape
    except AttributeError:  # what has no shape is refused later
        return
    if not alike:
        warn(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}). This will "
            "likely lead to incorrect results due to broadcasting. Please ensure they have the same size."
        )

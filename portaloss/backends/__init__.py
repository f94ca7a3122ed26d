"""Backends: what runs a plan. One folder each, and one line in ``_MODULES``; loaded on first use.

A backend is a module with the functions of ``Backend``. It takes and gives arrays of the library it is called with.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from portaloss.plan import Plan, Precision

_MODULES = {
    "cpu": "portaloss.backends.cpu.backend",
    "triton": "portaloss.backends.triton.backend",
    "triton-interpret": "portaloss.backends.triton.interpret",
}


@dataclass
class Forward:
    """What a forward pass gives."""

    value: Any
    #: For an upstream gradient of 1, where they were wanted and the pass could give them; else None.
    gradients: dict[str, Any] | None = None
    #: Whether the gradients may be multiplied by another upstream gradient. 16-bit ones may not: they are rounded, and
    #: what underflowed is lost. They are computed again.
    scalable: bool = False
    #: What return_extras asks for, one value an item each: log_probs, entropy, accuracy, logsumexp.
    extras: tuple[Any, ...] | None = None


class Backend(Protocol):
    """What a backend's module offers."""

    def unavailable(self) -> str | None:
        """None where the backend can run on this machine, else the reason."""

    def refuses(self, plan: Plan, operands: Mapping[str, Any]) -> str | None:
        """None where the backend can run the plan on these arrays, else the reason."""

    def architecture(self) -> str:
        """What runs it: a processor's or a GPU's name."""

    def precision(self, plan: Plan) -> Precision:
        """What the results of the plan promise."""

    def workspace_size(self, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """An upper bound for the scratch memory of a call, in bytes, beyond its results."""

    def forward(self, plan: Plan, operands: Mapping[str, Any], wants: Collection[str]) -> Forward:
        """The loss, and maybe the gradients of the operands in ``wants`` with it."""

    def backward(
        self, plan: Plan, operands: Mapping[str, Any], upstream: Any, wants: Collection[str]
    ) -> dict[str, Any]:
        """The gradients of the operands in ``wants``."""

    def rescale(self, early: Forward, upstream: Any) -> dict[str, Any] | None:
        """A forward pass's gradients times an upstream gradient, in place; None where ``backward`` must be asked."""

    def check(self, plan: Plan, operands: Mapping[str, Any]) -> None:
        """Raise what is wrong with the operands."""


def names() -> tuple[str, ...]:
    """All backends, available here or not."""
    return tuple(_MODULES)


def load(name: str) -> Backend:
    """The backend of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in _MODULES:
        raise ValueError(f"backend must be one of {', '.join(_MODULES)}; got {name!r}")
    return cast(Backend, importlib.import_module(_MODULES[name]))


def available(name: str) -> str | None:
    """None where the backend can run on this machine, else the reason why it is absent."""
    try:
        return load(name).unavailable()
    except ImportError as error:
        return str(error)


def for_device(device: str) -> str:
    """The backend for arrays on a device.

    Raises:
        NotImplementedError: no backend runs there. Nothing is ever moved to another device silently.
    """
    if device == "cpu":
        return "cpu"
    if device == "cuda":  # PyTorch's name for HIP devices too
        return "triton"
    raise NotImplementedError(f"no backend of portaloss runs on device {device!r}; it has: {', '.join(_MODULES)}")

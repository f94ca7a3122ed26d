"""Backends: the arithmetic behind ``engine``. One folder each, and one line in ``_MODULES``; loaded on first use.

A backend is a module with the names of ``Backend``. It takes and gives arrays of the library it is called with.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from portaloss.arrange import Layout, Spec
from portaloss.plan import Plan, Precision

_MODULES = {
    "cpu": "portaloss.backends.cpu.backend",
    "triton": "portaloss.backends.triton.backend",
}


class Call(Protocol):
    """One call: operands whose values have been checked, and the arithmetic on them."""

    operands: dict[str, Any]  #: in the chapter's shapes
    extras: tuple[Any, ...] | None  #: what linear cross-entropy found out about each row, if it was asked to
    xp: Any  #: the library that divisors are computed with: numpy or torch

    def scale(self, upstream: Any, by: Any) -> Any:
        """upstream / by, which derivatives are multiplied by: a number, or one for each item."""

    def each(self, upstream: Any) -> Any:
        """An upstream gradient of one number an item, in the chapter's shape of items."""

    def run(
        self,
        wants: Collection[str] = (),
        *,
        items: bool = False,
        scale: Any = None,
        offset: Any = None,
        of_entropy: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        """One pass: items, or what a sum is made of; and the gradients of the operands in ``wants``.

        Args:
            wants: the operands to differentiate.
            items: whether to return the items, in the loss's shape and dtype; else their sum in float64, or for CTC
                float64 items.
            scale: what ``scale`` or ``each`` gave; None for 1.
            offset: taken off each derivative by the weight.
            of_entropy: what ``each`` gave for the upstream gradient of linear cross-entropy's entropy; None for 0.
        """

    def rounded(self, value: Any) -> Any:
        """A float64 number in the loss's dtype, as an array of the operands' library."""


class Backend(Protocol):
    """What a backend's module offers."""

    Call: Any  #: makes a ``Call`` of a ``Prepared`` and operands by name; with ``now``, checks all values at once

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

    def settle(self, plan: Plan, operands: Mapping[str, Spec], layout: Layout) -> Any:
        """What depends on shapes and dtypes alone, to be kept for other calls of the same."""

    def rescale(self, gradients: dict[str, Any], upstream: Any) -> dict[str, Any] | None:
        """A forward pass's gradients times an upstream gradient, in place; None where they must be computed again."""


@dataclass(frozen=True)
class Prepared:
    """A plan for operands of certain shapes and dtypes. It holds no arrays, and serves all calls of these shapes."""

    plan: Plan
    layout: Layout
    backend: Backend
    differentiable: tuple[str, ...]  #: the operands that have a gradient
    item_options: Mapping[str, Any]  #: the options that a chapter takes
    divisor: float | None  #: what the sum of the items is divided by; None where the operands' values decide it
    known: Any  #: what the backend keeps


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

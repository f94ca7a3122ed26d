"""Checks shapes, and turns operands of the shapes that users give into the shapes that chapters take.

A chapter takes one layout: operands that broadcast together, with the class (or feature) axis at 1. PyTorch's
functions also take unbatched, K-dimensional, broadcast and concatenated operands. A ``Layout`` has the views that turn
these into the chapter's layout, without a copy. Views only index and transpose, so a gradient can be written through
the same view.

Shapes and values are kept apart. ``Arrangement.shapes`` sees only shapes and dtypes. So its result is the same for
every call with these shapes, on every backend, and for tensors without memory. Values are checked in every call, by
``Arrangement.values``, or tile by tile for large operands on the CPU.

The message of an error begins with PyTorch's text, word for word, and then names the argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portaloss.arrange.views import Arrangement, Layout, Spec
from portaloss.checks import dtype_name

__all__ = ["Arrangement", "Layout", "Spec", "specs"]


def specs(operands: Mapping[str, Any]) -> dict[str, Spec]:
    """The shapes and dtypes of NumPy arrays or torch tensors."""
    return {name: Spec(tuple(value.shape), dtype_name(value)) for name, value in operands.items()}

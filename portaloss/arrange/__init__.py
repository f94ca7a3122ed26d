"""From the shapes that a user gives to the shapes that a chapter takes, without copying; shape errors are raised here.

A chapter knows one layout: operands that broadcast together, the class (or feature) axis at 1. PyTorch's functions
take unbatched, K-dimensional, broadcast and concatenated forms; a ``Layout`` has the views that turn one into the
other. Views are made of indexing and transposing only, so that a gradient can be written through the same view.

Shapes and values are apart. ``Arrangement.shapes`` sees shapes and dtypes alone, so its result serves every call of the
same shapes, on every backend, and tensors without memory. What depends on values is checked in every call, by
``Arrangement.values`` or, for large operands on the CPU, tile by tile.

An error begins with PyTorch's text, word for word, and goes on to say which argument is meant, and where.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portaloss.arrange.views import Arrangement, Layout, Spec
from portaloss.checks import dtype_name

__all__ = ["Arrangement", "Layout", "Spec", "specs"]


def specs(operands: Mapping[str, Any]) -> dict[str, Spec]:
    """The shapes and dtypes of arrays of either library."""
    return {name: Spec(tuple(value.shape), dtype_name(value)) for name, value in operands.items()}

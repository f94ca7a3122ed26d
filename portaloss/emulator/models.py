"""What approximate instructions return: a manual gives a bound for their error, and hardware any value within it.

A model chooses one. ``apply`` gets the exact result in float64 and the bound in units in the last place of the result's
type, and returns the result: a pure function of the input, as hardware is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Names of models: correctly rounded; the largest and the smallest value within the bound; any within it.
MODELS = ("exact", "high", "low", "random")


@dataclass(frozen=True)
class Model:
    """How approximate instructions err."""

    name: str = "exact"
    seed: int = 0  #: of the random model

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise ValueError(f"a model is one of {', '.join(MODELS)}; got {self.name!r}")

    def apply(self, exact: Array, bound: float, dtype: Any = np.float32, promised: Array | None = None) -> Array:
        """A result within the bound.

        Args:
            exact: the exact result in float64 (for float64 results: rounded to nearest).
            bound: the largest error, in units in the last place of ``dtype`` at the exact result.
            dtype: of the result.
            promised: where the manual promises the exact result; zeros, infinities and nan always are.
        """
        near: Array = exact.astype(dtype)
        if self.name == "exact" or bound == 0:
            return near
        info = np.finfo(dtype)
        size = np.abs(exact)
        fixed = ~np.isfinite(near) | (near == 0)
        if promised is not None:
            fixed |= promised
        # one unit in the last place: 2^(exponent - fraction bits), and not below the smallest subnormal
        power = np.maximum(np.frexp(size)[1] - 1, info.minexp) - info.nmant
        room = np.ldexp(np.float64(bound), power)  # of a Python integer, NumPy would make a float16
        if self.name == "random":
            moved = (exact + room * _between(exact, self.seed)).astype(dtype)
            low, high = _within(exact, room, dtype)
            moved = np.clip(moved, np.minimum(low, high), high)
        else:
            moved = _within(exact, room, dtype)[self.name == "high"]
        return np.where(fixed | ~np.isfinite(moved), near, moved)


def _within(exact: Array, room: Array, dtype: Any) -> tuple[Array, Array]:
    """The smallest and the largest number of a type that differ from the exact one by at most ``room``."""
    least, most = exact - room, exact + room
    low, high = least.astype(dtype), most.astype(dtype)
    infinity = np.array(np.inf, dtype)
    low = np.where(low.astype(np.float64) < least, np.nextafter(low, infinity), low)
    high = np.where(high.astype(np.float64) > most, np.nextafter(high, -infinity), high)
    return low, high


def _between(exact: Array, seed: int) -> Array:
    """A number in [-1, 1) for each number: the same for the same (by splitmix64)."""
    bits = np.ascontiguousarray(exact, np.float64).view(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (bits ^ (bits >> np.uint64(31))).astype(np.float64) * 2.0**-63 - 1.0

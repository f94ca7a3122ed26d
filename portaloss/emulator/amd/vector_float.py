"""Vector instructions of floats: sums, products, minima, roundings, and the approximate ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from portaloss.emulator.amd.vector import Entry
from portaloss.emulator.amd.waves import Array
from portaloss.emulator.arithmetic import flush, fma, maximum, minimum, round_to_odd, two_sum
from portaloss.emulator.models import Model


def fused(a: Any, b: Any, c: Any) -> Any:
    """The product and sum with one rounding."""
    if a.dtype == np.float16:
        product = np.asarray(a, np.float64) * b  # exact
        return round_to_odd(*two_sum(product, np.asarray(c, np.float64))).astype(np.float16)
    return fma(*np.broadcast_arrays(a, b, c))


def _quiet(pick: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """A minimum or maximum: of a number and nan, the number."""
    return lambda a, b: pick(np.asarray(a), np.asarray(b))


_least, _most = _quiet(minimum), _quiet(maximum)


def median(a: Any, b: Any, c: Any) -> Any:
    """The median; where one of them is nan, the smallest of the others."""
    value = _most(_least(a, b), _least(_most(a, b), c))
    nan = (a != a) | (b != b) | (c != c)
    return np.where(nan, _least(_least(a, b), c), value) if nan.any() else value


def _fraction(x: Any) -> Any:
    below_one = np.nextafter(x.dtype.type(1), x.dtype.type(0))
    return np.minimum(x - np.floor(x), below_one)


def _mantissa(x: Any) -> Any:
    return np.where(np.isfinite(x), np.frexp(x)[0], x)


def _exponent(x: Any) -> Any:
    return np.where(np.isfinite(x), np.frexp(x)[1], 0).astype(np.int32)


def _table(kind: str) -> dict[str, Entry]:
    one, two, three = (kind,), (kind,) * 2, (kind,) * 3
    return {
        f"v_add_{kind}": (kind, two, np.add),
        f"v_sub_{kind}": (kind, two, np.subtract),
        f"v_subrev_{kind}": (kind, two, lambda a, b: b - a),
        f"v_mul_{kind}": (kind, two, np.multiply),
        f"v_fma_{kind}": (kind, three, fused),
        f"v_fmaak_{kind}": (kind, three, fused),
        f"v_fmamk_{kind}": (kind, three, fused),
        f"v_min_{kind}": (kind, two, _least),
        f"v_max_{kind}": (kind, two, _most),
        f"v_min3_{kind}": (kind, three, lambda a, b, c: _least(_least(a, b), c)),
        f"v_max3_{kind}": (kind, three, lambda a, b, c: _most(_most(a, b), c)),
        f"v_med3_{kind}": (kind, three, median),
        f"v_maxmin_{kind}": (kind, three, lambda a, b, c: _least(_most(a, b), c)),
        f"v_minmax_{kind}": (kind, three, lambda a, b, c: _most(_least(a, b), c)),
        f"v_minimum_{kind}": (kind, two, np.minimum),
        f"v_maximum_{kind}": (kind, two, np.maximum),
        f"v_minimum3_{kind}": (kind, three, lambda a, b, c: np.minimum(np.minimum(a, b), c)),
        f"v_maximum3_{kind}": (kind, three, lambda a, b, c: np.maximum(np.maximum(a, b), c)),
        f"v_floor_{kind}": (kind, one, np.floor),
        f"v_ceil_{kind}": (kind, one, np.ceil),
        f"v_trunc_{kind}": (kind, one, np.trunc),
        f"v_rndne_{kind}": (kind, one, np.rint),
        f"v_fract_{kind}": (kind, one, _fraction),
        f"v_frexp_mant_{kind}": (kind, one, _mantissa),
        f"v_frexp_exp_i32_{kind}": ("i32", one, _exponent),
        f"v_ldexp_{kind}": (kind, (kind, "i32"), np.ldexp),
    }


def _multiply_add(a: Any, b: Any, c: Any) -> Any:
    """Two roundings, and no subnormal numbers."""
    return flush(flush(flush(a) * flush(b)) + flush(c))


TABLE: dict[str, Entry] = {
    **_table("f16"),
    **_table("f32"),
    **_table("f64"),
    "v_madmk_f32": ("f32", ("f32",) * 3, _multiply_add),
    "v_madak_f32": ("f32", ("f32",) * 3, _multiply_add),
    "v_mad_f32": ("f32", ("f32",) * 3, _multiply_add),
}


# Approximate instructions. Those of 32 bits have an error of 1 unit in the last place, take subnormal numbers for zeros
# and return none. Those of 64 bits are good to 2^29 units in the last place.

ULPS32, ULPS64 = 1.0, 2.0**29


def approximate32(function: Callable[[Array], Array], exact_at: Callable[[Array], Array] | None = None) -> Any:
    """An approximate instruction of 32 bits.

    Args:
        function: the exact one, in float64.
        exact_at: where the manual lists the exact result.
    """

    def run(model: Model, x: Any) -> Any:
        x = flush(np.asarray(x)).astype(np.float64)
        return flush(model.apply(function(x), ULPS32, np.float32, None if exact_at is None else exact_at(x)))

    return run


def approximate64(function: Callable[[Array], Array]) -> Any:
    """An approximate instruction of 64 bits."""
    return lambda model, x: model.apply(function(np.asarray(x)), ULPS64, np.float64)


def _reciprocal(x: Array) -> Array:
    return 1.0 / x


def _reciprocal_root(x: Array) -> Array:
    return 1.0 / np.sqrt(x)


#: By name without type; the function of the model and the source.
APPROXIMATE: dict[str, Any] = {
    "v_rcp_f32": approximate32(_reciprocal),
    "v_rcp_iflag_f32": approximate32(_reciprocal),
    "v_rsq_f32": approximate32(_reciprocal_root),
    "v_sqrt_f32": approximate32(np.sqrt),
    "v_exp_f32": approximate32(np.exp2, lambda x: x == 0),
    "v_log_f32": approximate32(np.log2, lambda x: x == 1),
    "v_rcp_f64": approximate64(_reciprocal),
    "v_rsq_f64": approximate64(_reciprocal_root),
    "v_sqrt_f64": approximate64(np.sqrt),
}

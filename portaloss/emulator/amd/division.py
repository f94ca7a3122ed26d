"""The three instructions around a division by Newton's method.

They scale operands away from overflow and underflow, scale the quotient back, and put in the special cases.

The sequence gives the correctly rounded quotient. Operands are named as in the manual: the quotient or what is scaled,
the denominator, the numerator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from portaloss.emulator.amd.assembly import VCC, Instruction
from portaloss.emulator.amd.operands import Context, vector_sink
from portaloss.emulator.amd.vector import Entry, Run, sources
from portaloss.emulator.amd.vector_float import fused
from portaloss.emulator.amd.waves import Waves
from portaloss.emulator.arithmetic import round_to_odd, two_sum


@dataclass(frozen=True)
class Format:
    """What the instructions need to know about a type."""

    kind: str
    bits: int  #: of the fraction
    mask: int  #: the largest biased exponent
    far: int  #: exponents further apart than this may overflow
    tiny: int  #: biased exponents up to this are of tiny numerators
    scale: int  #: by this power of two
    below: int  #: exponents further apart than this underflow to 0
    least: float  #: the smallest normal number


FORMATS = {
    "f32": Format("f32", 23, 255, 96, 23, 64, -150, 2.0**-126),
    "f64": Format("f64", 52, 2047, 768, 53, 128, -1075, 2.0**-1022),
}


def _exponent(x: Any, form: Format) -> Any:
    """The biased exponent, as its field says."""
    x = np.ascontiguousarray(x)
    bits = x.view(np.int32 if form.kind == "f32" else np.int64)
    return ((bits >> form.bits) & form.mask).astype(np.int32)


def _subnormal(x: Any, form: Format) -> Any:
    return (np.abs(x) < form.least) & (x != 0)


def scale(chosen: Any, denominator: Any, numerator: Any, form: Format) -> tuple[Any, Any]:
    """The denominator or the numerator, scaled if need be; and whether the quotient must be scaled back."""
    chosen, denominator, numerator = np.broadcast_arrays(chosen, denominator, numerator)
    d, n = (x.astype(np.float64) for x in (denominator, numerator))
    apart = _exponent(numerator, form) - _exponent(denominator, form)
    reciprocal_tiny = np.abs(1 / d) < form.least
    quotient_tiny = (np.abs(n / d) < form.least) & (n != 0)
    is_denominator, is_numerator = chosen == denominator, chosen == numerator
    up, down = (np.ldexp(chosen, power).astype(chosen.dtype) for power in (form.scale, -form.scale))
    nan = chosen.dtype.type(np.nan)
    cases = [
        (d == 0) | (n == 0),
        apart >= form.far,
        _subnormal(d, form),
        reciprocal_tiny & quotient_tiny,
        reciprocal_tiny,
        quotient_tiny,
        _exponent(numerator, form) <= form.tiny,
    ]
    results = [
        np.full_like(chosen, nan),
        np.where(is_denominator, up, chosen),
        up,
        np.where(is_denominator, down, chosen),  # the only choice that keeps both in range
        down,
        np.where(is_numerator, up, chosen),
        up,
    ]
    value = np.select(cases, results, chosen)
    back = np.select(cases, [np.full(d.shape, flag) for flag in (False, True, False, True, False, True, False)], False)
    return value, back


def _fma_scaled(quotient: Any, error: Any, reciprocal: Any, power: Any) -> Any:
    """fma(quotient, error, reciprocal) times a power of two, with one rounding."""
    plain = fused(quotient, error, reciprocal)
    if plain.dtype == np.float32:
        total = round_to_odd(*two_sum(quotient.astype(np.float64) * error, reciprocal.astype(np.float64)))
        return np.ldexp(total, power).astype(np.float32)
    return np.ldexp(plain, power)


def multiply_add(a: Any, b: Any, c: Any, back: Any, form: Format) -> Any:
    """fma, and the quotient scaled back where the mask says so: up where it is large, else down."""
    a, b, c = np.broadcast_arrays(a, b, c)
    if not back.any():
        return fused(a, b, c)
    power = np.where(_exponent(c, form) > form.mask // 2, form.scale, -form.scale)
    return np.where(back, _fma_scaled(a, b, c, power), fused(a, b, c))


def fix(quotient: Any, denominator: Any, numerator: Any, form: Format) -> Any:
    """The quotient of the special cases: nan, infinities and zeros; else the one that was computed."""
    quotient, denominator, numerator = np.broadcast_arrays(quotient, denominator, numerator)
    dtype = quotient.dtype.type
    d, n = denominator, numerator
    negative = np.signbit(d) ^ np.signbit(n)
    apart = _exponent(n, form) - _exponent(d, form)
    cases = [
        np.isnan(n),
        np.isnan(d),
        ((d == 0) & (n == 0)) | (np.isinf(d) & np.isinf(n)),
        (d == 0) | np.isinf(n),
        np.isinf(d) | (n == 0),
        apart < form.below,
        np.isnan(quotient),  # the quotient overflowed on the way: infinity minus infinity
    ]
    zero = np.where(negative, dtype(-0.0), dtype(0))
    infinity = np.where(negative, dtype(-np.inf), dtype(np.inf))
    results = [n, d, np.full_like(quotient, np.nan), infinity, zero, zero, infinity]
    size = np.abs(quotient)
    return np.select(cases, results, np.where(negative, -size, size))


def _div_scale(instruction: Instruction, context: Context) -> Run:
    form = FORMATS[instruction.name[-3:]]
    target, out, *rest = instruction.operands
    write = vector_sink(instruction, target, form.kind, context)
    one, two, three = sources(instruction, rest, (form.kind,) * 3, context)

    def run(waves: Waves) -> None:
        value, back = scale(one(waves), two(waves), three(waves), form)
        write(waves, value)
        waves.set_mask(out.index, back)

    return run


def _div_fmas(instruction: Instruction, context: Context) -> Run:
    form = FORMATS[instruction.name[-3:]]
    target, *rest = instruction.operands
    write = vector_sink(instruction, target, form.kind, context)
    one, two, three = sources(instruction, rest, (form.kind,) * 3, context)
    return lambda waves: write(waves, multiply_add(one(waves), two(waves), three(waves), waves.mask(VCC), form))


def _entry(form: Format) -> Entry:
    return form.kind, (form.kind,) * 3, lambda q, d, n: fix(q, d, n, form)


TABLE: dict[str, Entry] = {f"v_div_fixup_{kind}": _entry(form) for kind, form in FORMATS.items()}
SPECIAL: dict[str, Any] = {
    **{f"v_div_scale_{kind}": _div_scale for kind in FORMATS},
    **{f"v_div_fmas_{kind}": _div_fmas for kind in FORMATS},
}

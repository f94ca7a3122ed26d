"""Conversions between types: cvt, with its rounding modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.emulator.arithmetic import (
    flush,
    from_bfloat16,
    from_integer,
    narrow,
    round_to_whole,
    to_bfloat16,
    to_integer,
)  # fmt: skip
from portaloss.emulator.ptx.decode import PACKED, TYPES, Decoder, elementwise, instruction, raw
from portaloss.emulator.ptx.floating import NAN, canonical
from portaloss.emulator.ptx.machine import Step
from portaloss.emulator.ptx.syntax import Instruction

Array = npt.NDArray[Any]

_ROUNDINGS = {"rn": "n", "rz": "z", "rm": "m", "rp": "p", "rni": "n", "rzi": "z", "rmi": "m", "rpi": "p"}


@instruction("cvt")
def convert(decoder: Decoder, one: Instruction) -> Step:
    """From one type to another; for packed types, the first operand goes to the upper half."""
    *how, to, source = one.modifiers
    mode, whole = "n", False
    for each in how:
        if each in _ROUNDINGS:
            mode, whole = _ROUNDINGS[each], each.endswith("i")
        elif each not in ("ftz", "sat"):
            raise one.unknown()
    if "sat" in how and (to in NAN or source not in NAN):
        raise one.unknown()
    target = decoder.target(one.operands[0])
    sources = [decoder.source(operand, source) for operand in one.operands[1:]]
    if to in ("f16x2", "bf16x2") and source == "f32" and len(sources) == 2:
        part = _function(one, PACKED[to][0], source, mode, whole=whole, flushes="ftz" in how)
        return elementwise(
            target,
            sources,
            lambda upper, lower: (part(upper).astype(np.uint32) << 16) | part(lower),
        )
    function = _function(one, to, source, mode, whole=whole, flushes="ftz" in how)
    bits, width = raw(source), np.dtype(f"u{decoder.width(target)}")

    def widened(value: Array) -> Array:
        return function(value if value.dtype == bits else value.astype(bits)).astype(width, copy=False)

    return elementwise(target, sources, widened)


def _function(
    one: Instruction, to: str, source: str, mode: str, *, whole: bool, flushes: bool
) -> Callable[[Array], Array]:
    """A conversion of raw bits."""
    if to not in TYPES or source not in TYPES:
        raise one.unknown()
    if source not in NAN:
        if to in NAN:
            return _from_integer(to, source, mode)
        start, end = TYPES[source], TYPES[to]
        return lambda bits: bits.view(start).astype(end).view(raw(to))

    def read(bits: Array) -> Array:
        value = from_bfloat16(bits) if source == "bf16" else bits.view(TYPES[source])
        return flush(value) if flushes and source == "f32" else value

    if to not in NAN:
        # nan becomes 0, but for 64-bit types the number whose highest bit alone is set
        nan = -(1 << 63) if "64" in (to[1:], source[1:]) else 0
        nan = nan if TYPES[to].itemsize == 8 else 0
        dtype = TYPES[to]
        return lambda bits: to_integer(read(bits), dtype, mode, nan).view(raw(to))
    if to == source:
        if not whole:
            return lambda bits: bits
        return lambda bits: canonical(round_to_whole(read(bits), mode), to)
    if to == "bf16":
        return lambda bits: to_bfloat16(read(bits), mode)
    dtype = TYPES[to]

    def change(bits: Array) -> Array:
        value = read(bits)
        if value.itemsize < dtype.itemsize:
            value = value.astype(dtype)
        elif value.dtype != dtype:
            value = narrow(value, dtype, mode)
        return canonical(flush(value) if flushes and to == "f32" else value, to)

    return change


def _from_integer(to: str, source: str, mode: str) -> Callable[[Array], Array]:
    start, end = TYPES[source], TYPES[to]
    if to == "bf16":
        return lambda bits: to_bfloat16(bits.view(start).astype(np.float64), mode)
    return lambda bits: from_integer(bits.view(start), end, mode).view(raw(to))

"""Arithmetic that losses share, in plain ``tl``: the same on NVIDIA, AMD and in the interpreter.

libdevice's names differ between vendors, and the interpreter has none of them.
"""

from __future__ import annotations

import struct

import triton
import triton.language as tl


def bits(number: float) -> int:
    """A float as the integer with the same 64 bits.

    Triton passes a Python float as float32, and a constexpr would compile anew for every value. As bits a float64
    arrives whole.
    """
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


@triton.jit
def number(number_bits, MATH: tl.constexpr):
    """The float that ``bits`` made, in the math dtype."""
    return number_bits.to(tl.int64).to(tl.float64, bitcast=True).to(MATH)


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0, to a few units in the last place.

    u = 1 + x is rounded; log(u) * x / (u - 1) takes the rounding out again, since u - 1 is exact and log is smooth.
    Where u is 1, the answer is x itself; where x is inf, x / (u - 1) would be nan.
    """
    u = 1.0 + x
    d = u - 1.0
    exact = (d == 0.0) | (u == float("inf"))
    return tl.where(d == 0.0, x, tl.log(u) * tl.where(exact, 1.0, x / tl.where(exact, 1.0, d)))


@triton.jit
def step(condition, like):
    """1 where the condition holds, else 0."""
    return tl.where(condition, 1.0, 0.0).to(like.dtype)


@triton.jit
def sign(x):
    """-1, 0 or 1; nan for nan."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x)).to(x.dtype)


@triton.jit
def maximum(x, y):
    """The larger; nan where either is."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    """The smaller; nan where either is."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)

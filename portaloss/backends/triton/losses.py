"""The device functions of the pointwise losses: value, then derivatives, as in the chapters of ``reference/``.

Each takes four operands (those that a loss does not have are copies of the first and unused), two options, two flags
and which of the last two operands are there; it gives the item and three derivatives. What a kernel does not want, the
compiler drops.
"""

from __future__ import annotations

import triton
import triton.language as tl

from portaloss.backends.triton.numerics import log1p, maximum, minimum, sign, step


@triton.jit
def huber(x, t, w, _, delta, _1, FLAG0: tl.constexpr, FLAG1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """Clip is the derivative; the item follows from it without choosing a branch."""
    e = x - t
    c = minimum(maximum(e, -delta), delta)
    loss = c * (e - 0.5 * c)
    slope = c
    item = loss
    if HAS2:
        slope = c * w
        item = loss * w
    return item, slope, -slope, loss

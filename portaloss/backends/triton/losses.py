"""The device functions of the pointwise losses: value, then derivatives, as in the chapters of ``reference/``.

Each function takes four operands, two options, two flags, and whether the third and fourth operand are given; one that
is not given is a copy of the first, and unused. It returns the item and the derivatives with respect to the first three
operands. The compiler removes results that a kernel does not use.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from portaloss.backends.triton.numerics import (
    exp,
    log,
    log1p,
    log1p_negated,
    log_odds,
    maximum,
    minimum,
    quotient,
    sign,
    step,
)  # fmt: skip
from portaloss.kinds import LossKind

#: log(2 pi) / 2
HALF_LOG_TAU = tl.constexpr(0.9189385332046727)


@triton.jit
def weighted(loss, slope, w, HAS_WEIGHT: tl.constexpr):
    """For a loss of input - target: the item, and the derivatives with respect to input, target and weight."""
    if HAS_WEIGHT:
        return loss * w, slope * w, -(slope * w), loss
    return loss, slope, -slope, loss


@triton.jit
def mse(x, t, w, _, o0, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """(x - t)^2."""
    e = x - t
    return weighted(e * e, 2.0 * e, w, HAS2)


@triton.jit
def l1(x, t, w, _, o0, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """|x - t|; the derivative at 0 is 0."""
    e = x - t
    return weighted(tl.abs(e), sign(e), w, HAS2)


@triton.jit
def huber(x, t, w, _, delta, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """The derivative is e clipped to [-delta, delta]; the item follows from it without a branch."""
    e = x - t
    c = minimum(maximum(e, -delta), delta)
    return weighted(c * (e - 0.5 * c), c, w, HAS2)


@triton.jit
def smooth_l1(x, t, w, _, beta, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """Huber / beta, without squares; L1 if beta is 0 (F0)."""
    e = x - t
    if F0:
        return weighted(tl.abs(e), sign(e), w, False)
    c = minimum(maximum(e, -beta), beta)
    slope = quotient(c, beta)
    return weighted(slope * (e - 0.5 * c), slope, w, False)


#: The lower bound of x (1 - x) in BCE's derivative: 1e-12 as a float32.
BCE_EPSILON = tl.constexpr(9.999999960041972e-13)


@triton.jit
def bce(x, t, w, _, o0, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """-(g log m + (1 - g) log1p(-m)), m the smaller of x and 1 - x, and g the share of the target that goes with m."""
    rest = 1.0 - x
    m = minimum(x, rest)
    upper = step(x >= 0.5, x)
    share = tl.abs(upper - t)
    log_rest = log1p_negated(m)
    item = (1.0 - share) * log_rest - share * maximum(log(m), -100.0)
    slope = quotient(x - t, maximum(x * rest, BCE_EPSILON))
    odds = log_odds(m)
    odds = tl.where(odds == float("inf"), -log(x), odds)  # 1 / x may overflow
    slope_t = odds * (1.0 - 2.0 * upper)
    slope_t = tl.where(m == 0.0, (1.0 - 2.0 * upper) * float("inf"), slope_t)
    if HAS2:
        item = item * w
        slope = slope * w
        slope_t = slope_t * w
    return item, slope, slope_t, item


@triton.jit
def bce_with_logits(
    x, t, w, pos_weight, o0, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr
):
    """k x + (a + b) log1p(e), with e = exp(-|x|) and the factors of the chapter."""
    e = exp(-tl.abs(x))
    positive = step(x >= 0, x)
    log_tail = log1p(e)
    share = (1.0 - 2.0 * positive) * quotient(e, 1.0 + e)
    lost = x == float("-inf")
    if HAS3:
        no = 1.0 - t
        yes = pos_weight * t
        gap = positive * no - (1.0 - positive) * yes
        both = no + yes
        item = x * gap + both * log_tail
        item = tl.where(lost, no * x - both * x, item)
        slope = gap + both * share
        slope_t = (pos_weight - 1.0) * log_tail - x * (positive + (1.0 - positive) * pos_weight)
        slope_t = tl.where(lost, (1.0 - pos_weight) * x - x, slope_t)
    else:
        gap = positive - t
        item = x * gap + log_tail
        item = tl.where(lost, (1.0 - t) * x - x, item)
        slope = gap + share
        slope_t = -x
    if HAS2:
        item = item * w
        slope = slope * w
        slope_t = slope_t * w
    return item, slope, slope_t, item


@triton.jit
def kl_div(x, t, _2, _3, o0, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """t (log t - x), or exp(t) (t - x) for a target in logs (F0); 0 log 0 is 0."""
    if F0:
        p = exp(t)
        return p * (t - x), -p, p * ((t - x) + 1.0), x
    log_t = log(tl.where(t == 0.0, 1.0, t))
    one = tl.where(t == 0.0, float("nan"), quotient(t, t))  # the derivative at 0 is nan, as in PyTorch
    return t * log_t - t * x, -t, (one + log_t) - x, x


@triton.jit
def poisson_nll(x, t, _2, _3, eps, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """exp(x) - t x, or x - t log(x + eps) for a rate (not F0); with F1 Stirling's log t! for t > 1."""
    if F0:
        rate = exp(x)
        item = rate - t * x
        slope = rate - t
        slope_t = -x
    else:
        total = x + eps
        lost = quotient((x - total) + eps, total)  # what rounding took from the sum
        log_x = log(total) + tl.where(lost == lost, lost, 0.0)
        item = x - t * log_x
        slope = quotient((x - t) + eps, total)
        finite = tl.abs(slope) < float("inf")
        slope = tl.where(finite, slope, 1.0 - quotient(t, total))
        slope_t = -log_x
    if F1:
        large = t > 1.0
        count = tl.where(large, t, 1.0)
        log_t = log(count)
        item += tl.where(large, (t * log_t - t) + (HALF_LOG_TAU + 0.5 * log_t), 0.0) + tl.where(t == t, 0.0, t)
        slope_t += tl.where(large, log_t + quotient(0.5, count), 0.0) + tl.where(
            (t > 0.0) & (t < float("inf")), 0.0, float("nan")
        )
    return item, slope, slope_t, x


@triton.jit
def gaussian_nll(x, t, var, _, eps, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """(log v + (x - t)^2 / v) / 2 with v = max(var, eps), and with F0 log(2 pi) / 2."""
    v = maximum(var, eps)
    e = x - t
    z = quotient(e, v)
    item = 0.5 * (log(v) + e * z)
    if F0:
        item += HALF_LOG_TAU
    return item, z, -z, quotient(0.5 * (1.0 - e * z), v)


@triton.jit
def hinge_embedding(
    x, t, _2, _3, margin, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr
):
    """x for a target of 1, max(0, margin - x) for -1, both for anything else, as in PyTorch."""
    room = maximum(margin - x, 0.0)
    far = t != 1.0
    near = t != -1.0
    item = tl.where(far, room, 0.0) + tl.where(near, x, 0.0)
    slope = step(near, x) - step(far & (margin - x >= 0.0), x)
    return item, slope, x, x


@triton.jit
def margin_ranking(a, b, t, _, margin, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """max(0, margin - t (a - b)); at equality the derivative passes."""
    e = a - b
    z = margin - t * e
    active = step(z >= 0.0, z)
    slope = -t * active
    return maximum(z, 0.0), slope, -slope, -e * active


def device_function(kind: LossKind) -> Any:
    """The function of this module that is named after a kind; None where there is none."""
    return globals().get(kind.name.lower())


def parameters(options: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """Numbers and flags for a device function, from a loss's options in the catalogue's order."""
    numbers = tuple(float(value) for value in options.values() if not isinstance(value, bool))
    flags = tuple(value for value in options.values() if isinstance(value, bool))
    if "beta" in options:
        flags = (struct.unpack("f", struct.pack("f", options["beta"]))[0] == 0.0,)  # whether beta is 0 in float32
    return numbers, flags

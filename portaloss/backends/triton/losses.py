"""The device functions of the pointwise losses: value, then derivatives, as in the chapters of ``reference/``.

Each takes four operands (those that a call does not have are copies of the first, and unused), two options, two flags,
and whether the third and fourth operand are there. It gives the item and the derivatives of the first three operands.
What a kernel does not want, the compiler drops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from portaloss.backends.triton.numerics import exp, log1p, maximum, minimum, sign, step
from portaloss.kinds import LossKind

#: log(2 pi) / 2
HALF_LOG_TAU = tl.constexpr(0.9189385332046727)


@triton.jit
def weighted(loss, slope, w, HAS_WEIGHT: tl.constexpr):
    """A loss of input - target: its item, and its derivatives in input, target and weight."""
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
    """Clip is the derivative; the item follows from it without choosing a branch."""
    e = x - t
    c = minimum(maximum(e, -delta), delta)
    return weighted(c * (e - 0.5 * c), c, w, HAS2)


@triton.jit
def smooth_l1(x, t, w, _, beta, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """Huber / beta; L1 where beta is 0 (F0)."""
    e = x - t
    if F0:
        return weighted(tl.abs(e), sign(e), w, False)
    a = tl.abs(e)
    inside = a < beta
    loss = tl.where(inside, 0.5 * e * (e / beta), a - 0.5 * beta)
    slope = tl.where(inside, e / beta, sign(e))
    return weighted(loss, slope, w, False)


@triton.jit
def log_clamped(p):
    """log(p), at least -100: PyTorch's clamp."""
    return maximum(tl.log(p), -100.0)


@triton.jit
def bce(x, t, w, _, o0, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """-(t log x + (1 - t) log(1 - x)), logs clamped at -100, and x (1 - x) at 1e-12 in the derivative."""
    log_x = log_clamped(x)
    log_rest = maximum(tl.where(x < 0.5, -log1p_negative(x), tl.log(1.0 - x)), -100.0)
    item = (t - 1.0) * log_rest - t * log_x
    slope = (x - t) / maximum((1.0 - x) * x, 1e-12)
    slope_t = log_rest - log_x
    if HAS2:
        item = item * w
        slope = slope * w
        slope_t = slope_t * w
    return item, slope, slope_t, item


@triton.jit
def log1p_negative(x):
    """-log(1 - x) for 0 <= x < 1/2, to a few units in the last place."""
    u = 1.0 - x
    d = 1.0 - u
    return tl.where(d == 0.0, x, -tl.log(u) * (x / tl.where(d == 0.0, 1.0, d)))


@triton.jit
def bce_with_logits(
    x, t, w, pos_weight, o0, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr
):
    """x ([x >= 0] - t) + log1p(e), e = exp(-|x|); with pos_weight the target's half is weighted."""
    e = exp(-tl.abs(x))
    positive = step(x >= 0, x)
    tail = log1p(e)
    share = e / (1.0 + e)
    falls = tail + x * (positive - 1.0)  # -log sigmoid(x): 0 or -x, and the tail
    rises = tail + x * positive  # -log(1 - sigmoid(x))
    rest = tl.where(x >= 0, share, 1.0 / (1.0 + e))  # 1 - sigmoid(x)
    if HAS3:
        item = (1.0 - t) * rises + t * (pos_weight * falls)
        slope = (1.0 - t) * tl.where(x >= 0, 1.0 / (1.0 + e), share) - t * (pos_weight * rest)
        slope_t = pos_weight * falls - rises
    else:
        gap = positive - t
        item = x * gap + tail
        slope = gap + (1.0 - 2.0 * positive) * share
        slope_t = -x
    if HAS2:
        item = item * w
        slope = slope * w
        slope_t = slope_t * w
    return item, slope, slope_t, item


@triton.jit
def kl_div(x, t, _2, _3, o0, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """t (log t - x), and exp(t) (t - x) for a target in logs (F0); 0 log 0 is 0."""
    if F0:
        p = exp(t)
        return p * (t - x), -p, p * ((t - x) + 1.0), x
    log_t = tl.log(t)
    xlogy = tl.where(t == 0.0, 0.0, t * log_t)
    return xlogy - t * x, -t, tl.where(t == 0.0, -x * 0.0 + log_t, log_t) + 1.0 - x, x


@triton.jit
def poisson_nll(x, t, _2, _3, eps, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """exp(x) - t x, or x - t log(x + eps) for a rate (not F0); with F1 Stirling's log t! for t > 1."""
    if F0:
        rate = exp(x)
        item = rate - t * x
        slope = rate - t
        slope_t = -x
    else:
        log_x = tl.log(x + eps)
        item = x - t * log_x
        slope = 1.0 - t / (x + eps)
        slope_t = -log_x
    if F1:
        large = t > 1.0
        safe = tl.where(large, t, 1.0)
        log_t = tl.log(safe)
        item += tl.where(large, (t * log_t - t) + (HALF_LOG_TAU + 0.5 * log_t), 0.0)
        slope_t += tl.where(large, log_t + 0.5 / safe, 0.0)
    return item, slope, slope_t, x


@triton.jit
def gaussian_nll(x, t, var, _, eps, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
    """(log v + (x - t)^2 / v) / 2 with v = max(var, eps), and with F0 log(2 pi) / 2."""
    v = maximum(var, eps)
    e = x - t
    z = e / v
    item = 0.5 * (tl.log(v) + e * z)
    if F0:
        item += HALF_LOG_TAU
    return item, z, -z, 0.5 * (1.0 - e * z) / v


@triton.jit
def hinge_embedding(x, t, _2, _3, margin, o1, F0: tl.constexpr, F1: tl.constexpr, HAS2: tl.constexpr, HAS3: tl.constexpr):
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


#: Kind -> its device function.
DEVICE_FUNCTIONS: Mapping[LossKind, Any] = {
    LossKind.MSE: mse,
    LossKind.L1: l1,
    LossKind.HUBER: huber,
    LossKind.SMOOTH_L1: smooth_l1,
    LossKind.BCE: bce,
    LossKind.BCE_WITH_LOGITS: bce_with_logits,
    LossKind.KL_DIV: kl_div,
    LossKind.POISSON_NLL: poisson_nll,
    LossKind.GAUSSIAN_NLL: gaussian_nll,
    LossKind.HINGE_EMBEDDING: hinge_embedding,
    LossKind.MARGIN_RANKING: margin_ranking,
}


def parameters(options: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """Numbers and flags for a device function, from a loss's options in the catalogue's order."""
    numbers = tuple(float(value) for value in options.values() if not isinstance(value, bool))
    flags = tuple(value for value in options.values() if isinstance(value, bool))
    if "beta" in options:
        flags = (options["beta"] == 0.0,)
    return numbers, flags

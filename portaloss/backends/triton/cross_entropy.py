"""Cross-entropy: one streaming kernel for any vocabulary, hard and soft targets, strided and K-dimensional logits.

Bytes, for rows of C logits of b bytes: a forward pass reads C b a row, and 8 for a hard or C b for soft targets; it
writes b (reduction none) or 4 a block of rows. With gradients it reads the row again, from the cache it has just passed
through, and writes C b. The backward pass of mean and sum then moves nothing unless upstream differs from 1. A backward
pass on its own (reduction none) reads C b twice, the second time from the cache, and writes C b.

The sum of exponentials is kept without its largest or its target's term, as in ``reference/cross_entropy.py``: that is
what keeps a confident row exact.
"""

from __future__ import annotations

import triton
import triton.language as tl

from portaloss.backends.triton.launch import PLAIN
from portaloss.backends.triton.numerics import exp, exp_difference, log1p, number, quotient
from portaloss.backends.triton.rowwise import row_offset


@triton.jit(do_not_specialize=PLAIN)
def cross_entropy_kernel(
    x_ptr,
    target_ptr,
    weight_ptr,
    items_ptr,
    sums_ptr,
    gx_ptr,
    gt_ptr,
    gw_ptr,
    upstream_ptr,
    scale_ptr,
    smoothing_bits,
    z_loss_bits,
    ignore_index,
    rows,
    classes,
    inner,
    x_outer,
    x_class,
    x_inner,
    t_outer,
    t_class,
    t_inner,
    g_outer,
    g_class,
    g_inner,
    up_outer,
    up_inner,
    SOFT: tl.constexpr,
    SMOOTH: tl.constexpr,
    Z_LOSS: tl.constexpr,
    WEIGHT: tl.constexpr,
    ITEMS: tl.constexpr,
    SUMS: tl.constexpr,
    WANT_X: tl.constexpr,
    WANT_T: tl.constexpr,
    WANT_W: tl.constexpr,
    UPSTREAM: tl.constexpr,
    MATH: tl.constexpr,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Items or their partial sums, and the wanted gradients, of ROWS rows, CLASSES classes at a time."""
    program = tl.program_id(0).to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    in_rows = row < rows
    x_row = row_offset(row, inner, x_outer, x_inner)
    t_row = row_offset(row, inner, t_outer, t_inner)
    smoothing = number(smoothing_bits, MATH)
    uniform = smoothing / classes

    # the class taken out of the sum: the target, or for soft targets the largest, found on the way
    counted = in_rows
    valid = in_rows
    own_class = tl.zeros([ROWS], tl.int64)
    own_x = tl.zeros([ROWS], MATH)
    own_w = tl.full([ROWS], 1.0, MATH)
    if not SOFT:
        own_class = tl.load(target_ptr + t_row, mask=in_rows, other=0).to(tl.int64)
        counted = in_rows & (own_class != ignore_index)
        valid = counted & (own_class >= 0) & (own_class < classes)
        own_class = tl.where(valid, own_class, 0)
        # of class 0 in rows that don't count, so that their softmax is whole: where it is nan, so is their gradient
        own_x = tl.load(x_ptr + x_row + own_class * x_class, mask=in_rows & (own_class < classes), other=0).to(MATH)
        if WEIGHT:
            own_w = tl.load(weight_ptr + own_class, mask=valid, other=0).to(MATH)

    largest = tl.full([ROWS], float("-inf"), MATH)
    rest = tl.zeros([ROWS], MATH)  # sum of exp(x - largest) over all classes but one
    cost = tl.zeros([ROWS], MATH)  # sum of v (largest - x)
    factor_sum = tl.zeros([ROWS], MATH)  # sum of v seen so far
    for start in range(0, classes, CLASSES):
        c = start + tl.arange(0, CLASSES)
        inside = in_rows[:, None] & (c < classes)[None, :]
        x = tl.load(x_ptr + x_row[:, None] + c[None, :].to(tl.int64) * x_class, mask=inside, other=float("-inf"))
        x = x.to(MATH)
        block_largest = tl.max(x, axis=1)
        new = tl.maximum(largest, block_largest)
        base = tl.where(new == float("-inf"), 0.0, new)
        shrink = exp_difference(largest, base)
        e = exp_difference(x, base[:, None])
        if SOFT:
            at = tl.argmax(x, axis=1)
            took = block_largest > largest
            out = (tl.arange(0, CLASSES)[None, :] == at[:, None]) & took[:, None]
            rest = rest * shrink + tl.sum(tl.where(out, 0.0, e), axis=1) + tl.where(took, shrink, 0.0)
        else:
            rest = rest * shrink + tl.sum(tl.where(c[None, :] == own_class[:, None], 0.0, e), axis=1)
        if SOFT or SMOOTH:
            v = tl.zeros([ROWS, CLASSES], MATH) + uniform
            if SOFT:
                at_t = target_ptr + t_row[:, None] + c[None, :].to(tl.int64) * t_class
                t = tl.load(at_t, mask=inside, other=0).to(MATH)
                v = (1.0 - smoothing) * t + uniform
                if not SMOOTH:
                    v = t
            if WEIGHT:
                v = v * tl.load(weight_ptr + c, mask=c < classes, other=0).to(MATH)[None, :]
            v = tl.where(inside, v, 0.0)
            moved = tl.where(new > largest, base - largest, 0.0)
            cost = cost + tl.where(factor_sum == 0.0, 0.0, factor_sum * moved)
            cost = cost + tl.sum(tl.where(inside, v * (base[:, None] - x), 0.0), axis=1)
            factor_sum = factor_sum + tl.sum(v, axis=1)
        largest = new

    if SOFT:
        own = tl.full([ROWS], 1.0, MATH)  # the largest's own term, exp(0)
        gap = tl.zeros([ROWS], MATH)
    else:
        gap = largest - own_x
        own = exp(-gap)
    log_sum = log1p(rest + (own - 1.0))
    # -inf everywhere, or inf somewhere: there is no softmax
    broken = (largest == float("-inf")) | (largest == float("inf")) | (rest != rest)
    log_sum = tl.where(broken, float("nan"), log_sum)

    if SOFT:
        item = cost + factor_sum * log_sum
        v_sum = factor_sum
        v_own = own
    else:
        item = own_w * (gap + log_sum)
        v_sum = own_w
        v_own = own_w
        if SMOOTH:
            item = (1.0 - smoothing) * item + cost + factor_sum * log_sum
            v_sum = (1.0 - smoothing) * own_w + factor_sum
            v_own = (1.0 - smoothing) * own_w + uniform * own_w
    level = tl.zeros([ROWS], MATH)  # of z-loss: what it adds to v_sum in the derivative, 2 z lse
    if Z_LOSS:
        z_loss = number(z_loss_bits, MATH)
        lse = largest + log_sum
        item = item + z_loss * lse * lse
        level = 2.0 * z_loss * lse
    if not SOFT:
        item = tl.where(valid, item, tl.where(counted, float("nan"), 0.0))

    if ITEMS:
        tl.store(items_ptr + row, item.to(items_ptr.dtype.element_ty), mask=in_rows)
    if SUMS:
        tl.store(sums_ptr + program, tl.sum(tl.where(in_rows, item, 0.0)))
    if WANT_X or WANT_T or WANT_W:
        up = tl.load(scale_ptr) + tl.zeros([ROWS], MATH)
        if UPSTREAM:
            up_row = row_offset(row, inner, up_outer, up_inner)
            up = up * tl.load(upstream_ptr + up_row, mask=in_rows, other=0).to(MATH)
        total = rest + own
        g_row = row_offset(row, inner, g_outer, g_inner)
        base = tl.where(largest == float("-inf"), 0.0, largest)
        share = tl.where(broken, float("nan"), quotient(1.0, total))  # total is 1 at least
        for start in range(0, classes, CLASSES):
            c = start + tl.arange(0, CLASSES)
            inside = in_rows[:, None] & (c < classes)[None, :]
            c64 = c[None, :].to(tl.int64)
            x = tl.load(x_ptr + x_row[:, None] + c64 * x_class, mask=inside, other=0).to(MATH)
            p = exp_difference(x, base[:, None]) * share[:, None]
            v = tl.zeros([ROWS, CLASSES], MATH)
            mixed = v
            if SMOOTH:
                mixed = v + uniform
            if SOFT:
                t = tl.load(target_ptr + t_row[:, None] + c64 * t_class, mask=inside, other=0).to(MATH)
                mixed = t
                if SMOOTH:
                    mixed = (1.0 - smoothing) * t + uniform
            v = mixed
            w = tl.full([1, CLASSES], 1.0, MATH)
            if WEIGHT:
                w = tl.load(weight_ptr + c, mask=c < classes, other=0).to(MATH)[None, :]
                v = mixed * w
            if WANT_X:
                slope = (v_sum + level)[:, None] * p - v
                if SOFT:
                    # the largest's p is 1 - rest / total, exactly when it is close to 1
                    near = (x == largest[:, None]) & (rest < own)[:, None]
                    of_row = level * quotient(own, total) - v_sum * quotient(rest, total)
                    at_largest = (v_sum[:, None] - v) + of_row[:, None]
                    slope = tl.where(near, at_largest, slope)
                else:
                    is_own = c64 == own_class[:, None]
                    likely = (v_sum - v_own) - v_sum * quotient(rest, total)
                    unlikely = v_sum * quotient(own, total) - v_own
                    at_own = tl.where(rest < own, likely, unlikely)
                    if Z_LOSS:
                        at_own = at_own + level * quotient(own, total)
                    at_own = tl.where(broken, float("nan"), at_own)
                    slope = tl.where(is_own, at_own[:, None], slope)
                    ignored = tl.where(counted[:, None], 0.0, p * 0.0)  # as PyTorch: nan where p is
                    slope = tl.where(valid[:, None], slope * up[:, None], ignored)
                if SOFT:
                    slope = slope * up[:, None]
                gx = gx_ptr + g_row[:, None] + c64 * g_class
                tl.store(gx, slope.to(gx_ptr.dtype.element_ty), mask=inside)
            if WANT_T or WANT_W:
                costs = (base[:, None] - x) + log_sum[:, None]
                if WANT_T:
                    slope = costs * w * up[:, None]
                    if SMOOTH:
                        slope = (1.0 - smoothing) * slope
                    gt = gt_ptr + g_row[:, None] + c64 * g_class
                    tl.store(gt, slope.to(gt_ptr.dtype.element_ty), mask=inside)
                if WANT_W:
                    gw = gw_ptr + g_row[:, None] + c64 * g_class
                    tl.store(gw, (mixed * costs * up[:, None]).to(gw_ptr.dtype.element_ty), mask=inside)

"""Cosine embedding and triplet margin: losses of distances between rows of features.

Bytes for each row of D features of b bytes, and each operand: a forward pass reads D b once, and with gradients once
more from the cache; it writes D b for each wanted gradient, and b for the item (or 4 for each block of rows).
"""

from __future__ import annotations

import triton
import triton.language as tl

from portaloss.backends.triton.launch import PLAIN
from portaloss.backends.triton.numerics import maximum, minimum, number, power, quotient, root, sign, step
from portaloss.backends.triton.rowwise import finish, row_offset, row_upstream

#: PyTorch's ε for cosine similarity, a float32 constant there.
EPSILON = tl.constexpr(9.999999960041972e-13)


@triton.jit(do_not_specialize=PLAIN)
def cosine_embedding_kernel(
    x_ptr, y_ptr, t_ptr, items_ptr, sums_ptr, gx_ptr, gy_ptr, upstream_ptr, scale_ptr,
    rows, features, inner, x_outer, x_class, x_inner, y_outer, y_class, y_inner, t_outer, t_inner,
    up_outer, up_inner, g_outer, g_class, g_inner, margin_bits, x_features, y_features,
    ITEMS: tl.constexpr, SUMS: tl.constexpr, WANT_X: tl.constexpr, WANT_Y: tl.constexpr, UPSTREAM: tl.constexpr,
    MATH: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """1 - cos for target 1, max(0, cos - margin) for -1, 0 for any other.

    If one feature broadcasts to many, the square of the vector is that of the one feature, as in PyTorch. What a row
    has once is computed in float64: a gradient is a difference, and a dozen roundings of float32 would show in it.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    in_rows = row < rows
    margin = number(margin_bits, MATH)
    x_row = row_offset(row, inner, x_outer, x_inner)
    y_row = row_offset(row, inner, y_outer, y_inner)
    xx = tl.zeros([ROWS, CLASSES], MATH)
    yy = tl.zeros([ROWS, CLASSES], MATH)
    xy = tl.zeros([ROWS, CLASSES], MATH)
    for start in range(0, features, CLASSES):
        d = (start + tl.arange(0, CLASSES)).to(tl.int64)[None, :]
        inside = in_rows[:, None] & (d < features)
        x = tl.load(x_ptr + x_row[:, None] + d * x_class, mask=inside, other=0).to(MATH)
        y = tl.load(y_ptr + y_row[:, None] + d * y_class, mask=inside, other=0).to(MATH)
        xx += tl.where(d < x_features, x * x, 0.0)
        yy += tl.where(d < y_features, y * y, 0.0)
        xy += x * y
    square_x = tl.sum(xx.to(tl.float64), axis=1) + EPSILON
    square_y = tl.sum(yy.to(tl.float64), axis=1) + EPSILON
    length_x = tl.sqrt(square_x)
    length_y = tl.sqrt(square_y)
    cosine = tl.sum(xy.to(tl.float64), axis=1) / (length_x * length_y)

    target = tl.load(t_ptr + row_offset(row, inner, t_outer, t_inner), mask=in_rows, other=0).to(MATH)
    similar = target == 1.0
    different = target == -1.0
    item = tl.where(similar, 1.0 - cosine, tl.where(different, maximum(cosine - margin, 0.0), 0.0))
    finish(item.to(MATH), row, program, in_rows, items_ptr, sums_ptr, ITEMS, SUMS)
    if WANT_X or WANT_Y:
        up = row_upstream(row, inner, in_rows, scale_ptr, upstream_ptr, up_outer, up_inner, UPSTREAM, ROWS, MATH)
        slope = (step(different & (cosine >= margin), cosine) - step(similar, cosine)) * up
        across = (slope / (length_x * length_y)).to(MATH)[:, None]
        along_x = slope * cosine * (length_y / length_y) / square_x * x_features / features
        along_y = slope * cosine * (length_x / length_x) / square_y * y_features / features
        along_x, along_y = along_x.to(MATH)[:, None], along_y.to(MATH)[:, None]
        g_row = row_offset(row, inner, g_outer, g_inner)
        for start in range(0, features, CLASSES):
            d = (start + tl.arange(0, CLASSES)).to(tl.int64)[None, :]
            inside = in_rows[:, None] & (d < features)
            x = tl.load(x_ptr + x_row[:, None] + d * x_class, mask=inside, other=0).to(MATH)
            y = tl.load(y_ptr + y_row[:, None] + d * y_class, mask=inside, other=0).to(MATH)
            at = g_row[:, None] + d * g_class
            if WANT_X:
                tl.store(gx_ptr + at, (across * y - along_x * x).to(gx_ptr.dtype.element_ty), mask=inside)
            if WANT_Y:
                tl.store(gy_ptr + at, (across * x - along_y * y).to(gy_ptr.dtype.element_ty), mask=inside)


@triton.jit
def accumulate(total, count, u, inside, NORM: tl.constexpr, P: tl.constexpr):
    """Add the features u to a norm's running total: a sum, or the largest (or smallest) size and how many have it."""
    size = tl.abs(u)
    if NORM == "two":
        total += tl.where(inside, u * u, 0.0)
    elif NORM == "one":
        total += tl.where(inside, size, 0.0)
    elif NORM == "count":
        total += step(inside & (u != 0.0), u)
    elif NORM == "maximum":
        # each lane keeps its own largest; finish_norm combines the lanes
        size = tl.where(inside, size, 0.0)
        count = tl.where(size > total, 0.0, count) + step(inside & (size >= total), u)
        total = maximum(total, size)
    elif NORM == "minimum":
        size = tl.where(inside, size, float("inf"))
        count = tl.where(size < total, 0.0, count) + step(inside & (size <= total), u)
        total = minimum(total, size)
    else:
        total += tl.where(inside, power(size, P), 0.0)
    return total, count


@triton.jit
def difference(a, b, eps, NORM: tl.constexpr):
    """a - b + eps, where the rounding error of a - b is added to eps (Knuth's two-sum); eps is in float64.

    The base of a power is computed in float64 and rounded once: near 0, a power below 1 multiplies its base's error
    without limit.
    """
    if NORM == "other":
        result = ((a.to(tl.float64) - b.to(tl.float64)) + eps).to(a.dtype)
    else:
        d = a - b
        added = d - a
        lost = (a - (d - added)) - (b + added)
        result = d + (eps.to(a.dtype) + tl.where(lost == lost, lost, 0.0))
    return result


@triton.jit
def finish_norm(total, count, NORM: tl.constexpr, P: tl.constexpr, ROOT_REST: tl.constexpr):
    """The norms of the rows, and the factors of their derivatives: for p = 2, what they are divided by."""
    if NORM == "maximum" or NORM == "minimum":
        length = tl.max(total, axis=1) if NORM == "maximum" else tl.min(total, axis=1)
        nan = tl.max(step(total != total, total), axis=1) > 0
        length = tl.where(nan, float("nan"), length)
        attained = tl.sum(tl.where(total == length[:, None], count, 0.0), axis=1)
        return length, quotient(1.0, maximum(attained, 1.0))
    length = tl.sum(total, axis=1)
    scale = length * 0.0 + 1.0
    if NORM == "two":
        length = root(length)
        scale = tl.where(length == 0.0, float("inf"), length)
    elif NORM == "count":
        scale = length * 0.0
    elif NORM == "other":
        sums = length
        length = power(sums, 1.0 / P, ROOT_REST)
        scale = tl.where((length == 0.0) | (sums == float("inf")), 0.0, quotient(length, sums))
    return length, scale


@triton.jit
def scaled(weight, scale, NORM: tl.constexpr):
    """The weight of a row's distance times the factor of its derivative."""
    if NORM == "two":
        return quotient(weight, scale)[:, None]
    return (weight * scale)[:, None]


@triton.jit
def direction(u, length, NORM: tl.constexpr, P: tl.constexpr):
    """The derivative of a norm with respect to its features, without the factor of finish_norm."""
    if NORM == "two":
        return u
    if NORM == "one":
        return sign(u)
    if NORM == "count":
        return u * 0.0
    if NORM == "maximum" or NORM == "minimum":
        return sign(u) * step(tl.abs(u) == length, u)
    if P > 2.0:
        return u * power(tl.abs(u), P - 2.0)
    slope = sign(u) * power(tl.abs(u), P - 1.0)
    if P < 1.0:
        slope = tl.where(u == 0.0, 0.0, slope)
    return slope


@triton.jit(do_not_specialize=PLAIN)
def triplet_margin_kernel(
    a_ptr, b_ptr, c_ptr, items_ptr, sums_ptr, ga_ptr, gb_ptr, gc_ptr, upstream_ptr, scale_ptr,
    rows, features, inner, a_outer, a_class, a_inner, b_outer, b_class, b_inner, c_outer, c_class, c_inner,
    up_outer, up_inner, g_outer, g_class, g_inner, margin_bits, eps_bits,
    NORM: tl.constexpr, P: tl.constexpr, ROOT_REST: tl.constexpr, SWAP: tl.constexpr,
    ITEMS: tl.constexpr, SUMS: tl.constexpr,
    WANT_A: tl.constexpr, WANT_B: tl.constexpr, WANT_C: tl.constexpr, UPSTREAM: tl.constexpr,
    MATH: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """max(0, margin + d(a, b) - d(a, c)), or with SWAP the smaller of d(a, c) and d(b, c)."""
    program = tl.program_id(0).to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    in_rows = row < rows
    margin = number(margin_bits, MATH)
    eps = number(eps_bits, tl.float64)
    a_row = row_offset(row, inner, a_outer, a_inner)[:, None]
    b_row = row_offset(row, inner, b_outer, b_inner)[:, None]
    c_row = row_offset(row, inner, c_outer, c_inner)[:, None]
    START: tl.constexpr = float("inf") if NORM == "minimum" else 0.0
    near = tl.full([ROWS, CLASSES], START, MATH)
    far = tl.full([ROWS, CLASSES], START, MATH)
    side = tl.full([ROWS, CLASSES], START, MATH)
    near_count = tl.zeros([ROWS, CLASSES], MATH)
    far_count = tl.zeros([ROWS, CLASSES], MATH)
    side_count = tl.zeros([ROWS, CLASSES], MATH)
    for start in range(0, features, CLASSES):
        d = (start + tl.arange(0, CLASSES)).to(tl.int64)[None, :]
        inside = in_rows[:, None] & (d < features)
        a = tl.load(a_ptr + a_row + d * a_class, mask=inside, other=0).to(MATH)
        b = tl.load(b_ptr + b_row + d * b_class, mask=inside, other=0).to(MATH)
        c = tl.load(c_ptr + c_row + d * c_class, mask=inside, other=0).to(MATH)
        near, near_count = accumulate(near, near_count, difference(a, b, eps, NORM), inside, NORM, P)
        far, far_count = accumulate(far, far_count, difference(a, c, eps, NORM), inside, NORM, P)
        if SWAP:
            side, side_count = accumulate(side, side_count, difference(b, c, eps, NORM), inside, NORM, P)
    near_length, near_scale = finish_norm(near, near_count, NORM, P, ROOT_REST)
    far_length, far_scale = finish_norm(far, far_count, NORM, P, ROOT_REST)
    side_length, side_scale = far_length, far_scale
    smaller = far_length
    if SWAP:
        side_length, side_scale = finish_norm(side, side_count, NORM, P, ROOT_REST)
        smaller = minimum(far_length, side_length)
    excess = margin + near_length - smaller
    item = maximum(excess, 0.0)
    finish(item, row, program, in_rows, items_ptr, sums_ptr, ITEMS, SUMS)
    if WANT_A or WANT_B or WANT_C:
        up = row_upstream(row, inner, in_rows, scale_ptr, upstream_ptr, up_outer, up_inner, UPSTREAM, ROWS, MATH)
        active = step(excess >= 0.0, excess) * up
        by_far = active
        by_side = active * 0.0
        if SWAP:  # 1 where a distance is the smaller, 1/2 where they are equal
            share = 0.5 * (step(far_length <= side_length, excess) + step(far_length < side_length, excess))
            by_far = active * share
            by_side = active - by_far
        g_row = row_offset(row, inner, g_outer, g_inner)[:, None]
        for start in range(0, features, CLASSES):
            d = (start + tl.arange(0, CLASSES)).to(tl.int64)[None, :]
            inside = in_rows[:, None] & (d < features)
            a = tl.load(a_ptr + a_row + d * a_class, mask=inside, other=0).to(MATH)
            b = tl.load(b_ptr + b_row + d * b_class, mask=inside, other=0).to(MATH)
            c = tl.load(c_ptr + c_row + d * c_class, mask=inside, other=0).to(MATH)
            pull = direction(difference(a, b, eps, NORM), near_length[:, None], NORM, P)
            pull = pull * scaled(active, near_scale, NORM)
            push = direction(difference(a, c, eps, NORM), far_length[:, None], NORM, P)
            push = push * scaled(by_far, far_scale, NORM)
            across = push * 0.0
            if SWAP:
                across = direction(difference(b, c, eps, NORM), side_length[:, None], NORM, P)
                across = across * scaled(by_side, side_scale, NORM)
            at = g_row + d * g_class
            if WANT_A:
                tl.store(ga_ptr + at, (pull - push).to(ga_ptr.dtype.element_ty), mask=inside)
            if WANT_B:
                slope = -pull
                if SWAP:
                    slope = -pull - across
                tl.store(gb_ptr + at, slope.to(gb_ptr.dtype.element_ty), mask=inside)
            if WANT_C:
                slope = push
                if SWAP:
                    slope = push + across
                tl.store(gc_ptr + at, slope.to(gc_ptr.dtype.element_ty), mask=inside)

"""Rowwise losses other than cross-entropy: a program handles some rows, and loops over their classes or features.

Bytes for each row of C elements of b bytes, and each operand that spans the row: a forward pass reads C b once, and
with gradients once more from the cache; it writes C b for each wanted gradient, and b for the item (or 4 for each block
of rows). NLL reads one element of each row; its gradient writes C b, almost only zeros.
"""

from __future__ import annotations

import triton
import triton.language as tl

from portaloss.backends.triton.launch import PLAIN
from portaloss.backends.triton.numerics import exp, log1p, number, quotient, step


@triton.jit
def row_offset(row, inner, s_outer, s_inner):
    """The offset of a row's first element. A row has two indexes: outer along N, inner along the merged last axes."""
    return (row // inner) * s_outer + (row % inner) * s_inner


@triton.jit
def finish(item, row, program, in_rows, items_ptr, sums_ptr, ITEMS: tl.constexpr, SUMS: tl.constexpr):
    """Store the items of a block of rows, or their sum."""
    if ITEMS:
        tl.store(items_ptr + row, item.to(items_ptr.dtype.element_ty), mask=in_rows)
    if SUMS:
        tl.store(sums_ptr + program, tl.sum(tl.where(in_rows, item, 0.0)))


@triton.jit
def row_upstream(
    row, inner, in_rows, scale_ptr, upstream_ptr, up_outer, up_inner, UPSTREAM: tl.constexpr, ROWS: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """The factor of each row's derivatives."""
    up = tl.load(scale_ptr) + tl.zeros([ROWS], MATH)
    if UPSTREAM:
        at = row_offset(row, inner, up_outer, up_inner)
        up = up * tl.load(upstream_ptr + at, mask=in_rows, other=0).to(MATH)
    return up


@triton.jit(do_not_specialize=PLAIN)
def nll_kernel(
    x_ptr, t_ptr, w_ptr, items_ptr, sums_ptr, gx_ptr, upstream_ptr, scale_ptr,
    rows, classes, inner, x_outer, x_class, x_inner, t_outer, t_inner, up_outer, up_inner, g_outer, g_class, g_inner,
    ignore_index,
    WEIGHT: tl.constexpr, ITEMS: tl.constexpr, SUMS: tl.constexpr, WANT: tl.constexpr, UPSTREAM: tl.constexpr,
    MATH: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """-w[t] x[t]; a target out of range gives nan and no gradient. The gradient must be zero before."""
    program = tl.program_id(0).to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    in_rows = row < rows
    t = tl.load(t_ptr + row_offset(row, inner, t_outer, t_inner), mask=in_rows, other=0).to(tl.int64)
    counted = in_rows & (t != ignore_index)
    valid = counted & (t >= 0) & (t < classes)
    t = tl.where(valid, t, 0)
    x = tl.load(x_ptr + row_offset(row, inner, x_outer, x_inner) + t * x_class, mask=valid, other=0).to(MATH)
    w = tl.full([ROWS], 1.0, MATH)
    if WEIGHT:
        w = tl.load(w_ptr + t, mask=valid, other=0).to(MATH)
    item = tl.where(valid, -(w * x), tl.where(counted, float("nan"), 0.0))
    finish(item, row, program, in_rows, items_ptr, sums_ptr, ITEMS, SUMS)
    if WANT:
        up = row_upstream(row, inner, in_rows, scale_ptr, upstream_ptr, up_outer, up_inner, UPSTREAM, ROWS, MATH)
        at = gx_ptr + row_offset(row, inner, g_outer, g_inner) + t * g_class
        tl.store(at, (-w * up).to(gx_ptr.dtype.element_ty), mask=valid)


@triton.jit
def hinge(x, lead, margin):
    """margin - lead + x, corrected for the rounding error of margin - lead (Knuth's two-sum)."""
    a = margin - lead
    taken = a - margin
    lost = (margin - (a - taken)) - (lead + taken)
    z = x + a
    return z + tl.where(lost == lost, lost, 0.0)


@triton.jit(do_not_specialize=PLAIN)
def multi_margin_kernel(
    x_ptr, t_ptr, w_ptr, items_ptr, sums_ptr, gx_ptr, upstream_ptr, scale_ptr,
    rows, classes, inner, x_outer, x_class, x_inner, t_outer, t_inner, up_outer, up_inner, g_outer, g_class, g_inner,
    margin_bits,
    SQUARE: tl.constexpr, WEIGHT: tl.constexpr, ITEMS: tl.constexpr, SUMS: tl.constexpr, WANT: tl.constexpr,
    UPSTREAM: tl.constexpr, MATH: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """The sum of max(0, margin - x[t] + x[j])^p over j other than t, divided by C; out of range as in nll_kernel."""
    program = tl.program_id(0).to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    in_rows = row < rows
    margin = number(margin_bits, MATH)
    t = tl.load(t_ptr + row_offset(row, inner, t_outer, t_inner), mask=in_rows, other=0).to(tl.int64)
    valid = in_rows & (t >= 0) & (t < classes)
    t = tl.where(valid, t, 0)
    x_row = row_offset(row, inner, x_outer, x_inner)
    lead = tl.load(x_ptr + x_row + t * x_class, mask=valid, other=0).to(MATH)
    share = tl.full([ROWS], 1.0, MATH)
    if WEIGHT:
        share = tl.load(w_ptr + t, mask=valid, other=0).to(MATH)
    share = quotient(share, tl.zeros([ROWS], MATH) + classes)

    loss = tl.zeros([ROWS], MATH)
    slopes = tl.zeros([ROWS], MATH)
    for start in range(0, classes, CLASSES):
        c = (start + tl.arange(0, CLASSES)).to(tl.int64)
        inside = valid[:, None] & (c < classes)[None, :]
        x = tl.load(x_ptr + x_row[:, None] + c[None, :] * x_class, mask=inside, other=0).to(MATH)
        z = hinge(x, lead[:, None], margin)
        over = inside & (c[None, :] != t[:, None]) & (z > 0)
        z = tl.where(over, z, 0.0)
        slope = step(over, z)
        value = z
        if SQUARE:
            slope = 2.0 * z
            value = z * z
        loss += tl.sum(value, axis=1)
        slopes += tl.sum(slope, axis=1)
    item = tl.where(valid, loss * share, float("nan"))
    finish(item, row, program, in_rows, items_ptr, sums_ptr, ITEMS, SUMS)
    if WANT:
        up = row_upstream(row, inner, in_rows, scale_ptr, upstream_ptr, up_outer, up_inner, UPSTREAM, ROWS, MATH)
        g_row = row_offset(row, inner, g_outer, g_inner)
        for start in range(0, classes, CLASSES):
            c = (start + tl.arange(0, CLASSES)).to(tl.int64)
            inside = in_rows[:, None] & (c < classes)[None, :]
            x = tl.load(x_ptr + x_row[:, None] + c[None, :] * x_class, mask=inside, other=0).to(MATH)
            z = hinge(x, lead[:, None], margin)
            slope = step(z > 0, z)
            if SQUARE:
                slope = 2.0 * tl.where(z > 0, z, 0.0)
            slope = tl.where(c[None, :] == t[:, None], -slopes[:, None], slope)
            slope = tl.where(valid[:, None], slope * (share * up)[:, None], 0.0)
            tl.store(gx_ptr + g_row[:, None] + c[None, :] * g_class, slope.to(gx_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=PLAIN)
def multilabel_margin_kernel(
    x_ptr, t_ptr, wrong_ptr, labels_ptr, items_ptr, sums_ptr, gx_ptr, upstream_ptr, scale_ptr,
    rows, classes, inner, x_outer, x_class, x_inner, t_outer, t_class, t_inner, up_outer, up_inner,
    g_outer, g_class, g_inner,
    ITEMS: tl.constexpr, SUMS: tl.constexpr, WANT: tl.constexpr, UPSTREAM: tl.constexpr, MATH: tl.constexpr,
    ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Hinges of every right class against every wrong one. One row a program: rows differ in their number of labels.

    ``wrong`` (rows, classes) marks the wrong classes and ``labels`` (rows,) counts the right ones, -1 where a target is
    out of range.
    """
    row = tl.program_id(0).to(tl.int64) + tl.zeros([ROWS], tl.int64)
    program = tl.program_id(0).to(tl.int64)
    in_rows = row < rows
    # from the scalar, not from the vector of one element: summing that would lose its known alignment
    x_row = row_offset(program, inner, x_outer, x_inner)
    t_row = row_offset(program, inner, t_outer, t_inner)
    g_row = row_offset(program, inner, g_outer, g_inner)
    labels = tl.load(labels_ptr + program)
    up = tl.sum(row_upstream(row, inner, in_rows, scale_ptr, upstream_ptr, up_outer, up_inner, UPSTREAM, ROWS, MATH))
    count = tl.zeros([ROWS], MATH) + classes
    share = tl.sum(quotient(tl.zeros([ROWS], MATH) + up, count))
    loss = tl.zeros([CLASSES], MATH)
    for start in range(0, classes, CLASSES):
        c = (start + tl.arange(0, CLASSES)).to(tl.int64)
        inside = c < classes
        x = tl.load(x_ptr + x_row + c * x_class, mask=inside, other=0).to(MATH)
        wrong = tl.load(wrong_ptr + program * classes + c, mask=inside, other=0) != 0
        over_count = tl.zeros([CLASSES], MATH)
        for k in range(0, labels):
            y = tl.load(t_ptr + t_row + k * t_class).to(tl.int64)
            lead = tl.load(x_ptr + x_row + y * x_class).to(MATH)
            z = hinge(x, lead, tl.full([CLASSES], 1.0, MATH))
            over = wrong & (z > 0)
            loss += tl.where(over, z, 0.0)
            over_count += step(over, z)
        if WANT:  # a row with a target out of range has no labels here, so all its classes get 0
            at = gx_ptr + g_row + c * g_class
            tl.store(at, (over_count * share).to(gx_ptr.dtype.element_ty), mask=inside & wrong)
    item = quotient(tl.sum(loss) + tl.zeros([ROWS], MATH), count)
    item = tl.where(labels < 0, float("nan"), item)
    finish(item, row, program, in_rows, items_ptr, sums_ptr, ITEMS, SUMS)
    if WANT:
        for k in range(0, labels):
            y = tl.load(t_ptr + t_row + k * t_class).to(tl.int64)
            lead = tl.load(x_ptr + x_row + y * x_class).to(MATH)
            over = tl.zeros([CLASSES], MATH)
            times = tl.zeros([CLASSES], MATH)  # how often the label is listed: each time counts
            for start in range(0, classes, CLASSES):
                c = (start + tl.arange(0, CLASSES)).to(tl.int64)
                inside = c < classes
                x = tl.load(x_ptr + x_row + c * x_class, mask=inside, other=0).to(MATH)
                wrong = tl.load(wrong_ptr + program * classes + c, mask=inside, other=0) != 0
                over += step(wrong & (hinge(x, lead, tl.full([CLASSES], 1.0, MATH)) > 0), x)
                listed = tl.load(t_ptr + t_row + c * t_class, mask=c < labels, other=-1).to(tl.int64)
                times += step(listed == y, x)
            slope = -tl.sum(times) * tl.sum(over) * share
            tl.store(gx_ptr + g_row + y * g_class, slope.to(gx_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=PLAIN)
def multilabel_soft_margin_kernel(
    x_ptr, t_ptr, w_ptr, items_ptr, sums_ptr, gx_ptr, gt_ptr, gw_ptr, upstream_ptr, scale_ptr,
    rows, classes, inner, x_outer, x_class, x_inner, t_outer, t_class, t_inner, w_outer, w_class, w_inner,
    up_outer, up_inner, g_outer, g_class, g_inner,
    WEIGHT: tl.constexpr, ITEMS: tl.constexpr, SUMS: tl.constexpr, WANT_X: tl.constexpr, WANT_T: tl.constexpr,
    WANT_W: tl.constexpr, UPSTREAM: tl.constexpr, MATH: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """The mean over classes of w (x ([x >= 0] - t) + log1p(exp(-|x|))); classes are read once, also for gradients."""
    program = tl.program_id(0).to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    in_rows = row < rows
    x_row = row_offset(row, inner, x_outer, x_inner)
    t_row = row_offset(row, inner, t_outer, t_inner)
    w_row = row_offset(row, inner, w_outer, w_inner)
    g_row = row_offset(row, inner, g_outer, g_inner)
    up = tl.zeros([ROWS], MATH)
    if WANT_X or WANT_T or WANT_W:
        up = row_upstream(row, inner, in_rows, scale_ptr, upstream_ptr, up_outer, up_inner, UPSTREAM, ROWS, MATH)
    count = tl.zeros([ROWS], MATH) + classes
    share = quotient(up, count)[:, None]
    loss = tl.zeros([ROWS], MATH)
    for start in range(0, classes, CLASSES):
        c = (start + tl.arange(0, CLASSES)).to(tl.int64)[None, :]
        inside = in_rows[:, None] & (c < classes)
        x = tl.load(x_ptr + x_row[:, None] + c * x_class, mask=inside, other=0).to(MATH)
        t = tl.load(t_ptr + t_row[:, None] + c * t_class, mask=inside, other=0).to(MATH)
        w = tl.full([ROWS, CLASSES], 1.0, MATH)
        if WEIGHT:
            w = tl.load(w_ptr + w_row[:, None] + c * w_class, mask=inside, other=0).to(MATH)
        e = exp(-tl.abs(x))
        positive = step(x >= 0, x)
        gap = positive - t
        cost = x * gap + log1p(e)
        loss += tl.sum(tl.where(inside, cost * w, 0.0), axis=1)
        at = g_row[:, None] + c * g_class
        if WANT_X:
            slope = (gap + (1.0 - 2.0 * positive) * quotient(e, 1.0 + e)) * (w * share)
            tl.store(gx_ptr + at, slope.to(gx_ptr.dtype.element_ty), mask=inside)
        if WANT_T:
            tl.store(gt_ptr + at, (-x * (w * share)).to(gt_ptr.dtype.element_ty), mask=inside)
        if WANT_W:
            tl.store(gw_ptr + at, (cost * share).to(gw_ptr.dtype.element_ty), mask=inside)
    finish(quotient(loss, count), row, program, in_rows, items_ptr, sums_ptr, ITEMS, SUMS)

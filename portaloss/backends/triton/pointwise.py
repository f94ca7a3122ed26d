"""Pointwise losses: one kernel, which takes a loss's device function as a constexpr.

Bytes for each element, for operands and gradients of b bytes: a forward pass reads each operand once (b each; nothing
where it broadcasts) and writes b with reduction none, or a partial sum of 4 bytes for each block. With gradients it
also writes b for each wanted one; the backward pass then moves nothing, unless upstream differs from 1 (b read and b
written). A separate backward pass reads operands and upstream once and writes the wanted gradients once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl

from portaloss.backends.triton import memory, tuning
from portaloss.backends.triton.launch import merge_axes, tl_dtype
from portaloss.backends.triton.numerics import bits, number

#: Axes that remain after merging; operands that need more are made contiguous first.
AXES = 4

#: Values of options: specialising on them would gain nothing, and each value would be compiled again.
_OPTIONS = ("option0", "option1")


@triton.jit
def _offset(index, n1, n2, n3, s0, s1, s2, s3, CONTIGUOUS: tl.constexpr):
    """The offset of an element, from its index in iteration order; a stride of 0 broadcasts."""
    if CONTIGUOUS:
        return index
    i3 = index % n3
    rest = index // n3
    i2 = rest % n2
    rest = rest // n2
    i1 = rest % n1
    i0 = rest // n1
    return i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3


@triton.jit(do_not_specialize=_OPTIONS)
def pointwise_kernel(
    x0_ptr,
    x1_ptr,
    x2_ptr,
    x3_ptr,
    items_ptr,
    sums_ptr,
    g0_ptr,
    g1_ptr,
    g2_ptr,
    g3_ptr,
    upstream_ptr,
    scale_ptr,
    offset_ptr,
    option0,
    option1,
    n,
    n1,
    n2,
    n3,
    x0_s0,
    x0_s1,
    x0_s2,
    x0_s3,
    x1_s0,
    x1_s1,
    x1_s2,
    x1_s3,
    x2_s0,
    x2_s1,
    x2_s2,
    x2_s3,
    x3_s0,
    x3_s1,
    x3_s2,
    x3_s3,
    up_s0,
    up_s1,
    up_s2,
    up_s3,
    LOSS: tl.constexpr,
    FLAG0: tl.constexpr,
    FLAG1: tl.constexpr,
    HAS2: tl.constexpr,
    HAS3: tl.constexpr,
    ITEMS: tl.constexpr,
    SUMS: tl.constexpr,
    WANT0: tl.constexpr,
    WANT1: tl.constexpr,
    WANT2: tl.constexpr,
    UPSTREAM: tl.constexpr,
    OFFSET: tl.constexpr,
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    C3: tl.constexpr,
    CU: tl.constexpr,
    MATH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Items or their partial sums, and the wanted gradients, of BLOCK elements. See the module for the bytes."""
    program = tl.program_id(0).to(tl.int64)
    index = program * BLOCK + tl.arange(0, BLOCK)
    inside = index < n

    x0 = tl.load(x0_ptr + _offset(index, n1, n2, n3, x0_s0, x0_s1, x0_s2, x0_s3, C0), mask=inside, other=0).to(MATH)
    x1 = tl.load(x1_ptr + _offset(index, n1, n2, n3, x1_s0, x1_s1, x1_s2, x1_s3, C1), mask=inside, other=0).to(MATH)
    x2 = x0
    if HAS2:
        x2 = tl.load(x2_ptr + _offset(index, n1, n2, n3, x2_s0, x2_s1, x2_s2, x2_s3, C2), mask=inside, other=0)
        x2 = x2.to(MATH)
    x3 = x0
    if HAS3:
        x3 = tl.load(x3_ptr + _offset(index, n1, n2, n3, x3_s0, x3_s1, x3_s2, x3_s3, C3), mask=inside, other=0)
        x3 = x3.to(MATH)

    item, d0, d1, d2 = LOSS(x0, x1, x2, x3, number(option0, MATH), number(option1, MATH), FLAG0, FLAG1, HAS2, HAS3)

    if ITEMS:
        tl.store(items_ptr + index, item.to(items_ptr.dtype.element_ty), mask=inside)
    if SUMS:
        tl.store(sums_ptr + program, tl.sum(tl.where(inside, item, 0.0)))
    if WANT0 or WANT1 or WANT2:
        factor = tl.load(scale_ptr)
        if UPSTREAM:
            at = _offset(index, n1, n2, n3, up_s0, up_s1, up_s2, up_s3, CU)
            factor = factor * tl.load(upstream_ptr + at, mask=inside, other=0).to(MATH)
        if WANT0:
            tl.store(g0_ptr + index, (d0 * factor).to(g0_ptr.dtype.element_ty), mask=inside)
        if WANT1:
            tl.store(g1_ptr + index, (d1 * factor).to(g1_ptr.dtype.element_ty), mask=inside)
        if WANT2:
            if OFFSET:  # the weight is in the divisor too: the quotient rule subtracts the loss from its derivative
                d2 = d2 - tl.load(offset_ptr)
            tl.store(g2_ptr + index, (d2 * factor).to(g2_ptr.dtype.element_ty), mask=inside)


@dataclass
class Pass:
    """One launch for a pointwise loss: its device function and operands."""

    loss: Any
    operands: Sequence[torch.Tensor]  #: in the device function's order, with one number of axes, broadcastable
    present: Sequence[bool]  #: which operands the caller gave
    shape: tuple[int, ...]
    math: torch.dtype
    options: tuple[float, ...] = ()
    flags: tuple[bool, ...] = ()

    def run(
        self,
        *,
        items: torch.dtype | None = None,
        sums: bool = False,
        wants: Mapping[int, torch.dtype] | None = None,
        upstream: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        offset: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, dict[int, torch.Tensor]]:
        """Launch.

        Args:
            items: store the items in this dtype.
            sums: store partial sums, in the math dtype.
            wants: operand's position -> the dtype of its gradient.
            upstream: one value for each item, with the operands' number of axes.
            scale: one value in the math dtype, on the device: every gradient is multiplied by it.
            offset: one value in the math dtype, on the device, to subtract from the third operand's derivative.

        Returns:
            Items; partial sums; and the gradients in the full shape, whether or not the operand broadcasts.
        """
        wants = wants or {}
        device = self.operands[0].device
        tensors = [*self.operands, *([] if upstream is None else [upstream])]
        axes = merge_axes(self.shape, tensors)
        if len(axes.sizes) > AXES:
            tensors = [tensor.expand(self.shape).contiguous() for tensor in tensors]
            axes = merge_axes(self.shape, tensors)
        count = prod(self.shape)
        itemsize = min(tensor.element_size() for tensor in self.operands)
        launch = tuning.pointwise(itemsize, tuning.warp_size(device))
        blocks = triton.cdiv(count, launch.block)

        stored = axes.empty(self.shape, items, device) if items is not None else None
        partials = memory.empty((blocks,), self.math, device) if sums else None
        gradients = {i: axes.empty(self.shape, dtype, device) for i, dtype in wants.items()}
        if count == 0:
            return stored, partials, gradients
        if scale is None:
            scale = torch.ones((), dtype=self.math, device=device)

        first = tensors[0]
        xs = [tensors[i] if i < len(self.operands) and self.present[i] else first for i in range(4)]
        up = tensors[-1] if upstream is not None else first
        sizes, strides, contiguous = _geometry(axes, [*xs, up])
        options = [bits(float(value)) for value in (*self.options, 0.0, 0.0)[:2]]
        flags = (*self.flags, False, False)[:2]
        has = [i < len(self.operands) and self.present[i] for i in range(4)]
        with torch.cuda.device_of(first):
            pointwise_kernel[(blocks,)](
                *xs,
                stored if stored is not None else first,
                partials if partials is not None else first,
                *(gradients.get(i, first) for i in range(4)),
                up,
                scale,
                offset if offset is not None else first,
                *options,
                count,
                *sizes[1:],
                *(stride for each in strides for stride in each),
                LOSS=self.loss,
                FLAG0=flags[0],
                FLAG1=flags[1],
                HAS2=has[2],
                HAS3=has[3],
                ITEMS=stored is not None,
                SUMS=sums,
                WANT0=0 in wants,
                WANT1=1 in wants,
                WANT2=2 in wants,
                UPSTREAM=upstream is not None,
                OFFSET=offset is not None,
                C0=contiguous[0],
                C1=contiguous[1],
                C2=contiguous[2],
                C3=contiguous[3],
                CU=contiguous[4],
                MATH=tl_dtype(self.math),
                BLOCK=launch.block,
                num_warps=launch.num_warps,
                **tuning.COMPILER,
            )
        return stored, partials, gradients


def _geometry(axes: Any, tensors: Sequence[torch.Tensor]) -> tuple[tuple[int, ...], list[tuple[int, ...]], list[bool]]:
    """Sizes and strides padded to ``AXES`` axes, and which tensors are stored in iteration order without gaps.

    The kernel does not use the strides of such tensors, nor the sizes if all are such. They are passed as 0, because
    Triton compiles a stride of 1 into the kernel, which would give several equal kernels.
    """
    lead = AXES - len(axes.sizes)
    sizes = (1,) * lead + axes.sizes
    without_gaps = [prod(sizes[i + 1 :]) for i in range(AXES)]
    strides = [(0,) * lead + axes.strides(tensor) for tensor in tensors]
    contiguous = [
        all(size == 1 or stride == expected for size, stride, expected in zip(sizes, each, without_gaps, strict=True))
        for each in strides
    ]
    strides = [(0,) * AXES if dense else each for each, dense in zip(strides, contiguous, strict=True)]
    return (0,) * AXES if all(contiguous) else sizes, strides, contiguous

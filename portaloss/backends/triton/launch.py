"""What all kernel launches share: dtypes, layouts and scratch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch
import triton
import triton.language as tl

from portaloss.backends.triton import memory, tuning


def math_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that kernels compute in: float64 for float64, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def tl_dtype(dtype: torch.dtype) -> tl.dtype:
    """Triton's name for a math dtype."""
    return tl.float64 if dtype is torch.float64 else tl.float32


#: Arguments of kernels over rows that are not specialised on their values: that would not make a load wider, and each
#: batch of one row, each upstream that broadcasts and each margin would be compiled again.
PLAIN = ("rows", "up_outer", "up_inner", "ignore_index", "margin_bits", "eps_bits", "smoothing_bits", "z_loss_bits")


@dataclass(frozen=True)
class Axes:
    """Iteration axes for tensors that broadcast together: in memory order, and merged where all tensors allow it."""

    sizes: tuple[int, ...]
    order: tuple[int, ...]  #: the original axes, in the order of iteration
    groups: tuple[tuple[int, ...], ...]  #: which original axes are merged into each iteration axis

    def strides(self, tensor: torch.Tensor) -> tuple[int, ...]:
        """The tensor's stride along each iteration axis; 0 where it broadcasts."""
        return tuple(0 if tensor.shape[group[-1]] == 1 else tensor.stride(group[-1]) for group in self.groups)

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """A tensor in the original axes, whose elements are stored in iteration order."""
        storage = memory.empty([shape[axis] for axis in self.order], dtype, device)
        return storage.permute([self.order.index(axis) for axis in range(len(shape))])


def merge_axes(shape: Sequence[int], tensors: Iterable[torch.Tensor]) -> Axes:
    """The fewest axes that describe the strides of all tensors."""
    tensors = list(tensors)
    guide = next((tensor for tensor in tensors if tuple(tensor.shape) == tuple(shape)), None)
    order = list(range(len(shape)))
    if guide is not None:
        order.sort(key=lambda axis: -guide.stride()[axis] if shape[axis] > 1 else 0)
    groups: list[list[int]] = []
    for axis in order:
        if shape[axis] == 1:
            continue
        if groups and all(_mergeable(tensor, groups[-1][-1], axis) for tensor in tensors):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    sizes = tuple(prod(shape[axis] for axis in group) for group in groups)
    return Axes(sizes, tuple(order), tuple(tuple(group) for group in groups))


def _mergeable(tensor: torch.Tensor, outer: int, inner: int) -> bool:
    if tensor.shape[outer] == 1 or tensor.shape[inner] == 1:
        return tensor.shape[outer] == tensor.shape[inner]
    return tensor.stride(outer) == tensor.stride(inner) * tensor.shape[inner]


@triton.jit
def scale_kernel(x_ptr, factor_ptr, n, MATH: tl.constexpr, BLOCK: tl.constexpr):
    """x *= factor. Reads and writes b bytes for each element, or nothing where the factor is 1."""
    factor = tl.load(factor_ptr).to(MATH)
    if factor != 1.0:
        index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = index < n
        x = tl.load(x_ptr + index, mask=inside, other=0).to(MATH)
        tl.store(x_ptr + index, (x * factor).to(x_ptr.dtype.element_ty), mask=inside)


def scale_(tensor: torch.Tensor, factor: torch.Tensor) -> None:
    """Multiply a tensor without gaps by a number on its device, without copying the number to the host."""
    count = tensor.numel()
    if count == 0:
        return
    block = 2048
    with torch.cuda.device_of(tensor):
        scale_kernel[(triton.cdiv(count, block),)](
            tensor, factor, count, MATH=tl_dtype(math_dtype(tensor.dtype)), BLOCK=block, **tuning.COMPILER
        )


def total(partials: torch.Tensor) -> torch.Tensor:
    """The sum of partial sums, in float64 and in a fixed order."""
    return partials.sum(dtype=torch.float64)

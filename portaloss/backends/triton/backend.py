"""The ``triton`` backend: one source of kernels for NVIDIA and AMD, on a GPU or an emulated one.

Nothing here brings a value to the host: divisors and scales stay on the device, so that a CUDA graph can capture
forward and backward.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from portaloss import arrays, emulator, targets_mode
from portaloss.arrange import Layout, Spec
from portaloss.backends import Prepared
from portaloss.backends.triton import ctc, launch, linear_cross_entropy, losses, memory, pointwise, rows
from portaloss.catalogue import Family
from portaloss.checks import dtype_name
from portaloss.kinds import LossReduction
from portaloss.plan import Plan, Precision

Tensor = torch.Tensor


def unavailable() -> str | None:
    """None with a CUDA or HIP device, or an emulated one."""
    if emulator.active() is not None or torch.cuda.is_available():
        return None
    return "no CUDA or HIP device"


def architecture() -> str:
    """The GPU's name; the chip's where one is emulated."""
    emulated = emulator.active()
    return torch.cuda.get_device_name() if emulated is None else emulated.chip.name


def device() -> str:
    """The GPU's name, or that one is emulated; parity reports it."""
    emulated = emulator.active()
    return architecture() if emulated is None else str(emulated)


def place(operands: Mapping[str, Any]) -> dict[str, Tensor]:
    """NumPy arrays as tensors on the GPU, for parity: of the same strides, gaps and repetitions included."""
    return {name: _place(np.asarray(array)) for name, array in operands.items()}


def _place(array: np.ndarray[Any, Any]) -> Tensor:
    if any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch has no negative strides
    tensor: Tensor = arrays.like(array, arrays.TORCH)
    if emulator.active() is not None:
        return tensor
    if not tensor.numel():
        return tensor.cuda()
    # .cuda() alone would close the gaps
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((span,), (1,)).cuda().as_strided(tensor.shape, tensor.stride(), 0)


def refuses(plan: Plan, operands: Mapping[str, Any]) -> str | None:
    """There must be a kernel, and tensors must be on a CUDA or HIP device, or on the CPU where one is emulated."""
    family, kind = plan.loss.family, plan.kind
    if (family is Family.POINTWISE and losses.device_function(kind) is None) or (
        family is Family.ROWWISE and kind not in rows.ARGUMENTS
    ):
        return f"backend triton has no kernel for {plan.loss.function}"
    device = "cuda" if emulator.active() is None else "cpu"
    for name, value in operands.items():
        if not arrays.is_tensor(value):
            return f"backend triton runs on torch tensors, but {name} is a NumPy array"
        if value.device.type != device and value.ndim and not name.endswith("_lengths"):
            return f"backend triton runs on {device} tensors here, but {name} is on device {value.device}"
    return None


def precision(plan: Plan) -> Precision:
    """Partial sums in the math dtype, added in float64 in a fixed order; no atomics."""
    math = "float64" if plan.dtype == "float64" else "float32"
    return Precision(math_dtype=math, accumulator=math, deterministic=True, bit_stable=True)


def workspace_size(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Full-shape gradients of operands that broadcast, and what CTC and linear cross-entropy keep."""
    itemsize = 8 if plan.dtype == "float64" else 4
    if plan.loss.family is Family.CTC:
        return ctc.workspace_size(shapes["log_probs"], shapes["targets"], itemsize)
    if plan.loss.family is Family.LINEAR_CROSS_ENTROPY:
        budget = plan.values["max_memory"]
        return linear_cross_entropy.workspace_size(shapes["input"], shapes["linear_weight"], itemsize, budget)
    full = int(np.prod(np.broadcast_shapes(*shapes.values()))) if plan.loss.family is Family.POINTWISE else 0
    return (len(shapes) + 1) * max(full, *(int(np.prod(shape)) for shape in shapes.values())) * itemsize


def settle(plan: Plan, operands: Mapping[str, Spec], layout: Layout) -> None:
    """Nothing is kept: kernels are launched by what operands are."""
    del plan, operands, layout


def rescale(gradients: dict[str, Any], upstream: Any) -> dict[str, Any] | None:
    """In place, by a kernel that returns at once where upstream is 1. Not in 16 bits, which are rounded already."""
    if any(gradient.element_size() < 4 for gradient in gradients.values()):
        return None
    for gradient in gradients.values():
        launch.scale_(gradient, upstream)
    return gradients


class Call:
    """One call: the operands as kernels take them. Values stay on the device, and are looked at only if asked to."""

    xp = torch

    def __init__(
        self, prepared: Prepared, operands: Mapping[str, Any], *, extras: bool = False, now: bool = False
    ) -> None:
        del now
        self._prepared, plan = prepared, prepared.plan
        self._plan, self._loss, self._layout = plan, plan.loss, prepared.layout
        self._given = {name: value.detach() for name, value in operands.items()}
        self._dtype = getattr(torch, plan.dtype)
        self._math = launch.math_dtype(self._dtype)
        self._device = self._given[plan.loss.operands[0].name].device
        if plan.loss.arrangement.values is not None and targets_mode.mode("nan") == "raise":
            plan.loss.arrangement.values(plan.values, self._on_host())
        self.operands = self._layout.of(self._given)
        for name, value in self.operands.items():
            if value.device != self._device:  # lengths may come from the host
                self.operands[name] = value.to(self._device, non_blocking=True)
        #: Linear cross-entropy's, in the items' shape; filled by ``run``.
        self.extras: tuple[Tensor, ...] | None = None
        if extras:
            shape = self._layout.items_shape
            self.extras = tuple(memory.empty(shape, self._math, self._device) for _ in range(4))

    def _on_host(self) -> dict[str, Any]:
        """Targets and lengths on the host, which waits for the device; of other operands only the shapes are there."""
        return {
            name: arrays.to_numpy(value.cpu())
            if "int" in dtype_name(value)
            else np.broadcast_to(np.zeros((), np.float32), tuple(value.shape))
            for name, value in self._given.items()
        }

    def scale(self, upstream: Any, by: Any) -> Tensor:
        """upstream / by in the math dtype, on the device: one number, or for CTC one for each item."""
        if arrays.is_tensor(upstream):
            upstream = upstream.reshape(()).double()
        else:
            upstream = torch.full((), float(upstream), dtype=torch.float64, device=self._device)
        quotient: Tensor = (upstream / by).to(self._math)
        return quotient

    def each(self, upstream: Any) -> Tensor:
        """One number an item, in the shape of the items that kernels store."""
        seen: Tensor = self._layout.items_view(upstream)
        return seen

    def rounded(self, value: Tensor) -> Tensor:
        """A number in the loss's dtype."""
        return value.to(self._dtype)

    def run(
        self,
        wants: Collection[str] = (),
        *,
        items: bool = False,
        scale: Any = None,
        offset: Any = None,
        of_entropy: Any = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One pass: items in their own shape, or their sum in float64; and gradients in the operands' shapes."""
        family, plan = self._loss.family, self._plan
        upstream = None
        if plan.reduction is LossReduction.NONE:
            scale, upstream = None, scale
        offset = None if offset is None else offset.to(self._math)
        stored_as = self._dtype if items else None
        options = self._prepared.item_options
        if family is Family.CTC:
            return ctc.run(self.operands, options, self._math, stored_as, tuple(wants), upstream, scale, self._layout)
        if family is Family.LINEAR_CROSS_ENTROPY:
            extras = None if self.extras is None else tuple(map(self._layout.items_view, self.extras))
            return linear_cross_entropy.run(
                self.operands,
                plan.values,
                self._math,
                stored_as,
                tuple(wants),
                upstream,
                scale,
                self._layout,
                extras,
                of_entropy,
            )
        dtypes = {name: self._gradient_dtype(name) for name in wants}
        if family is Family.POINTWISE:
            names = [operand.name for operand in self._loss.operands]
            first = self.operands[names[0]]
            launched = pointwise.Pass(
                losses.device_function(plan.kind),
                [self.operands[name] if name in self.operands else first for name in names],  # noqa: SIM401  # as mypy reads it
                [name in self.operands for name in names],
                self._layout.items_shape,
                self._math,
                *losses.parameters(options),
            )
            stored, partials, full = launched.run(
                items=stored_as,
                sums=not items,
                wants={names.index(name): dtype for name, dtype in dtypes.items()},
                upstream=upstream,
                scale=scale,
                offset=offset,
            )
            gradients = {names[i]: gradient for i, gradient in full.items()}
        else:
            wanted = rows.Wanted(stored_as, not items, dtypes, upstream, scale)
            given = rows.run(plan.kind, self.operands, options, self._math, wanted)
            stored, partials, gradients = given.items, given.sums, given.gradients
        if partials is not None:
            result = launch.total(partials)
        else:
            assert stored is not None, "a pass stores items or partial sums"
            result = stored.reshape(self._layout.items_shape)
        return result, {name: self._fold(name, gradient) for name, gradient in gradients.items()}

    def _gradient_dtype(self, name: str) -> torch.dtype:
        """An operand's own, or the math dtype where it broadcasts and its gradient is a sum."""
        full = torch.broadcast_shapes(*(operand.shape for operand in self.operands.values()))
        return self._given[name].dtype if self.operands[name].shape == full else self._math

    def _fold(self, name: str, gradient: Tensor) -> Tensor:
        """Sum over the axes that the operand broadcasts along, and give the gradient the operand's own shape."""
        shape, given = self.operands[name].shape, self._given[name]
        axes = [axis for axis, size in enumerate(shape) if size != gradient.shape[axis]]
        if axes:
            gradient = gradient.sum(axes, keepdim=True, dtype=torch.float64).to(given.dtype)
        if gradient.shape == given.shape:
            return gradient
        folded = memory.empty(given.shape, given.dtype, gradient.device)
        self._layout.view(name, folded).copy_(gradient)
        return folded

"""The ``triton`` backend: one source of kernels for NVIDIA and AMD, and in the interpreter for neither.

Nothing here brings a value to the host: divisors and scales stay on the device, so that a CUDA graph can capture
forward and backward.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from portaloss import arrays, targets_mode
from portaloss.arrange import Arranged, arrange
from portaloss.backends import Forward
from portaloss.backends.triton import ctc, launch, linear_cross_entropy, losses, memory, pointwise, rows
from portaloss.backends.triton.divisor import divisor
from portaloss.catalogue import Divisor, Family
from portaloss.checks import dtype_name
from portaloss.kinds import LossReduction

if TYPE_CHECKING:
    from portaloss.plan import Plan, Precision

Tensor = torch.Tensor


def unavailable() -> str | None:
    """None with a CUDA or HIP device, or in the interpreter."""
    if launch.INTERPRET or torch.cuda.is_available():
        return None
    return "no CUDA or HIP device"


def architecture() -> str:
    """The GPU's name, or the interpreter's."""
    return "interpreter" if launch.INTERPRET else torch.cuda.get_device_name()


def device() -> str:
    """The GPU's name; parity reports it."""
    return architecture()


def place(operands: Mapping[str, Any]) -> dict[str, Tensor]:
    """NumPy arrays as tensors on the GPU, for parity: of the same strides, gaps and repetitions included."""
    return {name: _place(np.asarray(array)) for name, array in operands.items()}


def _place(array: np.ndarray[Any, Any]) -> Tensor:
    if any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch has no negative strides
    tensor: Tensor = arrays.like(array, arrays.TORCH)
    if launch.INTERPRET:
        return tensor
    if not tensor.numel():
        return tensor.cuda()
    # .cuda() alone would close the gaps
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((span,), (1,)).cuda().as_strided(tensor.shape, tensor.stride(), 0)


def refuses(plan: Plan, operands: Mapping[str, Any]) -> str | None:
    """Tensors must be on a CUDA or HIP device, or on the CPU while interpreting."""
    del plan
    device = "cpu" if launch.INTERPRET else "cuda"
    for name, value in operands.items():
        if not arrays.is_tensor(value):
            return f"backend triton runs on torch tensors, but {name} is a NumPy array"
        if value.device.type != device and value.ndim and not name.endswith("_lengths"):
            return f"backend triton runs on {device} tensors here, but {name} is on device {value.device}"
    return None


def precision(plan: Plan) -> Precision:
    """Partial sums in the math dtype, added in float64 in a fixed order; no atomics."""
    from portaloss.plan import Precision

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


def check(plan: Plan, operands: Mapping[str, Any]) -> None:
    """Raise what is wrong with the operands' shapes and dtypes; values stay on the device and are not looked at."""
    _Call(plan, operands)


def forward(plan: Plan, operands: Mapping[str, Any], wants: Collection[str]) -> Forward:
    """The loss, and with mean and sum the wanted gradients for an upstream gradient of 1, in one pass."""
    call = _Call(plan, operands, extras=plan.values.get("return_extras", False))
    dtype = getattr(torch, plan.dtype)
    if plan.reduction is LossReduction.NONE:
        items, _ = call.run(items=dtype)
        return Forward(items, extras=call.extras)
    by = call.divisor()
    early = () if any(call.depends_on_total(name) for name in wants) else tuple(wants)
    total, gradients = call.run(wants=early, scale=call.scale(by, 1.0))
    value = call.reduce(total, by).to(dtype)
    scalable = all(gradient.element_size() >= 4 for gradient in gradients.values())
    return Forward(value, gradients if early else None, scalable, call.extras)


def backward(plan: Plan, operands: Mapping[str, Any], upstream: Any, wants: Collection[str]) -> dict[str, Any]:
    """The gradients of the wanted operands for an upstream gradient: a number, or with reduction none one an item."""
    call = _Call(plan, operands)
    if plan.reduction is LossReduction.NONE:
        shape = call.arranged.items_shape
        if not arrays.is_tensor(upstream) or tuple(upstream.shape) != shape:
            raise ValueError(f"upstream must have the shape of the loss, {shape}, got {np.shape(upstream)}")
        return call.run(wants=wants, upstream=call.arranged.items_view(upstream))[1]
    if int(np.prod(np.shape(upstream))) != 1:
        raise ValueError(f"upstream must be one number, got shape {tuple(np.shape(upstream))}")
    by = call.divisor()
    offset = None
    if any(call.depends_on_total(name) for name in wants):
        # L = sum(w l) / sum(w): the quotient rule takes L itself off the derivative
        offset = (call.reduce(call.run()[0], by) / call.repeats("weight")).to(call.math)
    return call.run(wants=wants, scale=call.scale(by, upstream), offset=offset)[1]


def rescale(early: Forward, upstream: Any) -> dict[str, Any] | None:
    """In place, by a kernel that returns at once where upstream is 1. Not in 16 bits, which are rounded already."""
    if early.gradients is None or not early.scalable:
        return None
    for gradient in early.gradients.values():
        launch.scale_(gradient, upstream)
    return early.gradients


class _Call:
    """One call: the plan, the operands, and the engine of its family."""

    def __init__(self, plan: Plan, operands: Mapping[str, Any], *, extras: bool = False) -> None:
        self._plan, self._loss = plan, plan.loss
        self._options = plan.values
        self._given = {name: value.detach() for name, value in operands.items()}
        self._device = self._given[plan.loss.operands[0].name].device
        self.math = launch.math_dtype(getattr(torch, plan.dtype))
        # shapes and dtypes are checked on stand-ins that hold one number each: the values are not looked at
        self.arranged: Arranged = arrange(plan.loss, self._options, self._stand_ins())
        if targets_mode.mode("nan") == "raise":  # pay for a sync: the same check as on the CPU, on the same numbers
            arrange(plan.loss, self._options, {**self._stand_ins(), **self._integers()})
        self._operands = {name: self.arranged.view(name, value) for name, value in self._given.items()}
        #: Linear cross-entropy's, in the items' shape; filled by ``run``.
        self.extras: tuple[Tensor, ...] | None = None
        if extras:
            shape = self.arranged.items_shape
            self.extras = tuple(memory.empty(shape, self.math, self._device) for _ in range(4))

    def _integers(self) -> dict[str, Any]:
        """Targets and lengths, on the host."""
        given = self._given.items()
        return {name: arrays.to_numpy(value.cpu()) for name, value in given if "int" in dtype_name(value)}

    def _stand_ins(self) -> dict[str, Any]:
        stand_ins = {}
        for name, value in self._given.items():
            name_of = dtype_name(value)
            dtype = arrays.bfloat16() if name_of == "bfloat16" else np.dtype(name_of)
            stand_ins[name] = np.broadcast_to(np.zeros((), dtype), tuple(value.shape))
        if self._loss.family is Family.CTC and stand_ins["targets"].ndim == 1 and stand_ins["log_probs"].ndim == 3:
            # concatenated labels, whose number must be the sum of the lengths: that of the first, as far as this goes
            lengths = stand_ins["target_lengths"].astype(np.int64)
            lengths.reshape(-1)[:1] = stand_ins["targets"].size
            stand_ins["target_lengths"] = lengths
        return stand_ins

    def divisor(self) -> Tensor | float:
        """What the sum is divided by: 1 unless the reduction is mean."""
        if self._plan.reduction is not LossReduction.MEAN:
            return 1.0
        return divisor(self._loss, self._options, self.arranged, self._operands)

    def scale(self, by: Tensor | float, upstream: Any) -> Tensor:
        """upstream / divisor in the math dtype, on the device: one number, or for CTC one for each item."""
        if arrays.is_tensor(upstream):
            upstream = upstream.reshape(()).double()
        else:
            upstream = torch.full((), float(upstream), dtype=torch.float64, device=self._device)
        return (upstream / by).to(self.math)

    def reduce(self, total: Tensor, by: Tensor | float) -> Tensor:
        """The loss in float64, from the sum of the items or, for divisors of one an item, the items."""
        quotient = total / by
        return quotient.sum() if quotient.ndim else quotient

    def depends_on_total(self, name: str) -> bool:
        """Whether the gradient of an operand needs the loss itself, because the operand is in the divisor too."""
        mean = self._plan.reduction is LossReduction.MEAN
        return mean and name == "weight" and self._loss.divisor is Divisor.WEIGHT_SUM

    def repeats(self, name: str) -> float:
        """How many items each element of an operand is part of, where it broadcasts."""
        return max(prod(self.arranged.items_shape), 1) / max(self._given[name].numel(), 1)

    def run(
        self,
        *,
        items: torch.dtype | None = None,
        wants: Collection[str] = (),
        upstream: Tensor | None = None,
        scale: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Items in their own shape, or their sum in float64; and the wanted gradients in the operands' shapes."""
        family = self._loss.family
        options = {option.name: self._options[option.name] for option in self._loss.options if option.changes_items}
        sums = items is None
        if family is Family.CTC:
            return ctc.run(self._operands, options, self.math, items, tuple(wants), upstream, scale, self.arranged)
        if family is Family.LINEAR_CROSS_ENTROPY:
            extras = None if self.extras is None else tuple(map(self.arranged.items_view, self.extras))
            return linear_cross_entropy.run(
                self._operands, self._options, self.math, items, tuple(wants), upstream, scale, self.arranged, extras
            )
        dtypes = {name: self._gradient_dtype(name) for name in wants}
        if family is Family.POINTWISE:
            names = [operand.name for operand in self._loss.operands]
            first = self._operands[names[0]]
            launched = pointwise.Pass(
                losses.DEVICE_FUNCTIONS[self._plan.kind],
                [self._operands.get(name, first) for name in names],
                [name in self._operands for name in names],
                self.arranged.items_shape,
                self.math,
                *losses.parameters(options),
            )
            stored, partials, full = launched.run(
                items=items,
                sums=sums,
                wants={names.index(name): dtype for name, dtype in dtypes.items()},
                upstream=upstream,
                scale=scale,
                offset=offset,
            )
            gradients = {names[i]: gradient for i, gradient in full.items()}
        else:
            wanted = rows.Wanted(items, sums, dtypes, upstream, scale)
            given = rows.run(self._plan.kind, self._operands, options, self.math, wanted)
            stored, partials, gradients = given.items, given.sums, given.gradients
        if partials is not None:
            result = launch.total(partials)
        else:
            assert stored is not None, "a pass stores items or partial sums"
            result = stored.reshape(self.arranged.items_shape)
        return result, {name: self._fold(name, gradient) for name, gradient in gradients.items()}

    def _full_shape(self) -> tuple[int, ...]:
        return tuple(torch.broadcast_shapes(*(operand.shape for operand in self._operands.values())))

    def _gradient_dtype(self, name: str) -> torch.dtype:
        """An operand's own, or the math dtype where it broadcasts and its gradient is a sum."""
        spans = tuple(self._operands[name].shape) == self._full_shape()
        return self._given[name].dtype if spans else self.math

    def _fold(self, name: str, gradient: Tensor) -> Tensor:
        """Sum over the axes that the operand broadcasts along, and give the gradient the operand's own shape."""
        shape, given = self._operands[name].shape, self._given[name]
        axes = [axis for axis, size in enumerate(shape) if size != gradient.shape[axis]]
        if axes:
            gradient = gradient.sum(axes, keepdim=True, dtype=torch.float64).to(given.dtype)
        if gradient.shape == given.shape:
            return gradient
        folded = memory.empty(given.shape, given.dtype, gradient.device)
        self.arranged.view(name, folded).copy_(gradient)
        return folded

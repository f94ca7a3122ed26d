"""Which kernels a loss launches, and how: recorded from real calls, on tensors that no kernel touches.

The backend is called as a user's program calls it. In place of a launch, Triton's own binder says how the arguments
would be specialised (pointers that are aligned, integers that divide by 16), and that is what is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import jit
from triton.runtime.driver import driver

from portaloss.backends.triton import backend, tuning
from portaloss.catalogue import LOSSES, Domain, Extent, Family, Loss
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import differentiable, make_plan, result_dtype
from portaloss.targets.chips import Chip


@dataclass(frozen=True)
class Launch:
    """A kernel as it would be compiled."""

    kernel: Any
    signature: dict[str, str]
    constexprs: dict[Any, Any]
    attributes: dict[Any, Any]
    options: Any
    contiguous: bool  #: recorded from a call on aligned, contiguous tensors: vector loads are possible

    @property
    def name(self) -> str:
        """The kernel's."""
        return str(self.kernel.__name__)

    @property
    def variant(self) -> str:
        """What tells it from other launches of the kernel: the constexprs that are not the default."""
        names = list(self.signature)
        parts = []
        for where, value in self.constexprs.items():
            name = names[where[0]] if isinstance(where, tuple) else str(where)
            if value is True:
                parts.append(name)
            elif value is not False and value is not None:
                parts.append(f"{name}={getattr(value, '__name__', value)}")
        return " ".join(parts)

    @property
    def key(self) -> str:
        """Launches with one key compile to the same code."""
        return f"{self.name} {self.signature} {self.constexprs} {self.attributes} {self.options}"


class _Driver:
    """A driver for a device that is not there: it names its target, and launches nothing."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_device(self) -> str:
        return str(self._target)

    def get_current_stream(self, device: Any) -> int:
        del device
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def target(chip: Chip) -> GPUTarget:
    """Triton's name for a chip."""
    return GPUTarget(chip.backend, chip.arch, chip.lanes)


@contextmanager
def recording(chip: Chip, into: dict[str, Launch]) -> Iterator[list[bool]]:
    """Record the launches made in this context. Yields a one-element list: whether tensors are contiguous now."""
    contiguous = [True]

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        del grid, warmup
        kwargs["debug"] = False
        kwargs["instrumentation_mode"] = ""
        device = driver.active.get_current_device()
        *_, compiler, binder = self.device_caches[device]
        bound, specialization, options = binder(*args, **kwargs)
        options, signature, constexprs, attributes = self._pack_args(compiler, kwargs, bound, specialization, options)
        launch = Launch(self, signature, constexprs, attributes, options, contiguous[0])
        into.setdefault(launch.key, launch)

    original, lanes, active = jit.JITFunction.run, tuning.warp_size, getattr(driver, "_active", None)
    jit.JITFunction.run = run
    tuning.warp_size = lambda device: chip.lanes
    driver.set_active(_Driver(target(chip)))
    try:
        yield contiguous
    finally:
        jit.JITFunction.run, tuning.warp_size = original, lanes
        driver._active = active  # reset_active would look for a device, and there may be none


def launches(kind: LossKind, dtype: str, chip: Chip) -> list[Launch]:
    """All that a loss launches on a chip in a dtype: directions, reductions, options and layouts."""
    loss = LOSSES[kind]
    found: dict[str, Launch] = {}
    with recording(chip, found) as contiguous:
        for operands, is_contiguous in _operands(loss, getattr(torch, dtype)):
            contiguous[0] = is_contiguous
            for options in _options(loss, operands):
                _call(loss, operands, options)
    return list(found.values())


def _call(loss: Loss, operands: dict[str, torch.Tensor], options: tuple[tuple[str, Any], ...]) -> None:
    wants = differentiable(loss, operands)
    dtype = result_dtype(loss, operands)
    none, mean = (make_plan(loss.kind, dtype, reduction, "triton", options) for reduction in list(LossReduction)[:2])
    items = backend.forward(none, operands, ()).value
    backend.backward(none, operands, torch.ones_like(items), wants)
    backend.forward(mean, operands, ())
    early = backend.forward(mean, operands, wants)
    backend.rescale(early, torch.ones((), dtype=items.dtype))
    backend.backward(mean, operands, 1.0, wants)


def _options(loss: Loss, operands: dict[str, torch.Tensor]) -> Iterator[tuple[tuple[str, Any], ...]]:
    """Defaults, and each option's other values one at a time; two flags together where there are two."""
    soft = loss.operands[1].other_when is None and loss.operands[1].other_domain is not None
    skip = {"ignore_index"} if soft and operands[loss.operands[1].name].is_floating_point() else set()
    yield ()
    for option in loss.options:
        if option.name not in skip:
            yield from (((option.name, value),) for value in option.others)
    flags = [option.name for option in loss.options if isinstance(option.default, bool) and not option.divisor_only]
    if len(flags) > 1:
        for values in product((False, True), repeat=len(flags)):
            yield tuple(zip(flags, values, strict=True))


def _operands(loss: Loss, dtype: torch.dtype) -> Iterator[tuple[dict[str, torch.Tensor], bool]]:
    """Operands of sizes and layouts that choose different code; their values do not matter. And whether contiguous."""
    if loss.family is Family.CTC:
        lengths = {"input_lengths": torch.full((8,), 64), "target_lengths": torch.full((8,), 20)}
        yield {"log_probs": torch.zeros(64, 8, 128, dtype=dtype), "targets": torch.ones(8, 20).long(), **lengths}, True
        return
    if loss.family is Family.LINEAR_CROSS_ENTROPY:
        shapes = {"input": (64, 64), "linear_weight": (1024, 64), "linear_bias": (1024,), "weight": (1024,)}
        given = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}
        yield {**given, "target": torch.zeros(64).long()}, True
        yield {**given, "target": torch.zeros(64, 1024, dtype=dtype)}, True
        return
    fulls = [(512, 1024)] if loss.family is Family.POINTWISE else [(64, 16), (64, 128), (16, 32768)]
    spatial = (
        any(operand.domain is Domain.CLASS_INDEX for operand in loss.operands)
        and loss.kind is not LossKind.MULTI_MARGIN
    )
    if spatial:
        fulls.append((4, 32, 16, 64))
    for full in fulls:
        whole = {operand.name: _tensor(loss, operand, full, dtype) for operand in loss.operands}
        required = {operand.name: whole[operand.name] for operand in loss.operands if not operand.optional}
        contiguous = len(full) == 2
        yield required, contiguous
        if len(whole) > len(required):
            yield whole, contiguous
        soft = loss.operands[1]
        if soft.domain is Domain.CLASS_INDEX and soft.other_domain is not None:
            yield {**whole, soft.name: torch.zeros(full, dtype=dtype)}, contiguous
    if loss.family is Family.POINTWISE:
        odd = {
            operand.name: _tensor(loss, operand, (33, 77), dtype) for operand in loss.operands if not operand.optional
        }
        yield odd, False
        last = list(odd)[-1]
        if loss.kind not in (LossKind.BCE, LossKind.BCE_WITH_LOGITS):
            yield {**odd, last: odd[last][:, :1] if loss.kind is LossKind.GAUSSIAN_NLL else odd[last][:1]}, False
        yield {name: tensor.t() for name, tensor in odd.items()}, False


def _tensor(loss: Loss, operand: Any, full: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if operand.extent is Extent.CLASSES:
        return torch.ones(full[1], dtype=dtype)
    if operand.domain is Domain.CLASS_INDEX:
        return torch.zeros((full[0], *full[2:])).long()
    if operand.extent is Extent.ROWS:
        return torch.ones(full[0], dtype=dtype)
    if operand.domain is Domain.CLASS_SET:
        return torch.zeros(full).long()
    return torch.full(full, 0.5, dtype=dtype)

"""Records which kernels a loss launches, and how, from real calls; the kernels are not run.

The backend is called as by a user's program. Instead of launching, Triton's own binder determines how the arguments
are specialised (aligned pointers, integers that are multiples of 16), and the kernel is compiled for that.

Compiling all combinations would take a day. Each kind is called in all its passes with the default options, on
operands that are aligned and contiguous. Every other value of an option, and every other size and layout that selects
another block or other code, is tried one at a time in one pass: the backward pass of reduction none. Its kernel has the
most code, because it computes the items again, adds them up and multiplies each gradient by an upstream of its own.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from typing import Any
from unittest import mock

import torch
from triton.runtime import jit
from triton.runtime.driver import driver

from portaloss import engine
from portaloss.arrange import specs
from portaloss.backends.triton import linear_cross_entropy
from portaloss.catalogue import LOSSES, Divisor, Domain, Extent, Family, Loss, Operand
from portaloss.chips import Chip
from portaloss.emulator import emulating
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import make_plan, result_dtype


@dataclass(frozen=True)
class Launch:
    """A kernel as it would be compiled."""

    kernel: Any
    signature: dict[str, str]
    constexprs: dict[Any, Any]
    attributes: dict[Any, Any]
    options: dict[str, Any]
    layout: str  #: of the operands that it was recorded from

    @property
    def name(self) -> str:
        """The kernel's name."""
        return str(self.kernel.__name__)

    @property
    def contiguous(self) -> bool:
        """Whether the operands are aligned and contiguous, and rows a multiple of 16: vector loads are possible."""
        return self.layout.startswith(CONTIGUOUS)

    @property
    def variant(self) -> str:
        """The constexprs that are not the default, which distinguish launches of one kernel."""
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
        """Launches with the same key compile to the same code."""
        return f"{self.name} {self.signature} {self.constexprs} {self.attributes} {self.options}"


def _kernel(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


# a launch is sent to another process, so a kernel is pickled by its name
copyreg.pickle(jit.JITFunction, lambda kernel: (_kernel, (kernel.__module__, kernel.__name__)))

#: The prefix of layouts for which vector loads are possible.
CONTIGUOUS = "contiguous"


@contextmanager
def recording(chip: Chip, into: dict[str, Launch]) -> Iterator[list[str]]:
    """Record the launches made in this context. Yields a list of one element: the current layout of the operands."""
    layout = [CONTIGUOUS]

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        del grid, warmup
        kwargs["debug"] = False
        kwargs["instrumentation_mode"] = ""
        device = driver.active.get_current_device()
        *_, compiler, binder = self.device_caches[device]
        bound, specialization, options = binder(*args, **kwargs)
        options, signature, constexprs, attributes = self._pack_args(compiler, kwargs, bound, specialization, options)
        launch = Launch(self, signature, constexprs, attributes, dict(options.__dict__), layout[0])
        into.setdefault(launch.key, launch)

    with (
        emulating(chip.name),
        mock.patch.object(jit.JITFunction, "run", run),
        # as on a GPU, but without computing products: the CPU does not have all of these dtypes
        mock.patch.object(linear_cross_entropy, "_narrows", lambda x: x.element_size() == 2),
        mock.patch.object(linear_cross_entropy, "_product", _product),
        mock.patch.object(linear_cross_entropy._Sums, "add_product", return_value=None),
    ):
        yield layout


def _product(a: torch.Tensor, b: torch.Tensor, math: torch.dtype) -> torch.Tensor:
    return torch.zeros(len(a), b.shape[1], dtype=math)


def launches(kind: LossKind, dtype: str, chip: Chip) -> list[Launch]:
    """The launches of a loss on a chip in a dtype, over directions, reductions, options and layouts."""
    loss = LOSSES[kind]
    found: dict[str, Launch] = {}
    with recording(chip, found) as layout:
        for i, (layout[0], operands) in enumerate(_operands(loss, getattr(torch, dtype))):
            for options in _options(loss, operands) if layout[0] == CONTIGUOUS else [()]:
                _call(loss, operands, options, everything=i == 0 and not options)
    return list(found.values())


def _call(
    loss: Loss, operands: dict[str, torch.Tensor], options: tuple[tuple[str, Any], ...], *, everything: bool
) -> None:
    dtype = result_dtype(loss, operands)
    none, mean = (
        engine.prepare(make_plan(loss.kind, dtype, reduction, "triton", options), specs(operands))
        for reduction in (LossReduction.NONE, LossReduction.MEAN)
    )
    wants = none.differentiable
    engine.backward(none, operands, torch.ones(none.layout.items_shape, dtype=getattr(torch, dtype)), wants)
    if everything:
        items = engine.forward(none, operands).value
        engine.forward(mean, operands)
        early = engine.forward(mean, operands, wants)
        engine.rescale(mean, early.gradients or {}, torch.ones((), dtype=items.dtype))
    in_divisor = loss.divisor is Divisor.WEIGHT_SUM and "weight" in wants  # its gradient then has code of its own
    if everything or in_divisor:
        engine.backward(mean, operands, 1.0, wants)


def _options(loss: Loss, operands: dict[str, torch.Tensor]) -> Iterator[tuple[tuple[str, Any], ...]]:
    """The defaults; each other value of an option alone; and all combinations of flags, where there are several."""
    soft = any(operand.domain is Domain.CLASS_INDEX for operand in loss.operands) and (
        operands["target"].is_floating_point()
    )
    yield ()
    for option in loss.options:
        if not (soft and option.name == "ignore_index"):
            yield from (((option.name, value),) for value in option.others)
    flags = [option.name for option in loss.options if isinstance(option.default, bool) and option.changes_items]
    if len(flags) > 1:
        for values in product((False, True), repeat=len(flags)):
            yield tuple(zip(flags, values, strict=True))
    if loss.kind is LossKind.TRIPLET_MARGIN:  # swap keeps three norms instead of two
        for p in loss.option("p").others:
            yield (("p", p), ("swap", True))


def _operands(loss: Loss, dtype: torch.dtype) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Names of layouts, and operands of sizes that select different code; their values do not matter.

    The first operands are the required ones. A layout called ``CONTIGUOUS`` is tried with all options.
    """
    if loss.family is Family.CTC:
        lengths = {"input_lengths": torch.full((8,), 64), "target_lengths": torch.full((8,), 20)}
        for name, classes, labels in ((CONTIGUOUS, 1024, 20), ("contiguous long", 1024, 600), ("odd", 29, 5)):
            log_probs = torch.zeros(64, 8, classes, dtype=dtype)
            yield name, {"log_probs": log_probs, "targets": torch.ones(8, labels).long(), **lengths}
        return
    if loss.family is Family.LINEAR_CROSS_ENTROPY:
        shapes = {"input": (64, 64), "linear_weight": (1024, 64), "linear_bias": (1024,), "weight": (1024,)}
        given = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}
        yield CONTIGUOUS, {**given, "target": torch.zeros(64).long()}
        yield CONTIGUOUS, {**given, "target": torch.zeros(64, 1024, dtype=dtype)}
        yield CONTIGUOUS, {**given, "target": torch.zeros(64).long(), "token_weight": torch.ones(64, dtype=dtype)}
        return
    sizes: list[tuple[str, tuple[int, ...]]]
    if loss.family is Family.POINTWISE:
        sizes = [(CONTIGUOUS, (512, 1024)), ("odd", (33, 77))]
    else:  # blocks of one row, of a few rows, and of many short rows
        sizes = [(CONTIGUOUS, (16, 32768)), ("contiguous short", (64, 128)), ("contiguous shortest", (64, 16))]
        sizes += [("odd", (64, 1000)), ("odd shortest", (64, 2))]
    if loss.kind is LossKind.MULTILABEL_MARGIN:  # one row a program: too little of a short row for each lane
        sizes = [(name.replace("contiguous s", "s"), size) for name, size in sizes]
    if loss.kind in (LossKind.NLL, LossKind.CROSS_ENTROPY):
        sizes.append(("strided", (4, 32, 16, 64)))
    for name, size in sizes:
        whole = {operand.name: _tensor(loss, operand, size, dtype) for operand in loss.operands}
        required = {operand.name: whole[operand.name] for operand in loss.operands if not operand.optional}
        target = loss.operands[1]
        soft = target.domain is Domain.CLASS_INDEX and target.other_domain is not None
        if name == CONTIGUOUS or soft or len(whole) == len(required):
            yield name, required
        if len(whole) > len(required) and (name == CONTIGUOUS or not soft):
            yield name, whole
        if soft:
            yield name, {**whole, target.name: torch.zeros(size, dtype=dtype)}
    if loss.family is Family.POINTWISE:
        last = list(required)[-1]
        if loss.kind is LossKind.GAUSSIAN_NLL:
            yield "strided", {**required, last: required[last][:, :1]}
        elif loss.kind in (LossKind.BCE, LossKind.BCE_WITH_LOGITS):  # these do not broadcast
            yield "strided", {**required, last: required[last].t().contiguous().t()}
        else:
            yield "strided", {**required, last: required[last][:1]}


def _tensor(loss: Loss, operand: Operand, full: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if operand.extent is Extent.CLASSES:
        return torch.ones(full[1], dtype=dtype)
    if operand.domain is Domain.CLASS_INDEX:
        return torch.zeros((full[0], *full[2:])).long()
    if operand.extent is Extent.ROWS:
        return torch.ones(full[0], dtype=dtype)
    if operand.domain is Domain.CLASS_SET:
        return torch.zeros(full).long()
    return torch.full(full, 0.5, dtype=dtype)

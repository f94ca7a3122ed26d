"""Launches the kernels of the rowwise losses: their geometry, outputs and arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any

import torch
import triton

from portaloss.backends.triton import memory, tuning
from portaloss.backends.triton.cross_entropy import cross_entropy_kernel
from portaloss.backends.triton.distances import cosine_embedding_kernel, triplet_margin_kernel
from portaloss.backends.triton.launch import tl_dtype
from portaloss.backends.triton.numerics import bits
from portaloss.backends.triton.rowwise import (
    multi_margin_kernel,
    multilabel_margin_kernel,
    multilabel_soft_margin_kernel,
    nll_kernel,
)
from portaloss.catalogue import LOSSES, Extent
from portaloss.kinds import LossKind
from portaloss.reference.triplet_margin import rounded_off_reciprocal

Tensor = torch.Tensor


@dataclass
class Wanted:
    """What a pass should compute."""

    items: torch.dtype | None = None  #: store the items in this dtype
    sums: bool = False  #: store partial sums, in the math dtype
    gradients: Mapping[str, torch.dtype] = field(default_factory=dict)  #: operand -> dtype of its gradient
    upstream: Tensor | None = None  #: one value for each item, in the shape of the items
    scale: Tensor | None = None  #: one value in the math dtype, on the device


@dataclass
class Given:
    """The results of a pass: items in the chapter's shape, partial sums, gradients in the full shape (N, C, ...)."""

    items: Tensor | None
    sums: Tensor | None
    gradients: dict[str, Tensor]


def run(
    kind: LossKind, operands: Mapping[str, Tensor], options: Mapping[str, Any], math: torch.dtype, wanted: Wanted
) -> Given:
    """One pass of a rowwise loss.

    Args:
        kind: the loss.
        operands: in the chapter's shapes.
        options: the chapter's.
        math: the dtype to compute in.
        wanted: what to compute.
    """
    spans = [name for name in _spanning(kind) if name in operands]
    full = torch.broadcast_shapes(*(operands[name].shape for name in spans))
    device = next(iter(operands.values())).device
    item_shape = (full[0], 1, *full[2:])
    if kind is LossKind.COSINE_EMBEDDING:
        item_shape = torch.broadcast_shapes(item_shape, operands["target"].shape)
        full = (item_shape[0], full[1], *item_shape[2:])
    rows, classes, inner = prod(item_shape), full[1], prod(full[2:])

    spanning = {name: _three_axes(operands[name].expand(full)) for name in spans}
    each_row = {
        name: _three_axes(operands[name].expand(item_shape))
        for name in operands
        if name not in spans and name != "weight" and operands[name].shape[1] == 1
    }
    first = next(iter(spanning.values()))
    threads = 256 if kind is LossKind.TRIPLET_MARGIN else 512  # powers of three differences take over 128 registers
    launch = tuning.rows(classes, first.element_size(), first.stride(1) == 1, tuning.warp_size(device), threads)
    if kind is LossKind.NLL:
        launch = tuning.gather(tuning.warp_size(device))
    if kind is LossKind.MULTILABEL_MARGIN:
        launch = tuning.RowLaunch(1, launch.classes, launch.num_warps)
    blocks = triton.cdiv(rows, launch.rows)

    given = Given(
        memory.empty(item_shape, wanted.items, device) if wanted.items is not None else None,
        memory.empty((blocks,), math, device) if wanted.sums else None,
        {
            name: memory.empty(full, dtype, device)
            if kind is not LossKind.NLL
            else torch.zeros(full, dtype=dtype, device=device)
            for name, dtype in wanted.gradients.items()
        },
    )
    if rows == 0:
        return given
    scale = wanted.scale if wanted.scale is not None else torch.ones((), dtype=math, device=device)
    upstream = None if wanted.upstream is None else _three_axes(wanted.upstream.expand(item_shape))
    call = _Call(kind, operands, options, spanning, each_row, given, wanted, upstream, scale, (rows, classes, inner))
    with torch.cuda.device_of(first):
        kernel, arguments, constexprs = ARGUMENTS[kind](call)
        kernel[(blocks,)](
            *arguments,
            **constexprs,
            ITEMS=given.items is not None,
            SUMS=wanted.sums,
            UPSTREAM=upstream is not None,
            MATH=tl_dtype(math),
            ROWS=launch.rows,
            CLASSES=launch.classes,
            num_warps=launch.num_warps,
            **tuning.COMPILER,
        )
    return given


def _spanning(kind: LossKind) -> tuple[str, ...]:
    """The operands that span classes or features; the others have one value a row, or one a class."""
    return tuple(operand.name for operand in LOSSES[kind].operands if operand.extent is Extent.FULL)


def _three_axes(tensor: Tensor) -> Tensor:
    """(N, C, ...) as (N, C, D): a view where the last axes can be merged, as in contiguous logits."""
    return tensor.reshape(*tensor.shape[:2], prod(tensor.shape[2:]))


@dataclass
class _Call:
    kind: LossKind
    operands: Mapping[str, Tensor]
    options: Mapping[str, Any]
    spanning: Mapping[str, Tensor]
    each_row: Mapping[str, Tensor]
    given: Given
    wanted: Wanted
    upstream: Tensor | None
    scale: Tensor
    sizes: tuple[int, int, int]

    @property
    def any(self) -> Tensor:
        """A pointer for arguments that a kernel does not use."""
        return next(iter(self.spanning.values()))

    def outputs(self, *gradients: str) -> list[Tensor]:
        """items, sums, gradients, upstream, scale."""
        given = self.given
        return [
            self.any if given.items is None else given.items,
            self.any if given.sums is None else given.sums,
            *(given.gradients.get(name, self.any) for name in gradients),
            self.any if self.upstream is None else self.upstream,
            self.scale,
        ]

    def strides(self, *names: str) -> list[int]:
        """The strides of operands: three for one that spans classes, two for one with a value for each row."""
        result: list[int] = []
        for name in names:
            if name in self.spanning:
                result += self.spanning[name].stride()
            elif name in self.each_row:
                result += _row_strides(self.each_row[name])
            else:
                result += (0, 0, 0)
        return result

    def tail(self) -> list[int]:
        """The strides of upstream and of the gradients."""
        _, classes, inner = self.sizes
        up = (0, 0) if self.upstream is None else _row_strides(self.upstream)
        return [*up, classes * inner, inner, 1]


def _row_strides(tensor: Tensor) -> tuple[int, int]:
    return tensor.stride(0), tensor.stride(2)


_Arguments = tuple[Any, Sequence[Any], dict[str, Any]]


def _nll(call: _Call) -> _Arguments:
    weight = call.operands.get("weight")
    arguments = [
        call.any, call.each_row["target"], call.any if weight is None else weight.reshape(-1).contiguous(),
        *call.outputs("input"), *call.sizes, *call.strides("input", "target"), *call.tail(),
    ]  # fmt: skip
    flags = {"WEIGHT": weight is not None, "WANT": "input" in call.wanted.gradients}
    if call.kind is LossKind.NLL:
        return nll_kernel, [*arguments, call.options["ignore_index"]], flags
    margin = bits(float(call.options["margin"]))
    return multi_margin_kernel, [*arguments, margin], {**flags, "SQUARE": call.options["p"] == 2}


def _cross_entropy(call: _Call) -> _Arguments:
    weight, target = call.operands.get("weight"), call.operands["target"]
    soft = target.is_floating_point()
    target = _three_axes(target)
    wants = call.wanted.gradients
    _, classes, inner = call.sizes
    up = (0, 0) if call.upstream is None else _row_strides(call.upstream)
    z_loss = float(call.options.get("z_loss", 0.0))  # cross_entropy itself does not have this option
    arguments = [
        call.any, target, call.any if weight is None else weight.reshape(-1).contiguous(),
        *call.outputs("input", "target", "weight"),
        bits(float(call.options["label_smoothing"])), bits(z_loss), call.options["ignore_index"], *call.sizes,
        *call.strides("input"), *target.stride(), classes * inner, inner, 1, *up,
    ]  # fmt: skip
    return cross_entropy_kernel, arguments, {
        "SOFT": soft,
        "SMOOTH": call.options["label_smoothing"] > 0.0,
        "Z_LOSS": z_loss > 0.0,
        "WEIGHT": weight is not None,
        "WANT_X": "input" in wants,
        "WANT_T": "target" in wants,
        "WANT_W": "weight" in wants,
    }  # fmt: skip


def _multilabel_margin(call: _Call) -> _Arguments:
    rows, classes, _ = call.sizes
    target = call.spanning["target"].movedim(1, 2).reshape(rows, classes)
    listed = (target >= 0).long().cumprod(1)  # 1 up to the first negative number, then 0
    # the first number after the list must be -1; the numbers after that are not read
    ends = listed.sum(1)
    first_negative = target.gather(1, ends.clamp(max=classes - 1)[:, None])[:, 0]
    out_of_range = ((target >= classes) & (listed == 1)).any(1) | ((ends < classes) & (first_negative < -1))
    labels = torch.where(out_of_range, -1, ends)
    wrong = torch.ones(rows, classes + 1, dtype=torch.uint8, device=target.device)
    wrong.scatter_(1, torch.where((listed == 1) & (target < classes), target, classes).long(), 0)
    wrong = wrong[:, :classes].contiguous()
    wrong = torch.where(out_of_range[:, None], 1, wrong).to(torch.uint8)
    arguments = [
        call.any, call.spanning["target"], wrong, labels, *call.outputs("input"), *call.sizes,
        *call.strides("input", "target"), *call.tail(),
    ]  # fmt: skip
    return multilabel_margin_kernel, arguments, {"WANT": "input" in call.wanted.gradients}


def _multilabel_soft_margin(call: _Call) -> _Arguments:
    weight = call.spanning.get("weight")
    wants = call.wanted.gradients
    arguments = [
        call.any, call.spanning["target"], call.any if weight is None else weight,
        *call.outputs("input", "target", "weight"), *call.sizes, *call.strides("input", "target", "weight"),
        *call.tail(),
    ]  # fmt: skip
    return multilabel_soft_margin_kernel, arguments, {
        "WEIGHT": weight is not None,
        "WANT_X": "input" in wants,
        "WANT_T": "target" in wants,
        "WANT_W": "weight" in wants,
    }  # fmt: skip


def _cosine_embedding(call: _Call) -> _Arguments:
    wants = call.wanted.gradients
    arguments = [
        call.spanning["input1"], call.spanning["input2"], call.each_row["target"],
        *call.outputs("input1", "input2"), *call.sizes, *call.strides("input1", "input2", "target"), *call.tail(),
        bits(float(call.options["margin"])), *(call.operands[name].shape[1] for name in ("input1", "input2")),
    ]  # fmt: skip
    return cosine_embedding_kernel, arguments, {"WANT_X": "input1" in wants, "WANT_Y": "input2" in wants}


def _triplet_margin(call: _Call) -> _Arguments:
    wants, options = call.wanted.gradients, call.options
    names = ("anchor", "positive", "negative")
    p = float(options["p"])
    named = {2.0: "two", 1.0: "one", 0.0: "count", inf: "maximum", -inf: "minimum"}
    norm = named.get(p, "other")
    arguments = [
        *(call.spanning[name] for name in names), *call.outputs(*names), *call.sizes, *call.strides(*names),
        *call.tail(), bits(float(options["margin"])), bits(float(options["eps"])),
    ]  # fmt: skip
    return triplet_margin_kernel, arguments, {
        "NORM": norm,
        "P": p if norm == "other" else 2.0,
        "ROOT_REST": rounded_off_reciprocal(p) if norm == "other" else 0.0,
        "SWAP": options["swap"],
        "WANT_A": "anchor" in wants,
        "WANT_B": "positive" in wants,
        "WANT_C": "negative" in wants,
    }  # fmt: skip


#: What each kind's kernel is given.
ARGUMENTS = {
    LossKind.NLL: _nll,
    LossKind.CROSS_ENTROPY: _cross_entropy,
    LossKind.MULTI_MARGIN: _nll,
    LossKind.MULTILABEL_MARGIN: _multilabel_margin,
    LossKind.MULTILABEL_SOFT_MARGIN: _multilabel_soft_margin,
    LossKind.COSINE_EMBEDDING: _cosine_embedding,
    LossKind.TRIPLET_MARGIN: _triplet_margin,
}

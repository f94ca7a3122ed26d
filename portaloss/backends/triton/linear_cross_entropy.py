"""Fused linear cross-entropy: one chunk of rows at a time, whose logits are freed after use.

The matrix products are torch's, by cuBLAS or hipBLASLt; the rest is the cross-entropy kernel.

Bytes, for N rows of H features of b bytes, C classes, chunks of n rows: each chunk reads the weight once for its logits
(C H b) and, with gradients, once more for the input's; it writes and reads the logits (4 n C; 8 in float64), writes and
reads their gradient (n C b where the products take 16-bit numbers, else as the logits), and adds to the weight's
gradient (4 C H read and written, 8 in float64). Input and its gradient move once. So chunks should be as large as
memory allows: ``LOGITS_BUDGET``, or ``max_memory``. A soft cap moves the logits six more times and stores its slope;
extras read them six times; a scale reads and writes them once more, and its gradient stores a copy of them; a
gradient of the entropy reads them eight times and stores two arrays of their size: these use separate operators of
torch. With mean and sum, the forward pass computes all gradients; the backward pass moves
nothing, unless upstream differs from 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import torch

from portaloss import emulator
from portaloss.arrange import Layout
from portaloss.backends.triton import launch, memory, rows
from portaloss.kinds import LossKind

Tensor = torch.Tensor

#: Bytes for a chunk's logits and the arrays of their size. A chunk should have hundreds of rows, to keep the matrix
#: units busy: for 128000 classes this allows 1024 rows.
LOGITS_BUDGET = 1 << 30

#: The tile of a matrix product: the rows of a larger chunk are a multiple of it.
TILE = 128


def run(
    operands: Mapping[str, Tensor],
    options: Mapping[str, Any],
    math: torch.dtype,
    items: torch.dtype | None,
    wants: Collection[str],
    upstream: Tensor | None,
    scale: Tensor | None,
    layout: Layout,
    extras: tuple[Tensor, ...] | None = None,
    of_entropy: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One pass.

    Args:
        operands: input (N, H), linear_weight (C, ..., H), target (N, ...) or (N, C, ...), linear_bias (C, ...),
            weight (C,), token_weight (N, ...) and logit_scale ().
        options: the plan's.
        math: the dtype of cross-entropy, and of the sums over chunks.
        items: store the items in this dtype, or None for their sum.
        wants: the operands whose gradients are wanted.
        upstream: one value for each item, (N, ...), or None.
        scale: one value in the math dtype, on the device, or None for 1.
        layout: says whether the call is batched.
        extras: where to put what else is known of each row, (N, ...) each: log_probs, entropy, accuracy, logsumexp.
        of_entropy: the upstream gradient of that entropy, (N, ...), or None for 0.

    Returns:
        The items in ``layout.items_shape``, or their sum in float64; and the gradients in the operands' own shapes.
    """
    x, w, target = operands["input"], operands["linear_weight"], operands["target"]
    bias, class_weight = operands.get("linear_bias"), operands.get("weight")
    logit_scale = operands["logit_scale"].to(math) if "logit_scale" in operands else None
    device, dtype = x.device, x.dtype
    count, features = x.shape
    classes, extra = w.shape[0], tuple(w.shape[1:-1])
    flat_w = w.reshape(prod(w.shape[:-1]), features)
    sums = _Sums({name: operands[name] for name in wants if name not in ("input", "target")}, math)
    stored = memory.empty((count, *extra), items, device) if items is not None else None
    total = torch.zeros((), dtype=torch.float64, device=device)
    each_row = [name for name in ("input", "target") if name in wants]
    gradients = {name: memory.empty(operands[name].shape, operands[name].dtype, device) for name in each_row}
    inner = [name for name in ("target", "weight") if name in wants]
    products = [name for name in ("input", "linear_weight", "linear_bias", "logit_scale") if name in wants]
    # g is rounded to 16 bits for the products, so the common scale is applied after them
    narrow = _narrows(x)
    spared = scale if narrow and products else None
    passed = None if spared is not None else scale
    if of_entropy is not None and scale is not None and spared is not None:
        # there are two scales, of the loss and of the entropy: the largest is the common one
        spared = torch.cat([scale.reshape(1), of_entropy.reshape(-1).to(math)]).abs().amax()
        spared = torch.where(spared == 0.0, 1.0, spared)
        passed, of_entropy = scale / spared, of_entropy / spared
    # what arrives at the layer has logit_scale as a common factor too
    of_layer = spared if logit_scale is None else _scaled(logit_scale, spared)

    cap, token_weight = options["softcap"], operands.get("token_weight")
    more = len(inner) + 2 * (cap > 0.0) + 2 * (extras is not None or of_entropy is not None) + ("logit_scale" in wants)
    size = rows_of_chunk(len(flat_w), count, math.itemsize, len(products) > 0, more, options["max_memory"])
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        logits = _logits(x[part], flat_w, bias, math).view(part.stop - part.start, classes, *extra)
        unscaled = logits.clone() if "logit_scale" in wants else None
        if logit_scale is not None:
            logits.mul_(logit_scale)
        cap_slope = _soft_cap_(logits, cap) if cap > 0.0 else None
        if extras is not None:
            for one, values in zip(extras, _extras(logits, _rows(target[part]), options), strict=True):
                one[part] = values[:, 0]
        of_logits = None
        if of_entropy is not None and products:
            of_logits = _entropy_slope(logits).mul_(of_entropy[part, None])
        given: dict[str, Tensor] = {"input": logits, "target": _rows(target[part])}
        if class_weight is not None:
            given["weight"] = class_weight.reshape(1, -1, *(1,) * len(extra))
        dtypes = dict.fromkeys(inner, math)
        if products:
            dtypes["input"] = dtype if narrow and cap_slope is None and of_logits is None else math
        each = None if token_weight is None else token_weight[part, None].to(math)
        own = None if upstream is None else upstream[part, None]
        if each is not None:
            own = each if own is None else own.to(math) * each
        wanted = rows.Wanted(items if each is None else math, stored is None and each is None, dtypes, own, passed)
        result = rows.run(LossKind.CROSS_ENTROPY, given, options, math, wanted)
        del logits, given
        if result.sums is not None:
            total += launch.total(result.sums)
        elif result.items is not None:
            weighted = result.items if each is None else result.items * each
            if stored is None:
                total += launch.total(weighted)
            else:
                stored[part] = weighted[:, 0]
        if "target" in wants:
            gradients["target"][part] = _scaled(result.gradients["target"], spared)
        if "weight" in wants:
            axes = [axis for axis in range(2 + len(extra)) if axis != 1]
            sums.add("weight", _scaled(result.gradients["weight"].sum(axes, dtype=torch.float64), spared))
        if products:
            slope = result.gradients["input"]  # rounded to 16 bits only when all is in it
            if of_logits is not None:
                slope = slope.add_(of_logits)
            if cap_slope is not None:
                slope = slope.mul_(cap_slope)
            slope = slope.to(dtype if narrow else math)
            if unscaled is not None:
                sums.add("logit_scale", _scaled(unscaled.mul_(slope).sum(dtype=torch.float64), spared))
            slope = slope.view(part.stop - part.start, len(flat_w))
            if "input" in wants:
                gradients["input"][part] = _scaled(_product(slope, flat_w, math), of_layer)
            if "linear_weight" in wants:
                sums.add_product("linear_weight", slope.t(), x[part])
            if "linear_bias" in wants:
                sums.add("linear_bias", slope.sum(0, dtype=torch.float64))
    for name in sums.sums:
        gradients[name] = sums.finish(name, of_layer if name in ("linear_weight", "linear_bias") else None)
    if not layout.items_shape:
        gradients.update({name: gradients[name][0] for name in each_row})
    return (total if stored is None else stored.reshape(layout.items_shape)), gradients


def rows_of_chunk(columns: int, count: int, itemsize: int, products: bool, inner: int, max_memory: int = 0) -> int:
    """The number of rows whose logits, with their gradients, fit the memory.

    Args:
        columns: logits in a row.
        count: rows of the input.
        itemsize: bytes of a logit.
        products: whether the logits' gradient is wanted.
        inner: how many further arrays of the logits' size there are.
        max_memory: bytes; 0 for ``LOGITS_BUDGET``.
    """
    fit = (max_memory or LOGITS_BUDGET) // max(1, columns * itemsize * (1 + products + inner))
    if fit > TILE:
        fit -= fit % TILE
    return max(1, min(count, fit))


def _rows(target: Tensor) -> Tensor:
    """Classes as (n, 1, ...); soft targets unchanged."""
    return target if target.is_floating_point() else target[:, None]


def _soft_cap_(logits: Tensor, cap: float) -> Tensor:
    """The chapter's ``soft_cap``, in place; returns the slope."""
    logits.div_(cap)
    slope = logits.cosh().reciprocal_().square_()
    logits.tanh_().mul_(cap)
    return slope


def _extras(logits: Tensor, target: Tensor, options: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """log_probs, entropy, accuracy and logsumexp of each row, (n, 1, ...), from logits (n, C, ...)."""
    classes = logits.shape[1]
    lse = logits.logsumexp(1, keepdim=True)
    entropy = torch.special.entr((logits - lse).exp_()).sum(1, keepdim=True)
    largest, chosen = logits.max(1, keepdim=True)
    if target.is_floating_point():
        likely = (target * (logits - lse)).sum(1, keepdim=True)
        return likely, entropy, (target.argmax(1, keepdim=True) == chosen).to(lse.dtype), lse
    counted = target != options["ignore_index"]
    valid = counted & (target >= 0) & (target < classes)
    own = logits.gather(1, torch.where(valid, target, 0).long())
    nan = float("nan")
    log_probs = torch.where(valid, own - lse, torch.where(counted, nan, 0.0))
    return log_probs, entropy, torch.where(valid, (own == largest).to(lse.dtype), nan), lse


def _entropy_slope(logits: Tensor) -> Tensor:
    """The derivative of the entropy in the chapter's ``entropy``."""
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    terms = log_p.masked_fill_(p == 0.0, 0.0).mul_(p)
    return p.mul_(terms.sum(1, keepdim=True)).sub_(terms)


class _Sums:
    """Gradients that are sums over rows, kept in float32 or float64 until all chunks are added."""

    def __init__(self, operands: Mapping[str, Tensor], math: torch.dtype) -> None:
        self._operands = operands
        self.sums = {
            name: torch.zeros(
                (prod(operand.shape[:-1]), operand.shape[-1]) if name == "linear_weight" else operand.numel(),
                dtype=math if name == "linear_weight" else torch.float64,
                device=operand.device,
            )
            for name, operand in operands.items()
        }

    def add(self, name: str, part: Tensor) -> None:
        self.sums[name] += part

    def add_product(self, name: str, a: Tensor, b: Tensor) -> None:
        """Add the product a b in place, without a temporary of this size."""
        into = self.sums[name]
        if emulator.active() is not None:
            into += _product(a, b, into.dtype)
        elif a.dtype == into.dtype:
            into.addmm_(a, b.to(into.dtype))
        else:
            torch.ops.aten.addmm.dtype_out(into, a, b, into.dtype, out=into)

    def finish(self, name: str, scale: Tensor | None) -> Tensor:
        """The gradient in its operand's shape and dtype."""
        operand = self._operands[name]
        return _scaled(self.sums[name], scale).to(operand.dtype).reshape(operand.shape)


def _scaled(tensor: Tensor, scale: Tensor | None) -> Tensor:
    return tensor if scale is None else tensor * scale


def _narrows(x: Tensor) -> bool:
    """Whether the device multiplies 16-bit matrices with a 32-bit result, so that no operand must be widened."""
    return x.device.type == "cuda" and x.element_size() == 2


def _product(a: Tensor, b: Tensor, math: torch.dtype) -> Tensor:
    """The product a b in the math dtype. An emulated chip has no matrix units: there, float64 is rounded once."""
    if emulator.active() is not None:
        return torch.mm(a.double(), b.double()).to(math)
    if _narrows(b):
        return torch.mm(a, b, out_dtype=math)
    return torch.mm(a.to(math), b.to(math))


def _logits(x: Tensor, flat_w: Tensor, bias: Tensor | None, math: torch.dtype) -> Tensor:
    """The logits x Wᵀ + b in the math dtype."""
    logits = _product(x, flat_w.t(), math)
    return logits if bias is None else logits.add_(bias.reshape(-1))


def workspace_size(input: tuple[int, ...], linear_weight: tuple[int, ...], itemsize: int, max_memory: int) -> int:
    """An upper bound in bytes of the scratch: a chunk's logits, sums over rows, and widened copies for products."""
    count = input[0] if len(input) == 2 else 1
    columns, features = prod(linear_weight[:-1]), linear_weight[-1]
    chunk = rows_of_chunk(columns, count, itemsize, True, 2, max_memory)
    widened = 2 * columns * features + 3 * chunk * features
    return itemsize * (6 * chunk * columns + widened) + 24 * columns + 65536

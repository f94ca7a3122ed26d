"""Losses as compositions of PyTorch's own differentiable operators.

Kernels cannot serve derivatives beyond the first, transforms of torch.func and forward-mode AD. These compositions can:
they can be differentiated and batched any number of times. For most kinds the composition is PyTorch's function. Where
PyTorch has no second derivative, or looks at a value on the host to compute it, it is the definition in the kind's
chapter or a function of this module.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from portaloss import pytorch
from portaloss.arrange import specs
from portaloss.catalogue import LOSSES, Domain, Family
from portaloss.divisor import divisor
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import Plan


def loss(plan: Plan, operands: Mapping[str, Tensor]) -> Tensor:
    """The loss of a plan, by PyTorch's operators alone."""
    operands = widened(operands, plan)
    harmless, lost = apart(plan, operands)
    if lost is None:
        return _composed(plan, operands)
    items = _composed(replace(plan, reduction=LossReduction.NONE), harmless)
    return _reduce(plan, torch.where(lost.reshape(items.shape), float("nan"), items), operands)


def _composed(plan: Plan, operands: Mapping[str, Tensor]) -> Tensor:
    entry, options, reduction = plan.loss, plan.values, plan.reduction.name.lower()
    own = _OWN.get(plan.kind)
    if own is not None:
        return own(operands, options, reduction)
    if not (entry.in_torch and entry.twice_in_torch) or pytorch.is_replaced(entry):
        return by_definition(plan, operands)
    return pytorch.loss(entry, operands, options, reduction)


def apply(plan: Plan, operands: Mapping[str, Tensor]) -> Any:
    """The loss, as a caller gets it: a pair with return_extras."""
    value = loss(plan, operands)
    if not plan.values.get("return_extras"):
        return value
    harmless, lost = apart(plan, operands)
    log_probs, *extras = linear_cross_entropy_extras(harmless, plan.values)
    if lost is not None:
        log_probs = torch.where(lost.reshape(log_probs.shape), float("nan"), log_probs)
    return value, (log_probs, *extras)


def by_definition(plan: Plan, operands: Mapping[str, Tensor]) -> Tensor:
    """The definition in the kind's chapter, reduced."""
    entry, options = plan.loss, plan.values
    layout = entry.arrangement.shapes(options, specs(operands))
    chapter = importlib.import_module(f"portaloss.reference.{entry.name}")
    items: Tensor = chapter.definition(**layout.of(operands), **entry.item_options(options), xp=torch)
    return _reduce(plan, items.reshape(layout.items_shape), operands)


def _reduce(plan: Plan, items: Tensor, operands: Mapping[str, Tensor]) -> Tensor:
    if plan.reduction is LossReduction.NONE:
        return items
    if plan.reduction is LossReduction.SUM:
        return items.sum()
    layout = plan.loss.arrangement.shapes(plan.values, specs(operands))
    quotient: Tensor = items / divisor(plan.loss, plan.values, layout.of(operands), layout.items_shape, torch)
    return quotient.sum().to(items.dtype)


def apart(plan: Plan, operands: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Tensor | None]:
    """Operands whose targets are all in range, and a mask of the items whose weren't: ``check_targets("nan")``.

    On the CPU PyTorch's operators raise IndexError, and the mask is None. On a GPU they would end the process.
    """
    targets = {operand.domain: operand.name for operand in plan.loss.operands}
    if plan.backend == "cpu":
        return operands, None
    if Domain.CLASS_SET in targets:
        target = operands["target"]
        listed = (target >= 0).long().cumprod(-1).bool()  # up to the first negative label, which must be -1
        wrong = torch.where(listed, target >= operands["input"].shape[-1], (target != -1) & _ends(listed))
        lost = wrong.any(-1)
        return {**operands, "target": torch.where(listed & ~lost[..., None], target, -1)}, lost
    if Domain.LABEL in targets:
        padded = _padded_labels(operands, plan.values["blank"])
        wrong = (padded < 0) | (padded >= operands["log_probs"].shape[-1])
        harmless = {**operands, "targets": torch.where(wrong, plan.values["blank"], padded)}
        return harmless, wrong.any(1)
    if Domain.CLASS_INDEX not in targets or operands["target"].is_floating_point():
        return operands, None
    target, matrix = operands["target"], operands.get("linear_weight")
    classes = operands["input"].shape[:2][-1] if matrix is None else matrix.shape[0]
    lost = (target < 0) | (target >= classes)
    if "ignore_index" in plan.values:
        lost = lost & (target != plan.values["ignore_index"])
    return {**operands, "target": torch.where(lost, 0, target)}, lost


def _ends(listed: Tensor) -> Tensor:
    """Where along the last axis the list of classes has just ended."""
    before = torch.cat([torch.ones_like(listed[..., :1]), listed[..., :-1]], -1)
    return before & ~listed


def widened(operands: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """The operands in a plan's dtype, where the loss may be of a wider one than they are."""
    return in_dtype(operands, plan.dtype) if plan.loss.family is Family.LINEAR_CROSS_ENTROPY else dict(operands)


def in_dtype(operands: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Floating operands in another dtype."""
    wide = getattr(torch, dtype)
    return {name: value.to(wide) if value.is_floating_point() else value for name, value in operands.items()}


def are_asked(*upstreams: Tensor | None) -> bool:
    """Whether a backward pass is one for compositions: it will be differentiated, or is of many upstreams at once.

    The first is create_graph, the second is_grads_batched, of which torch.autograd.functional.jacobian's vectorize is.
    """
    is_batched: Any = torch._C._functorch.is_legacy_batchedtensor
    return torch.is_grad_enabled() or any(one is not None and bool(is_batched(one)) for one in upstreams)


def gradients(
    plan: Plan,
    operands: Mapping[str, Tensor],
    wants: tuple[str, ...],
    upstream: Tensor | None,
    of_entropy: Tensor | None = None,
) -> tuple[Any, ...]:
    """The gradients of some operands, themselves differentiable in all operands and upstream; None where none flows.

    The operands are those of the graph, and not detached: what is differentiated later flows on through them.

    Args:
        plan: of the loss.
        operands: by name.
        wants: the operands to differentiate.
        upstream: the gradient of what is differentiated with respect to the loss; None for 0.
        of_entropy: its gradient with respect to the entropy of return_extras; None for 0.
    """
    values, upstreams = [], []
    with torch.enable_grad():
        if upstream is not None:
            values.append(loss(plan, operands))
            upstreams.append(upstream)
        if of_entropy is not None:
            harmless, _ = apart(plan, operands)
            values.append(linear_cross_entropy_extras(harmless, plan.values)[1])
            upstreams.append(of_entropy)
        return torch.autograd.grad(
            values, [operands[name] for name in wants], upstreams, create_graph=True, allow_unused=True
        )


def of_logits(names: Collection[str]) -> tuple[str, ...]:
    """Those of linear cross-entropy's operands that its logits, and so their entropy, depend on."""
    return tuple([name for name in names if name in _OF_LOGITS])


_OF_LOGITS = frozenset({"input", "linear_weight", "linear_bias", "logit_scale"})


def _reduced(items: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return items
    return items.mean() if reduction == "mean" else items.sum()


def _gaussian_nll(operands: Mapping[str, Tensor], options: Mapping[str, Any], reduction: str) -> Tensor:
    """PyTorch's looks at var to see if any is negative, which no transform allows."""
    input, target, var = operands["input"], operands["target"], operands["var"]
    if var.ndim == input.ndim - 1 and var.shape == input.shape[:-1]:
        var = var.unsqueeze(-1)
    # clamped, but with the gradient of var itself
    var = var + (var.detach().clamp(min=options["eps"]) - var.detach())
    items = 0.5 * (var.log() + (input - target) ** 2 / var)
    if options["full"]:
        items = items + 0.5 * math.log(2 * math.pi)
    return _reduced(items, reduction)


_cross_entropy = pytorch.function(LOSSES[LossKind.CROSS_ENTROPY])


def linear_cross_entropy(operands: Mapping[str, Tensor], options: Mapping[str, Any], reduction: str) -> Tensor:
    """The two functions that it fuses, for older releases of PyTorch have only these; and what they do not have."""
    logits = _linear_logits(operands, options)
    given: dict[str, Any] = {name: operands[name] for name in ("target", "weight") if name in operands}
    known = {name: options[name] for name in ("ignore_index", "label_smoothing") if name in options}
    token_weight, normalizer = operands.get("token_weight"), operands.get("normalizer")
    z_loss = options.get("z_loss", 0.0)
    if not z_loss and token_weight is None and normalizer is None:
        return _cross_entropy(logits, **given, **known, reduction=reduction)
    items = _cross_entropy(logits, **given, **known, reduction="none")
    counts = _counts(given["target"], known, items)
    if z_loss:
        items = items + z_loss * torch.where(counts > 0, torch.logsumexp(logits, _class_axis(logits)), 0.0) ** 2
    if token_weight is not None:
        items = items * token_weight.to(items.dtype)
        counts = counts * token_weight.to(items.dtype)
    if reduction != "mean":
        return _reduced(items, reduction)
    if normalizer is None and not given["target"].is_floating_point() and "weight" in given:
        ignored = given["target"] == known.get("ignore_index", -100)
        counts = counts * given["weight"][torch.where(ignored, 0, given["target"]).long()]
    return (items.sum() / (counts.sum() if normalizer is None else normalizer)).to(items.dtype)


def linear_cross_entropy_extras(operands: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """What return_extras gives: log_probs, entropy, accuracy and logsumexp. The entropy alone has derivatives."""
    logits, target = _linear_logits(operands, options), operands["target"].detach()
    logits = logits if logits.dtype is torch.float64 else logits.float()
    axis = _class_axis(logits)
    log_p = logits.log_softmax(axis)
    # 0 log 0 is 0, and so are its derivatives
    entropy = -(log_p.exp() * torch.where(log_p == float("-inf"), 0.0, log_p)).sum(axis)
    logits, log_p = logits.detach(), log_p.detach()
    largest, chosen = logits.max(axis)
    lse = logits.logsumexp(axis)
    if target.is_floating_point():
        right = target.argmax(axis) == chosen
        return (target * log_p).sum(axis), entropy, right.to(lse.dtype), lse
    counted = target != options.get("ignore_index", -100)
    own = torch.where(counted, target, 0).long().unsqueeze(axis)
    likely = torch.where(counted, log_p.gather(axis, own).squeeze(axis), 0.0)
    right = logits.gather(axis, own).squeeze(axis) == largest
    return likely, entropy, torch.where(counted, right.to(lse.dtype), float("nan")), lse


def _linear_logits(operands: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
    logits = pytorch.linear_logits(operands["input"], operands["linear_weight"], operands.get("linear_bias"))
    if "logit_scale" in operands:
        logits = logits * operands["logit_scale"].to(logits.dtype)
    cap = options.get("softcap", 0.0)
    return cap * torch.tanh(logits / cap) if cap else logits


def _class_axis(logits: Tensor) -> int:
    return min(1, logits.ndim - 1)


def _counts(target: Tensor, options: Mapping[str, Any], items: Tensor) -> Tensor:
    """1 for an item that counts, 0 for one that is ignored."""
    if target.is_floating_point():
        return torch.ones_like(items)
    counts: Tensor = (target != options.get("ignore_index", -100)).to(items.dtype)
    return counts


def _ctc(operands: Mapping[str, Tensor], options: Mapping[str, Any], reduction: str) -> Tensor:
    """The recursion of ``reference/ctc.py`` in log space.

    PyTorch's derivative, exp(log_probs) - posterior, is not that of the value: it takes log_probs to come out of a
    log-softmax, and exp(log_probs) is what the log-softmax would take off. A term that is always 0 has that derivative.
    """
    log_probs, blank = operands["log_probs"], options["blank"]
    batched = log_probs.ndim == 3
    x = log_probs if batched else log_probs.unsqueeze(1)
    steps = len(x)
    used, lengths = (
        operands[name].to(x.device, torch.int64).reshape(-1) for name in ("input_lengths", "target_lengths")
    )
    targets = _padded_labels(operands, blank)
    longest = targets.shape[1]
    blanks = torch.full_like(targets, blank)
    pairs = torch.stack([blanks, targets], 2).reshape(len(targets), 2 * longest)
    states = torch.cat([pairs, torch.full_like(lengths, blank)[:, None]], 1)
    index = torch.arange(2 * longest + 1, device=x.device)
    before = torch.cat([states[:, :2], states[:, :-2]], 1)[:, : 2 * longest + 1]
    may_skip = (index % 2 == 1) & (index > 1) & (states != before)
    within = index <= 2 * lengths[:, None]
    log_y = x.gather(2, states.expand(steps, -1, -1))
    nothing = float("-inf")

    def shifted(alpha: Tensor, by: int) -> Tensor:
        return torch.cat([torch.full_like(alpha[:, :by], nothing), alpha[:, : alpha.shape[1] - by]], 1)

    # before the first step: as if in a blank that leads to the first blank or the first label
    alpha = torch.where((index == 0) & (used[:, None] >= 0), torch.zeros_like(x[:, :1, 0].sum(0)), nothing)
    for t in range(steps):
        ways = [alpha, shifted(alpha, 1), torch.where(may_skip, shifted(alpha, 2), nothing)]
        if t == 0:
            ways = ways[:2]
        after = torch.where(within, _log_sum_exp(torch.stack(ways)) + log_y[t], nothing)
        alpha = torch.where((t < used)[:, None], after, alpha)
    last = 2 * lengths[:, None]
    ends = torch.cat([alpha, torch.full_like(alpha[:, :1], nothing)], 1)
    no_label = torch.full_like(last, alpha.shape[1])
    ends = torch.stack([alpha.gather(1, last), ends.gather(1, torch.where(last > 0, last - 1, no_label))])
    items = -_log_sum_exp(ends)[:, 0]
    counted = torch.arange(steps, device=x.device)[:, None] < used
    usual = torch.where(counted[:, :, None], x, nothing).exp().sum((0, 2))
    items = items + (usual - usual.detach())
    if options["zero_infinity"]:
        items = torch.where(items == float("inf"), 0.0, items)
    if reduction == "mean":
        return (items / lengths.clamp(min=1)).mean()
    return _reduced(items if batched else items[0], reduction)


def _padded_labels(operands: Mapping[str, Tensor], blank: int) -> Tensor:
    """The labels (N, S) of all samples, with blanks beyond a sample's length."""
    log_probs, targets = operands["log_probs"], operands["targets"].to(operands["log_probs"].device, torch.int64)
    lengths = operands["target_lengths"].to(log_probs.device, torch.int64).reshape(-1)
    if targets.ndim == 1 and log_probs.ndim == 3:  # one sample's after the other's
        first = lengths.cumsum(0) - lengths
        count = targets.shape[0]
        where = (first[:, None] + torch.arange(count, device=log_probs.device)).clamp(max=max(count - 1, 0))
        targets = targets[where] if count else targets.new_zeros(len(lengths), 0)
    else:
        targets = targets.reshape(len(lengths), targets.shape[-1])
    return torch.where(torch.arange(targets.shape[1], device=log_probs.device) < lengths[:, None], targets, blank)


def _log_sum_exp(x: Tensor) -> Tensor:
    """Along the first axis; -inf, with derivatives of 0, where all are."""
    largest = x.detach().amax(0)
    impossible = largest == float("-inf")
    largest = torch.where(impossible, 0.0, largest)
    total = torch.where(impossible, 1.0, (x - largest).exp().sum(0))
    return torch.where(impossible, float("-inf"), total.log() + largest)


_Composite = Callable[[Mapping[str, Tensor], Mapping[str, Any], str], Tensor]

_OWN: Mapping[LossKind, _Composite] = {
    LossKind.GAUSSIAN_NLL: _gaussian_nll,
    LossKind.CTC: _ctc,
    LossKind.FUSED_LINEAR_CROSS_ENTROPY: linear_cross_entropy,
}

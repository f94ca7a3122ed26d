"""CTC: a program walks along one sample's labels, step by step; two more kernels compute the gradient from two walks.

The file is long because the three kernels share one arithmetic.

``reference/ctc.py`` has the derivation. β is computed as α is, with labels and time reversed, so one kernel computes
both, side by side. A number is a pair (m, e) that means m 2^e, two float64 with 1 <= m < 2 and e whole. A step consists
of three exact shifts, two additions and a product, without a logarithm; nothing underflows, and the error does not
depend on how small a probability is. Walks are in float64 for every dtype, because T roundings in float32 would show in
the result; this costs little, because each step waits for the one before.

Bytes, for T steps, N samples, C classes of b bytes, S labels: a forward pass reads the S + 1 classes that occur, b for
each class and step, and keeps the states of two steps (2 S + 1, 16 bytes each) in the cache. With the gradient it
writes the states of all steps in both directions, 32 T N (2 S + 1), and reads them once. It reads log_probs once
(T N C b) and writes the gradient once (T N C b); the classes that occur are read and written again. The backward pass
of mean and sum then moves nothing, unless upstream differs from 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl

from portaloss.arrange import Layout
from portaloss.backends.triton import memory, tuning
from portaloss.backends.triton.launch import tl_dtype
from portaloss.backends.triton.numerics import exp, maximum, minimum

Tensor = torch.Tensor

#: Bytes of states that are kept at a time. A batch that needs more is split: samples are independent.
STATES_BUDGET = 1 << 30

#: The exponent of zero: below all others, but finite, since -inf - -inf is nan.
NONE = tl.constexpr(-1e300)

#: A sample's gradient: FINE, it is computed; BROKEN, it is nan, since the loss is not finite; NOTHING, it is 0.
FINE, BROKEN, NOTHING = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _power_of_two(exponent):
    """2^exponent for a whole exponent; 0 below 2^-1022, which is too small to change a sum."""
    within = minimum(maximum(exponent, -1023.0), 1023.0)
    return ((within.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _normal(m, e):
    """The same number with 1 <= m < 2. Zero has e = NONE; nan and inf keep their m, and e = 0."""
    bits = m.to(tl.int64, bitcast=True)
    shift = ((bits >> 52) & 0x7FF) - 1023
    fraction = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
    ordinary = (m > 0.0) & (m < float("inf"))
    other_e = tl.where(m == 0.0, NONE, 0.0)
    return tl.where(ordinary, fraction, m), tl.where(ordinary, e + shift.to(tl.float64), other_e)


@triton.jit
def _load(states_ptr, at, mask):
    """The pairs of some states, 16 bytes at a time; zeros where masked."""
    part = tl.arange(0, 2)[None, :]
    pair = tl.load(states_ptr + 2 * at[:, None] + part, mask=mask[:, None], other=0.0)
    m, e = tl.split(pair)
    return m, tl.where(mask, e, NONE)


@triton.jit
def _store(states_ptr, at, m, e, mask):
    """Store pairs for ``_load``."""
    part = tl.arange(0, 2)[None, :]
    tl.store(states_ptr + 2 * at[:, None] + part, tl.join(m, e), mask=mask[:, None])


@triton.jit
def _shifted(m, e, top):
    """m 2^(e - top)."""
    return m * _power_of_two(e - top)


@triton.jit
def _whole_powers(log_p):
    """r and a whole e with exp(log_p) = 2^e exp(r) and |r| < 0.35; log_p is finite."""
    x = minimum(maximum(log_p, -1e290), 1e290)
    e = tl.floor(x * 1.4426950408889634 + 0.5)
    # ln(2) in two parts; the first has few bits, so e times it is exact. Beyond 1e15, floor does not change e
    r = (x - e * 6.93147180369123816490e-01) - e * 1.90821492927058770002e-10
    return minimum(maximum(r, -0.5), 0.5), e


@triton.jit
def _probability(log_p):
    """exp(log_p) as a pair, which never underflows. Zero is (0, NONE)."""
    wrong = (log_p != log_p) | (log_p == float("inf"))  # in log space, inf - inf would follow: nan
    usable = (log_p > float("-inf")) & (log_p < float("inf"))
    r, e = _whole_powers(tl.where(usable, log_p, 0.0))
    m = tl.where(usable, tl.exp(r), tl.where(wrong, float("nan"), 0.0))
    return m, tl.where(usable, e, tl.where(wrong, 0.0, NONE))


#: Sizes and strides that are not specialised: one compiled kernel for all shapes.
_WALK_SIZES = ("steps", "classes", "longest", "label_count", "states", "at_blank", "lp_t", "lp_n", "lp_c")
_EXP_SIZES = ("samples", "classes", "lp_t", "lp_n", "lp_c", "g_t")
_POSTERIOR_SIZES = ("steps", "samples", "classes", "states", "blank", "lp_t", "lp_n", "lp_c", "g_t")


@triton.jit(do_not_specialize=_WALK_SIZES)
def walk_kernel(
    log_probs_ptr, targets_ptr, offsets_ptr, input_lengths_ptr, target_lengths_ptr,
    states_ptr, summary_ptr,
    steps, classes, longest, label_count, states, at_blank, lp_t, lp_n, lp_c,
    ALL: tl.constexpr, ZERO_INFINITY: tl.constexpr, LABELS: tl.constexpr,
):  # fmt: skip
    """All steps of one sample in one direction: direction 0 computes α, the loss and Z; direction 1 computes y β.

    A step reads the S + 1 classes that occur and the states of the step before, and writes its own states: see the
    module. Labels are handled LABELS at a time. With ALL, the states of all steps are kept, otherwise those of two. The
    states of a step are the sample's S labels, then its S + 1 blanks.
    """
    n = tl.program_id(0).to(tl.int64)
    backward = tl.program_id(1) == 1
    offset = tl.load(offsets_ptr + n)
    used = tl.load(input_lengths_ptr + n)
    length = tl.load(target_lengths_ptr + n)
    valid = (used >= 0) & (used <= steps) & (length >= 0) & (length <= longest) & (offset + length <= label_count)
    length = tl.where(valid, length, 0).to(tl.int32)
    targets_ptr += offset
    wrong = tl.zeros([LABELS], tl.int32)
    for start in range(0, length, LABELS):
        i = start + tl.arange(0, LABELS)
        label = tl.load(targets_ptr + i, mask=i < length, other=0).to(tl.int64)
        wrong = wrong | tl.where((label < 0) | (label >= classes), 1, 0)
    valid = valid & (tl.max(wrong) == 0)
    length = tl.where(valid, length, 0)
    used = tl.where(valid, used, 0).to(tl.int32)

    # walk order to label order: label i is at first + sign i, blank i at first_blank + sign i
    sign = tl.where(backward, -1, 1)
    first = tl.where(backward, length - 1, 0)
    first_blank = tl.where(backward, 2 * length, length)
    row = states.to(tl.int64) * 2
    states_ptr += 2 * (2 * offset + n)
    if backward:
        states_ptr += steps * row
    log_probs_ptr += n * lp_n
    for t in range(0, used):
        later = t > 0
        time = tl.where(backward, used - 1 - t, t)
        if ALL:
            now_ptr = states_ptr + time * row
            before_ptr = states_ptr + tl.where(later, time - sign, 0) * row
        else:
            now_ptr = states_ptr + (t & 1) * row
            before_ptr = states_ptr + ((t + 1) & 1) * row
        at_time = log_probs_ptr + time.to(tl.int64) * lp_t
        blank_m, blank_e = _probability(tl.load(at_time + at_blank).to(tl.float64))
        for start in range(0, length + 1, LABELS):
            i = start + tl.arange(0, LABELS)
            is_label = i < length
            is_blank = i <= length
            has_left = is_blank & (i > 0)
            own = first + sign * i
            own_blank = first_blank + sign * i
            at_label = targets_ptr + own
            label = tl.load(at_label, mask=is_label, other=0).to(tl.int64)
            left_label = tl.load(at_label - sign, mask=is_label & (i > 0), other=0).to(tl.int64)
            log_p = tl.load(at_time + label * lp_c, mask=is_label, other=float("-inf")).to(tl.float64)
            p_m, p_e = _probability(log_p)

            stay_m, stay_e = _load(before_ptr, own, is_label & later)
            left_m, left_e = _load(before_ptr, own - sign, has_left & later)
            rest_m, rest_e = _load(before_ptr, own_blank, is_blank & later)
            # at first, the whole probability is in the first blank, which leads to itself and to the first label
            source = (i == 0) & (t == 0)
            rest_m = tl.where(source, 1.0, rest_m)
            rest_e = tl.where(source, 0.0, rest_e)

            top = maximum(rest_e, left_e)
            total = _shifted(rest_m, rest_e, top) + _shifted(left_m, left_e, top)
            new_m, new_e = _normal(total * blank_m, top + blank_e)
            _store(now_ptr, own_blank, new_m, new_e, is_blank)
            jump = label != left_label
            left_m = tl.where(jump, left_m, 0.0)
            left_e = tl.where(jump, left_e, NONE)
            top = maximum(maximum(stay_e, rest_e), left_e)
            total = (_shifted(stay_m, stay_e, top) + _shifted(rest_m, rest_e, top)) + _shifted(left_m, left_e, top)
            new_m, new_e = _normal(total * p_m, top + p_e)
            _store(now_ptr, own, new_m, new_e, is_label)
        tl.debug_barrier()  # the next step reads what other threads wrote

    if backward == 0:
        # the sum of the two last states, as a vector of two
        i = tl.arange(0, 2)
        slot = used - 1
        if not ALL:
            slot = slot & 1
        last_ptr = states_ptr + tl.where(used > 0, slot, 0) * row
        m, e = _load(last_ptr, tl.where(i == 0, length - 1, 2 * length), (used > 0) & ((i == 1) | (length > 0)))
        certain = (i == 1) & (used == 0) & (length == 0)
        m = tl.where(certain, 1.0, m)
        e = tl.where(certain, 0.0, e)
        top = tl.max(e)
        z_m, z_e = _normal(tl.sum(_shifted(m, e, top)), top)
        impossible = z_m == 0.0
        log_m = tl.log(tl.where(impossible, 1.0, z_m))
        item = 0.0 - (z_e * 6.93147180369123816490e-01 + (z_e * 1.90821492927058770002e-10 + log_m))
        item = tl.where(impossible, float("inf"), item)
        finite = (item == item) & (item < float("inf")) & (item > float("-inf"))
        status = tl.where(finite, FINE, BROKEN)
        if ZERO_INFINITY:
            status = tl.where(impossible, NOTHING, status)
            item = tl.where(impossible, 0.0, item)
        summary_ptr += 4 * n
        tl.store(summary_ptr, tl.where(valid, item, float("nan")))
        tl.store(summary_ptr + 1, 1.0 / tl.where(impossible, 1.0, z_m))
        tl.store(summary_ptr + 2, z_e)
        tl.store(summary_ptr + 3, tl.where(valid, status, NOTHING).to(tl.float64))


@triton.jit
def _posterior(alpha_ptr, beta_ptr, at, mask, z_e, p_e):
    """α y β 2^-(e of Z) 2^-(e of y); y is a factor of both α and β. Divided by the m of Z and of y: the posterior."""
    a_m, a_e = _load(alpha_ptr, at, mask)
    b_m, b_e = _load(beta_ptr, at, mask)
    return (a_m * b_m) * _power_of_two(((a_e - z_e) + b_e) - p_e)


@triton.jit
def _inverse(log_p):
    """1 / m and e of exp(log_p) as a pair; of 1 where that is zero or nan, since the derivative is nan there."""
    usable = (log_p > float("-inf")) & (log_p < float("inf"))
    r, e = _whole_powers(tl.where(usable, log_p, 0.0))
    return tl.exp(-r), e


@triton.jit(do_not_specialize=_EXP_SIZES)
def exp_kernel(
    log_probs_ptr, input_lengths_ptr, summary_ptr, gradient_ptr, factor_ptr,
    samples, classes, lp_t, lp_n, lp_c, g_t,
    ALIGNED: tl.constexpr, MATH: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """exp(log_probs) of one step of one sample: the gradient of all classes that do not occur in the labels.

    Reads and writes C b. The result is zero beyond the sample's steps and where the gradient is 0; nan where the loss
    is not finite.
    """
    row = tl.program_id(0).to(tl.int64)
    t = row // samples
    n = row % samples
    if ALIGNED:  # classes are dense and every row starts at a multiple of 16 elements, so loads can be vector loads
        lp_c = 1
        # not tl.multiple_of, which the compiler ignores for arguments
        lp_t = lp_t // 16 * 16
        lp_n = lp_n // 16 * 16
        g_t = g_t // 16 * 16
        classes = classes // 16 * 16
    status = tl.load(summary_ptr + 4 * n + 3).to(tl.int32)
    zero = (status == NOTHING) | (t >= tl.load(input_lengths_ptr + n))
    factor = tl.load(factor_ptr + n)
    log_probs_ptr += t * lp_t + n * lp_n
    gradient_ptr += t * g_t + n * classes
    for start in range(0, classes, CLASSES):
        c = start + tl.arange(0, CLASSES)
        inside = c < classes
        log_y = tl.load(log_probs_ptr + c.to(tl.int64) * lp_c, mask=inside & (zero == 0), other=0.0).to(MATH)
        slope = exp(log_y) * factor
        slope = tl.where((log_y == float("-inf")) | (status == BROKEN), float("nan"), slope)
        slope = tl.where(zero, 0.0, slope)
        tl.store(gradient_ptr + c, slope.to(gradient_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_POSTERIOR_SIZES)
def posterior_kernel(
    log_probs_ptr, targets_ptr, order_ptr, offsets_ptr, input_lengths_ptr, target_lengths_ptr,
    states_ptr, summary_ptr, gradient_ptr, factor_ptr,
    steps, samples, classes, states, blank, lp_t, lp_n, lp_c, g_t,
    MATH: tl.constexpr, LABELS: tl.constexpr,
):  # fmt: skip
    """exp(log_probs) - posterior of one step of one sample, for the classes that occur in the labels.

    Reads 32 bytes for each state and writes b for each class that occurs. Labels are sorted by class, so equal labels
    are adjacent: a block of them is compared with itself and, while its last class continues, with the following
    blocks. The order of every sum is fixed.
    """
    row = tl.program_id(0).to(tl.int64)
    t = row // samples
    n = row % samples
    summary_ptr += 4 * n
    status = tl.load(summary_ptr + 3).to(tl.int32)
    counts = (status == FINE) & (t < tl.load(input_lengths_ptr + n))
    length = tl.where(counts, tl.load(target_lengths_ptr + n), -1).to(tl.int32)
    offset = tl.load(offsets_ptr + n)
    factor = tl.load(factor_ptr + n)
    log_probs_ptr += t * lp_t + n * lp_n
    gradient_ptr += t * g_t + n * classes
    targets_ptr += offset
    order_ptr += offset
    alpha_ptr = states_ptr + 2 * (t * states + 2 * offset + n)
    beta_ptr = alpha_ptr + 2 * (steps.to(tl.int64) * states)
    per_z = tl.load(summary_ptr + 1, mask=counts, other=1.0)
    z_e = tl.load(summary_ptr + 2, mask=counts, other=0.0)

    blank_log_y = tl.load(log_probs_ptr + blank * lp_c, mask=counts, other=0.0)
    per_blank, blank_e = _inverse(blank_log_y.to(tl.float64))
    blanks = tl.zeros([LABELS], tl.float64)
    for start in range(0, length + 1, LABELS):
        i = start + tl.arange(0, LABELS)
        blanks += _posterior(alpha_ptr, beta_ptr, length + i, i <= length, z_e, blank_e)

    for start in range(0, length, LABELS):
        i = start + tl.arange(0, LABELS)
        at = tl.load(order_ptr + i, mask=i < length, other=0)
        label = tl.load(targets_ptr + at, mask=i < length, other=-1).to(tl.int64)
        largest = tl.max(label)
        by_class = tl.zeros([LABELS], tl.float64)
        next_start = start
        goes_on = start < length
        while goes_on:
            j = next_start + tl.arange(0, LABELS)
            at = tl.load(order_ptr + j, mask=j < length, other=0)
            next_label = tl.load(targets_ptr + at, mask=j < length, other=-1).to(tl.int64)
            log_y = tl.load(log_probs_ptr + next_label * lp_c, mask=j < length, other=0.0)
            _, p_e = _inverse(log_y.to(tl.float64))
            gamma = _posterior(alpha_ptr, beta_ptr, at.to(tl.int32), j < length, z_e, p_e)
            by_class += tl.sum(tl.where(label[:, None] == next_label[None, :], gamma[None, :], 0.0), axis=1)
            next_start += LABELS
            goes_on = (next_start < length) & (tl.max(next_label) == largest)
        at = tl.load(order_ptr + i - 1, mask=(i < length) & (i > 0), other=0)
        before = tl.load(targets_ptr + at, mask=(i < length) & (i > 0), other=-1).to(tl.int64)
        is_first = (i < length) & (label != before)
        is_blank = label == blank  # PyTorch allows labels that are the blank
        blanks += tl.where(is_first & is_blank, by_class, 0.0)
        log_y = tl.load(log_probs_ptr + label * lp_c, mask=i < length, other=0.0)
        per_p, _ = _inverse(log_y.to(tl.float64))
        slope = (exp(log_y.to(MATH)) - (by_class * per_z * per_p).to(MATH)) * factor
        slope = tl.where(log_y == float("-inf"), float("nan"), slope)
        tl.store(gradient_ptr + label, slope.to(gradient_ptr.dtype.element_ty), mask=is_first & (is_blank == 0))
    slope = (exp(blank_log_y.to(MATH)) - (tl.sum(blanks) * per_z * per_blank).to(MATH)) * factor
    slope = tl.where(blank_log_y == float("-inf"), float("nan"), slope)
    tl.store(gradient_ptr + blank, slope.to(gradient_ptr.dtype.element_ty), mask=counts)


def run(
    operands: Mapping[str, Tensor],
    options: Mapping[str, Any],
    math: torch.dtype,
    items: torch.dtype | None,
    wants: Collection[str],
    upstream: Tensor | None,
    scale: Tensor | None,
    layout: Layout,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One pass.

    Args:
        operands: log_probs (T, N, C), with any strides; the others as given by the user, lengths on any device.
        options: the chapter's.
        math: the dtype of the gradient's computation; the walks are in float64.
        items: the dtype of the items, or None for what a sum or mean is made of.
        wants: may name log_probs.
        upstream: one value an item, or None.
        scale: in the math dtype, on the device: one value, or one an item.
        layout: says whether the call is batched.

    Returns:
        The items in ``layout.items_shape``, or (N,) in float64 if no dtype is asked for; and the gradient, in the
        shape that the user gave log_probs.
    """
    log_probs = operands["log_probs"]
    device = log_probs.device
    steps, samples, _ = log_probs.shape
    wanted = "log_probs" in wants
    summary = memory.empty((samples, 4), torch.float64, device)  # item, 1 / m and e of Z, status
    gradient = memory.empty(log_probs.shape, log_probs.dtype, device) if wanted else None
    if samples:
        labels = _labels(operands, samples, device)
        factor = torch.ones((), dtype=math, device=device) if scale is None else scale
        if upstream is not None:
            factor = factor * upstream.to(math)
        factor = factor.expand(samples).contiguous()
        size = samples
        if not labels.concatenated and wanted:
            size = max(1, STATES_BUDGET // (max(1, steps) * _state_bytes(labels.longest)))
        for start in range(0, samples, size):
            part = slice(start, start + size)
            _run(
                log_probs[:, part],
                labels.samples(part) if size < samples else labels,
                options,
                math,
                summary[part],
                None if gradient is None else gradient[:, part],
                factor[part],
            )
    values = summary[:, 0]
    result = values.clone() if items is None else values.to(items).reshape(layout.items_shape)
    if gradient is None:
        return result, {}
    return result, {"log_probs": gradient if layout.items_shape else gradient[:, 0]}


@dataclass(frozen=True)
class _Labels:
    """All samples' labels in one vector, and the offset of each sample's. The host does not know the lengths."""

    targets: Tensor  #: 1-dimensional
    offsets: Tensor  #: (N,)
    input_lengths: Tensor  #: (N,)
    target_lengths: Tensor  #: (N,)
    longest: int  #: no sample has more labels than this
    concatenated: bool

    def samples(self, part: slice) -> _Labels:
        """Some of the samples of padded targets."""
        targets = self.targets[part.start * self.longest : part.stop * self.longest]
        offsets = self.offsets[: len(self.offsets[part])]
        lengths = self.input_lengths[part], self.target_lengths[part]
        return _Labels(targets, offsets, *lengths, self.longest, self.concatenated)

    def order(self, classes: int) -> Tensor:
        """The positions of each sample's labels sorted by class, stored at the sample's offset."""
        positions = torch.arange(len(self.targets), device=self.targets.device)
        # one sort for all samples; a sample whose offset is beyond the vector has no gradient
        sample = torch.searchsorted(self.offsets, positions, right=True) - 1
        within = positions - self.offsets[sample]
        used = within < self.target_lengths[sample]
        label = torch.where(used, self.targets.long().clamp(0, classes), classes + 1)
        order = torch.argsort(sample * (classes + 2) + label, stable=True)
        return within[order]


def _labels(operands: Mapping[str, Tensor], samples: int, device: torch.device) -> _Labels:
    targets = operands["targets"].to(device).contiguous()
    input_lengths, target_lengths = (
        operands[name].reshape(-1).to(device, torch.int64, non_blocking=True).contiguous()
        for name in ("input_lengths", "target_lengths")
    )
    concatenated = targets.ndim == 1 and samples > 1
    if concatenated:
        lengths = target_lengths.clamp(min=0)
        return _Labels(targets, lengths.cumsum(0) - lengths, input_lengths, target_lengths, len(targets), True)
    longest = targets.shape[-1]
    offsets = torch.arange(samples, device=device) * longest
    return _Labels(targets.reshape(-1), offsets, input_lengths, target_lengths, longest, False)


def _run(
    log_probs: Tensor,
    labels: _Labels,
    options: Mapping[str, Any],
    math: torch.dtype,
    summary: Tensor,
    gradient: Tensor | None,
    factor: Tensor,
) -> None:
    """Launch the kernels for samples whose states fit the budget together."""
    device = log_probs.device
    steps, samples, classes = log_probs.shape
    blank = options["blank"]
    count = len(labels.targets)
    states = 2 * count + samples
    directions, kept = (1, 2) if gradient is None else (2, steps)
    pairs = memory.empty((directions, kept, states, 2), torch.float64, device)
    lanes = tuning.warp_size(device)
    typical = -(-count // samples)
    block = _power_of_two_from(typical + 1, 16, 512)
    with torch.cuda.device_of(log_probs):
        walk_kernel[(samples, directions)](
            log_probs, labels.targets, labels.offsets, labels.input_lengths, labels.target_lengths,
            pairs, summary,
            steps, classes, labels.longest, count, states, blank * log_probs.stride(2), *log_probs.stride(),
            ALL=gradient is not None, ZERO_INFINITY=bool(options["zero_infinity"]), LABELS=block,
            num_warps=tuning.warps(block, lanes), **tuning.COMPILER,
        )  # fmt: skip
        if gradient is None or steps == 0:
            return
        width = _power_of_two_from(classes, 32, 1024)
        rows = (*log_probs.stride()[:2], classes)
        exp_kernel[(steps * samples,)](
            log_probs, labels.input_lengths, summary, gradient, factor,
            samples, classes, *log_probs.stride(), gradient.stride(0),
            ALIGNED=log_probs.stride(2) == 1 and all(stride % 16 == 0 for stride in rows),
            MATH=tl_dtype(math), CLASSES=width, num_warps=tuning.warps(min(width, 128), lanes), **tuning.COMPILER,
        )  # fmt: skip
        posterior_kernel[(steps * samples,)](
            log_probs, labels.targets, labels.order(classes), labels.offsets, labels.input_lengths,
            labels.target_lengths, pairs, summary, gradient, factor,
            steps, samples, classes, states, blank, *log_probs.stride(), gradient.stride(0),
            MATH=tl_dtype(math), LABELS=_power_of_two_from(typical, 16, 16),
            num_warps=1,  # many small programs, which wait for memory
            **tuning.COMPILER,
        )  # fmt: skip


def _power_of_two_from(count: int, least: int, most: int) -> int:
    """The next power of two from count on, within bounds: few block sizes, so few compilations."""
    return min(most, max(least, 1 << max(0, count - 1).bit_length()))


def _state_bytes(labels: int) -> int:
    """Bytes kept for the gradient for one step of one sample: two directions, two float64 for each state."""
    return 32 * (2 * labels + 1)


def workspace_size(log_probs: tuple[int, ...], targets: tuple[int, ...], itemsize: int) -> int:
    """An upper bound in bytes of the scratch: the states of all steps, within the budget, and sorted labels."""
    del itemsize
    steps, samples = log_probs[0], log_probs[1] if len(log_probs) == 3 else 1
    labels = prod(targets)
    states = 32 * max(1, steps) * (2 * labels + samples)
    if len(targets) == 2 and samples:
        states = min(states, max(STATES_BUDGET, states // samples))
    return states + 64 * (labels + samples) + 65536

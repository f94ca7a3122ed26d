"""No kernel reads or writes outside its buffers, at sizes around its blocks.

Every tensor that a kernel is launched with is replaced by a copy inside a larger allocation, full of a sentinel: before
and after it, and in the gaps between the elements of a strided view. Each address that the interpreter loads from or
stores to must be that of an element, and the sentinels must be there afterwards. Results are compared with the CPU's.
The file is long because all kinds share the watch on addresses.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder

from portaloss import engine, select
from portaloss.arrange import specs
from portaloss.backends.poison import poisoned
from portaloss.backends.triton import launch, tuning
from portaloss.catalogue import LOSSES, Domain, Extent, Family
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import differentiable

POINTWISE = [kind for kind, loss in LOSSES.items() if loss.family is Family.POINTWISE]
ROWWISE = [kind for kind, loss in LOSSES.items() if loss.family is Family.ROWWISE]

#: Blocks while interpreting: small, so that a few elements make several of them.
BLOCK = 64
ROWS = 8
CLASSES = 16

#: Elements before and after each buffer: more than the block by which a kernel would overrun it.
BAND = 256


def around(block):
    return (0, 1, block - 1, block, block + 1, 3 * block + 7)


class Buffer:
    """A tensor's copy, of the same strides, within a larger allocation full of a sentinel."""

    def __init__(self, tensor):
        offsets = np.zeros(1, np.int64)
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            offsets = (offsets[:, None] + np.arange(size) * stride).reshape(-1)
        span = int(offsets.max()) + 1 if offsets.size else 0
        self.sentinel = float("nan") if tensor.dtype.is_floating_point else torch.iinfo(tensor.dtype).max
        self.whole = torch.full((span + 2 * BAND,), self.sentinel, dtype=tensor.dtype)
        self.element = np.zeros(len(self.whole), bool)
        self.element[BAND + offsets] = True
        self.inside = self.whole.as_strided(tensor.shape, tensor.stride(), BAND)
        self.tensor = tensor
        self._own = torch.from_numpy(self.element).logical_not()
        if tensor.numel():
            self.whole[BAND + torch.from_numpy(offsets)] = tensor.detach().reshape(-1)

    def holds(self, addresses):
        """Which of the addresses are those of elements."""
        offset = addresses.astype(np.int64) - self.whole.data_ptr()
        index, rest = np.divmod(offset, self.whole.element_size())
        near = (index >= 0) & (index < len(self.element))
        return near & (rest == 0) & self.element[np.where(near, index, 0)]

    def close(self):
        """Check the sentinels, and give what was written to the tensor."""
        sentinels = self.whole[self._own]
        kept = sentinels.isnan() if self.sentinel != self.sentinel else sentinels == self.sentinel
        assert bool(kept.all()), "a kernel wrote outside its buffers"
        # through views without the repetitions of broadcast axes, which copy_ refuses
        distinct = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in self.tensor.stride())
        self.tensor[distinct].copy_(self.inside[distinct])


class Watch:
    """What the launches of a test did."""

    def __init__(self):
        self.launches = Counter()
        self.buffers = {}

    def around(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        key = value.data_ptr(), tuple(value.shape), value.stride(), value.dtype
        if key not in self.buffers:
            self.buffers[key] = Buffer(value)
        return self.buffers[key].inside

    def check(self, pointers, mask, what):
        addresses = np.asarray(pointers.data)[np.asarray(mask.data)]
        known = np.zeros(addresses.shape, bool)
        for buffer in self.buffers.values():
            known |= buffer.holds(addresses)
        assert known.all(), f"{int((~known).sum())} elements {what} outside any buffer"


@pytest.fixture(autouse=True)
def watch(monkeypatch):
    """Guard every launch in the test."""
    watch = Watch()
    run = InterpretedFunction.run
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def guarded(function, *args, grid, warmup, **kwargs):
        watch.buffers = {}
        args = [watch.around(argument) for argument in args]
        result = run(function, *args, grid=grid, warmup=warmup, **kwargs)
        for buffer in watch.buffers.values():
            buffer.close()
        watch.launches[function.fn.__name__] += int(np.prod(grid))
        return result

    def checked_load(builder, pointers, mask, *rest):
        watch.check(pointers, mask, "read")
        return load(builder, pointers, mask, *rest)

    def checked_store(builder, pointers, value, mask, *rest):
        watch.check(pointers, mask, "written")
        return store(builder, pointers, value, mask, *rest)

    def refused(*args):
        raise AssertionError("no atomics: their order is not the same every run")

    monkeypatch.setattr(InterpretedFunction, "run", guarded)
    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", checked_load)
    monkeypatch.setattr(InterpreterBuilder, "create_masked_store", checked_store)
    monkeypatch.setattr(InterpreterBuilder, "create_atomic_rmw", refused)
    monkeypatch.setattr(InterpreterBuilder, "create_atomic_cas", refused)
    return watch


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(tuning, "pointwise", lambda *args, **kwargs: tuning.Launch(BLOCK, 1))
    monkeypatch.setattr(tuning, "rows", lambda *args, **kwargs: tuning.RowLaunch(ROWS, CLASSES, 1))
    monkeypatch.setattr(tuning, "gather", lambda *args, **kwargs: tuning.RowLaunch(ROWS, 1, 1))


# The guards themselves: they must see what they are there to see


@triton.jit
def shift_kernel(x_ptr, y_ptr, n, read_from, write_from, BLOCK: tl.constexpr):
    """y = x, from and to the wrong place."""
    index = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + index + read_from, mask=index < n, other=0)
    tl.store(y_ptr + index + write_from, x, mask=index < n)


def test_the_guards_let_right_addresses_through():
    x, y = torch.arange(8.0), torch.zeros(8)
    shift_kernel[(1,)](x, y, 8, 0, 0, BLOCK=16)
    assert torch.equal(x, y)


@pytest.mark.parametrize(("read_from", "write_from", "what"), [(1, 0, "read"), (-1, 0, "read"), (0, 1, "written")])
def test_the_guards_see_a_wrong_address(read_from, write_from, what):
    with pytest.raises(Exception, match=f"1 elements {what} outside"):
        shift_kernel[(1,)](torch.zeros(8), torch.zeros(8), 8, read_from, write_from, BLOCK=16)


def test_the_guards_see_the_gaps_of_a_strided_view():
    with pytest.raises(Exception, match="4 elements read outside"):  # every other one of the first eight
        shift_kernel[(1,)](torch.zeros(16)[::2], torch.zeros(8), 8, 0, 0, BLOCK=16)


def test_the_sentinels_show_a_write():
    buffer = Buffer(torch.zeros(4)[::2])
    buffer.whole[BAND + 1] = 0.0  # the gap
    with pytest.raises(AssertionError, match="wrote outside"):
        buffer.close()


# Operands


def draw(domain, shape, rng, classes):
    if domain is Domain.CLASS_INDEX:
        return torch.from_numpy(rng.integers(0, max(classes, 1), shape))
    if domain is Domain.CLASS_SET:
        sets = np.full(shape, -1)
        for row in sets.reshape(-1, shape[-1]):
            count = min(int(rng.integers(0, 4)), len(row))
            row[:count] = rng.permutation(len(row))[:count]
        return torch.from_numpy(sets)
    values = {
        Domain.REAL: rng.normal(0, 2, shape),
        Domain.POSITIVE: rng.uniform(0.5, 2, shape),
        Domain.NON_NEGATIVE: rng.uniform(0.5, 2, shape),
        Domain.PROBABILITY: rng.uniform(0.1, 0.9, shape),
        Domain.LOG_PROBABILITY: -rng.uniform(0.1, 3, shape),
        Domain.COUNT: rng.integers(0, 5, shape).astype(float),
        Domain.SIGN: rng.choice([-1.0, 1.0], shape),
    }[domain]
    return torch.from_numpy(np.asarray(values))


def operands_of(kind, shape, *, dtype=torch.float32, optional=True, options=None, soft=False):
    """Operands of (N, C) or (N, C, d): classes at 1, or features last for kinds that have them there."""
    loss = LOSSES[kind]
    rng = np.random.default_rng(shape)
    classes_last = loss.family is Family.ROWWISE and kind not in (LossKind.NLL, LossKind.CROSS_ENTROPY)
    classes = 1 if loss.family is Family.POINTWISE else shape[-1] if classes_last else shape[1]
    given = {}
    for operand in loss.operands:
        if operand.optional and not optional:
            continue
        domain = operand.domain
        if operand.other_domain is not None:
            when = operand.other_when
            if (when is None and soft) or (when is not None and (options or {}).get(when[0]) == when[1]):
                domain = operand.other_domain
        extent = Extent.FULL if domain is Domain.PROBABILITY else operand.extent
        if extent is Extent.CLASSES:
            own = (classes,)
        elif extent is Extent.ROWS:
            own = shape[:-1] if classes_last else (shape[0], *shape[2:])
        else:
            own = shape
        value = draw(domain, own, rng, classes)
        given[operand.name] = value.to(dtype) if value.is_floating_point() else value
    return given


# Comparing with the CPU


def same(got, expected, what):
    """Equal but for some roundings: this is about where numbers go; parity is about how exact they are.

    float32's are 6e-8, and up to some tens of terms of the largest element's size are added; 16-bit results have
    been rounded once more, to 1e-3 or 8e-3 at most. Where all elements are 0 but for rounding, as the derivative of
    the cosine of two numbers is, the terms that cancel are of the order of 1.
    """
    assert got.dtype == expected.dtype, what
    assert got.shape == expected.shape, what
    relative = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(got.dtype, 1e-5)
    finite = expected.double().nan_to_num(0.0, 0.0, 0.0).abs()
    size = max(float(finite.max()), 0.25) if finite.numel() else 0.0
    torch.testing.assert_close(
        got.double(), expected.double(), rtol=relative, atol=1e-6 * size, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


def compare(kind, operands, **options):
    """Loss and gradients, by forward and by backward, with none and mean; sum differs from mean in its scale alone."""
    before = {name: value.clone() for name, value in operands.items()}
    dtype = str(next(iter(operands.values())).dtype).removeprefix("torch.")
    for reduction in (LossReduction.NONE, LossReduction.MEAN):
        cpu = select(kind, dtype=dtype, reduction=reduction, **options)
        triton_plan = select(kind, dtype=dtype, reduction=reduction, backend="triton-interpret", **options)
        wants = differentiable(cpu.loss, operands)
        with poisoned():
            expected = cpu.forward(**operands)
            upstream = torch.linspace(0.5, 1.5, expected.numel()).reshape(expected.shape).to(expected.dtype)
            gradients = cpu.backward(upstream, wants=wants, **operands)
            unscaled = cpu.backward(torch.ones_like(upstream), wants=wants, **operands)

            same(triton_plan.forward(**operands), expected, f"{reduction.name} loss")
            early = engine.forward(engine.prepare(triton_plan, specs(operands)), operands, wants)
            same(early.value, expected, f"{reduction.name} loss with gradients")
            for name in early.gradients or ():
                same(early.gradients[name], unscaled[name], f"{reduction.name} early gradient of {name}")
            for name, gradient in triton_plan.backward(upstream, wants=wants, **operands).items():
                same(gradient, gradients[name], f"{reduction.name} gradient of {name}")
    for name, value in operands.items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), f"{name} was written to"


def plan_of(kind, reduction):
    return select(kind, dtype="float32", reduction=reduction, backend="triton-interpret")


def spread(tensor):
    """The same numbers, every other element of a tensor twice as long along each axis."""
    wide = tensor.new_zeros([2 * size for size in tensor.shape])
    view = wide[tuple(slice(None, None, 2) for _ in tensor.shape)]
    return view.copy_(tensor)


def reordered(tensor):
    """The same numbers, their axes in the opposite order in memory."""
    axes = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(axes).contiguous().permute(axes)


def variants(kind):
    """Options, and whether optional operands are there: the defaults with them and without, each other value with."""
    yield {}, True
    if any(operand.optional for operand in LOSSES[kind].operands):
        yield {}, False
    for option in LOSSES[kind].options:
        for value in option.others:
            yield {option.name: value}, True


# Pointwise


@pytest.mark.parametrize("size", around(BLOCK))
@pytest.mark.parametrize("kind", POINTWISE)
def test_pointwise_sizes(kind, size, watch):
    compare(kind, operands_of(kind, (size,)))
    # a loss; a loss with gradients, which without a reduction are left to backward; a backward pass, which with a
    # weight in the divisor is preceded by another loss: each with none and with mean
    assert watch.launches["pointwise_kernel"] >= 6 * -(-size // BLOCK)


@pytest.mark.parametrize("kind", POINTWISE)
def test_pointwise_options(kind):
    for options, optional in variants(kind):
        compare(kind, operands_of(kind, (BLOCK + 1,), options=options, optional=optional), **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", POINTWISE)
def test_pointwise_dtypes(kind, dtype):
    compare(kind, operands_of(kind, (BLOCK + 1,), dtype=dtype))


@pytest.mark.parametrize("kind", POINTWISE)
def test_pointwise_layouts(kind):
    operands = operands_of(kind, (5, 3 * BLOCK // 5 + 7))
    compare(kind, {name: spread(value) for name, value in operands.items()})
    first = next(iter(operands))
    compare(kind, {name: reordered(value) if name == first else value for name, value in operands.items()})


#: Kinds whose operands may have axes of length one in any place; the others want one shape for most of them.
BROADCASTING = [LossKind.KL_DIV, LossKind.SMOOTH_L1, LossKind.MARGIN_RANKING, LossKind.POISSON_NLL]


@pytest.mark.parametrize("kind", BROADCASTING)
def test_pointwise_broadcasts(kind):
    rows, columns = 3 * BLOCK + 7, 3
    wide, narrow = operands_of(kind, (rows, columns)), operands_of(kind, (rows, 1))
    names = list(wide)
    compare(kind, {**wide, names[1]: narrow[names[1]]})
    compare(kind, {**wide, names[0]: operands_of(kind, (1, columns))[names[0]]})


@pytest.mark.parametrize("kind", POINTWISE)
def test_pointwise_more_axes_than_the_kernel_has(kind):
    shape = (2, 3, 2, 3, 2, 3)
    operands = operands_of(kind, shape)
    compare(kind, {name: spread(value) for name, value in operands.items()})


# Rowwise

#: Rows around a block of rows with few classes, then classes around a block of classes with few rows, then both.
SHAPES = [
    *((rows, 5) for rows in around(ROWS)),
    *((3, classes) for classes in around(CLASSES) if classes),
    (3 * ROWS + 7, 3 * CLASSES + 7),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("kind", ROWWISE)
def test_rowwise_sizes(kind, shape):
    rows, classes = shape
    if kind is LossKind.MULTILABEL_MARGIN:
        rows = min(rows, 3)  # a block is one row, whatever ROWS is
    compare(kind, operands_of(kind, (rows, classes)))


@pytest.mark.parametrize("shape", [(3, CLASSES), (ROWS + 1, 3 * CLASSES + 7)])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets(shape, weighted, smoothing):
    operands = operands_of(LossKind.CROSS_ENTROPY, shape, soft=True, optional=weighted)
    compare(LossKind.CROSS_ENTROPY, operands, label_smoothing=smoothing)


@pytest.mark.parametrize("kind", ROWWISE)
def test_rowwise_options(kind):
    rows = 3 if kind is LossKind.MULTILABEL_MARGIN else ROWS + 1
    for options, optional in variants(kind):
        compare(kind, operands_of(kind, (rows, CLASSES + 1), optional=optional), **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ROWWISE)
def test_rowwise_dtypes(kind, dtype):
    compare(kind, operands_of(kind, (3 if kind is LossKind.MULTILABEL_MARGIN else ROWS + 1, CLASSES + 1), dtype=dtype))


@pytest.mark.parametrize("layout", [spread, reordered])
@pytest.mark.parametrize("kind", ROWWISE)
def test_rowwise_layouts(kind, layout):
    operands = operands_of(kind, (3 if kind is LossKind.MULTILABEL_MARGIN else ROWS + 1, CLASSES + 1))
    compare(kind, {name: layout(value) for name, value in operands.items()})


@pytest.mark.parametrize("layout", [torch.clone, spread, reordered])
@pytest.mark.parametrize("kind", [LossKind.NLL, LossKind.CROSS_ENTROPY, LossKind.MULTILABEL_SOFT_MARGIN])
def test_more_than_two_axes(kind, layout):
    operands = operands_of(kind, (2, CLASSES + 1, ROWS + 1))
    compare(kind, {name: layout(value) for name, value in operands.items()})


def test_rows_that_broadcast():
    wide, narrow = (operands_of(LossKind.TRIPLET_MARGIN, (rows, CLASSES + 1)) for rows in (ROWS + 1, 1))
    compare(LossKind.TRIPLET_MARGIN, {**wide, "negative": narrow["negative"]})


# Classes out of range

#: One past either end, and so far away that 32 bits, or a multiplication by a stride in 64, would wrap around.
WRONG = (-1, CLASSES + 1, 2**31, -(2**31), 2**40, 2**62, -(2**63), 2**63 - 1)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kind", [LossKind.NLL, LossKind.CROSS_ENTROPY, LossKind.MULTI_MARGIN])
def test_classes_out_of_range(kind, weighted):
    operands = operands_of(kind, (2 * len(WRONG), CLASSES + 1), optional=weighted)
    operands["target"][::2] = torch.tensor(WRONG)
    items = plan_of(kind, LossReduction.NONE).forward(**operands)
    assert items[::2].isnan().all()
    assert not items[1::2].isnan().any()
    for reduction, upstream in ((LossReduction.NONE, torch.ones(len(items))), (LossReduction.SUM, torch.tensor(1.0))):
        plan = plan_of(kind, reduction)
        gradient = plan.backward(upstream, wants=("input",), **operands)["input"]
        assert (gradient[::2] == 0).all()
        assert (gradient[1::2] != 0).any(1).all()


def test_sets_of_classes_out_of_range():
    operands = operands_of(LossKind.MULTILABEL_MARGIN, (2 * len(WRONG), CLASSES + 1))
    operands["target"][:, :3] = torch.tensor([1, 0, -1])
    wrong = [value for value in WRONG if value != -1]  # which ends the list
    rows = slice(0, 2 * len(wrong), 2)
    operands["target"][rows, 1] = torch.tensor(wrong)
    operands["target"][1, 5] = 2**40  # beyond the end: never looked at
    items = plan_of(LossKind.MULTILABEL_MARGIN, LossReduction.NONE).forward(**operands)
    assert items[rows].isnan().all()
    assert int(items.isnan().sum()) == len(wrong)


@pytest.mark.parametrize("kind", [LossKind.NLL, LossKind.CROSS_ENTROPY])
def test_a_narrow_target_out_of_range(kind):
    operands = operands_of(kind, (4, CLASSES + 1))
    operands["target"] = torch.tensor([0, 255, 1, CLASSES + 1], dtype=torch.uint8)
    assert plan_of(kind, LossReduction.NONE).forward(**operands).isnan().tolist() == [False, True, False, True]


# scale_

#: launch.scale_'s block on a GPU.
SCALE_BLOCK = 2048


@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", around(SCALE_BLOCK))
def test_scale(size, dtype, factor, monkeypatch, watch):
    monkeypatch.setattr(launch, "INTERPRET", False)  # else the block is that of the interpreter, which is larger
    tensor = torch.linspace(-3, 3, size).to(dtype)
    expected = tensor * factor
    launch.scale_(tensor, torch.tensor(factor))
    assert torch.equal(tensor, expected)  # halving is exact
    assert watch.launches["scale_kernel"] == -(-size // SCALE_BLOCK)

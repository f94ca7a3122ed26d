"""A chapter on tiles, compared with the chapter on whole arrays: memory layouts, broadcasting, last tiles, threads."""

import itertools

import numpy as np
import pytest

from portaloss import functional
from portaloss.backends.cpu import sums, tiles
from portaloss.backends.cpu.threads import use_num_threads
from portaloss.backends.cpu.tiles import Pass, merge_axes
from portaloss.engine import select
from portaloss.kinds import LossKind
from portaloss.reference.lazy import LazyProduct, LazySum

FLOAT64 = np.dtype(np.float64)


def weighted(a, b, *, wants=()):
    """A pointwise chapter that is easy to check: items a*b."""
    items = a * b
    derivatives = {"a": np.broadcast_to(b, items.shape), "b": np.broadcast_to(a, items.shape)}
    return items, {name: derivatives[name] for name in wants}


def row_square(a, b, *, wants=()):
    """A rowwise chapter: items sum over axis 1 of a*b."""
    items, derivatives = weighted(a, b, wants=wants)
    return items.sum(axis=1, keepdims=True), derivatives


def expected(chapter, a, b, upstream, axis):
    items, derivatives = chapter(a, b, wants=("a", "b"))
    full = np.broadcast_shapes(a.shape, b.shape)
    gradients = {}
    for name, operand in (("a", a), ("b", b)):
        gradient = np.broadcast_to(derivatives[name] * upstream, full)
        axes = tuple(i for i in range(len(full)) if operand.shape[i] != full[i])
        gradients[name] = gradient.sum(axis=axes, keepdims=True)
    return items, gradients


def run(chapter, a, b, upstream, axis):
    full = np.broadcast_shapes(a.shape, b.shape)
    shape = list(full)
    if axis is not None:
        shape[axis] = 1
    items = np.full(shape, np.nan)
    gradients = {"a": np.full_like(a, np.nan), "b": np.full_like(b, np.nan)}
    Pass(chapter, {"a": a, "b": b}, {}, FLOAT64, axis=axis, items=items, gradients=gradients, upstream=upstream).run()
    return items, gradients


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 24 elements: many tiles, odd tails, at sizes that are quick to check."""
    monkeypatch.setattr(tiles, "TILE", 24)


SHAPES = [
    ((5, 7), (5, 7)),
    ((23,), (23,)),
    ((25,), (25,)),
    ((49,), (1,)),
    ((5, 7), (1, 7)),
    ((5, 7), (5, 1)),
    ((3, 4, 5), (1, 4, 1)),
    ((3, 4, 5), (3, 1, 5)),
    ((2, 1, 30), (2, 3, 1)),
    ((100, 1), (1, 3)),
]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize(("shape_a", "shape_b"), SHAPES)
@pytest.mark.parametrize("layout", ["C", "F", "stepped", "reversed"])
def test_tiles_agree_with_the_whole(axis, shape_a, shape_b, layout):
    if axis is not None and len(shape_a) < 2:
        pytest.skip("a class axis needs two axes")
    rng = np.random.default_rng(1)

    def make(shape):
        if layout == "stepped":
            return rng.standard_normal([2 * size for size in shape])[tuple(slice(None, None, 2) for _ in shape)]
        if layout == "reversed":
            return rng.standard_normal(shape)[tuple(slice(None, None, -1) for _ in shape)]
        return np.asarray(rng.standard_normal(shape), order=layout)

    a, b = make(shape_a), make(shape_b)
    chapter = weighted if axis is None else row_square
    item_shape = list(np.broadcast_shapes(shape_a, shape_b))
    if axis is not None:
        item_shape[axis] = 1
    upstream = rng.standard_normal(item_shape)
    items, gradients = run(chapter, a, b, upstream, axis)
    items_expected, gradients_expected = expected(chapter, a, b, upstream, axis)
    # elementwise results are the same operations; sums of at most 300 float64 terms differ by their order alone
    np.testing.assert_allclose(items, items_expected, rtol=1e-13, atol=1e-14)
    for name in "ab":
        np.testing.assert_allclose(gradients[name], gradients_expected[name], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(1,), (65535,), (65536,), (65537,), (3 * 65536 + 7,), (257, 1023)])
def test_every_element_is_visited_once(shape):
    a = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    gradient = np.full(shape, np.nan)
    total = Pass(weighted, {"a": a, "b": np.ones(shape)}, {}, FLOAT64, gradients={"b": gradient}, upstream=2.0).run()
    np.testing.assert_array_equal(gradient, 2 * a)
    assert total == a.size * (a.size - 1) / 2  # whole numbers below 2^53: exact in any order


def test_a_gradient_that_is_a_sum_of_no_items_is_zero_in_a_mean_too():
    """The mean of none is nan, and so is each item's derivative: but there is none."""
    weight, x = np.ones(3, np.float32), np.zeros((0, 3), np.float32)
    plan = select(LossKind.MULTILABEL_SOFT_MARGIN, dtype="float32", reduction="mean")
    assert (plan.backward(1.0, x, x, weight)["weight"] == 0.0).all()


def test_empty_operands_have_sum_zero_and_zero_gradients():
    gradient = np.full((1, 3), np.nan)
    total = Pass(weighted, {"a": np.ones((0, 3)), "b": np.ones((1, 3))}, {}, FLOAT64, gradients={"b": gradient}).run()
    assert total == 0.0
    assert gradient.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("shape_b", [(300, 1000), (1, 1000), (300, 1), (1, 1)])
def test_the_same_bits_on_any_number_of_threads(shape_b):
    rng = np.random.default_rng(2)
    a = rng.standard_normal((300, 1000)).astype(np.float32)
    b = rng.standard_normal(shape_b).astype(np.float32)
    results = []
    for count, _ in itertools.product((1, 2, 5), range(3)):
        gradients = {"a": np.empty_like(a), "b": np.empty_like(b)}
        with use_num_threads(count):
            total = Pass(weighted, {"a": a, "b": b}, {}, np.dtype(np.float32), gradients=gradients).run()
        results.append((total, gradients["a"].tobytes(), gradients["b"].tobytes()))
    assert len(set(results)) == 1


def test_contiguous_arrays_become_one_axis():
    a = np.zeros((4, 5, 6))
    shape, arrays = merge_axes(a.shape, {("operand", "a"): a}, None)
    assert shape == (120,)
    assert np.shares_memory(arrays["operand", "a"], a)


def test_transposed_arrays_are_walked_in_memory_order():
    a, b = np.zeros((6, 5, 4)).T, np.zeros((6, 5, 4)).T
    shape, arrays = merge_axes(a.shape, {("operand", "a"): a, ("operand", "b"): b}, None)
    assert shape == (120,)
    assert all(array.flags.c_contiguous for array in arrays.values())


def test_the_class_axis_stays_at_one():
    a, target = np.zeros((2, 7, 3, 4)), np.zeros((2, 1, 3, 4))
    shape, arrays = merge_axes(a.shape, {("operand", "a"): a, ("operand", "t"): target}, 1)
    assert shape == (2, 7, 12)
    assert arrays["operand", "t"].shape == (2, 1, 12)


def test_operands_are_not_changed():
    a, b = np.ones((300, 1000)), np.ones((300, 1000))
    a.flags.writeable = b.flags.writeable = False  # a write would raise
    run(weighted, a, b, 1.0, None)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("value", [1.5, -0.25, float("nan")])
@pytest.mark.parametrize("name", ["input", "target"])
def test_a_probability_out_of_range_is_found_in_the_last_tile(name: str, value: float, reduction: str) -> None:
    """Of shapes met before, large operands are checked tile by tile, as they are computed with."""
    operands = {name: np.full(4 * tiles.TILE, 0.5, np.float32) for name in ("input", "target")}
    functional.binary_cross_entropy(**operands, reduction=reduction)
    operands[name][-1] = value
    with pytest.raises(RuntimeError, match=rf"all elements of {name} should be between 0 and 1, .*\[262143\] is"):
        functional.binary_cross_entropy(**operands, reduction=reduction)
    operands[name][-1] = -0.0  # its sign is doubtful, and right
    assert np.isfinite(functional.binary_cross_entropy(**operands, reduction=reduction)).all()


def test_a_negative_variance_is_found_in_the_last_tile() -> None:
    x, var = np.zeros(4 * tiles.TILE, np.float32), np.ones(4 * tiles.TILE, np.float32)
    functional.gaussian_nll_loss(x, x, var)
    var[-1] = -1.0
    with pytest.raises(ValueError, match="var has negative"):
        functional.gaussian_nll_loss(x, x, var)
    var[-1] = np.nan  # PyTorch lets it pass
    assert np.isnan(functional.gaussian_nll_loss(x, x, var))


def test_parts_of_a_sum_count_as_often_as_they_are_broadcast() -> None:
    rows, columns = np.arange(6.0).reshape(6, 1), np.arange(5000.0)
    items = LazySum((LazyProduct(columns, 2.0, 4.0), rows, LazyProduct(rows, columns, -1.0)))
    expected = rows + columns / 2 - rows * columns
    np.testing.assert_array_equal(np.asarray(items), expected)
    assert sums.sum_of(items) == expected.sum()
    assert sums.sum_of(LazySum((rows, columns))) == (rows + columns).sum()
    assert sums.sum_of(LazySum((np.full(5000, np.nan), np.zeros((0, 1))))) == 0.0  # it is there no time

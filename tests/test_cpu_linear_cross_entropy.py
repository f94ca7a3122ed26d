"""Linear cross-entropy in chunks, compared with its chapter, in all dtypes and chunk sizes; its memory; its bits."""

from __future__ import annotations

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from portaloss.backends.cpu import linear_cross_entropy as engine
from portaloss.backends.cpu.threads import set_num_threads, use_num_threads
from portaloss.backends.poison import poisoned
from portaloss.reference.fused_linear_cross_entropy import fused_linear_cross_entropy

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
LINEAR = ("input", "linear_weight", "linear_bias")


@pytest.fixture
def threads():
    """A function that sets the number of threads, until the test is over."""
    with use_num_threads(None):
        yield set_num_threads


def draw(rng, rows, features, classes, dtype, *, positions=(), soft=False, bias=True, weight=True):
    operands = {
        "input": rng.normal(size=(rows, features)),
        "linear_weight": rng.normal(size=(classes, *positions, features)) / np.sqrt(max(1, features)),
    }
    if soft:
        target = np.moveaxis(rng.dirichlet(np.ones(classes), (rows, *positions)), -1, 1)
        operands["target"] = np.ascontiguousarray(target)
    if bias:
        operands["linear_bias"] = rng.normal(size=(classes, *positions))
    if weight:
        operands["weight"] = rng.random(classes) + 0.1
    operands = {name: array.astype(dtype) for name, array in operands.items()}
    if not soft:
        operands["target"] = rng.integers(0, classes, (rows, *positions))
        operands["target"][rng.random(operands["target"].shape) < 0.2] = -100
    return operands


def wants_of(operands):
    soft = operands["target"].dtype.kind != "i"
    return tuple(name for name in operands if name in LINEAR or (soft and name in ("target", "weight")))


def compute(operands, upstream=None, wants=None, *, max_memory=engine.MAX_MEMORY, **options):
    with poisoned():
        return engine.compute(
            operands,
            upstream=upstream,
            wants=wants_of(operands) if wants is None else wants,
            max_memory=max_memory,
            **{"ignore_index": -100, "label_smoothing": 0.0} | options,
        )


def wide(array):
    return array if array.dtype.kind == "i" else array.astype(np.float64)


def assert_like_chapter(operands, upstream, results, *, only=None, **options):
    """Results against the chapter in float64; errors relative to what the terms of sums add up to."""
    items, gradients = results
    truth = {name: wide(array) for name, array in operands.items()}
    u = upstream if isinstance(upstream, float) else wide(upstream)
    wants = wants_of(operands) if only is None else only
    right, right_gradients = fused_linear_cross_entropy(**truth, **options, upstream=u, wants=wants)

    x, matrix = np.abs(truth["input"]), np.abs(truth["linear_weight"])
    rows, features, classes = *x.shape, len(matrix)
    dtype = operands["input"].dtype
    math = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    assert items.dtype == math
    # z: a rounding for each feature, and some for the softmax. No slope is larger than the largest weight times the
    # largest sum of a target, 1; and none moves by more than twice what a logit does.
    largest = float((x @ matrix.reshape(-1, features).T).max(initial=0.0)) + float(
        np.abs(truth.get("linear_bias", np.zeros(1))).max(initial=0.0)
    )
    off = np.finfo(math).eps * (features + 10) * (largest + 1.0)
    factor = float(np.max(truth.get("weight", np.ones(1)), initial=0.0))
    np.testing.assert_allclose(items, right, rtol=0, atol=off * factor * 2)
    assert sorted(gradients) == sorted(wants)
    # what a gradient's terms add up to: a row's slopes to 2 at most, and a column's to one a row
    columns = rows * max(1.0, factor)
    sizes = {
        "input": 2 * factor * matrix.max(initial=0.0) * max(1, int(np.prod(matrix.shape[1:-1]))),
        "linear_weight": columns * x.max(initial=0.0),
        "linear_bias": columns,
        "target": factor * (largest + np.log(classes)),
        "weight": columns * (largest + np.log(classes)),
    }
    biggest = float(np.max(np.abs(u), initial=0.0))
    for name in wants:
        got = gradients[name]
        assert got.dtype == operands[name].dtype
        assert got.shape == operands[name].shape
        narrow = ml_dtypes.finfo(got.dtype)
        rounding = float(narrow.eps) / 2 * np.abs(right_gradients[name]) + float(narrow.smallest_subnormal)
        error = np.abs(got.astype(np.float64) - right_gradients[name])
        bound = rounding + 2 * off * (1 + rows / 100) * biggest * sizes[name]
        assert (error <= bound).all(), f"{name}: {np.max(error / bound)} of what is allowed"


CASES = {
    "plain": {"bias": False, "weight": False},
    "bias and weight": {},
    "positions": {"positions": (2, 3)},
    "soft": {"soft": True},
    "soft positions": {"soft": True, "positions": (2,)},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [1, 7, 8, 100])
def test_like_the_chapter(dtype, case, chunk, monkeypatch):
    """Chunks of one row, with an odd tail, with none, and one chunk; in each, blocks of the weight of a few rows."""
    monkeypatch.setattr(engine, "MIN_ROWS", chunk)
    rng = np.random.default_rng(0)
    operands = draw(rng, 24, 5, 33, DTYPES[dtype], **CASES[case])
    upstream = rng.normal(size=(24, *CASES[case].get("positions", ()))).astype(DTYPES[dtype])
    for smoothing in (0.0, 0.3):
        results = compute(operands, upstream, max_memory=500, label_smoothing=smoothing)
        assert_like_chapter(operands, upstream, results, label_smoothing=smoothing)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_number_upstream_and_ignore_index(dtype):
    rng = np.random.default_rng(1)
    operands = draw(rng, 30, 4, 9, DTYPES[dtype])
    operands["target"][operands["target"] < 0] = 3
    results = compute(operands, 0.25, ignore_index=3)
    assert_like_chapter(operands, 0.25, results, ignore_index=3)
    operands["target"][...] = 3
    items, gradients = compute(operands, 0.25, ignore_index=3)
    assert not items.any()
    assert not any(wide(gradient).any() for gradient in gradients.values())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_choice_of_gradients(dtype):
    """Alone or together, a gradient is the same; forward alone gives the same items."""
    rng = np.random.default_rng(2)
    operands = draw(rng, 20, 4, 9, DTYPES[dtype], soft=True)
    items, gradients = compute(operands, 2.0)
    forward, nothing = compute(operands)
    assert nothing == {}
    np.testing.assert_array_equal(forward, items)
    for name in wants_of(operands):
        again, alone = compute(operands, 2.0, (name,))
        np.testing.assert_array_equal(again, items)
        assert list(alone) == [name]
        np.testing.assert_array_equal(alone[name], gradients[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_strides_of_any_kind(dtype):
    rng = np.random.default_rng(3)
    for positions in ((), (2,)):
        operands = draw(rng, 12, 6, 10, DTYPES[dtype], positions=positions, soft=True)
        items, gradients = compute(operands, 1.5)
        for change in (np.asfortranarray, lambda array: np.repeat(array, 2, axis=-1)[..., ::2]):
            strided = {name: change(array) for name, array in operands.items()}
            again, strided_gradients = compute(strided, 1.5, max_memory=4096)
            # sums of 12 rows in other chunks, and of 20 columns in other blocks
            np.testing.assert_allclose(again, items, rtol=1e-5)
            for name, gradient in gradients.items():
                unit = float(ml_dtypes.finfo(gradient.dtype).eps)
                got = wide(strided_gradients[name])
                np.testing.assert_allclose(got, wide(gradient), rtol=unit, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_gradients_go_where_they_are_wanted(dtype):
    """Into arrays of any strides, which start as nan."""
    operands = draw(np.random.default_rng(9), 20, 4, 9, DTYPES[dtype], positions=(2,), soft=True)
    items, gradients = compute(operands, 2.0)
    for order in ("C", "F"):
        given = {name: np.full(operands[name].shape, np.nan, operands[name].dtype, order) for name in gradients}
        again, returned = compute(operands, 2.0, gradients=given)
        np.testing.assert_array_equal(again, items)
        for name, gradient in gradients.items():
            assert returned[name] is given[name]
            np.testing.assert_allclose(given[name], gradient, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(("rows", "features"), [(0, 3), (4, 0), (0, 0)])
def test_empty(rows, features):
    operands = draw(np.random.default_rng(4), rows, features, 5, np.dtype(np.float32))
    items, gradients = compute(operands, 1.0)
    assert items.shape == (rows,)
    for name, gradient in gradients.items():
        assert gradient.shape == operands[name].shape
        assert np.isfinite(gradient).all()
    if rows == 0:
        assert not any(gradient.any() for gradient in gradients.values())


def test_operands_are_not_modified():
    operands = draw(np.random.default_rng(5), 10, 4, 6, np.dtype(np.float32), soft=True)
    copies = {name: array.copy() for name, array in operands.items()}
    for array in operands.values():
        array.flags.writeable = False
    compute(operands, 1.0)
    for name, array in operands.items():
        np.testing.assert_array_equal(array, copies[name])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_are_not_kept_in_16_bits(dtype):
    """4096 rows that each add 1/2 to a weight's gradient: a bfloat16 sum stalls at 128, a float16 one at 1024."""
    operands = {
        "input": np.ones((4096, 1), DTYPES[dtype]),
        "linear_weight": np.zeros((2, 1), DTYPES[dtype]),
        "linear_bias": np.zeros(2, DTYPES[dtype]),
        "target": np.zeros(4096, int),
    }
    _, gradients = compute(operands, 1.0, max_memory=1024)
    assert gradients["linear_weight"].astype(float).ravel().tolist() == [-2048.0, 2048.0]
    assert gradients["linear_bias"].astype(float).tolist() == [-2048.0, 2048.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_threads(dtype, threads):
    """On the engine's threads, and from run to run. BLAS has threads of its own, which stay as they are here."""
    operands = draw(np.random.default_rng(6), 300, 16, 1000, DTYPES[dtype], soft=True)
    results = []
    for count in (1, 1, 3):
        threads(count)
        results.append(compute(operands, 0.5, max_memory=2**20))
    for items, gradients in results[1:]:
        np.testing.assert_array_equal(items, results[0][0])
        for name, gradient in gradients.items():
            np.testing.assert_array_equal(wide(gradient), wide(results[0][1][name]), err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_memory", [2**16, 2**19, 2**25])
@pytest.mark.parametrize("case", CASES)
def test_memory_stays_within_the_workspace(dtype, max_memory, case, threads, monkeypatch):
    """With tiles so small that other scratch is not lost in theirs, and with tiles as they are."""
    threads(2)
    operands = draw(np.random.default_rng(7), 70, 16, 300, DTYPES[dtype], **CASES[case])
    for tile in (512, engine.TILE):
        monkeypatch.setattr(engine, "TILE", tile)
        assert_within_the_workspace(operands, max_memory)


def assert_within_the_workspace(operands, max_memory):
    rows, features = operands["input"].shape
    compute(operands, 1.0)  # what is loaded and cached on first use
    classes, dtype = operands["linear_weight"].size // features, operands["input"].dtype
    bound = engine.workspace_size(rows, features, classes, dtype, max_memory)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    items, gradients = engine.compute(
        operands,
        ignore_index=-100,
        label_smoothing=0.1,
        upstream=1.0,
        wants=wants_of(operands),
        max_memory=max_memory,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    results = items.nbytes + sum(gradient.nbytes for gradient in gradients.values())
    assert peak - before - results <= bound


def test_logits_never_exist_as_a_whole():
    """For 40 times more rows than a chunk has, the bound itself is far below the logits."""
    operands = draw(np.random.default_rng(8), 4096, 8, 4000, np.dtype(np.float32))
    bound = engine.workspace_size(4096, 8, 4000, np.dtype(np.float32), 2**22)
    assert bound + 4096 * 4 + operands["linear_weight"].nbytes < 4096 * 4000 * 4 / 4
    tracemalloc.start()
    compute(operands, 1.0, max_memory=2**22)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4096 * 4000 * 4 / 4


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_without_classes_the_input_has_a_gradient_of_zero(dtype):
    pytest.importorskip("torch")  # whose BLAS adds the products of all classes up in the gradient itself
    operands = {
        "input": np.ones((5, 3), dtype),
        "linear_weight": np.ones((0, 3), dtype),
        "target": np.ones((5, 0), dtype),
    }
    with poisoned():
        items, gradients = engine.compute(
            operands, ignore_index=-100, label_smoothing=0.0, upstream=1.0, wants=("input",), tensors=True
        )
    assert not items.any()
    assert not gradients["input"].astype(float).any()

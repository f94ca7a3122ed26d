"""Casts from and to 16 bits, with and without PyTorch, compared with those of NumPy and ml_dtypes."""

import sys

import ml_dtypes
import numpy as np
import pytest

from portaloss.backends.cpu import casts
from portaloss.backends.cpu.casts import math_dtype, narrow_into, widen

ALL_HALVES = np.arange(65536, dtype=np.uint16).view(np.float16)


@pytest.fixture(autouse=True, params=[False, True], ids=["alone", "with torch"])
def torch_loaded(request, monkeypatch):
    """Every test with PyTorch's casts, and with those that are left where it is not loaded."""
    if request.param:
        pytest.importorskip("torch")
    else:
        monkeypatch.setitem(sys.modules, "torch", None)


def assert_same_bits(actual, expected):
    """Equal to the last bit, signs of zero included; any nan is as good as another."""
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    unsigned = f"u{expected.dtype.itemsize}"
    np.testing.assert_array_equal(actual.view(unsigned)[~nan], expected.view(unsigned)[~nan])


def test_every_half_widens_exactly():
    assert_same_bits(widen(ALL_HALVES), ALL_HALVES.astype(np.float32))


def test_every_half_survives_a_round_trip():
    out = np.empty_like(ALL_HALVES)
    with np.errstate(invalid="ignore"):  # signalling nans are among them
        narrow_into(widen(ALL_HALVES), out)
    assert_same_bits(out, ALL_HALVES)


def test_ties_between_neighbours_round_to_even():
    positive = ALL_HALVES[:0x7C00].astype(np.float32)
    middles = (positive[:-1] + positive[1:]) / 2  # exact in float32, subnormals included
    values = np.concatenate([middles, -middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.inf)])
    out = np.empty(values.shape, np.float16)
    narrow_into(values.astype(np.float32), out)
    with np.errstate(over="ignore"):
        assert_same_bits(out, values.astype(np.float16))


def test_random_bit_patterns_narrow_as_numpy_does():
    bits = np.random.default_rng(0).integers(0, 2**32, 400_000, dtype=np.uint32)
    values = bits.view(np.float32)
    out = np.empty(values.shape, np.float16)
    with np.errstate(all="ignore"):
        narrow_into(values, out)
        assert_same_bits(out, values.astype(np.float16))


def test_bounds_of_overflow():
    values = np.array([65504, 65519.996, 65520, np.inf, -65520, -np.inf], np.float32)
    out = np.empty(values.shape, np.float16)
    with np.errstate(over="ignore"):
        narrow_into(values, out)
    assert out.tolist() == [65504, 65504, np.inf, np.inf, -np.inf, -np.inf]


def test_strided_and_broadcast_stores():
    out = np.full((4, 6), np.nan, np.float16)
    narrow_into(np.array([[1.0], [2.0], [3.0], [4.0]], np.float32), out[:, ::2])
    assert np.isnan(out[:, 1::2]).all()
    assert out[:, ::2].tolist() == [[1.0] * 3, [2.0] * 3, [3.0] * 3, [4.0] * 3]


def test_strided_halves_widen():
    table = np.arange(24, dtype=np.float16).reshape(4, 6)
    assert widen(table.T[::2]).tolist() == table.T[::2].tolist()


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], np.float32)  # a tie, a tie, above a tie
    out = np.empty(values.shape, ml_dtypes.bfloat16)
    narrow_into(values, out)
    assert out.astype(np.float32).tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_torch_casts_where_it_is_loaded_and_sees_the_arrays(torch_loaded, dtype):
    loaded = sys.modules["torch"] is not None
    values = np.random.default_rng(1).normal(size=(3, 40_000)).astype(np.float32)  # beyond one copy, with a tail
    out = np.full(values.shape, np.nan, dtype)
    assert casts.copied_by_torch(values, out) is loaded
    narrow_into(values, out)
    assert_same_bits(out, values.astype(dtype))
    assert_same_bits(widen(out), out.astype(np.float32))
    assert not casts.copied_by_torch(values[::-1], out)  # a negative stride
    out.flags.writeable = False
    assert not casts.copied_by_torch(out, values)  # torch warns of what may not be written
    assert_same_bits(widen(out), out.astype(np.float32))


def test_an_array_in_its_math_dtype_is_not_copied():
    for dtype in (np.float32, np.float64):
        array = np.ones(3, dtype)
        assert widen(array) is array


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_math_dtype(dtype, expected):
    assert math_dtype(dtype).name == expected
    if dtype != "bfloat16":
        assert math_dtype(np.dtype(dtype)).name == expected

"""How an error is counted in ulp, and which differences are failures whatever their size."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from portaloss import arrays
from portaloss.kinds import DTYPES, LossKind
from portaloss.parity.compare import BOUNDS, EXCEPTIONS, bound, compare, ulp
from portaloss.parity.truth import Expected


def error(got, truth, dtype, magnitude=None):
    """The comparison of a single number with its truth."""
    truth = np.asarray(truth, np.float64)
    size = np.abs(truth) if magnitude is None else np.asarray(magnitude, np.float64)
    return compare(np.asarray(got, arrays.dtype_of(dtype)), Expected(truth, size), dtype)


@pytest.mark.parametrize(
    ("dtype", "at", "spacing"),
    [
        # 1 has p - 1 bits after the point; a number just below 1 has one more
        ("float16", 1.0, 2.0**-10),
        ("float16", 0.999, 2.0**-11),
        ("float16", 1000.0, 0.5),
        ("float16", 65504.0, 32.0),
        ("float16", 1e9, 32.0),
        ("float16", 0.0, 2.0**-24),
        ("float16", 2.0**-20, 2.0**-24),
        ("bfloat16", 1.0, 2.0**-7),
        ("bfloat16", 3.0, 2.0**-6),
        ("bfloat16", 0.0, 2.0**-133),
        ("float32", 1.0, 2.0**-23),
        ("float32", 2.0**24, 2.0),
        ("float32", 0.0, 2.0**-149),
        ("float64", 1.0, 2.0**-52),
        ("float64", 0.0, 2.0**-1074),
    ],
)
def test_spacing(dtype, at, spacing):
    assert ulp(np.array(at), dtype) == spacing


@pytest.mark.parametrize("dtype", DTYPES)
def test_spacing_is_what_the_dtypes_themselves_say(dtype):
    for number in (1.0, 1.5, 3.1, 0.007, 250.0):
        rounded = np.asarray(number, arrays.dtype_of(dtype))
        next_one = np.nextafter(rounded, rounded.dtype.type(np.inf)) if dtype != "bfloat16" else ml_dtypes_next(rounded)
        assert ulp(rounded.astype(np.float64), dtype) == float(next_one) - float(rounded)


def ml_dtypes_next(number):
    return (number.view(np.uint16) + np.uint16(1)).view(ml_dtypes.bfloat16)


def test_one_place_is_one_ulp():
    assert error(1.0 + 2.0**-10, 1.0, "float16").ulp == 1.0
    assert error(1.0 + 3 * 2.0**-7, 1.0, "bfloat16").ulp == 3.0
    assert error(1.0 - 2.0**-24, 1.0, "float32").ulp == 0.5  # one place below 1 is half of one above
    assert error(np.nextafter(1.0, 2.0), 1.0, "float64").ulp == 1.0


def test_rounding_once_costs_half_an_ulp_at_most():
    truth = 1.0 + 2.0**-11  # halfway between two float16 numbers
    assert error(1.0, truth, "float16").ulp == 0.5
    assert error(1.0 + 2.0**-10, truth, "float16").ulp == 0.5


def test_error_is_measured_at_the_sum_of_the_terms():
    # 100 - 99.999 = 0.001, computed with an error of one ulp of 100
    spacing = 2.0**6 * 2.0**-23
    assert error(0.001 + spacing, 0.001, "float32", magnitude=199.999).ulp == pytest.approx(0.5, rel=1e-3)
    assert error(0.001 + spacing, 0.001, "float32").ulp > 60000
    assert error(0.001 + spacing, 0.001, "float32", magnitude=199.999).relative == pytest.approx(
        spacing / 200, rel=1e-2
    )


def test_a_magnitude_below_the_truth_does_not_matter():
    assert error(1.0 + 2.0**-23, 1.0, "float32", magnitude=1e-9).ulp == 1.0


def test_shape_and_dtype_must_match():
    expected = Expected(np.ones((2, 3)), np.ones((2, 3)))
    assert compare(np.ones((2, 3), np.float32), expected, "float32").ulp == 0.0
    wrong = compare(np.ones((3, 2), np.float32), expected, "float32")
    assert wrong.ulp == np.inf
    assert "(3, 2)" in wrong.mismatch
    wrong = compare(np.ones((2, 3)), expected, "float32")
    assert wrong.ulp == np.inf
    assert "float64" in wrong.mismatch


@pytest.mark.parametrize(
    ("got", "truth"), [(np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (1.0, np.inf), (np.inf, 1.0), (np.inf, np.nan)]
)
def test_patterns_of_nan_and_inf_must_match(got, truth):
    comparison = compare(np.array([0.0, got]), Expected(np.array([0.0, truth]), np.array([0.0, truth])), "float64")
    assert comparison.ulp == np.inf
    assert comparison.index == (1,)
    assert "[1]" in comparison.mismatch


def test_equal_patterns_pass():
    values = np.array([np.nan, np.inf, -np.inf, 1.0, -0.0])
    assert compare(values, Expected(values, np.abs(values)), "float64").ulp == 0.0


def test_what_is_beyond_the_range_of_the_dtype_is_inf():
    assert error(np.inf, 70000.0, "float16").ulp == 0.0
    assert error(np.inf, 1e300, "float32").ulp == 0.0
    assert error(-np.inf, -70000.0, "float16").ulp == 0.0
    assert error(65504.0, 1e6, "float16").ulp == 1.0  # the largest finite number, one place short of inf
    assert error(60000.0, 1e6, "float16").ulp > 100
    assert error(np.inf, 65519.0, "float16").ulp < 1.0  # rounds down to 65504, by a hair
    assert error(np.inf, 30000.0, "float16").ulp == np.inf


def test_the_worst_element_is_named():
    got = np.array([[1.0, 2.0], [3.0, 4.5]], np.float32)
    truth = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert compare(got, Expected(truth, truth), "float32").index == (1, 1)


def test_empty_results_are_equal():
    empty = np.empty((0, 3), np.float32)
    assert compare(empty, Expected(np.empty((0, 3)), np.empty((0, 3))), "float32").ulp == 0.0


def test_bounds_do_not_know_how_many_elements_there_are():
    assert BOUNDS == {"float16": 1.0, "bfloat16": 1.0, "float32": 4.0, "float64": 6.0}
    for (kind, dtype), (limit, reason) in EXCEPTIONS.items():
        assert bound(kind, dtype) == limit
        assert BOUNDS[dtype] < limit <= 32.0  # of float64: 7e-15
        assert limit <= 9.0 or dtype == "float64"
        assert len(reason) > 40
    assert bound(LossKind.MSE, "float32") == 4.0

"""How far a result is from the truth: in units in the last place (ulp) of the result's dtype, and relative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.kinds import LossKind
from portaloss.parity.truth import Expected

Array = npt.NDArray[Any]

#: dtype -> bits of the significand (the leading one included), least and greatest exponent of a normal number.
_FORMATS = {
    "float16": (11, -14, 15),
    "bfloat16": (8, -126, 127),
    "float32": (24, -126, 127),
    "float64": (53, -1022, 1023),
}

#: The largest error that passes, in ulp.
#:
#: 16-bit results are computed in float32 and rounded once: half an ulp, and a little more near a tie. A float32 result
#: takes a few correctly rounded operations and one or two of NumPy's vectorised exp, log, log1p or expm1, whose own
#: error is up to 3.8 ulp. The functions of float64 are better, but the truth is computed in float64 too, with an error
#: of up to 2.5 ulp as measured with mpmath.
BOUNDS = {"float16": 1.0, "bfloat16": 1.0, "float32": 4.0, "float64": 6.0}

#: (kind, dtype) -> a different bound, and the measurement that is the reason. The chapters give float32's, too.
EXCEPTIONS: dict[tuple[LossKind, str], tuple[float, str]] = {
    (LossKind.CROSS_ENTROPY, "float32"): (
        7.0,
        "NumPy's float32 exp, off by up to 2.4 ulp, enters softmax twice, above and below the line: 6.3 was measured",
    ),
    (LossKind.CROSS_ENTROPY, "float64"): (
        7.0,
        "the truth is float64 too, with an error of up to 2.5 ulp, a streamed sum of up to 3.2: 6 was measured",
    ),
    (LossKind.CTC, "float64"): (
        32.0,
        "each of up to 251 steps rounds, forward and back, and no dtype is wider: mpmath finds errors of up to 13.8 in "
        "the kernel and of up to 11 in the truth; 26 was measured between them",
    ),
    (LossKind.FUSED_LINEAR_CROSS_ENTROPY, "float32"): (
        9.0,
        "cross-entropy's 7, and a BLAS product adds its 2000 terms one after another: 6.1 to 8.1 were measured with "
        "six of OpenBLAS's kernels, 19 of PyTorch",
    ),
    (LossKind.FUSED_LINEAR_CROSS_ENTROPY, "float64"): (
        16.0,
        "a BLAS product adds its 2000 terms one after another: 12 to 15 were measured with six of OpenBLAS's kernels, "
        "31 of PyTorch",
    ),
    (LossKind.BCE_WITH_LOGITS, "float32"): (
        6.0,
        "exp and log1p together are off by 3.1 ulp, and each of two weights rounds again: 5.6 was measured",
    ),
    (LossKind.MULTILABEL_SOFT_MARGIN, "float32"): (
        5.5,
        "exp and log1p together are off by 3.2 ulp, and the derivative by the weight rounds four times more, half an "
        "ulp each: 5.2 at worst, 4.02 was measured",
    ),
    (LossKind.TRIPLET_MARGIN, "float32"): (
        4.5,
        "a derivative is a difference of two quotients, of five roundings each: 4.08 was measured in 100,000 random "
        "calls",
    ),
    (LossKind.GAUSSIAN_NLL, "float32"): (
        5.0,
        "the derivative in var is six operations in a row, two of them quotients, half an ulp each: 4.7 was measured",
    ),
}


def bound(kind: LossKind, dtype: str) -> float:
    """The largest error that passes for a kind in a dtype, in ulp."""
    return EXCEPTIONS.get((kind, dtype), (BOUNDS[dtype], ""))[0]


@dataclass(frozen=True)
class Comparison:
    """The worst element of a result."""

    ulp: float = 0.0  #: inf where shape, dtype, nan or inf differ
    relative: float = 0.0
    index: tuple[int, ...] | None = None  #: of the worst element; None where there is no error
    mismatch: str = ""  #: which of shape, dtype, nan and inf differs, if any


def ulp(size: Array, dtype: str) -> Array:
    """The distance between neighbouring numbers of a dtype at these sizes (not negative), in float64."""
    bits, least, greatest = _FORMATS[dtype]
    _, exponent = np.frexp(size)
    exponent = np.clip(exponent - 1, least, greatest)
    exponent = np.where(size == 0.0, least, exponent)
    spacing: Array = np.ldexp(1.0, exponent - (bits - 1))
    return spacing


def compare(got: Array, expected: Expected, dtype: str) -> Comparison:
    """Compare a result with the truth, in a dtype.

    The error is measured in ulp of max(|truth|, magnitude). A truth beyond the dtype's range rounds to inf: it, and a
    result of inf, count as the power of two just beyond the range. Relative errors are relative to the same maximum,
    but at least to the smallest normal number: below it a dtype has no relative precision.
    """
    truth = expected.value
    if got.dtype.name != dtype:
        return _mismatch(f"dtype is {got.dtype.name}, should be {dtype}")
    if got.shape != truth.shape:
        return _mismatch(f"shape is {got.shape}, should be {truth.shape}")
    if got.size == 0:
        return Comparison()
    result = got.astype(np.float64)
    wrong = np.isnan(result) != np.isnan(truth)
    if wrong.any():
        return _mismatch("nan, or no nan,", wrong, result, truth)
    _, least, greatest = _FORMATS[dtype]
    infinite = np.isinf(truth)
    wrong = infinite & (result != truth)
    if wrong.any():
        return _mismatch("inf expected", wrong, result, truth)

    judged = ~(infinite | np.isnan(truth))
    if not judged.any():
        return Comparison()
    beyond = 2.0 ** (greatest + 1) if greatest < 1023 else np.finfo(np.float64).max
    wrong = np.isinf(result) & judged & (np.abs(truth) < beyond / 2)
    if wrong.any():
        return _mismatch("inf, not expected,", wrong, result, truth)
    with np.errstate(all="ignore"):
        a, b = (np.clip(np.where(judged, x, 0.0), -beyond, beyond) for x in (result, truth))
        error = np.abs(a - b)
        # An intermediate product below the smallest normal number loses digits, or is flushed to 0 on a GPU, even where
        # the result is larger. Not for float16: it is computed in float32, whose range contains float16's.
        error = np.where((error < 2.0**least) & (dtype != "float16"), 0.0, error)
        size = np.fmax(np.abs(truth), np.abs(expected.magnitude))
        size = np.where(np.isfinite(size), size, np.abs(b))
        ulps = error / ulp(size, dtype)
        relative = float((error / np.maximum(size, 2.0**least)).max())
    worst = int(np.argmax(ulps))
    index = tuple(int(i) for i in np.unravel_index(worst, ulps.shape))
    largest = float(ulps[index])
    return Comparison(largest, relative, index if largest > 0.0 else None)


def _mismatch(
    what: str, where: Array | None = None, got: Array | None = None, truth: Array | None = None
) -> Comparison:
    if where is None or got is None or truth is None:
        return Comparison(np.inf, np.inf, None, what)
    index = tuple(int(i) for i in np.argwhere(where)[0])
    text = f"{what} at {list(index)}: {got[index]}, should be {truth[index]} ({int(where.sum())} such elements)"
    return Comparison(np.inf, np.inf, index, text)


__all__ = ["BOUNDS", "EXCEPTIONS", "Comparison", "bound", "compare", "ulp"]

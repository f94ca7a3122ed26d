"""``Blas.multiply``: products of parts of matrices, with any strides, without copies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from portaloss.backends.cpu import blas
from portaloss.backends.cpu.blas import Blas, TorchBlas

RNG = np.random.default_rng(0)

#: A matrix of that shape with small integers, whose products are exact, in memory as the name says.
LAYOUTS = {
    "by rows": lambda shape, dtype: _whole(shape, dtype),
    "by columns": lambda shape, dtype: _whole(shape[::-1], dtype).T,
    "part, by rows": lambda shape, dtype: _whole((shape[0] + 2, shape[1] + 3), dtype)[1:-1, 2:-1],
    "part, by columns": lambda shape, dtype: _whole((shape[1] + 2, shape[0] + 3), dtype)[1:-1, 2:-1].T,
    "every other": lambda shape, dtype: _whole((2 * shape[0], 2 * shape[1]), dtype)[::2, ::2],
    "reversed": lambda shape, dtype: _whole(shape, dtype)[::-1, ::-1],
    "one row for all": lambda shape, dtype: np.broadcast_to(_whole((1, shape[1]), dtype), shape),
}
OUTS = list(LAYOUTS)[:4]
#: Without negative strides; and what may not be written is not made a tensor of without a warning.
OF_TENSORS = [name for name in LAYOUTS if name not in ("reversed", "one row for all")]

#: Whose BLAS multiplies, and the layouts of a and b.
CASES = [
    *((Blas(), *layouts) for layouts in itertools.product(LAYOUTS, repeat=2)),
    *((TorchBlas(), *layouts) for layouts in itertools.product(OF_TENSORS, repeat=2)),
]


def _whole(shape, dtype):
    return RNG.integers(-8, 9, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("out_layout", OUTS)
@pytest.mark.parametrize(("library", "a_layout", "b_layout"), CASES)
def test_any_layout(library, a_layout, b_layout, out_layout, add, dtype):
    for rows, inner, columns in itertools.product((1, 5), (1, 4), (1, 7)):
        a, b = LAYOUTS[a_layout]((rows, inner), dtype), LAYOUTS[b_layout]((inner, columns), dtype)
        out = LAYOUTS[out_layout]((rows, columns), dtype)
        whole = out if out.base is None else out.base
        right = a @ b + (out if add else 0)
        before, inside = whole.copy(), np.zeros(whole.shape, bool)
        inside[_same_part(out, whole)] = True
        library.multiply(a, b, out, add=add)
        np.testing.assert_array_equal(out, right)
        np.testing.assert_array_equal(whole[~inside], before[~inside], err_msg="beside the part")


def _same_part(part, whole):
    """What of the whole a part of it is."""
    return (slice(1, -1), slice(2, -1)) if whole.size > part.size else ...


def test_a_setting_has_pytorch_round_factors():
    """With it, on processors for which that is faster, 1 + 2⁻¹⁰ would be multiplied as 1."""
    assert blas.is_exact_in_torch(np.dtype(np.float32))
    torch.set_float32_matmul_precision("medium")
    try:
        assert not blas.is_exact_in_torch(np.dtype(np.float32))
        assert blas.is_exact_in_torch(np.dtype(np.float64))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert blas.is_exact_in_torch(np.dtype(np.float32))


@pytest.mark.parametrize("library", [Blas(), TorchBlas()])
@pytest.mark.parametrize("add", [False, True])
def test_nothing_to_add_up(add, library):
    out = np.ones((2, 3), np.float32)
    library.multiply(np.ones((2, 0), np.float32), np.ones((0, 3), np.float32), out, add=add)
    np.testing.assert_array_equal(out, np.full((2, 3), float(add)))
    library.multiply(np.ones((0, 2), np.float32), np.ones((2, 3), np.float32), np.ones((0, 3), np.float32))


@pytest.mark.parametrize("library", [Blas(), TorchBlas()])
def test_what_was_there_is_not_read(library):
    """BLAS does not multiply it by 0, for nan times 0 is nan."""
    out = np.full((2, 2), np.nan, np.float32)
    library.multiply(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), out)
    np.testing.assert_array_equal(out, np.eye(2))


def test_a_result_of_other_strides_is_refused():
    out = np.zeros((4, 6), np.float32)[::2, ::2]
    with pytest.raises(ValueError, match="out must be stored by rows or by columns"):
        Blas().multiply(np.ones((2, 2), np.float32), np.ones((2, 3), np.float32), out)


@pytest.mark.parametrize("add", [False, True])
def test_without_a_function_of_c_integers(add, monkeypatch):
    assert blas._gemm("float32") is not None  # else the tests above test this way only
    monkeypatch.setattr(blas, "_gemm", lambda dtype: None)
    a, b = _whole((3, 4), "float32"), _whole((4, 5), "float32")
    out = np.full((3, 5), 1.0 if add else np.nan, np.float32)
    Blas().multiply(a, b, out, add=add)
    np.testing.assert_array_equal(out, a @ b + float(add))

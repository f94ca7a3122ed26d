"""Matrix products of parts of matrices, which may be added to the output.

``numpy.matmul`` cannot add to its output, and SciPy's ``sgemm`` and ``dgemm`` first copy a part of a matrix. So the
functions behind them are called directly, at the addresses that ``scipy.linalg.cython_blas`` publishes, as Numba and
Cython do. All products of arrays use SciPy's BLAS: NumPy may have another one, with its own threads. The threads of a
BLAS wait for more work on all cores for some time after a product; where two libraries take turns, a product takes
three times as long. For the same reason products of tensors use PyTorch's BLAS, as the model around them does.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.backends.cpu.casts import copied_by_torch, narrow_into, widen
from portaloss.backends.cpu.threads import parallel

Array = npt.NDArray[Any]

_NAMES = {"float32": ("sgemm", ctypes.c_float), "float64": ("dgemm", ctypes.c_double)}
_MAX_INT = 2**31 - 1  # BLAS takes C ints


class Blas:
    """SciPy's BLAS: products and casts of whole matrices, on all threads.

    ``tensors``: whether the arrays share the memory of tensors, so that casts use as many threads as PyTorch does.
    """

    #: Whether a product with many columns is faster a few columns at a time.
    in_parts = False
    #: Whether a long sum is faster where the result is stored by columns.
    transposed = True

    def __init__(self, *, tensors: bool = False) -> None:
        self._tensors = tensors

    def multiply(self, a: Array, b: Array, out: Array, *, add: bool = False) -> None:
        """out = a b, or out += a b; all float32, or all float64.

        Args:
            a: (m, k).
            b: (k, n).
            out: (m, n), a part of a matrix that is stored by rows or by columns; it must not overlap with a or b.
            add: whether to add to out.
        """
        if not out.size:
            return
        if not a.shape[1]:
            if not add:
                out[...] = 0.0
            return
        length = _row_length(out)
        if length is None:
            a, b, out = b.T, a.T, out.T
            length = _row_length(out)
            if length is None:
                raise ValueError(f"out must be stored by rows or by columns, but its strides are {out.strides[::-1]}")
        found = _gemm(out.dtype.name)
        if found is None:
            np.add(a @ b, out if add else 0, out=out)
            return
        function, number = found
        # BLAS expects matrices stored by columns, so it sees the transposes: outᵀ = bᵀ aᵀ
        (first, trans_first, length_first), (second, trans_second, length_second) = _as_seen(b), _as_seen(a)
        function(
            trans_first,
            trans_second,
            *(_int(size) for size in (out.shape[1], out.shape[0], a.shape[1])),
            ctypes.byref(number(1.0)),
            first.ctypes.data,
            _int(length_first),
            second.ctypes.data,
            _int(length_second),
            ctypes.byref(number(add)),
            out.ctypes.data,
            _int(length),
        )

    def cast(self, values: Array, out: Array, tile: int) -> None:
        """out = values, in its own dtype; of the same shape.

        Args:
            values: floating.
            out: floating, of the same shape.
            tile: elements that a thread casts at a time, which decides the size of its scratch; where an array has
                gaps, rows of at least one.
        """
        if np.may_share_memory(values, out):
            return  # the values were computed there
        if values.flags.c_contiguous and out.flags.c_contiguous:
            values, out = values.reshape(-1), out.reshape(-1)

        def part(index: int) -> None:
            rows = slice(index * size, (index + 1) * size)
            if out.itemsize > values.itemsize:
                out[rows] = widen(values[rows], out.dtype)
            else:
                narrow_into(values[rows], out[rows])

        size = max(1, tile * len(values) // max(1, values.size))
        parallel(part, -(-len(values) // size), tensors=self._tensors)


class TorchBlas(Blas):
    """PyTorch's BLAS and threads, for arrays that are those of tensors. ``is_exact_in_torch`` must be true."""

    in_parts = True
    transposed = False

    def multiply(self, a: Array, b: Array, out: Array, *, add: bool = False) -> None:
        """As ``Blas`` does."""
        if not out.size:
            return
        torch = sys.modules["torch"]
        product, *factors = map(torch.from_numpy, (out, a, b))
        if add:
            product.addmm_(*factors)
        else:
            torch.mm(*factors, out=product)

    def cast(self, values: Array, out: Array, tile: int) -> None:
        """As ``Blas`` does; by PyTorch, whose threads are waiting for work between its products."""
        if not np.may_share_memory(values, out) and not copied_by_torch(values, out, spread=True):
            super().cast(values, out, tile)


def is_exact_in_torch(dtype: np.dtype[Any]) -> bool:
    """Whether PyTorch multiplies numbers of this dtype without rounding them first.

    With some settings it rounds float32 to fewer digits, on processors that are then faster.
    """
    if dtype != np.float32:
        return True
    torch = sys.modules["torch"]
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is not None:
        return matmul.fp32_precision in ("none", "ieee")
    exact: bool = torch.get_float32_matmul_precision() == "highest"  # before PyTorch 2.9
    return exact


def _as_seen(matrix: Array) -> tuple[Array, bytes, int]:
    """The matrix, copied if BLAS cannot take its strides; BLAS's letter for transposed or not; and the row stride."""
    length = _row_length(matrix)
    if length is not None:
        return matrix, b"N", length
    length = _row_length(matrix.T)
    if length is not None:
        return matrix, b"T", length
    matrix = np.ascontiguousarray(matrix)
    return matrix, b"N", matrix.shape[1]


def _row_length(matrix: Array) -> int | None:
    """The distance between rows in elements; None where the elements of a row are not adjacent."""
    columns: int
    rows, columns = matrix.shape
    if columns > 1 and matrix.strides[1] != matrix.itemsize:
        return None
    if rows == 1:
        return columns
    stride: int = matrix.strides[0]
    length, part = divmod(stride, matrix.itemsize)
    return length if part == 0 and columns <= length <= _MAX_INT else None


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


@cache
def _gemm(dtype: str) -> tuple[Callable[..., None], Any] | None:
    """The BLAS function for a dtype, and the C type of its numbers. It runs without Python's lock.

    None where SciPy's BLAS takes integers other than C's ``int``.
    """
    from scipy.linalg import cython_blas  # type: ignore[import-untyped]  # scipy ships no types

    name, number = _NAMES[dtype]
    capsule = cython_blas.__pyx_capi__[name]
    signature = _api("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)(capsule)
    address = _api("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(capsule, signature)
    if b"(char *, char *, int *, int *, int *" not in signature:
        return None
    return ctypes.CFUNCTYPE(None, *(ctypes.c_void_p,) * 13)(address), number


def _api(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of Python's C API."""
    function: Callable[..., Any] = ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))
    return function


__all__ = ["Blas", "TorchBlas", "is_exact_in_torch"]

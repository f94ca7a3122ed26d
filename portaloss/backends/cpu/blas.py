"""Matrix products in place, of parts of matrices.

``numpy.matmul`` cannot add to what is there, and SciPy's ``sgemm`` and ``dgemm`` copy a part of a matrix first. So the
functions behind them are called as Numba and Cython call them: by the addresses that ``scipy.linalg.cython_blas``
publishes. And all products are SciPy's: NumPy may have a BLAS of its own, and then threads of its own. They go on
waiting for work, on all cores, for some time after a product; where the two take turns, one takes three times as long.
For the same reason products of what lies in tensors are PyTorch's, like those of the model that the tensors come from.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_NAMES = {"float32": ("sgemm", ctypes.c_float), "float64": ("dgemm", ctypes.c_double)}
_MAX_INT = 2**31 - 1  # of BLAS


def multiply(a: Array, b: Array, out: Array, *, add: bool = False, by_torch: bool = False) -> None:
    """out = a b, or out += a b; all float32, or all float64.

    Args:
        a: (m, k).
        b: (k, n).
        out: (m, n), a part of a matrix that is stored by rows or by columns; it must not overlap with the others.
        add: whether to add to what is there.
        by_torch: whether PyTorch multiplies; the caller has asked ``is_exact_in_torch``, and all come from tensors.
    """
    if not out.size:
        return
    if by_torch:
        torch = sys.modules["torch"]
        product, *factors = map(torch.from_numpy, (out, a, b))
        if add:
            product.addmm_(*factors)
        else:
            torch.mm(*factors, out=product)
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
    # BLAS takes matrices for stored by columns. What it sees then are the transposes: outᵀ = bᵀ aᵀ
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


def is_exact_in_torch(dtype: np.dtype[Any]) -> bool:
    """Whether PyTorch multiplies numbers of that dtype as they are.

    A setting has it round those of float32 to fewer digits, on processors that are faster with these.
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
    """The matrix, or a copy where its strides ask for one; whether BLAS is to transpose it; and its row's length."""
    length = _row_length(matrix)
    if length is not None:
        return matrix, b"N", length
    length = _row_length(matrix.T)
    if length is not None:
        return matrix, b"T", length
    matrix = np.ascontiguousarray(matrix)
    return matrix, b"N", matrix.shape[1]


def _row_length(matrix: Array) -> int | None:
    """How many elements a row is from the next, those of a row being neighbours; None where they are not."""
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
    """The function for a dtype, and the C type of its numbers. It lets other threads run.

    None where this SciPy's takes other integers than C's ``int``.
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
    """A function of Python's own C API."""
    function: Callable[..., Any] = ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))
    return function


__all__ = ["is_exact_in_torch", "multiply"]

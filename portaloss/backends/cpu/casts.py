"""Casts between 16-bit operands in memory and the 32-bit numbers of a tile.

NumPy converts float16 one element at a time, in 0.8 ns, and back in 1.6 ns; subnormal numbers, which are common in the
gradient of a mean, take 9 and 60 ns. Integer operations on blocks that fit a core's cache take 0.9 and 2.1 ns for all
numbers. ml_dtypes converts bfloat16 in 0.3 and 0.6 ns. PyTorch takes 0.2 ns each way; it is used where the caller has
imported it. The bits are the same, except which nan a nan becomes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_FLOAT16 = np.dtype(np.float16)
_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)

_TORCH_NAMES = {_FLOAT16: "float16", _FLOAT32: "float32"}

#: PyTorch copies more elements than this on several threads, which a tile must not use: each tile has one thread.
_COPY = 32768
#: Elements that are cast by integer operations at a time.
_BLOCK = 32768
#: For fewer elements, calling PyTorch takes longer than the cast.
_FEW = 1024


def math_dtype(dtype: np.dtype[Any] | str) -> np.dtype[Any]:
    """The dtype of arithmetic on ``dtype``: float64 for float64, else float32."""
    return _FLOAT64 if dtype in ("float64", _FLOAT64) else _FLOAT32


def widen(array: Array, dtype: np.dtype[Any] | None = None) -> Array:
    """The array in a math dtype (by default that of its dtype); not copied if it has that dtype."""
    dtype = math_dtype(array.dtype) if dtype is None else dtype
    if array.dtype == dtype:
        return array
    if array.size > _FEW and dtype == _FLOAT32:
        widened = np.empty(array.shape, dtype)
        if copied_by_torch(array, widened):
            return widened
    if array.dtype == _FLOAT16:
        widened = np.empty(array.shape, _FLOAT32)
        _in_blocks(_float16_to_float32, array, widened)
        return widened.astype(dtype, copy=False)
    return array.astype(dtype)


def narrow_into(values: Array, out: Array) -> None:
    """Store values into ``out``, rounded to nearest even in its dtype; shapes broadcast."""
    if out.size > _FEW and out.itemsize == 2 and values.dtype == _FLOAT32 and copied_by_torch(values, out):
        return
    if out.dtype == _FLOAT16 and values.dtype == _FLOAT32:
        _in_blocks(_float32_to_float16_bits, values, out.view(np.uint16))
    else:
        np.copyto(out, values, casting="unsafe")


def narrowed(value: float, dtype: np.dtype[Any]) -> Array:
    """A number, rounded to nearest even in this dtype, as an array without axes."""
    if dtype.itemsize >= 4:
        return np.array(value, dtype)
    out = np.empty((), dtype)
    narrow_into(np.asarray(value), out)
    return out


def copied_by_torch(values: Array, out: Array, *, spread: bool = False) -> bool:
    """Cast into an array of the same shape by PyTorch, if it is imported and supports both; returns whether it did.

    Args:
        values: in any dtype.
        out: in any dtype.
        spread: whether to use PyTorch's threads, for a caller that does not run on several threads itself.
    """
    torch = sys.modules.get("torch")
    # a torch that is being imported may not have frombuffer yet
    if torch is None or not hasattr(torch, "frombuffer") or values.shape != out.shape or not out.size:
        return False
    dtypes = []
    for array in (out, values):
        # PyTorch does not support negative strides, and warns about read-only memory
        if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
            return False
        name = _TORCH_NAMES.get(array.dtype) or ("bfloat16" if array.dtype.name == "bfloat16" else None)
        if name is None:
            return False
        dtypes.append(getattr(torch, name))
    # on the threads of threads.parallel, PyTorch is limited to one thread
    step = out.size if spread or torch.get_num_threads() == 1 else _COPY
    for start in range(0, out.size, step):
        count = min(step, out.size - start)
        # not from_numpy and views: each view releases Python's lock, and waiting for it takes longer
        target, source = [
            torch.frombuffer(array, dtype=dtype, count=count, offset=start * array.itemsize)
            for array, dtype in zip((out, values), dtypes, strict=True)
        ]
        target.copy_(source)
    return True


def _in_blocks(cast: Callable[[Array], Array], values: Array, out: Array) -> None:
    """Cast in blocks that fit a core's own cache together with their temporaries; shapes broadcast."""
    if values.shape != out.shape or not (values.flags.c_contiguous and out.flags.c_contiguous):
        out[...] = cast(values)
        return
    values, out = values.reshape(-1), out.reshape(-1)
    for start in range(0, values.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        out[part] = cast(values[part])


def _float16_to_float32(array: Array) -> Array:
    """Widen exactly: move the exponent and mantissa into place, then rebias by a product.

    float16's exponent bias is 15 and float32's 127. Shifted left by 13, a half's bits read as a float32 that is 2^112
    too small, subnormals included, so one multiplication puts all finite values right.
    """
    bits = array.view(np.uint16).astype(np.uint32)
    sign = bits & np.uint32(0x8000)
    sign <<= np.uint32(16)
    bits &= np.uint32(0x7FFF)
    special = bits >= np.uint32(0x7C00)  # inf and nan: rare, and wrong in the product
    bits <<= np.uint32(13)
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    if special.any():
        bits[special] |= np.uint32(0x7F800000)
    bits |= sign
    return values


def _float32_to_float16_bits(values: Array) -> Array:
    """Narrow to the bits of a half, rounded to nearest even.

    Adding a power of two that is 2^13 (or, for subnormals, more) units of the half's last place makes float32's own
    addition do the rounding: the sum's low bits are the half's mantissa, with the carry into the exponent in place.
    """
    values = np.ascontiguousarray(values)
    bits = values.view(np.uint32)
    doubled = bits << np.uint32(1)  # sign shifted out: exponent in the top 8 bits

    magnitude = np.abs(values)
    magnitude *= np.float32(2.0**112)  # what rounds to inf in a half becomes inf here
    magnitude *= np.float32(2.0**-110)

    # the rounding constant: the value's exponent (at least that of the smallest normal half), plus 15
    bias = doubled & np.uint32(0xFF000000)
    np.maximum(bias, np.uint32(0x71000000), out=bias)
    bias >>= np.uint32(1)
    bias += np.uint32(0x07800000)
    magnitude += bias.view(np.float32)

    rounded = magnitude.view(np.uint32)
    half = (rounded >> np.uint32(13)) & np.uint32(0x7C00)
    half += rounded & np.uint32(0x0FFF)
    nan = doubled > np.uint32(0xFF000000)
    if nan.any():
        half[nan] = 0x7E00
    half |= (bits >> np.uint32(16)) & np.uint32(0x8000)
    return half.astype(np.uint16)

"""Fused linear cross-entropy on the CPU: one chunk of rows at a time, so that not all logits are stored.

The chapter of ``portaloss.reference`` on cross-entropy runs on tiles of a chunk's logits, on all cores; its gradient
overwrites the logits. A BLAS library with threads of its own computes the matrix products before and after: SciPy's, or
PyTorch's where the operands are tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from portaloss.backends.cpu import memory
from portaloss.backends.cpu.blas import Blas, TorchBlas, is_exact_in_torch
from portaloss.backends.cpu.casts import math_dtype, narrow_into, widen
from portaloss.backends.cpu.sums import sum_of, sum_to
from portaloss.backends.cpu.threads import most_threads, parallel
from portaloss.backends.cpu.tiles import TILE
from portaloss.checks import is_floating
from portaloss.reference.cross_entropy import cross_entropy
from portaloss.reference.fused_linear_cross_entropy import entropy, soft_cap
from portaloss.reference.lazy import LazyProduct

Array = npt.NDArray[Any]

#: Bytes of scratch that chunks are sized for.
MAX_MEMORY = 72 * 2**20

#: Bytes of a chunk's derivatives, or of its logits, that one call of BLAS gets. BLAS packs a copy and keeps that
#: memory: for 32000 classes in one call, 50 MiB.
PACKED = 4 * 2**20

#: The least rows in a chunk, whatever max_memory: with fewer, reading the weight would dominate a product.
MIN_ROWS = 8

#: The most rows in a chunk: BLAS adds up a chunk's terms of the weight's gradient one after another, and a sum of the
#: chunks' sums has a smaller error.
MAX_ROWS = 1024

#: The most tile-sized temporaries of a tile of cross-entropy, or of a cast, at a time. A test measures it.
TEMPORARIES = 18

#: Tiles whose parts of the class weights' gradient are kept at a time.
GROUP = 16

#: Operands that are factors or divisors; their dtype does not affect the dtype of the computation.
_FACTORS = frozenset({"token_weight", "normalizer", "logit_scale"})


def compute(
    operands: Mapping[str, Array],
    *,
    ignore_index: int,
    label_smoothing: float,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    upstream: Array | float | None,
    wants: Collection[str],
    max_memory: int = 0,
    gradients: Mapping[str, Array] | None = None,
    extras: Extras | None = None,
    of_entropy: Array | None = None,
    tensors: bool = False,
) -> tuple[Array, dict[str, Array]]:
    """Items in the math dtype, and gradients in their operands' dtypes.

    Args:
        operands: input (N, H), linear_weight (C, ..., H), target (N, ...) integers or (N, C, ...) floating, and maybe
            linear_bias (C, ...), weight (C,), token_weight (N, ...) and logit_scale ().
        ignore_index: rows with this class as target have an item of 0.
        label_smoothing: the share of the target that is spread evenly over all classes.
        softcap: the cap of the logits; 0 for no cap.
        z_loss: the factor of (log Σ exp)², which is added to the item.
        upstream: the factor of the derivatives, one for each item or one for all; None for no gradients.
        wants: the operands to differentiate.
        max_memory: bytes of scratch that chunks are sized for; 0 for ``MAX_MEMORY``.
        gradients: arrays to store the gradients in, of the operands' shapes and dtypes; None for new ones.
        extras: arrays to store the extras of each row in; None for no extras.
        of_entropy: the upstream gradient of the extras' entropy, one for each item; None for 0.
        tensors: whether operands and gradients share the memory of tensors.
    """
    if gradients is None:
        wanted = () if upstream is None else wants
        gradients = {name: memory.empty(operands[name].shape, operands[name].dtype) for name in wanted}
    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss}
    call = _Call(operands, options, softcap, upstream, gradients, max_memory or MAX_MEMORY, extras, of_entropy, tensors)
    with np.errstate(all="ignore"):
        return call.run(), dict(gradients)


def workspace_size(rows: int, hidden: int, classes: int, dtype: np.dtype[Any], max_memory: int) -> int:
    """An upper bound in bytes of the memory of ``compute`` beyond its results, for a contiguous linear_weight.

    Args:
        rows: N.
        hidden: H.
        classes: C, or C times the positions of a K-dimensional loss.
        dtype: of the operands.
        max_memory: as for ``compute``.
    """
    itemsize = math_dtype(dtype).itemsize
    chunk = _chunk_rows(rows, hidden, classes, itemsize, max_memory, cast=dtype.itemsize < 4)
    scratch = chunk * _row_size(hidden, classes) * itemsize
    scratch += min(max_memory // 4 + hidden * itemsize, classes * hidden * itemsize)  # a cast block of the weight
    scratch += most_threads() * max(TILE, classes, hidden) * itemsize * TEMPORARIES
    scratch += classes * (4 * 8 + GROUP * itemsize)  # bias, its sum, class weights, their sum and its parts
    if dtype.itemsize < 4:
        scratch += classes * hidden * itemsize
    return scratch + 65536


def _row_size(hidden: int, classes: int) -> int:
    """Elements of scratch for each row of a chunk: its logits, and three rows of the input's length."""
    return classes + 3 * hidden


def _chunk_rows(rows: int, hidden: int, classes: int, itemsize: int, max_memory: int, *, cast: bool) -> int:
    """Rows in a chunk: as many as fit the memory, or three quarters of it where the weight is ``cast``.

    Each chunk reads the weight twice and its gradient once, from main memory, so there should be few chunks. All have
    the same size, except that the last may be smaller.
    """
    fit = (max_memory * 3 // 4 if cast else max_memory) // max(1, _row_size(hidden, classes) * itemsize)
    most = min(max(MIN_ROWS, fit), MAX_ROWS)
    chunks = -(-rows // most)
    return -(-rows // chunks) if chunks else 0


class Extras(NamedTuple):
    """Further results of each row, computed from its logits: (N, ...) each, in the math dtype."""

    log_probs: Array
    entropy: Array
    accuracy: Array
    logsumexp: Array

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: str) -> Extras:
        """Empty arrays for a loss of this dtype with items of this shape."""
        return cls(*(np.empty(shape, math_dtype(dtype)) for _ in range(4)))

    def fill(self, part: slice, logits: Array, target: Array, ignore_index: int) -> None:
        """Fill in some rows, from their logits (n, C, ...) and targets (n, 1, ...) or (n, C, ...)."""
        largest = logits.max(axis=1, keepdims=True)
        lse = largest + np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))
        self.logsumexp[part] = lse[:, 0]
        self.entropy[part] = entropy(logits)[0][:, 0]
        chosen = logits.argmax(axis=1)[:, None]
        if is_floating(target):
            self.log_probs[part] = (target * (logits - lse)).sum(axis=1)
            self.accuracy[part] = (target.argmax(axis=1)[:, None] == chosen)[:, 0]
            return
        counted = target != ignore_index
        own = np.take_along_axis(logits, np.where(counted, target, 0).astype(np.intp), axis=1)
        self.log_probs[part] = np.where(counted, own - lse, 0.0)[:, 0]
        self.accuracy[part] = np.where(counted, own == largest, np.nan)[:, 0]


class _Call:
    """One call: operands, results, and the scratch that all chunks share."""

    def __init__(
        self,
        operands: Mapping[str, Array],
        options: dict[str, Any],
        softcap: float,
        upstream: Array | float | None,
        gradients: Mapping[str, Array],
        max_memory: int,
        extras: Extras | None,
        of_entropy: Array | None,
        tensors: bool,
    ) -> None:
        self._input, self._target = operands["input"], operands["target"]
        linear_weight = operands["linear_weight"]
        floating = [array for name, array in operands.items() if is_floating(array) and name not in _FACTORS]
        self._math = max((math_dtype(array.dtype) for array in floating), key=lambda dtype: dtype.itemsize)
        self._options, self._softcap, self._extras, self._of_entropy = options, softcap, extras, of_entropy
        self._upstream = self._as_upstream(upstream)
        self._token_weight: Array | None = None
        if "token_weight" in operands:
            self._token_weight = operands["token_weight"].astype(self._math)
        self._scale: Array | None = None
        if "logit_scale" in operands:
            self._scale = operands["logit_scale"].astype(self._math)
        self._gradients, self._wants = gradients, frozenset(gradients)

        self._rows, hidden = self._input.shape
        self._shape = linear_weight.shape[:-1]  # of a row of logits
        self._outputs = prod(self._shape)
        self._tensors = tensors
        self._blas = (TorchBlas if tensors and is_exact_in_torch(self._math) else Blas)(tensors=tensors)
        self._matrix = _Matrix(linear_weight, self._math, max_memory // 4, self._blas)
        self._chunk = _chunk_rows(
            self._rows, hidden, self._outputs, self._math.itemsize, max_memory, cast=not self._matrix.direct
        )
        self._bias: Array | None = None
        if "linear_bias" in operands:
            self._bias = widen(operands["linear_bias"], self._math)
        self._class_weight: Array | None = None
        if "weight" in operands:
            ones = (1,) * (len(self._shape) - 1)
            self._class_weight = widen(operands["weight"], self._math).reshape(1, -1, *ones)

        self._soft = is_floating(self._target)
        self._items = memory.empty((self._rows, *self._shape[1:]), self._math)
        self._logits = memory.empty((self._chunk, self._outputs), self._math)
        self._products = bool(self._wants & {"input", "linear_weight", "linear_bias", "logit_scale"})
        self._weight_sum = self._accumulator("linear_weight")
        self._bias_sum = np.zeros(self._outputs if "linear_bias" in self._wants else 0)
        self._class_sum = np.zeros(self._shape[0] if "weight" in self._wants else 0)
        self._scale_sum = np.zeros(())

    def run(self) -> Array:
        """Run all chunks, one after another; returns the items."""
        for start in range(0, self._rows, self._chunk or 1):
            self._run_chunk(slice(start, min(start + self._chunk, self._rows)), first=start == 0)
        if self._rows == 0:
            self._weight_sum[...] = 0.0
        if "linear_weight" in self._wants:
            gradient = self._gradients["linear_weight"]
            self._blas.cast(self._weight_sum.reshape(gradient.shape), gradient, TILE)
        if "linear_bias" in self._wants:
            narrow_into(self._bias_sum.reshape(self._shape).astype(self._math), self._gradients["linear_bias"])
        if "weight" in self._wants:
            narrow_into(self._class_sum.astype(self._math), self._gradients["weight"])
        if "logit_scale" in self._wants:
            narrow_into(self._scale_sum.astype(self._math), self._gradients["logit_scale"])
        return self._items

    def _run_chunk(self, rows: slice, *, first: bool) -> None:
        x = np.ascontiguousarray(widen(self._input[rows], self._math))
        logits = self._logits[: len(x)]
        self._matrix.forward(x, logits)
        size = max(1, TILE // max(1, self._outputs))
        # tiles return parts of the gradients that are sums, to be added in order; a group limits how many wait
        group = GROUP * size if self._wants & {"weight", "linear_bias", "logit_scale"} else len(x)
        for start in range(0, len(x), group):
            stop = min(start + group, len(x))
            sums = _over(start, stop, size, lambda part: self._run_tile(rows, part), tensors=self._tensors)
            for class_sum, bias_sum, scale_sum in sums:
                self._class_sum += class_sum
                self._bias_sum += bias_sum
                self._scale_sum += scale_sum

        g = logits
        if "linear_weight" in self._wants:
            for columns in _packed(g):
                out = self._weight_sum[columns]
                self._blas.multiply(g[:, columns].T, x, out, add=not first)
        if "input" in self._wants:
            gradient = self._gradients["input"][rows]
            if gradient.dtype == self._math:
                self._matrix.backward(g, gradient)
            else:
                self._matrix.backward(g, x)  # x is not needed any more
                narrow_into(x, gradient)

    def _run_tile(self, chunk: slice, part: slice) -> tuple[Array | float, Array | float, float]:
        """Compute the items of some rows of a chunk, and store g in place of the logits.

        Returns:
            The rows' parts of the gradients of class weights, bias and logit_scale, which are sums over all rows.
        """
        logits = self._logits[part].reshape(part.stop - part.start, *self._shape)
        if self._bias is not None:
            logits += self._bias
        rows = slice(chunk.start + part.start, chunk.start + part.stop)
        target = widen(self._target[rows], self._math) if self._soft else self._target[rows, None]
        unscaled = logits.copy() if "logit_scale" in self._wants else logits
        if self._scale is not None:
            logits *= self._scale
        slope: Array | None = None
        if self._softcap > 0.0:
            logits[...], slope = soft_cap(logits, self._softcap)
        if self._extras is not None:
            self._extras.fill(rows, logits, target, self._options["ignore_index"])
        more: Array | None = None  # what the entropy's upstream gradient adds to g
        if self._of_entropy is not None and self._products:
            more = entropy(logits)[1]
            more *= widen(self._of_entropy[rows, None], self._math)
        wants = [name for name in ("target", "weight") if name in self._wants]
        items, derivatives = cross_entropy(
            logits, target, self._class_weight, **self._options, wants=["input", *wants] if self._products else wants
        )
        token_weight = 1.0 if self._token_weight is None else self._token_weight[rows]
        self._items[rows] = items[:, 0] * token_weight
        if not self._wants:
            return 0.0, 0.0, 0.0

        u: Array | float = self._upstream
        if isinstance(u, np.ndarray):
            u = widen(u[rows, None], self._math)
        if isinstance(token_weight, np.ndarray):
            u = u * token_weight[:, None]
        class_sum: Array | float = 0.0
        bias_sum: Array | float = 0.0
        scale_sum = 0.0
        if self._products:
            derivative = derivatives["input"]
            if isinstance(derivative, LazyProduct):
                derivative.times(u, out=logits)
            else:
                np.multiply(derivative, u, out=logits)
            if more is not None:
                logits += more
            if slope is not None:
                logits *= slope
            if "logit_scale" in self._wants:
                scale_sum = sum_of(logits * unscaled)
            if self._scale is not None:
                logits *= self._scale
        if "linear_bias" in self._wants:
            bias_sum = sum_to(self._logits[part], (1, self._outputs))[0]
        if "target" in self._wants:
            narrow_into(derivatives["target"] * u, self._gradients["target"][rows])
        if "weight" in self._wants:
            class_sum = (derivatives["weight"] * u).sum(axis=(0, *range(2, logits.ndim)))
        return class_sum, bias_sum, scale_sum

    def _accumulator(self, name: str) -> Array:
        """The array to add a gradient up in, (C ..., H): the gradient itself, if its dtype and strides allow that."""
        if name not in self._wants:
            return np.empty((0, 0), self._math)
        gradient = self._gradients[name]
        if gradient.dtype == self._math and gradient.flags.c_contiguous:
            return gradient.reshape(self._outputs, gradient.shape[-1])
        return memory.empty((self._outputs, gradient.shape[-1]), self._math)

    @staticmethod
    def _as_upstream(upstream: Array | float | None) -> Array | float:
        if upstream is None:
            return 1.0
        return upstream if isinstance(upstream, np.ndarray) and upstream.ndim else float(upstream)


class _Matrix:
    """The linear layer's weight, (C, ..., H), as a matrix with H columns.

    Where BLAS cannot read it directly (because of 16 bits, or its strides), blocks of rows are cast one after another.
    """

    def __init__(self, weight: Array, math: np.dtype[Any], max_memory: int, blas: Blas) -> None:
        self._blas = blas
        self._hidden = weight.shape[-1]
        flat = weight.flags.c_contiguous or weight.ndim == 2
        #: Rows of the matrix; or where the strides do not allow that, classes, with one row for each position.
        self._weight = weight.reshape(prod(weight.shape[:-1]), self._hidden) if flat else weight
        self._positions = prod(self._weight.shape[1:-1])
        #: Whether BLAS reads it directly, in one piece.
        self.direct = flat and weight.dtype == math and (weight.flags.c_contiguous or weight.flags.f_contiguous)
        if not self.direct:
            size = max(1, self._positions * self._hidden * math.itemsize)
            self._block = max(1, min(len(self._weight), max_memory // size))
            self._cast = np.empty((self._block, *self._weight.shape[1:]), math)

    def forward(self, x: Array, out: Array) -> None:
        """x Wᵀ."""
        for columns, block in self._blocks():
            logits = out[:, columns]
            for part in _packed(logits) if self._blas.in_parts else [slice(None)]:
                self._blas.multiply(x, block[part].T, logits[:, part])

    def backward(self, g: Array, out: Array) -> None:
        """g W."""
        if not self._blas.transposed and len(self._weight):
            for columns, block in self._blocks():
                self._blas.multiply(g[:, columns], block, out, add=columns.start > 0)
            return
        features = np.zeros(out.shape[::-1], out.dtype)
        for columns, block in self._blocks():
            self._blas.multiply(block.T, g[:, columns].T, features, add=True)
        out[...] = features.T

    def _blocks(self) -> Iterator[tuple[slice, Array]]:
        """Columns of the logits, and the rows of the matrix that give them, in the math dtype."""
        if self.direct:
            yield slice(0, len(self._weight)), self._weight
            return
        for start in range(0, len(self._weight), self._block):
            source = self._weight[start : start + self._block]
            cast = self._cast[: len(source)]
            self._blas.cast(source, cast, TILE)
            rows = slice(start * self._positions, (start + len(source)) * self._positions)
            yield rows, cast.reshape(rows.stop - rows.start, self._hidden)


def _packed(logits: Array) -> Iterator[slice]:
    """The columns of a chunk's logits, in parts for one call of BLAS each."""
    rows, columns = logits.shape
    block = max(MIN_ROWS, PACKED // max(1, rows * logits.itemsize))
    for start in range(0, columns, block):
        yield slice(start, start + block)


def _over(start: int, stop: int, size: int, function: Callable[[slice], Any], *, tensors: bool) -> list[Any]:
    """Call the function on slices of ``size`` from start to stop, on all threads; returns the results in order."""

    def call(index: int) -> Any:
        first = start + index * size
        return function(slice(first, min(first + size, stop)))

    return parallel(call, -(-(stop - start) // size), tensors=tensors)


__all__ = ["MAX_MEMORY", "Extras", "compute", "workspace_size"]

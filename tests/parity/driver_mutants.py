"""More mutants: the chapters are right, and the code that runs them is wrong."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from portaloss import engine
from portaloss.backends.cpu import backend, sums, tiles
from portaloss.kinds import LossKind as K

from .mutants import mutant


@mutant("mean divided by the count, not by the class weights", K.NLL)
def _(patch):
    patch.setattr(engine, "divisor", lambda loss, options, operands, shape, xp: np.float64(np.prod(shape)))


@mutant("mean divided by the count, not by the sum of the weights", K.L1)
def _(patch):
    patch.setattr(engine, "divisor", lambda loss, options, operands, shape, xp: np.float64(np.prod(shape)))


@mutant("batchmean ignored", K.KL_DIV)
def _(patch):
    patch.setattr(engine, "divisor", lambda loss, options, operands, shape, xp: np.float64(np.prod(shape)))


@mutant("target lengths are not in the mean", K.CTC)
def _(patch):
    def wrong(loss, options, operands, shape, xp):
        batch = len(operands["target_lengths"])
        return np.full(batch, float(batch))

    patch.setattr(engine, "divisor", wrong)


@mutant("all ignored: mean is 0, not nan", K.CROSS_ENTROPY)
def _(patch):
    right = engine.divisor
    patch.setattr(engine, "divisor", lambda *args: right(*args) or np.float64(1.0))


@mutant("all ignored: gradient is nan, not 0", K.CROSS_ENTROPY)
def _(patch):
    patch.setattr(backend, "counts", lambda *args: None)


@mutant("the weight in the divisor has no derivative", K.MSE)
def _(patch):
    patch.setattr(engine, "_depends_on_total", lambda plan, name: False)


@mutant("last tile dropped", K.HUBER)
def _(patch):
    right = tiles.Tiles.__len__
    patch.setattr(tiles.Tiles, "__len__", lambda self: max(1, right(self) - 1))


@mutant("tail of the last tile dropped", K.SMOOTH_L1)
def _(patch):
    right = tiles.Tiles.__getitem__

    def wrong(self, index):
        slices = right(self, index)
        last = slices[-1]
        return (*slices[:-1], slice(last.start, max(last.start + 1, min(last.stop, self._shape[-1]) - 1)))

    patch.setattr(tiles.Tiles, "__getitem__", wrong)


@mutant("tiles start one element late", K.L1)
def _(patch):
    right = tiles.Tiles.__getitem__

    def wrong(self, index):
        slices = right(self, index)
        last = slices[-1]
        return (*slices[:-1], slice(last.start + (index > 0), last.stop))

    patch.setattr(tiles.Tiles, "__getitem__", wrong)


@mutant("upstream ignored", K.HUBER)
def _(patch):
    right = tiles.Pass._tile

    def wrong(self, *args):
        self.upstream = 1.0
        return right(self, *args)

    patch.setattr(tiles.Pass, "_tile", wrong)


@mutant("gradient not summed over a broadcast axis", K.HUBER)
def _(patch):
    def wrong(array, shape):
        return array[tuple(slice(0, size) for size in shape)]

    patch.setattr(tiles, "sum_to", wrong)


@mutant("sums of tiles over a broadcast axis overwritten, not added", K.HUBER)
def _(patch):
    right = tiles.OrderedSum.add

    def wrong(self, index, slices, total, partials):
        for name in partials:
            self._sums[name][...] = 0
        right(self, index, slices, total, partials)

    patch.setattr(tiles.OrderedSum, "add", wrong)


@mutant("sums in float16", K.HUBER, "float16")
def _(patch):
    _sum_one_after_another(patch, np.float16)


@mutant("sums in float32, one after another", K.HUBER)
def _(patch):
    _sum_one_after_another(patch, np.float32)


def _sum_one_after_another(patch, dtype):
    def reduce(array, axis=None, dtype_=None, keepdims=False, **_):
        if axis is not None:
            return np.add.reduce(array, axis=axis, dtype=np.float64, keepdims=keepdims)
        return np.cumsum(np.ravel(array), dtype=dtype)[-1] if np.size(array) else 0.0

    class Add:
        def __call__(self, *args, **options):
            return np.add(*args, **options)

    class Numpy:
        def __getattr__(self, name):
            return getattr(np, name)

    Add.reduce, Numpy.add = staticmethod(reduce), Add()
    patch.setattr(sums, "np", Numpy())


@mutant("last item never written", K.L1)
def _(patch):
    right = tiles.narrow_into

    def wrong(values, out):
        kept = out[..., -1:].copy() if out.ndim else out.copy()
        right(values, out)
        if out.ndim:
            out[..., -1:] = kept

    patch.setattr(tiles, "narrow_into", wrong)


@mutant("float16 rounded toward zero twice", K.MSE, "float16")
def _(patch):
    right = tiles.narrow_into

    def wrong(values, out):
        kept = np.asarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFFC000)  # 9 bits of 10
        right(kept.view(np.float32), out)

    patch.setattr(tiles, "narrow_into", wrong)


@mutant("gradient in the wrong dtype", K.HUBER, "float16")
def _(patch):
    patch.setattr(backend.memory, "empty_like", lambda array: np.full(array.shape, np.nan, np.float32))


@mutant("loss in the wrong shape", K.HUBER)
def _(patch):
    right = backend.memory.empty
    patch.setattr(backend.memory, "empty", lambda shape, dtype: right(shape or (1,), dtype))


# Fused linear cross-entropy, which has its own matrix products around the chapter of cross-entropy


@mutant("bias dropped from the logits", K.FUSED_LINEAR_CROSS_ENTROPY)
def _(patch):
    _compute(patch, lambda operands: {**operands, "linear_bias": 0 * operands["linear_bias"]})


@mutant("class weight dropped", K.FUSED_LINEAR_CROSS_ENTROPY)
def _(patch):
    _compute(patch, lambda operands: {**operands, "weight": 0 * operands["weight"] + 1})


@mutant("upstream ignored", K.FUSED_LINEAR_CROSS_ENTROPY)
def _(patch):
    _compute(patch, dict, lambda upstream: None if upstream is None else 1.0)


@mutant("gradient of the linear weight is the last chunk's", K.FUSED_LINEAR_CROSS_ENTROPY)
def _(patch):
    from portaloss.backends.cpu.blas import Blas

    right = Blas.multiply
    patch.setattr(Blas, "multiply", lambda self, a, b, out, *, add=False: right(self, a, b, out))


def _compute(patch, operands_of, upstream_of=lambda upstream: upstream):
    from portaloss.backends.cpu import linear_cross_entropy

    right = linear_cross_entropy.compute

    def wrong(operands, *, upstream, **rest):
        with suppress(KeyError):  # where the optional operand is not given
            operands = operands_of(operands)
        return right(operands, upstream=upstream_of(upstream), **rest)

    patch.setattr(linear_cross_entropy, "compute", wrong)

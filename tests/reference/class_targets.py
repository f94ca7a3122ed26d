"""What the tests of chapters whose target is a class share: draws, and what results are held against."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from portaloss.reference.nll import nll as nll_one_hot

INF, NAN = float("inf"), float("nan")


#: Short and long rows, both ways of storing them, one class, one row, no rows.
SHAPES = [(4, 7), (70, 3), (3, 100), (5, 1), (1, 6), (0, 4), (2, 5, 3), (2, 66, 3, 2), (1, 70, 80)]


def nll(*operands, **options):
    """The chapter, with its derivatives as whole arrays."""
    items, derivatives = nll_one_hot(*operands, **options)
    return items, {name: np.asarray(derivative) for name, derivative in derivatives.items()}


def against_torch(chapter, function, x, t, w=None, *, wants=("input",), upstream=None, scale=None, **options):
    """Run both; items and gradients must agree, nan and inf included, to 1e-12 of the size of the terms."""
    operands = {"input": x, "target": t} | ({} if w is None else {"weight": w})
    before = {name: array.copy() for name, array in operands.items()}
    items, derivatives = chapter(**operands, **options, wants=wants)
    for name, array in operands.items():
        np.testing.assert_array_equal(array, before[name], err_msg=f"{name} was changed")
    assert items.shape == (x.shape[0], 1, *x.shape[2:])
    assert set(derivatives) == set(wants)
    assert {array.dtype for array in (items, *derivatives.values())} == {x.dtype}

    tensors = {name: torch.tensor(array) for name, array in operands.items()}
    if t.dtype.kind != "f":
        tensors["target"] = tensors["target"].long()
        if function is not F.multilabel_margin_loss:
            tensors["target"] = tensors["target"][:, 0]
    if w is not None:
        tensors["weight"] = tensors["weight"].reshape(-1)
    for name in wants:
        tensors[name].requires_grad_()
    theirs = function(**tensors, **options, reduction="none")
    upstream = np.ones(items.shape) if upstream is None else upstream
    grads = torch.autograd.grad(theirs, [tensors[name] for name in wants], torch.tensor(upstream[:, 0]))

    # PyTorch's own error is a few units in the last place of the largest logit, times the factor it meets
    finite = np.abs(x[np.isfinite(x)]).max(initial=1.0)
    scale = finite * (1.0 if w is None else float(w.max(initial=1.0))) if scale is None else scale
    np.testing.assert_allclose(items[:, 0], theirs.detach().numpy(), rtol=1e-12, atol=1e-12 * scale)
    for name, grad in zip(wants, grads, strict=True):
        ours = np.broadcast_to(derivatives[name] * upstream, x.shape)
        if name == "weight":
            ours = ours.sum(axis=tuple(axis for axis in range(x.ndim) if axis != 1))
        size = scale * np.abs(upstream).max(initial=1.0) * (max(upstream.size, 1) if name == "weight" else 1)
        np.testing.assert_allclose(ours, grad.numpy(), rtol=1e-12, atol=1e-12 * size, err_msg=name)


def classes_of(rng, shape, dtype=np.int64):
    return rng.integers(0, shape[1], (shape[0], 1, *shape[2:])).astype(dtype)


def weights_of(rng, shape):
    return rng.uniform(0.0, 2.0, (1, shape[1], *[1] * (len(shape) - 2)))


def label_sets(rng, shape):
    """A random subset of the classes in random order, -1, then anything."""
    target = np.argsort(rng.random(shape), axis=1)
    for row in target:
        length = rng.integers(0, shape[1] + 1)
        row[length : length + 1] = -1
    return target


LOGITS = [
    [-INF, 1.0, 2.0],
    [1.0, -INF, -INF],
    [-INF, -1.0, -90.0],
    [-INF, -INF, -INF],
    [INF, 1.0, 2.0],
    [INF, INF, 2.0],
    [INF, -INF, 2.0],
    [NAN, 1.0, 2.0],
    [2.0, 2.0, 2.0],
    [1e4, -1e4, 0.0],
    [-1e4, -1e4, -2e4],
    [61.0, 3.3, -50.1],
]


#: What an item or derivative may be off by, in units of eps, where every operation is in working precision. NumPy's
#: float32 exp is good to 1.7 eps, log1p to 1.9 and a derivative V e / (r + e[t]) has two exps, a sum, a division and
#: a product: 4.9 if all were at their worst together, which they are not for any input here.
ULPS = 4.0


def check_float32(chapter, x, t, w=None, *, wants=("input",), sizes=None, **options):
    """float32 within ULPS of float64; sizes measures what is inherent."""
    assert {array.dtype for array in (x, *([] if w is None else [w]))} == {np.dtype(np.float32)}
    operands = [x, t] if w is None else [x, t, w]
    wide = [array.astype(np.float64) if array.dtype.kind == "f" else array for array in operands]
    items, derivatives = chapter(*operands, **options, wants=wants)
    truth, slopes = chapter(*wide, **options, wants=wants)
    item_sizes, slope_sizes = (truth, slopes) if sizes is None else sizes(*wide, **options)
    found = {"items": (items, truth, item_sizes)}
    found |= {name: (derivatives[name], slopes[name], slope_sizes[name]) for name in wants}
    for name, (got, want, size) in found.items():
        assert got.dtype == np.float32
        unit = np.maximum(np.abs(size) * 2.0**-23, 2.0**-149)  # at the bottom, a subnormal's own last place
        assert (np.abs(got - want) <= ULPS * unit).all(), (name, (np.abs(got - want) / unit).max())


FLOAT32_SHAPES = [(2, 32000), (64, 100), (200, 10), (2, 19, 50), (1, 150, 70), (2, 3000, 3)]


def float32(rng, shape, scale=1.0, shift=0.0):
    return (scale * rng.standard_normal(shape) + shift).astype(np.float32)

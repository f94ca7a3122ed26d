r"""Cosine embedding loss: two vectors should point the same way, or not.

Where it comes from
-------------------
Bromley and others (1993) verified signatures with two copies of one network, which they called siamese: each reads a
signature and answers with a vector, and the angle between the vectors says whether one hand wrote both. Training asks
for a cosine of 1 for a genuine pair, and for a small one for a forgery. The length of a vector is free to mean anything
else, or nothing; only its direction is judged.

The formula
-----------
With x and y the two vectors of D features, t the target and m the ``margin``::

    cos = x·y / √((x·x + ε) (y·y + ε))          ε = 1e-12

    ℓ = 1 - cos              where t = 1: similar
        max(0, cos - m)      where t = -1: not similar
        0                    for any other t

ε keeps the cosine of a zero vector from being 0/0. It is added to the squares, and is the float32 number nearest to
1e-12 in every dtype, as PyTorch has it.

The derivative, step by step
----------------------------
1. Let a = x·x + ε, b = y·y + ε, so that cos = x·y a^(-1/2) b^(-1/2).
2. By the product rule, with ∂(x·y)/∂x = y and ∂a/∂x = 2x::

       ∂cos/∂x = y / √(ab) - (x·y / √(ab)) x / a = (y - (x·y / a) x) / √(ab)

   This is y without its part along x, times one number a row, which is left to the end. And the same with x and y, a
   and b exchanged. But for ε, x · ∂cos/∂x = cos - cos = 0: a step along x changes only its length, and cos does not
   see it. All of the gradient turns the vector.
3. ∂ℓ/∂cos is -1 where t = 1; 1 where t = -1 and cos ≥ m; else 0.

Kinks and conventions
---------------------
At cos = m the derivative is that of the active side, as in PyTorch, where a clamp passes its gradient at equality.
Orthogonal vectors with the default margin of 0 are such a tie. A zero vector has cos = 0, and for t = 1 its derivative
is -y / √(εb), of length 1e6: the loss is steep there. A pair whose target is neither 1 nor -1, nan included, has loss
0, even where x or y holds nan; its derivatives are 0 times what they would be, so they are nan there.

What overflows or cancels
-------------------------
x·x overflows for lengths beyond 1e154 in float64: PyTorch's loss is inf/inf, nan, and so is this one. But ab, the
product of squares, overflows for lengths of half that exponent. PyTorch then divides by inf and finds cos = 0 for
vectors that may be parallel. √a √b does not overflow; it rounds three times to √(ab)'s two, and is left to such rows.
So for lengths between 1e77 and 1e154 this chapter gives the cosine, and PyTorch 0. In float32 PyTorch does so from 4e9
on; here a, b and what follows from them are float64, since there is one of each in a row.

Where a is inf and x·y finite, cos is 0, and PyTorch's derivative in y is nan: its backward pass has 0 · inf. The factor
a/a below is 1, or there nan. x·y / a may overflow in float32, where x is tiny and y huge; the derivative then does not.

1 - cos cancels for near-parallel vectors, and x·y may cancel for near-orthogonal ones: what was lost in rounding the
products is gone. ``magnitudes`` counts the terms: 1 + Σ|x y| / √(ab).

Source: Jane Bromley, Isabelle Guyon, Yann LeCun, Eduard Säckinger and Roopak Shah, "Signature Verification Using a
'Siamese' Time Delay Neural Network", NIPS 6 (1993); ``torch.nn.functional.cosine_embedding_loss``.

>>> import numpy as np
>>> x, y = np.array([[3.0, 4.0], [3.0, 4.0]]), np.array([[4.0, 3.0], [4.0, 3.0]])
>>> t = np.array([[1.0], [-1.0]])

Both lengths are 5 and x·y = 24, so cos = 0.96: 1 - 0.96 for the first pair, 0.96 - 0.5 for the second. The derivative
in x of the first is -(4, 3) / 25 + 0.96 (3, 4) / 25, at right angles to x.

>>> items, derivatives = cosine_embedding(x, y, t, margin=0.5, wants=("input1", "input2"))
>>> items.round(9).tolist()
[[0.04], [0.46]]
>>> derivatives["input1"].round(9).tolist()
[[-0.0448, 0.0336], [0.0448, -0.0336]]
>>> derivatives["input2"].round(9).tolist()
[[0.0336, -0.0448], [-0.0336, 0.0448]]
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct, in_place
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np, step
from portaloss.reference.rows import sum_products

#: ε: PyTorch declares it as a float32 constant.
EPSILON = float(np.float32(1e-12))


def definition(input1: Any, input2: Any, target: Any, *, margin: float = 0.0, xp: Any = np) -> Any:
    """1 - cos where t = 1, max(0, cos - m) where t = -1, else 0."""

    def dot(x: Any, y: Any) -> Any:
        return xp.sum(x * y, axis=1, keepdims=True)

    cos = dot(input1, input2) / xp.sqrt((dot(input1, input1) + EPSILON) * (dot(input2, input2) + EPSILON))
    return xp.where(target == 1, 1 - cos, xp.where(target == -1, xp.clip(cos - margin, 0, None), 0))


def cosine_embedding(input1: Array, input2: Array, target: Array, *, margin: float = 0.0, wants: Wants = ()) -> Terms:
    """Items of the cosine embedding loss, (N, 1, ...), and their derivatives; operands broadcast together.

    Args:
        input1: x, (N, D, ...).
        input2: y, (N, D, ...).
        target: t, 1 for pairs that should be similar and -1 for those that should not, (N, 1, ...).
        margin: m, the cosine below which a pair that should not be similar costs nothing.
        wants: which of input1, input2 to differentiate.
    """
    derivatives: Derivatives = {}
    dtype = input1.dtype
    similar, different = target == 1, target == -1
    square1, square2, lengths = _lengths(input1, input2)
    dot = sum_products(input1, input2)
    cosine = dot / lengths

    items = np.where(similar, 1 - cosine, np.where(different, np.maximum(cosine - margin, 0), 0))

    if "input1" in wants or "input2" in wants:
        slope = (step(different & (cosine >= margin), cosine) - similar) / lengths  # ∂ℓ/∂(x·y)
        if "input1" in wants:
            along = _once(dot / square1 * (square2 / square2), input1, input2)
            derivatives["input1"] = _across(input2, input1, along, slope)
        if "input2" in wants:
            along = _once(dot / square2 * (square1 / square1), input2, input1)
            derivatives["input2"] = _across(input1, input2, along, slope)

    return items.astype(dtype), derivatives


def _across(other: Array, own: Array, along: Array, slope: Array) -> Array | LazyProduct:
    """What is left of the other vector without its part along this one, times one number a row."""
    parts = (-along).astype(own.dtype)
    if np.isinf(parts).any():  # one is tiny, the other huge
        across: Array = (other - along * own) * slope
        return across.astype(own.dtype)
    return LazyProduct(in_place(np.add, parts * own, other), slope)


def _lengths(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """a, b and √(ab)."""
    a = sum_products(x, x) + EPSILON
    b = sum_products(y, y) + EPSILON
    product = a * b
    lengths = np.sqrt(product)
    overflowed = np.isinf(product)
    if overflowed.any():
        np.copyto(lengths, np.sqrt(a) * np.sqrt(b), where=overflowed)
    return a, b, lengths


def _once(along: Array, own: Array, other: Array) -> Array:
    """A single feature that is broadcast over D is in its square once, but its derivative will be summed over D."""
    return along / other.shape[1] if own.shape[1] == 1 and other.shape[1] > 1 else along


def magnitudes(input1: Array, input2: Array, target: Array, *, margin: float = 0.0) -> tuple[Array, Derivatives]:
    """The sums of |terms|: dot products, 1 - cos, cos - m and a derivative's two parts may all be small differences."""
    square1, square2, lengths = _lengths(input1, input2)
    cosine = sum_products(np.abs(input1), np.abs(input2)) / lengths
    items = np.where(target == 1, 1 + cosine, np.where(target == -1, cosine + abs(margin), 0))
    moves = step(np.abs(target) == 1, cosine)
    sizes = {
        "input1": moves * (np.abs(input2) / lengths + _once(cosine / square1, input1, input2) * np.abs(input1)),
        "input2": moves * (np.abs(input1) / lengths + _once(cosine / square2, input2, input1) * np.abs(input2)),
    }
    return items, sizes


__all__ = ["EPSILON", "cosine_embedding", "definition", "magnitudes"]

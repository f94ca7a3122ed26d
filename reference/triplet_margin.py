r"""Triplet margin loss: nearer to one of its kind than to a stranger, by a margin.

Where it comes from
-------------------
What counts as "near" in an embedding is hard to say in numbers and easy to say by comparison: this face is more like
that one than like the third. Weinberger, Blitzer and Saul (2005) learned a metric from such comparisons; Schroff and
others (2015) trained a network on them, from an anchor, a positive of the same identity and a negative of another.
Balntas and others (2016) noticed that a triplet has a third side. If the negative is nearer to the positive than to the
anchor, that side is the harder comparison, and ``swap`` makes it the one that counts.

The formula
-----------
With a, b, c the anchor, positive and negative of D features, m the ``margin`` and ε the ``eps``::

    ℓ(a, b, c) = max(0, m + d(a, b) - d(a, c))          d(x, y) = ‖x - y + ε‖ₚ

and with ``swap``, min(d(a, c), d(b, c)) in place of d(a, c). ε is added to each signed difference, so that equal
vectors are at the distance ‖ε‖ and not 0, and d(x, y) is not quite d(y, x). With u = x - y + ε::

    ‖u‖ₚ = (Σ |u[i]|ᵖ)^(1/p)          p finite, not 0
           max |u[i]|                 p = ∞ (min for -∞)
           how many u[i] are not 0    p = 0

The derivative, step by step
----------------------------
1. ∂ℓ/∂d(a, b) = 1 and ∂ℓ/∂d(a, c) = -1 where the loss is active, 0 elsewhere.
2. With S = Σ|u|ᵖ, ∂S/∂u[i] = p |u[i]|^(p-1) sign(u[i]). The outer power gives S^(1/p - 1) / p, and p cancels::

       ∂‖u‖/∂u[i] = sign(u[i]) |u[i]|^(p-1) / ‖u‖^(p-1)

   For p = 2, u / ‖u‖: the unit vector from y to x. For p = 1, sign(u). For p = ∞, sign(u[i]) where |u[i]| is the
   maximum and 0 elsewhere. For p = 0 the count is constant almost everywhere: 0.
3. u = x - y + ε, so ∂d/∂x = ∂‖u‖/∂u and ∂d/∂y = -∂‖u‖/∂u. Call it g(x, y); then::

       ∂ℓ/∂a = g(a, b) - g(a, c)          ∂ℓ/∂b = -g(a, b)          ∂ℓ/∂c = g(a, c)

   Together they sum to 0: only relative positions matter. Where the swapped side is the smaller::

       ∂ℓ/∂a = g(a, b)          ∂ℓ/∂b = -g(a, b) - g(b, c)          ∂ℓ/∂c = g(b, c)

Kinks and conventions
---------------------
All of them as in PyTorch. At m + d - d = 0 the loss is still active. At ‖u‖ = 0 the derivative is 0, the middle of all
subgradients; so is that of |u[i]| at u[i] = 0. For p = ∞ a maximum that several features attain gives each an equal
share. With swap and d(a, c) = d(b, c) each side gets half. A nan makes the loss nan, and an inf makes it inf, nan or 0;
a derivative that is 0 · inf/inf is nan.

What overflows or cancels
-------------------------
u·u overflows beyond 1e154 in float64, and underflows below 1e-162. Scaling by the maximum would prevent both, as it
does in BLAS's nrm2, for another two passes. PyTorch does not scale: ‖u‖ is inf (or 0), the loss is inf or nan, the
derivative 0 (or nan), and so they are here. |u|ᵖ for p = 3 does so beyond 1e102. In float32 the limits are 1e19, 1e-23
and 1e12; rows of at most 32 features, which are added in float64, have them further out.

m + d - d is a difference of distances, and ∂ℓ/∂a one of two unit vectors; x - y + ε is a difference too where
x - y ≈ -ε. Rounding in their terms stays: ``magnitudes`` counts them. Where u is raised to a power, everything is in
float64. Near u = 0 the slope of |u|^(p-1) is infinite for p < 2, and so would be the factor of u's error; and float32
rounds p - 1, which for p = 4.3 and u = e⁹ is an error of 7 units.

1/p is rounded, as 1/3 is, and ‖u‖ would be off by as much as log Σ|u|ᵖ times that: 8 units for features of 1e-6. The
first term of its series makes it good.

For p > 1 a power is taken once a feature: |u|^(p-1), which the derivative needs, times |u| is the norm's summand.

Source: Kilian Q. Weinberger, John Blitzer and Lawrence K. Saul, "Distance Metric Learning for Large Margin Nearest
Neighbor Classification", NIPS 18 (2005); Florian Schroff, Dmitry Kalenichenko and James Philbin, "FaceNet: A Unified
Embedding for Face Recognition and Clustering", CVPR 2015; Vassileios Balntas, Edgar Riba, Daniel Ponsa and Krystian
Mikolajczyk, "Learning Local Feature Descriptors with Triplets and Shallow Convolutional Neural Networks", BMVC 2016;
``torch.nn.functional.triplet_margin_loss``.

>>> import numpy as np
>>> a, b, c = np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), np.array([[0.0, 5.0]])

Both distances are 5, so the margin is what is left. The derivative in a is (-3, -4)/5 - (0, -5)/5.

>>> items, derivatives = triplet_margin(a, b, c, eps=0.0, wants=("anchor", "positive", "negative"))
>>> items.tolist()
[[1.0]]
>>> derivatives["anchor"].round(12).tolist()
[[-0.6, 0.2]]
>>> derivatives["positive"].round(12).tolist(), derivatives["negative"].round(12).tolist()
([[0.6, 0.8]], [[0.0, -1.0]])

With p = 1 the distances are 7 and 5. The third side, b - c = (3, -1), has length 4, and 1 + 7 - 4 = 4.

>>> triplet_margin(a, b, c, p=1.0, eps=0.0)[0].tolist(), triplet_margin(a, b, c, p=1.0, eps=0.0, swap=True)[0].tolist()
([[3.0]], [[4.0]])
"""

from __future__ import annotations

from fractions import Fraction
from math import isinf
from typing import Any, NamedTuple

from portaloss.reference.lazy import LazyProduct, in_place
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np, sign, step
from portaloss.reference.rows import sum_products


def definition(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    xp: Any = np,
) -> Any:
    """max(0, m + d(a, b) - d(a, c)), with d the p-norm of the difference; with ``swap``, the smaller of two d."""

    def distance(x: Any, y: Any) -> Any:
        size = xp.abs(x - y + eps)
        if p == 0:
            return xp.sum((size != 0) * size**0, axis=1, keepdims=True)  # how many are not 0
        if isinf(p):
            return (xp.amax if p > 0 else xp.amin)(size, axis=1, keepdims=True)
        return xp.sum(size**p, axis=1, keepdims=True) ** (1 / p)

    far = distance(anchor, negative)
    if swap:
        far = xp.minimum(far, distance(positive, negative))
    return xp.clip(margin + distance(anchor, positive) - far, 0, None)


def triplet_margin(
    anchor: Array,
    positive: Array,
    negative: Array,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    wants: Wants = (),
) -> Terms:
    """Items of the triplet margin loss, (N, 1, ...), and their derivatives; operands broadcast together.

    Args:
        anchor: a, (N, D, ...).
        positive: b, what a should be near to.
        negative: c, what a should be far from.
        margin: m, how much farther.
        p: the norm's exponent; inf and 0 are allowed.
        eps: ε, added to each difference.
        swap: compare with the smaller of the negative's two distances.
        wants: which of anchor, positive, negative to differentiate.
    """
    derivatives: Derivatives = {}
    differentiate = bool(wants)  # else the norms need no directions
    near = _norm(_difference(anchor, positive, p, eps), p, differentiate)
    across = _difference(anchor, negative, p, eps)
    # with one layout, equal differences have equal sums: how rows are added up depends on where they are stored
    aside = _difference(positive, negative, p, eps, like=across) if swap else None
    far = _norm(across, p, differentiate)
    side = None if aside is None else _norm(aside, p, differentiate)

    excess = margin + near.length - (far.length if side is None else np.minimum(far.length, side.length))
    items = np.maximum(excess, 0)

    if differentiate:
        features = np.broadcast_shapes(anchor.shape, positive.shape, negative.shape)[1]
        # Each distance's derivative is multiplied by one number a row: whether the loss is active and, with ``swap``,
        # which part of the gradient the distance gets of the two that it was the smaller of.
        active = step(excess >= 0, excess)
        share = active if side is None else active * _share(far, side)
        pull = near.slope(active, features).astype(anchor.dtype, copy=False)  # g(a, b)
        push = far.slope(share, features).astype(anchor.dtype, copy=False)  # g(a, c)
        if "anchor" in wants:
            derivatives["anchor"] = pull - push  # not in place: pull and push are derivatives themselves
        if "positive" in wants:
            derivatives["positive"] = LazyProduct(pull, -1.0)
        if "negative" in wants:
            derivatives["negative"] = push
        if side is not None and ("positive" in wants or "negative" in wants):
            push_side = side.slope(active - share, features).astype(anchor.dtype, copy=False)  # g(b, c)
            if "positive" in wants:
                derivatives["positive"] = -(pull + push_side)
            if "negative" in wants:
                derivatives["negative"] = derivatives["negative"] + push_side

    return items.astype(anchor.dtype), derivatives


def _difference(x: Array, y: Array, p: float, eps: float, like: Array | None = None) -> Array:
    """u = x - y + ε, in the memory layout of ``like`` if it has u's shape.

    It is in float64 where |u| is raised to a power. Near 0, a power below 1 multiplies u's error without limit; and an
    exponent that float32 rounds makes an error that grows with the logarithm of u.
    """
    out = np.empty_like(like) if like is not None and like.shape == np.broadcast_shapes(x.shape, y.shape) else None
    takes_power = p not in (0, 1, 2) and not isinf(p)
    return in_place(np.add, np.subtract(x, y, out=out, dtype=np.float64 if takes_power else None), eps)


class _Norm(NamedTuple):
    """‖u‖, and its derivative as a quotient: a direction, with one number a feature, over one number a row.

    They stay apart so that what multiplies the derivative, one number a row too, goes into the divisor: the division is
    then the only pass over the features.
    """

    length: Array
    direction: Array
    divisor: Array | float

    def slope(self, upstream: Array, features: int) -> Array:
        """The derivative times one number a row, written over the direction.

        Where one feature stands for many by broadcasting, its derivative will be summed over them: it is divided by
        their number first.
        """
        with np.errstate(divide="ignore"):
            # Where upstream is 0 the divisor is inf, and the quotient 0, as it should be.
            divisor = self.divisor / upstream
        if self.direction.shape[1] < features:
            divisor = divisor * features
        return in_place(np.divide, self.direction, divisor.astype(self.direction.dtype))


def _norm(u: Array, p: float, differentiate: bool) -> _Norm:
    """The norm of u; without ``differentiate``, what it holds for the derivative is not to be used."""
    if p == 2:
        length = np.sqrt(sum_products(u, u))
        return _Norm(length, u, _infinite_at_zero(length, length))
    if p == 1:
        return _Norm(sum_products(np.abs(u)), sign(u) if differentiate else u, 1.0)
    if p == 0:
        return _Norm(sum_products(step(u != 0, u)), np.zeros_like(u) if differentiate else u, 1.0)

    size = np.abs(u)
    if isinf(p):
        length = (np.maximum if p > 0 else np.minimum).reduce(size, axis=1, keepdims=True)
        if not differentiate:
            return _Norm(length, u, 1.0)
        attained = step(size == length, u)  # nowhere in a row with a nan
        return _Norm(length, sign(u) * attained, np.maximum(sum_products(attained), 1))

    with np.errstate(divide="ignore"):
        # |u|^(p-1) with the sign of u. At u = 0 that is infinite for p < 1, and |u|^(p-2) for p < 2.
        direction = u * size ** (p - 2) if p >= 2 else np.copysign(size ** (p - 1), u)
        if p > 1:
            total = sum_products(direction, u)
        else:
            total = sum_products(size**p)
            np.copyto(direction, 0, where=u == 0)
        length = total ** (1 / p)
        logarithm = np.log(total)
        length *= 1 + np.where(np.isfinite(logarithm), logarithm * rounded_off_reciprocal(p), 0)
        return _Norm(length, direction, _infinite_at_zero(length ** (p - 1), length))


def rounded_off_reciprocal(p: float) -> float:
    """1/p less the float nearest to it."""
    return float(1 / Fraction(p) - Fraction(1 / p))


def _share(far: _Norm, side: _Norm) -> Array:
    """The derivative of min(far, side) in far: 1 where it is the smaller, and 1/2 where they are equal."""
    return 0.5 * (step(far.length <= side.length, far.length) + (far.length < side.length))


def _infinite_at_zero(divisor: Array, length: Array) -> Array:
    """The divisor that makes the derivative 0 where the length is 0, instead of 0/0."""
    zero = length == 0
    return np.where(zero, np.inf, divisor) if zero.any() else divisor


def magnitudes(
    anchor: Array,
    positive: Array,
    negative: Array,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> tuple[Array, Derivatives]:
    """The sums of |terms|: differences of distances, of unit vectors, and x - y + ε where x - y is close to -ε."""
    near = _blurred(anchor, positive, p, eps)
    far = _blurred(anchor, negative, p, eps)
    side = _blurred(positive, negative, p, eps) if swap else None
    features = np.broadcast_shapes(anchor.shape, positive.shape, negative.shape)[1]

    items = abs(margin) + near.length + (far.length if side is None else np.minimum(far.length, side.length))
    all_rows = np.ones_like(items)
    pull = near.slope(all_rows, features)
    if side is None:
        push = far.slope(all_rows, features)
        return items, {"anchor": pull + push, "positive": pull, "negative": push}
    share = _share(far, side)
    push, push_side = far.slope(share, features), side.slope(1 - share, features)
    return items, {"anchor": pull + push, "positive": pull + push_side, "negative": push + push_side}


def _blurred(x: Array, y: Array, p: float, eps: float) -> _Norm:
    """The norm of x - y + ε, with the direction that |x - y| + |ε| would have: how far their rounding reaches.

    Raising to the power p - 1 multiplies a relative error by |p - 1|.
    """
    norm = _norm(x - y + eps, p, True)
    if isinf(p):
        return norm._replace(direction=np.abs(norm.direction))
    if p < 1:
        return norm._replace(direction=max(1 - p, 1) * np.abs(norm.direction))
    return norm._replace(direction=max(p - 1, 1) * _norm(np.abs(x - y) + abs(eps), p, True).direction)


__all__ = ["definition", "magnitudes", "rounded_off_reciprocal", "triplet_margin"]

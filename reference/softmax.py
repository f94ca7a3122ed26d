"""Softmax of the rows of cross-entropy, with one class t of each row taken out of the sum.

With e[j] = exp(x[j]), softmax is e[j] / Σ e. The sum is kept in two parts, e[t] and r = Σ e[j] over j ≠ t, because the
cost of a class that is nearly certain, log1p(r / e[t]), and its derivative are made of r, which would be lost in a sum
with e[t]. The chapter on cross-entropy has the formulas. What is done for accuracy and speed:

*No maximum.* The usual softmax subtracts the largest logit m first, so that no exponential overflows. That takes a pass
over the row to find m, and costs accuracy: rounding x - m = -30 moves the exponent by 1e-6 in float32, eight units in
the last place of exp(x - m). Most rows do not need it. Where Σ e is from ``LEAST`` to ``MOST`` and e[t] is at least
``OWN``, nothing has overflowed, and exp(x) is 0 only where the probability is too small for its dtype.

*The shift.* The other rows are looked at again, with m. For 0 ≤ m ≤ 60 exp(x) serves still. Beyond, m is subtracted,
and what rounding took from x - m is found by Knuth's two-sum and given back: exp(d + δ) = exp(d) (1 + δ).

*The sum.* 32000 terms added one after another lose ten bits. ``sum_rows`` adds short runs, and their sums in float64.
"""

from __future__ import annotations

from typing import NamedTuple

from portaloss.reference.notation import Array, np
from portaloss.reference.rows import places, sum_rows

#: The limits of rows that need no maximum. MOST / OWN, the largest ratio of a sum to a term, does not overflow.
LEAST, MOST, OWN = 0.5, 2.0**86, 2.0**-40


class Softmax(NamedTuple):
    """The parts of a softmax, with one class of each row (the target, or the largest) taken out of the sum."""

    cost: Array  #: L[t]
    terms: Array  #: e[j], and 0 at t; in a shifted row divided by exp(m), as are term and rest
    term: Array  #: e[t]
    rest: Array  #: r, the sum of the terms but e[t]
    place: Array  #: where t is in the terms' memory
    maximum: Array | float = np.nan  #: m; nan where no row needs it
    log_sum: Array | float = np.nan  #: lse(x) - m; nan where no row needs it


def softmax_without(t: Array, x: Array, *, only_cost: bool) -> Softmax:
    """The softmax of the rows x (R, C) without the classes t (R, 1).

    ``only_cost``: whether no class but t needs its cost, so that a row that needs no maximum gets none.
    """
    plain: Array | None = None  # the rows that need no maximum
    if only_cost:
        # Exponentials first: whether they serve is seen from their sum. To look at all logits first takes longer.
        terms, place, term, rest = _apart(np.exp(x), t)
        total = rest + term
        plain = (term >= OWN) & (total >= LEAST) & (total <= MOST)
        if plain.all():
            return Softmax(np.log1p(rest / term), terms, term, rest, place)

    # L[t] = gap + log1p(r / exp(m) + expm1(-gap)). ``largest`` is exp(m), divided as r is.
    m = np.maximum.reduce(x, axis=1, keepdims=True)
    exponentials, largest = _exponentials(x, m, plain)
    terms, place, term, rest = _apart(exponentials, t)
    gap = m - x.reshape(-1, order="A")[place]
    log_sum = np.expm1(-gap)
    log_sum += rest / largest
    np.log1p(log_sum, out=log_sum)
    cost = gap + log_sum
    if plain is not None:
        # a row that needs no maximum gets the bits that it would get among others like it
        ratio = np.divide(rest, term, out=np.zeros_like(rest), where=plain)
        np.copyto(cost, np.log1p(ratio), where=plain)
    return Softmax(cost, terms, term, rest, place, m, log_sum)


def _apart(terms: Array, t: Array) -> tuple[Array, Array, Array, Array]:
    """The terms, now with 0 at t; where that is in their memory; what was there; and the sum of the other terms."""
    place = places(terms, t)
    memory = terms.reshape(-1, order="A")
    term = memory[place]
    memory[place] = 0.0
    return terms, place, term, sum_rows(terms)


def _exponentials(x: Array, m: Array, plain: Array | None) -> tuple[Array, Array]:
    """Exponentials of the rows and of their maxima m, both divided by exp(m) in rows where that has to be.

    Whether it has to be depends on the row alone, so that a row's bits do not depend on its neighbours.
    """
    shifted = m > 60.0
    negative = m < 0.0
    if negative.any():
        # a row below zero serves unshifted if its least logit does: exp(-80) is a normal number in float32
        shifted |= negative & (np.minimum.reduce(x, axis=1, keepdims=True) < -80.0)
    if plain is not None:
        shifted &= ~plain
    if not shifted.any():
        return np.exp(x), np.exp(m)

    c = m * shifted
    d = x - c
    # Knuth's two-sum: d is x - c rounded, and ``lost`` is exactly what the rounding took
    added = d - x
    lost = (x - (d - added)) - (c + added)
    np.copyto(lost, 0.0, where=np.isnan(lost))  # infinities have no rounding error
    terms = np.exp(d, out=d)
    lost *= terms  # exp(d + δ) = exp(d) + exp(d) δ
    terms += lost
    return terms, np.exp(m - c)


__all__ = ["LEAST", "MOST", "OWN", "Softmax", "softmax_without"]

"""CTC by pairs: the recursions of ``ctc`` as they are defined, in numbers that neither overflow nor underflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from portaloss.reference.notation import Array, np

if TYPE_CHECKING:
    from portaloss.reference.ctc import Batch, Take

#: The exponent of zero among numbers m 2^e: below every other, and finite, since -inf - -inf is nan.
NONE = -1e300

#: log 2 in two parts.
LOG_2_FRONT, LOG_2_REST = 6.93147180369123816490e-01, 1.90821492927058770002e-10


@dataclass(frozen=True)
class _Numbers:
    """Numbers m 2^e that neither overflow nor underflow: 1/2 <= m < 1, and e whole, in float64."""

    m: Array
    e: Array

    def __getitem__(self, index: Any) -> _Numbers:
        """Some of them."""
        return _Numbers(self.m[index], self.e[index])

    def put(self, index: Any, numbers: _Numbers) -> None:
        """Replace some of them."""
        self.m[index] = numbers.m
        self.e[index] = numbers.e

    def times(self, other: _Numbers) -> _Numbers:
        """The products."""
        return _normal(self.m * other.m, self.e + other.e)

    def where(self, condition: Array) -> _Numbers:
        """These where the condition holds, else 0."""
        return _Numbers(np.where(condition, self.m, 0.0), np.where(condition, self.e, NONE))


def _zeros(shape: tuple[int, ...]) -> _Numbers:
    return _Numbers(np.zeros(shape), np.full(shape, NONE))


def _normal(m: Array, e: Array) -> _Numbers:
    fraction, shift = np.frexp(m)
    return _Numbers(fraction, np.where(m == 0.0, NONE, e + shift))


def _exp(x: Array) -> _Numbers:
    """exp(x): the whole powers of two go apart, so that what is left is as good for -10000 as for -1."""
    finite = np.isfinite(x)
    y = np.clip(np.where(finite, x, 0.0), -1e290, 1e290)
    e = np.floor(y / np.log(2.0) + 0.5)
    # log 2 in two parts, the first with bits to spare for the product; beyond 1e15 there is nothing after the point
    r = np.clip((y - e * LOG_2_FRONT) - e * LOG_2_REST, -0.5, 0.5)
    # +inf has no probability: nan, as inf - inf would be
    return _normal(np.where(finite, np.exp(r), np.where(np.isneginf(x), 0.0, np.nan)), e)


def _sum(*terms: _Numbers) -> _Numbers:
    top: Array = np.maximum.reduce([term.e for term in terms])
    return _normal(np.add.reduce([_shifted(term.m, term.e - top) for term in terms]), top)


def _shifted(m: Array, e: Array) -> Array:
    """m 2^e as a float64, or as nearly as that goes."""
    shifted: Array = np.ldexp(m, np.clip(e, -2200, 2200).astype(np.int32))
    return shifted


def in_pairs(batch: Batch, take: Take | None) -> Array:
    """log Z by the recursions of α and β over the extended labels, as they are defined; each number has an exponent."""
    samples = len(batch.input_lengths)
    steps = int(batch.input_lengths.max(initial=0))
    states = 2 * len(batch.labels) + 1
    everyone = np.arange(samples)

    extended = np.full((states, samples), batch.blank)
    extended[1::2] = batch.labels
    log_y = batch.log_probs[:steps, everyone, extended].astype(np.float64)  # (steps, states, N)
    log_y[:, np.arange(states)[:, None] > 2 * batch.target_lengths] = -np.inf
    y = _exp(log_y)
    jump = np.zeros((states + 2, samples), bool)  # into a state from two before; two more rows of none at the end
    jump[1:-2:2] = batch.jump != 0.0

    # Two rows more of states before the first save the recursion its boundary.
    alpha = _zeros((steps, states + 2, samples))
    for t in range(steps):
        if t == 0:
            alpha.put((0, slice(2, 4)), y[0, :2])
        else:
            before = alpha[t - 1]
            ways = _sum(before[2:], before[1:-1], before[:-2].where(jump[:-2]))
            alpha.put((t, slice(2, None)), ways.times(y[t]))
    last = 2 * batch.target_lengths
    z = _Numbers(np.where(last == 0, 0.5, 0.0), np.where(last == 0, 1.0, NONE))
    some = np.flatnonzero(batch.input_lengths)
    at_end = alpha[batch.input_lengths[some] - 1, :, some]  # (N, states + 2)
    row, end = np.arange(len(some)), last[some] + 2
    z.put(some, _sum(at_end[row, end], at_end[row, end - 1].where(end > 2)))
    log_z = np.where(z.m == 0.0, -np.inf, z.e * LOG_2_FRONT + (z.e * LOG_2_REST + np.log(z.m)))
    if take is None:
        return log_z

    # Two rows more after the last here. ``ahead`` is y β at the step after.
    gamma = alpha[:, 2:]
    ahead = _zeros((states + 2, samples))
    for t in range(steps - 1, -1, -1):
        beta = _sum(ahead[:-2], ahead[1:-1], ahead[2:].where(jump[2:]))
        ahead.put(slice(0, -2), y[t].times(beta))
        ending = np.flatnonzero(batch.input_lengths == t + 1)
        beta.m[:, ending] = 0.0
        ahead.put((slice(None), ending), _zeros((states + 2, len(ending))))
        for state in (last[ending], np.maximum(last[ending] - 1, 0)):
            beta.put((state, ending), _Numbers(np.full(len(ending), 0.5), np.ones(len(ending))))
            ahead.put((state, ending), y[t, state, ending])
        gamma.m[t] *= beta.m
        gamma.e[t] += beta.e
        gamma.m[t, :, ending] = np.where(beta.m[:, ending] == 0.0, 0.0, gamma.m[t][:, ending]).T  # nan too
    posterior = _shifted(gamma.m / z.m, gamma.e - z.e)
    take(0, posterior[:, 1::2], posterior[:, 0::2])
    return log_z


__all__ = ["in_pairs"]

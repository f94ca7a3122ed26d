"""CTC in scaled space: the recursions of ``ctc`` on α and β themselves, as float64 holds them with an exponent aside.

α and β soon leave the range of float64. So every few steps a power of two is taken out of all of a sample's states,
such that the best of them is at the top of the range again; the exponents are added up on the side, and nothing is
rounded. A step costs three additions and three products a state, where log space costs exponentials and logarithms.

What is lost are states that fall below the range while another state fills its top, and it can be proved whether they
matter. When a power of two is taken out, states below a floor, 2^-1680 of the best, are raised to it. α and β can then
only come out too large, and Z by no more than ::

    Σ over rescalings τ of  floor_τ Σ_s β_τ(s)    (and the same with α)

All of it is known once both recursions have run. Where it is below 2^-60 of the smallest term of the derivative, the
answer is that of ``ctc_pairs`` to the last digits: the sample is *safe*. A sample that is not, or whose labels differ
at some step by more than e^79 in probability (or are inf or nan), is done again in pairs by the chapter.

Two things keep a step short. Probabilities are in units of the best one of the sample's labels at that step, so that
no state grows by more than a factor of 3 a step. And labels and blanks live in separate rows, since only labels are
jumped to and all blanks share one probability::

    labels'_i = p_i (labels_i + blanks_i + jump_i labels_{i-1})
    blanks'_i = r (blanks_i + labels_{i-1})

Arrays have the samples last, so that a row is one state of all samples, and NumPy works along whole rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from portaloss.reference.notation import Array, np

if TYPE_CHECKING:
    from portaloss.reference.ctc import Batch, Take

#: After a rescaling a sample's best state is 2^TOP, and none is less than 2^-FLOOR. Until the next rescaling a state
#: grows by at most 3^32 and falls by at most 2^-DRIFT: all are normal float64s, from 2^-1022 to 2^1023.
TOP_BITS = 900
FLOOR_BITS = 780
DRIFT_BITS = 230

#: The largest difference in log probability between the labels of a sample at one step, for scaled space: two steps
#: are then less than DRIFT_BITS.
SPREAD = 79.0

#: How far below the smallest term of the derivative the effect of the floor has to be: 7 bits below float64's last.
MARGIN_BITS = 60

#: Elements of α, of γ, or bins, that are handled at once: they stay in the cache.
BLOCK = 1 << 17


class _Units(NamedTuple):
    """Probabilities in units of the sample's best at the step: of labels (steps, S, N), and of blank (steps, N)."""

    p: Array
    r: Array
    best: Array  # (steps, N), log of the best
    worst: Array


def _units(batch: Batch, steps: int, block: int) -> _Units:
    """Those of the first steps, a block of steps at a time."""
    label_rows, samples = batch.labels.shape
    log_y = batch.log_probs[:steps]
    flat = (np.arange(samples) * log_y.shape[2] + batch.labels).ravel()
    lines = log_y.reshape(steps, -1)
    log_r = log_y[:, :, batch.blank].astype(np.float64)
    best, worst = log_r.copy(), log_r.copy()
    p = np.empty((steps, label_rows, samples))
    for start in range(0, steps, block):
        part = slice(start, start + block)
        taken = np.take(lines[part], flat, axis=1, mode="clip")
        taken = taken.reshape(len(taken), label_rows, samples)
        np.maximum(best[part], taken.max(axis=1, initial=-np.inf), out=best[part])
        np.minimum(worst[part], taken.min(axis=1, initial=np.inf), out=worst[part])
        np.subtract(taken, best[part, None], out=p[part])
        np.exp(p[part], out=p[part])
    if not batch.used.all():
        p *= batch.used
    return _Units(p, np.exp(log_r - best), best, worst)


class _Alpha:
    """α in scaled space. A step is a row of zeros, for what comes before the first label, then S labels, S + 1 blanks.

    Only the last step of each block of steps is kept, and a block is computed again when β gets there: to write all
    steps to memory and to read them again would take longer than to compute them twice.
    """

    def __init__(self, batch: Batch, units: _Units, every: int, block: int, *, once: bool) -> None:
        """``every``: steps from one rescaling to the next; ``once``: whether no step is asked for ``again``."""
        self._steps, self._labels, samples = units.p.shape
        self._batch, self._units, self._every = batch, units, every
        rows = 2 * self._labels + 2
        self._block = 2 if once else block
        self._kept = np.empty((self._block, rows, samples))  # of the block that is walked
        self._kept[:, 0] = 0.0
        self._starts = np.empty((0 if once else -(-self._steps // block), rows, samples))  # what comes before each
        self._jumped = np.empty((self._labels, samples))
        self._first = 0  # of the steps that are kept
        #: A step's row times 2 to this, one a sample, is α.
        self.exponent = np.zeros((self._steps, samples), np.int64)

    def advance(self, t: int) -> Array:
        """The rows of step t, from those of the step before."""
        i = t % self._block
        if i == 0:
            self._first = t
            if len(self._starts):
                self._starts[t // self._block] = self._kept[-1]
        return self._walk(t, self._kept[i - 1], self._kept[i])

    def again(self, t: int) -> Array:
        """The rows of step t once more, in the order of β, from the last step to the first."""
        if t < self._first:
            self._first -= self._block
            before = self._starts[self._first // self._block]
            for i in range(self._block):
                before = self._walk(self._first + i, before, self._kept[i])
        row: Array = self._kept[t - self._first]
        return row

    def kept(self) -> Array:
        """The rows of the block of steps that was computed last."""
        return self._kept[: self._steps - self._first]

    def _walk(self, t: int, before: Array, now: Array) -> Array:
        count, p, r, jumped = self._labels, self._units.p, self._units.r, self._jumped
        labels, blanks = now[1 : count + 1], now[count + 1 :]
        if t == 0:
            now[1:] = 0.0
            labels[:1] = np.ldexp(p[0, :1], TOP_BITS)
            blanks[0] = np.ldexp(r[0], TOP_BITS)
            self.exponent[0] = -TOP_BITS
            return now
        np.multiply(self._batch.jump, before[:count], out=jumped)
        np.add(jumped, before[1 : count + 1], out=jumped)
        np.add(jumped, before[count + 1 : -1], out=jumped)
        np.multiply(jumped, p[t], out=labels)
        np.add(before[count + 1 :], before[: count + 1], out=blanks)
        np.multiply(blanks, r[t], out=blanks)
        self.exponent[t] = self.exponent[t - 1]
        if t % self._every == 0:
            self.exponent[t] += _rescale(now[1:])
        return now


class _Beta:
    """β in scaled space, of one step at a time: a row for each of S labels, then one for each of S + 1 blanks."""

    def __init__(self, batch: Batch, units: _Units, every: int) -> None:
        steps, count, samples = units.p.shape
        self._batch, self._units, self._every, self._steps = batch, units, every, steps
        self.rows = np.zeros((2 * count + 1, samples))
        self._labels, self._blanks = self.rows[:count], self.rows[count:]
        self._ahead, self._jumped = np.empty((2, count, samples))
        #: A step's rows times 2 to this, one a sample, is β.
        self.exponent = np.zeros((steps, samples), np.int64)

    def step_back(self, t: int) -> None:
        """From step t + 1 to step t."""
        if t + 1 == self._steps:
            return
        labels, blanks, ahead, jumped = self._labels, self._blanks, self._ahead, self._jumped
        # what follows label i: itself, the next blank, the next label; what follows blank i: itself, label i
        np.multiply(labels, self._units.p[t + 1], out=ahead)
        blanks *= self._units.r[t + 1]
        np.add(ahead, blanks[1:], out=labels)
        blanks[:-1] += ahead
        np.multiply(self._batch.jump[1:], ahead[1:], out=jumped[1:])
        labels[:-1] += jumped[1:]
        self.exponent[t] = self.exponent[t + 1]
        if t % self._every == 0:
            self.exponent[t] += _rescale(self.rows)

    def start(self, t: int, ending: Array) -> None:
        """Step t is the last of these samples: β is 1 in their last label and last blank."""
        length = self._batch.target_lengths[ending]
        self.rows[:, ending] = 0.0
        self.rows[np.maximum(length - 1, 0), ending] = (length > 0) * 2.0**TOP_BITS
        self._blanks[length, ending] = 2.0**TOP_BITS  # second: where nobody has a label, row 0 is the first blank
        self.exponent[t, ending] = -TOP_BITS


def in_scaled_space(batch: Batch, take: Take | None) -> tuple[Array, Array]:
    """log Z, and for which samples it is as good as by pairs.

    ``take`` is given γ, a block of steps after the other, the last steps first.
    """
    samples, label_rows = len(batch.input_lengths), len(batch.labels)
    steps = int(batch.input_lengths.max(initial=0))
    if steps == 0 or samples == 0:
        return np.where(batch.target_lengths == 0, 0.0, -np.inf), np.full(samples, True)

    rows = 2 * label_rows + 2
    block = min(steps, max(2, BLOCK // (rows * samples)))
    units = _units(batch, steps, block)
    within = np.arange(steps)[:, None] < batch.input_lengths
    spread = np.where(within, units.best - units.worst, 0.0).max(axis=0)
    safe = spread <= SPREAD  # False for nan
    bits = float(np.max(spread, initial=1.0, where=safe)) / np.log(2.0)  # that a state may fall by in one step
    every = min(32, int(DRIFT_BITS / bits))
    endings = {int(length) - 1: np.flatnonzero(batch.input_lengths == length) for length in set(batch.input_lengths)}

    alpha = _Alpha(batch, units, every, block, once=take is None)
    total = np.zeros(samples)  # Z, in units of 2^exponent at the sample's last step
    for t in range(steps):
        row = alpha.advance(t)
        if (ending := endings.get(t)) is not None:
            length = batch.target_lengths[ending]
            total[ending] = row[label_rows + 1 + length, ending] + row[length, ending]
    mantissa, exponent = np.frexp(total)
    exponent = exponent + alpha.exponent[np.maximum(batch.input_lengths - 1, 0), np.arange(samples)]
    log_z = np.where(within, units.best, 0.0).T.sum(axis=1) + (np.log(mantissa) + exponent * np.log(2.0))
    possible = _has_an_alignment(batch)
    log_z[~possible] = -np.inf
    log_z[(batch.input_lengths == 0) & (batch.target_lengths == 0)] = 0.0

    beta = _Beta(batch, units, every)
    weighted = np.empty(beta.rows.shape if take is not None else 0)
    for t in range(steps - 1, -1, -1):
        beta.step_back(t)
        if (ending := endings.get(t)) is not None:
            beta.start(t, ending)
        if take is not None:
            # γ = α β / Z is at most 1, but α β would overflow: half of the exponent goes to each
            if ending is not None or t % every in (0, every - 1):  # else no exponent has changed
                gap = alpha.exponent[t] + beta.exponent[t] - exponent
                alpha_factor = np.ldexp(1.0 / mantissa, gap // 2)
                beta_factor = np.ldexp(1.0, gap - gap // 2)
            gamma = alpha.again(t)[1:]  # in place of α
            gamma *= alpha_factor
            np.multiply(beta.rows, beta_factor, out=weighted)
            gamma *= weighted
            if t % block == 0:
                walked = alpha.kept()
                take(t, walked[:, 1 : label_rows + 1], walked[:, label_rows + 1 :])

    # The effect of the floor, relative to Z: 2^-FLOOR in one of α and β meets at most 2^TOP in each state of the other.
    gap = alpha.exponent + beta.exponent - exponent + TOP_BITS - FLOOR_BITS
    smallest = np.where(within, units.worst, 0.0).min(axis=0) / np.log(2.0)
    rescaled = within & (np.arange(steps) % every == 0)[:, None]
    effect = np.where(rescaled, gap, -np.inf).max(axis=0) + np.log2(2.0 * rows * steps)
    safe &= ~possible | (effect <= smallest - MARGIN_BITS)
    return log_z, safe


def _has_an_alignment(batch: Batch) -> Array:
    """Whether there are steps enough for the labels and a blank between equal neighbours.

    Known without arithmetic, which would find small numbers where there are none: the floor's.
    """
    repeats = ((batch.jump[1:] == 0.0) & batch.used[1:]).sum(axis=0)
    possible: Array = batch.input_lengths >= batch.target_lengths + repeats
    return possible


def _rescale(rows: Array) -> Array:
    """Bring the largest of each sample's states to 2^TOP or just below, in place; return the exponents taken out."""
    exponent: Array = np.frexp(rows.max(axis=0))[1] - TOP_BITS
    rows *= np.ldexp(1.0, -exponent)
    np.maximum(rows, 2.0**-FLOOR_BITS, out=rows)
    return exponent


__all__ = ["BLOCK", "in_scaled_space"]

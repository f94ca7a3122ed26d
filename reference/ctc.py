r"""Connectionist temporal classification: a sequence is known, its timing is not.

Where it comes from
-------------------
A recogniser of speech or handwriting emits one distribution over classes at every time step, but what a person wrote
down beside the recording is a short sequence of labels with no times. Graves, Fernández, Gomez and Schmidhuber (2006)
removed the need to cut the recording up by hand: let every way of spreading the labels over the time steps count, and
maximise the sum of their probabilities. The sum has exponentially many terms and, because it shares its prefixes as a
hidden Markov model does, costs only (time steps) x (labels).

The formula
-----------
An *alignment* π picks one class at each of the T time steps. The classes include one that means "nothing here": the
blank, ∅. An alignment reads as a label sequence once runs of one class are merged and then blanks are dropped::

    a a ∅ a b b  ->  a a b         (the blank is what keeps the two a apart)

With y_t(k) the probability of class k at step t, and steps independent given the input, the loss of labels l is::

    Z = Σ over all π that read as l of  Π_t y_t(π_t)             ℓ = -log Z

The argument ``log_probs`` holds log y_t(k), as ``log_softmax`` gives it.

To sum without enumerating, walk along the *extended* sequence l' of 2S + 1 states, with a blank around each label::

    l  =   a   a   b          l' = ∅ a ∅ a ∅ b ∅

An alignment is a walk on l' that starts in one of the first two states, ends in one of the last two, and at each step
stays, moves on by one, or jumps over a blank: only onto a label, and only if it differs from the label before (jumping
from a to a would merge them). Let α_t(s) be the sum over all walks of steps 0 .. t that end in state s::

    α_0(0) = y_0(∅)     α_0(1) = y_0(l'_1)     α_0(s) = 0 for s > 1
    α_t(s) = y_t(l'_s) [ α_{t-1}(s) + α_{t-1}(s-1) + α_{t-1}(s-2) where the jump is allowed ]
    Z = α_{T-1}(2S) + α_{T-1}(2S-1)

The derivative, step by step
----------------------------
1. Let β_t(s) be the sum over all ways to finish from state s after step t: β_{T-1} is 1 in the last two states, and ::

       β_t(s) = y_{t+1}(l'_s) β_{t+1}(s) + y_{t+1}(l'_{s+1}) β_{t+1}(s+1) + the same for s+2 where the jump is allowed

   (In the paper β_t also holds y_t. Left out, nothing has to be divided away again.)
2. α_t(s) β_t(s) is the sum of all alignments that are in state s at step t. Each alignment is in some state, so for
   every t, Σ_s α_t(s) β_t(s) = Z, and γ_t(s) = α_t(s) β_t(s) / Z is the posterior probability of being there.
3. y_t(k) is a factor, once, of exactly those alignments that are in class k at step t. So Z is linear in y_t(k) and ::

       ∂Z/∂log y_t(k) = Σ of α_t(s) β_t(s) over states with l'_s = k
       ∂ℓ/∂log y_t(k) = -Γ_t(k)        with Γ_t(k) = Σ of γ_t(s) over states with l'_s = k

4. The y_t are not free: they come from a softmax, log y_t(k) = u_k - log Σ_j exp(u_j), and Σ_k Γ_t(k) = 1. By the chain
   rule the derivative with respect to what went into the softmax is ::

       ∂ℓ/∂u_k = -Γ_t(k) + y_t(k) Σ_j Γ_t(j) = y_t(k) - Γ_t(k)

5. PyTorch returns *this* as the gradient of ``log_probs``, and so does this chapter::

       derivative = exp(log_probs) - Γ

   It adds up to 0 over the classes. The backward pass of ``log_softmax``, g ↦ g - y Σ_k g_k, leaves such a g alone: the
   gradient that arrives at u is right, and would be as well had -Γ been passed. For ``log_probs`` that are not
   normalised, exp(log_probs) - Γ is not the derivative of ℓ; it is only what every implementation returns.

Kinks and conventions
---------------------
ℓ is smooth where Z > 0. A sample uses its first ``input_length`` steps and ``target_length`` labels; the derivative is
0 at later steps, and what ``targets`` holds beyond is never read.

Where no alignment exists (too few steps for the labels and the blanks between repeated ones) Z = 0, ℓ = inf and the
derivative is nan; with ``zero_infinity`` both are 0. No labels at all leave one alignment, all blanks. No steps leave
ℓ = 0 for no labels, else inf; there is no step that a derivative could be nan at.

Where log_probs is -inf the derivative is nan, whether or not the class is in the labels: PyTorch computes Γ as
exp(... - log y), which is inf - inf there. (The limit is 0.)

What overflows or cancels
-------------------------
Z is a product of T probabilities: e^-2000 is ordinary and no float holds it. There are three ways out.

*Log space*: keep log α and log β, add with log-sum-exp. It always works. It costs three exponentials and a logarithm a
state, and log α near -2000 has only so many digits after the point: in float32 a rounding moves α by 1e-4 of itself,
and in float64 by 1e-13.

*Pairs*: keep α and β as m 2^e, e whole and beside m. Shifts by powers of two are exact, so that nothing is lost,
however small; there is one exponential for each probability, and none for a state. But e goes wherever m goes.

*Scaled space*: keep α and β themselves, and take a power of two out of all of a sample's states when they have drifted.
A step is three additions and three products, and nothing is rounded but these. A state may be lost that falls below the
range of float64 while another fills its top; ``ctc_scaled.py`` finds out whether it matters.

So scaled space it is, and samples for which it does not serve are done again in pairs (``ctc_pairs.py``).

Both recursions run in float64 whatever the dtype of ``log_probs``: float32 would lose digits to T roundings, and to the
narrow range of its exponent. exp(log_probs) - Γ cancels where model and posterior agree, which is the aim of training;
the error is small relative to the two terms, not to their difference (``magnitudes``).

Source: Alex Graves, Santiago Fernández, Faustino Gomez, Jürgen Schmidhuber, "Connectionist Temporal Classification:
Labelling Unsegmented Sequence Data with Recurrent Neural Networks", ICML 2006; for rescaling, Lawrence R. Rabiner, "A
Tutorial on Hidden Markov Models and Selected Applications in Speech Recognition", Proceedings of the IEEE 77 (1989);
``torch.nn.functional.ctc_loss``.

>>> import numpy as np
>>> log_probs = np.log(np.full((2, 1, 2), 0.5))

Two steps, a blank (class 0) and one label (class 1), everything at 1/2. Of the four alignments three read as "1": 11,
∅1 and 1∅. So Z = 3/4 and ℓ = log(4/3). At each step two of the three are in the label: Γ = (1/3, 2/3), and the
derivative is (1/2 - 1/3, 1/2 - 2/3) = (1/6, -1/6).

>>> items, derivatives = ctc(log_probs, np.array([[1]]), np.array([2]), np.array([1]), wants=("log_probs",))
>>> round(float(np.exp(-items[0])), 12)
0.75
>>> (6 * derivatives["log_probs"][:, 0]).round(12).tolist()
[[1.0, -1.0], [1.0, -1.0]]

The labels "11" need three steps, for a blank has to stand between them.

>>> ctc(log_probs, np.array([[1, 1]]), np.array([2]), np.array([2]))[0].tolist()
[inf]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import groupby, product
from typing import Any, NamedTuple

from portaloss.reference.ctc_pairs import in_pairs
from portaloss.reference.ctc_scaled import BLOCK, in_scaled_space
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np


def definition(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
    xp: Any = np,
) -> Any:
    """-log of the sum of the probabilities of all alignments that read as the labels: only for a few steps."""
    items = []
    for n, (steps, length) in enumerate(zip(input_lengths.tolist(), target_lengths.tolist(), strict=True)):
        labels = tuple(targets[n, :length].tolist())
        paths = alignments(labels, steps, log_probs.shape[2], blank)
        z = xp.sum(xp.exp(xp.sum(log_probs[np.arange(steps), n, paths], axis=1)))
        items.append(xp.where(z > 0, -xp.log(z), 0) if zero_infinity else -xp.log(z))
    return xp.stack(items)


@cache
def alignments(labels: tuple[int, ...], steps: int, classes: int, blank: int) -> Array:
    """Every sequence of classes, one a step, that reads as the labels: (alignments, steps)."""
    paths = product(range(classes), repeat=steps)
    found = [path for path in paths if [k for k, _ in groupby(path) if k != blank] == list(labels)]
    return np.array(found, int).reshape(len(found), steps)


def ctc(
    log_probs: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
    wants: Wants = (),
) -> Terms:
    """Items of the CTC loss, one a sample, and the derivative as PyTorch defines it.

    Args:
        log_probs: log y, (T, N, C).
        targets: the labels, (N, S); integers.
        input_lengths: how many of the T steps each sample uses, (N,).
        target_lengths: how many of the S labels each sample uses, (N,).
        blank: the class that is dropped when an alignment is read.
        zero_infinity: whether a sample that has no alignment counts as 0 instead of inf.
        wants: may name log_probs: exp(log_probs) - Γ, (T, N, C).
    """
    wanted = "log_probs" in wants
    derivatives: Derivatives = {}
    with np.errstate(all="ignore"):
        batch = _batch(log_probs, targets, input_lengths, target_lengths, blank)
        classes = _Classes(batch) if wanted else None
        log_z, safe = in_scaled_space(batch, None if classes is None else classes.take_off)
        derivative = None if classes is None else classes.derivative
        if not safe.all():
            rest = np.flatnonzero(~safe)
            part = batch.samples(rest)
            classes = _Classes(part) if wanted else None
            log_z[rest] = in_pairs(part, None if classes is None else classes.take_off)
            if derivative is not None and classes is not None:
                derivative[:, rest] = classes.derivative

        items = (0.0 - log_z).astype(log_probs.dtype)  # 0 - 0 is 0, and -0 would be PyTorch's
        impossible = np.isposinf(items)
        if derivative is not None:
            if not np.isfinite(items).all():
                derivative[:, ~np.isfinite(items)] = np.nan
                if zero_infinity:
                    derivative[:, impossible] = 0.0
            steps = len(log_probs)
            if (batch.input_lengths < steps).any():
                derivative[np.arange(steps)[:, None] >= batch.input_lengths] = 0.0
            derivatives["log_probs"] = derivative
        if zero_infinity:
            items[impossible] = 0.0
    return items, derivatives


def magnitudes(
    log_probs: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Terms:
    """What errors are relative to: exp(log_probs) + Γ, whose difference the derivative is, and |ℓ| + 1.

    The 1 is Z itself where the labels are all but certain: log Z near 0 knows no more digits than Z near 1 has.
    """
    items: Array
    items, derivatives = ctc(log_probs, targets, input_lengths, target_lengths, blank=blank, wants=("log_probs",))
    counts = np.arange(len(log_probs))[:, None, None] < np.asarray(input_lengths)[:, None]
    item_terms: Array = np.abs(items) + 1.0
    if zero_infinity:
        counts = counts & ~np.isposinf(items)[:, None]
        item_terms[np.isposinf(items)] = 0.0
    with np.errstate(all="ignore"):
        terms = np.where(counts, 2.0 * np.exp(log_probs) - derivatives["log_probs"], 0.0).astype(log_probs.dtype)
    return item_terms, {"log_probs": terms}


class Batch(NamedTuple):
    """The operands, arranged for the recursions: states first and samples last, so that neighbours are whole rows."""

    log_probs: Array  # (T, N, C)
    labels: Array  # (S, N), the blank where a sample has no such label
    used: Array  # (S, N), whether it has
    jump: Array  # (S, N) float64, 1 where label i may follow label i - 1 with no blank between, else 0
    input_lengths: Array  # (N,)
    target_lengths: Array  # (N,)
    blank: int

    def samples(self, which: Array) -> Batch:
        """Some of the samples."""
        return Batch(
            self.log_probs[:, which],
            self.labels[:, which],
            self.used[:, which],
            self.jump[:, which],
            self.input_lengths[which],
            self.target_lengths[which],
            self.blank,
        )


#: What is called with γ, the posterior, of some steps: the first of them, γ of labels (steps, S, N), and of blanks
#: (steps, S + 1, N).
Take = Callable[[int, Array, Array], None]


def _batch(log_probs: Array, targets: Array, input_lengths: Array, target_lengths: Array, blank: int) -> Batch:
    input_lengths = np.asarray(input_lengths, np.intp)
    target_lengths = np.asarray(target_lengths, np.intp)
    longest = int(target_lengths.max(initial=0))
    used = np.arange(longest)[:, None] < target_lengths
    labels = np.where(used, targets[:, :longest].T, blank).astype(np.intp)
    jump = np.zeros(labels.shape)
    jump[1:] = labels[1:] != labels[:-1]
    return Batch(log_probs, labels, used, jump, input_lengths, target_lengths, blank)


class _Classes:
    """exp(log_probs) - Γ: γ is added up by class, and taken off in place."""

    def __init__(self, batch: Batch) -> None:
        log_probs, labels = batch.log_probs, batch.labels
        steps, samples, classes = log_probs.shape
        self.derivative: Array = np.exp(log_probs, order="C")
        np.copyto(self.derivative, np.nan, where=log_probs == -np.inf)
        self._blank = batch.blank
        self._flat = self.derivative.reshape(steps, samples * classes)

        # Bins to add up in: one for each class of each sample. In a large vocabulary most classes are in no label, and
        # only those that are get a bin, so that the cost does not grow with the vocabulary. One more bin, which is
        # dropped, takes the labels that a sample does not have.
        of_label = np.arange(samples) * classes + labels
        self._columns: slice | Array = slice(None)
        count = samples * classes
        if classes > 2 * len(labels):
            self._columns, inverse = np.unique(of_label, return_inverse=True)
            of_label, count = inverse.reshape(labels.shape), len(self._columns)
        of_label[~batch.used] = count
        block = max(1, BLOCK // max(labels.size, count + 1))
        self._bins = count + 1
        block = min(block, steps)
        self._index = (np.arange(block)[:, None, None] * self._bins + of_label).reshape(block, labels.size)

    def take_off(self, first: int, labels: Array, blanks: Array) -> None:
        """Take off Γ of the steps from ``first`` on: γ of labels (steps, S, N), and of blanks (steps, S + 1, N)."""
        block = max(1, len(self._index))
        for start in range(0, len(labels), block):
            gamma = labels[start : start + block]
            length, part = len(gamma), slice(first + start, first + start + len(gamma))
            index = self._index[:length].reshape(-1)
            by_class = np.bincount(index, gamma.reshape(-1), length * self._bins).reshape(length, self._bins)
            self._flat[part, self._columns] -= by_class[:, :-1]
            self.derivative[part, :, self._blank] -= blanks[start : start + block].sum(axis=1)

r"""Cross-entropy: the surprise at the observed class, under a softmax of the scores.

Where it comes from
-------------------
A network gives a score (a logit) for each of C classes. Softmax turns scores into probabilities: p[j] is proportional
to exp(x[j]), the one form for which a difference of scores is a log-ratio of probabilities. Bridle (1990) trained
networks through it by maximum likelihood, and the pair has been the loss of classifiers, and of language models, ever
since. A target may be a class (hard) or a distribution over classes (soft). Szegedy et al. (2016) mixed hard targets
with a little of the uniform distribution, label smoothing, so that scores need not grow without end.

The formula
-----------
With lse(x) = log Σ exp(x[j]), the cost of class j is::

    L[j] = -log p[j] = lse(x) - x[j]

and the loss of a row is Σ v[j] L[j]. The factors v[j] come from the target t, the class weights w (1 where none are
given) and the smoothing s::

    hard   v[j] = (1 - s) w[t] [j = t]  +  (s/C) w[j]          0 where t is ignore_index
    soft   v[j] = w[j] ((1 - s) t[j] + s/C)

With soft targets, each class is weighted by its own weight. Without smoothing a hard target leaves w[t] L[t]. Soft
targets need not sum to 1. The mean divides by ``nll.divisor`` for hard targets, smoothed or not, and by the number of
rows for soft ones.

Nothing ties the level of the scores down: a constant added to all of a row changes no p. In narrow dtypes they drift,
so PaLM (Chowdhery et al., 2023) added a cost of the level itself, z-loss: ζ lse(x)² for each row that counts, with a ζ
such as 1e-4 (0 where none is asked for). Neither weights nor smoothing touch it.

The derivative, step by step
----------------------------
1. ∂lse/∂x[i] = exp(x[i]) / Σ exp(x[j]) = p[i]: softmax is the gradient of the log of its own denominator.
2. So ∂L[j]/∂x[i] = p[i] - [i = j].
3. Summed over j with factors v[j], and V = Σ v[j]::

       ∂ℓ/∂x[i] = V p[i] - v[i]

   What the model says less what the target says. For a plain hard target: p[i], and p[t] - 1 at the target.
4. ℓ is linear in v, and v is linear in soft targets and in weights::

       ∂ℓ/∂t[j] = (1 - s) w[j] L[j]
       ∂ℓ/∂w[j] = ((1 - s) t[j] + s/C) L[j]

5. By step 1, z-loss adds 2 ζ lse p[i]: it is as if V were larger by 2 ζ lse.

Kinks and conventions
---------------------
ℓ is smooth. A logit of -inf masks its class: p is 0 and nothing flows there; a masked target costs inf. Factors
multiply whatever L is, so a factor of 0 on a masked class gives 0 · inf = nan: soft targets, weights and smoothing with
s = 1 do this as in PyTorch. A logit of +inf, or a row that is all -inf, gives nan. An ignored row costs 0 whatever is
in it; its derivative is 0 · p, which is nan where p is.

What overflows or cancels
-------------------------
*The loss.* The target's own share of Σ is known exactly, so it is taken out. With e[j] = exp(x[j]) and r = Σ e[j] over
j ≠ t::

    L[t] = log(1 + r / e[t]) = log1p(r / e[t])

has full precision, from the smallest number for a confident row up. For most rows nothing overflows or vanishes in it
that matters, and that is all. For the others one subtracts m = max x first. Then log Σ exp(x[j] - m) + m - x[t] still
fails a confident row: Σ is 1 + tiny, and the tiny part, which is the answer, is rounded away. Blanchard, Higham and
Higham (2021) take the largest term out of the sum. Here it is the target's again, and with gap = m - x[t] ≥ 0::

    L[t] = gap + log1p(r / exp(m) + expm1(-gap))

Where the target is the maximum, that is log1p(r / exp(m)). Elsewhere the argument is Σ/exp(m) - 1 and L is at least
log 2, so its rounding does no harm. Other classes cost (m - x[j]) plus the same log1p: only sums of terms that are not
negative.

*The derivative.* At the target p[t] - 1 = -r / (r + e[t]), without the subtraction. More generally, where p[t] > 1/2,
V p[t] - v[t] = (V - v[t]) - V r / (r + e[t]). What remains, V p[i] - v[i] where both are of a size, is a difference of
what the model and the target say, and inherent: ``magnitudes`` measures it.

*z-loss.* lse = m + log Σ exp(x[j] - m) cancels where m is negative and lse is near 0: its error is measured against
|m| + log Σ exp(x[j] - m). In the derivative, V + 2 ζ lse would swallow a small z-loss at a confident target, so there
2 ζ lse p[t] is added last.

*The exponentials.* ``softmax.py`` has them: when a row needs no maximum, and what x - m loses to rounding.

*What is left in float32.* NumPy's exp is off by up to 2.4 units in the last place, and enters p twice, above and below
the line; a loss below 1 has the error of its r as well. Items and derivatives are off by 4 to 6 units at worst, where
most losses keep to 4.

Source: John S. Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs, with Relationships
to Statistical Pattern Recognition", Neurocomputing (Springer, 1990); Christian Szegedy et al., "Rethinking the
Inception Architecture for Computer Vision", CVPR 2016; Aakanksha Chowdhery et al., "PaLM: Scaling Language Modeling
with Pathways", JMLR 24 (2023); Pierre Blanchard, Desmond J. Higham and Nicholas J. Higham,
"Accurately Computing the Log-Sum-Exp and Softmax Functions", IMA Journal of Numerical Analysis 41 (2021);
``torch.nn.functional.cross_entropy``.

>>> import numpy as np
>>> x = np.array([[0.0, np.log(3.0)]])

Softmax is (1, 3) / 4. The second class costs log(4/3), and the derivative is (1/4, 3/4 - 1).

>>> items, derivatives = cross_entropy(x, np.array([[1]]), wants=("input",))
>>> float(round(np.exp(items[0, 0]), 12)), derivatives["input"].round(12).tolist()
(1.333333333333, [[0.25, -0.25]])

Half of the smoothing goes to each class: (0, 1) becomes (0.1, 0.9).

>>> items, derivatives = cross_entropy(x, np.array([[1]]), label_smoothing=0.2, wants=("input",))
>>> derivatives["input"].round(12).tolist()
[[0.15, -0.15]]

In float32, a loss of log1p(exp(-30)), about exp(-30), survives; so does its derivative.

>>> x = np.array([[30.0, 0.0]], dtype=np.float32)
>>> items, derivatives = cross_entropy(x, np.array([[0]]), wants=("input",))
>>> f"{items[0, 0]:.3e}", f"{derivatives['input'][0, 0]:.3e}"
('9.358e-14', '-9.358e-14')
"""

from __future__ import annotations

from typing import Any

from portaloss.reference.lazy import LazyProduct
from portaloss.reference.nll import divisor
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, class_numbers, np
from portaloss.reference.rows import rows, sum_rows, unrows
from portaloss.reference.softmax import Softmax, softmax_without


def definition(
    input: Any,
    target: Any,
    weight: Any = 1,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    xp: Any = np,
) -> Any:
    """Σ v[j] L[j] + ζ lse², and 0 in an ignored row; the target is a class, an integer, or a distribution over them."""
    lse = xp.log(xp.sum(xp.exp(input), axis=1, keepdims=True))
    costs = weight * (lse - input)  # w[j] L[j]
    hard = "int" in str(target.dtype)
    own = xp.sum((class_numbers(input, xp) == target if hard else target) * costs, axis=1, keepdims=True)
    others = xp.sum(costs, axis=1, keepdims=True) / input.shape[1]
    loss = (1 - label_smoothing) * own + label_smoothing * others + z_loss * lse**2
    return xp.where(target == ignore_index, 0, loss) if hard else loss


def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    wants: Wants = (),
) -> Terms:
    """Items of the cross-entropy, (N, 1, ...), and their derivatives.

    Args:
        input: x, logits, (N, C, ...).
        target: t, a class a row, (N, 1, ...), integers; or a factor a class, (N, C, ...), floating.
        weight: w, one a class, (1, C, 1, ...).
        ignore_index: rows with this class as target cost nothing.
        label_smoothing: s, how much of the target is spread over all classes.
        z_loss: ζ, what lse² costs.
        wants: which of input and, for soft targets, target and weight to differentiate.
    """
    if input.shape[1] == 0:
        return _without_classes(input, target, label_smoothing, wants)
    w = None if weight is None else weight.reshape(1, -1)
    if target.dtype.kind == "f":
        return _soft(input, target, w, label_smoothing, z_loss, wants)
    return _hard(input, target, w, ignore_index, label_smoothing, z_loss, wants)


def _without_classes(input: Array, target: Array, s: float, wants: Wants) -> Terms:
    """Sums over no classes are 0. Smoothing spreads s over them, which is 0/0."""
    items = np.full((input.shape[0], 1, *input.shape[2:]), np.nan if s > 0.0 else 0.0, input.dtype)
    return items, {name: np.zeros(input.shape, input.dtype) for name in wants}


def _hard(
    input: Array, target: Array, w: Array | None, ignore_index: int, s: float, z_loss: float, wants: Wants
) -> Terms:
    (x,) = rows(input)
    classes = x.shape[1]
    t = target.reshape(-1, 1)
    counted = t != ignore_index
    some_ignored = not counted.all()
    # In an ignored row, class 0 stands in for the target. Its cost is set to 0 below.
    t = (np.where(counted, t, 0) if some_ignored else t).astype(np.intp, copy=False)
    own: Array | float = 1.0 if w is None else w[0][t]  # w[t]
    softmax = softmax_without(t, x, only_cost=s == 0.0 and z_loss == 0.0)

    loss = softmax.cost
    if w is not None:
        loss *= own
    if s > 0.0:
        others = softmax.maximum - x
        others += softmax.log_sum  # L[j], whole: an infinite weight times a part of it may be 0 · inf
        if w is not None:
            others *= w
        loss *= 1.0 - s
        loss += (s / classes) * sum_rows(others)
    level: Array | float | None = None  # 2 ζ lse
    if z_loss > 0.0:
        lse = softmax.maximum + softmax.log_sum
        loss += z_loss * lse * lse
        level = 2.0 * z_loss * lse
    if some_ignored:
        np.copyto(loss, 0.0, where=~counted)

    derivatives: Derivatives = {}
    if "input" in wants:
        factors: Array | float | None = None  # v[j] for j ≠ t; None for 0, without smoothing
        own_factor, factor_sum = own, own  # v[t], and V
        if s > 0.0:
            factors = s / classes if w is None else (s / classes) * w
            own_factor = (1.0 - s) * own + (s / classes) * own
            factor_sum = (1.0 - s) * own + (s if w is None else (s / classes) * sum_rows(w))
        if some_ignored:
            counts = counted.astype(x.dtype)
            own_factor, factor_sum = own_factor * counts, factor_sum * counts
            factors = None if factors is None else factors * counts
            level = None if level is None else level * counts
        if factors is None and level is None:
            # V p - v is e[j] V/Σ off the target, and -r V/Σ at it: one array, and one number a row that the caller's
            # upstream gradient is multiplied by first, so that the array is gone over once
            slope = softmax.terms
            slope.reshape(-1, order="A")[softmax.place] = -softmax.rest
            total = (softmax.rest + softmax.term).astype(np.float64).reshape(target.shape)
            factor = factor_sum if isinstance(factor_sum, float) else factor_sum.reshape(target.shape)
            derivatives["input"] = LazyProduct(unrows(slope, input), factor, total)
        else:
            derivatives["input"] = unrows(_slope(softmax, factors, own_factor, factor_sum, level), input)

    return loss.reshape(target.shape), derivatives


def _soft(input: Array, target: Array, w: Array | None, s: float, z_loss: float, wants: Wants) -> Terms:
    x, t = rows(input, target)
    mixed = t if s == 0.0 else (1.0 - s) * t + s / x.shape[1]
    factors = mixed if w is None else mixed * w
    # There is no one target. The largest logit is the one whose rest must not be lost.
    largest = np.argmax(x, axis=1, keepdims=True)
    softmax = softmax_without(largest, x, only_cost=False)

    costs = softmax.maximum - x
    costs += softmax.log_sum
    loss = sum_rows(factors * costs)
    level: Array | float | None = None
    if z_loss > 0.0:
        lse = softmax.maximum + softmax.log_sum
        loss += z_loss * lse * lse
        level = 2.0 * z_loss * lse

    derivatives: Derivatives = {}
    if "input" in wants:
        own_factor = np.take_along_axis(factors, largest, axis=1)
        derivatives["input"] = unrows(_slope(softmax, factors, own_factor, sum_rows(factors), level), input)
    if "weight" in wants:
        derivatives["weight"] = unrows(mixed * costs, input)
    if "target" in wants:
        slope = costs if s == 0.0 else (1.0 - s) * costs
        derivatives["target"] = unrows(slope if w is None else slope * w, target)

    return loss.reshape(input.shape[0], 1, *input.shape[2:]), derivatives


def _slope(
    softmax: Softmax,
    factors: Array | float | None,
    own: Array | float,
    factor_sum: Array | float,
    level: Array | float | None = None,
) -> Array:
    """V p - v, written over the terms. ``own`` is v at the class taken out; ``factors`` is v elsewhere, None for 0.

    With ``level``, 2 ζ lse, that of z-loss too.
    """
    total = softmax.rest + softmax.term
    slope = softmax.terms
    if level is not None:
        slope *= (factor_sum + level) / total
    elif isinstance(factor_sum, float):
        slope /= total  # V is 1: one rounding less
    else:
        slope *= factor_sum / total
    rest = softmax.rest / total
    if factors is None:
        at_own = -factor_sum * rest
    else:
        slope -= factors
        likely = (factor_sum - own) - factor_sum * rest
        unlikely = factor_sum * (softmax.term / total) - own
        at_own = np.where(softmax.rest < softmax.term, likely, unlikely)
    if level is not None:
        at_own = at_own + level * (softmax.term / total)
    slope.reshape(-1, order="A")[softmax.place] = at_own
    return slope


def magnitudes(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Array, Derivatives]:
    """The sums of |terms|: V p + v for the derivative in the logits, which is a difference wherever v isn't one class.

    And what lse is made of, where z-loss asks for it. Everything else is a sum of terms of one sign, and its own
    magnitude.
    """
    soft = target.dtype.kind == "f"
    w = None if weight is None else np.abs(weight)
    wants = ["input"] + ["target"] * soft + ["weight"] * (soft and w is not None)
    items, derivatives = cross_entropy(
        input,
        np.abs(target) if soft else target,
        w,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        wants=wants,
    )
    sizes = {name: np.abs(derivative) for name, derivative in derivatives.items()}
    if soft or label_smoothing > 0.0:
        classes = max(input.shape[1], 1)
        if soft:
            v = (1.0 - label_smoothing) * np.abs(target) + label_smoothing / classes
            v = v if w is None else v * w
        else:
            counted = (target != ignore_index).astype(input.dtype)
            is_target = (target == np.arange(input.shape[1]).reshape(-1, *[1] * (input.ndim - 2))).astype(input.dtype)
            v = ((1.0 - label_smoothing) * is_target + label_smoothing / classes) * counted
            v = v if w is None else v * w
        sizes["input"] = np.abs(derivatives["input"] + 2.0 * v)  # V p - v, and 2 v
    items = np.abs(items)
    if z_loss > 0.0:
        m = input.max(axis=1, keepdims=True, initial=-np.inf)
        terms = np.exp(input - m)
        total = terms.sum(axis=1, keepdims=True)
        counts = 1.0 if soft else (target != ignore_index).astype(input.dtype)
        size = (np.abs(m) + np.log(total)) * counts
        # an error of lse moves lse² by 2 |lse| times that
        items = items + 2.0 * z_loss * np.abs(m + np.log(total)) * size
        sizes["input"] = sizes["input"] + 2.0 * z_loss * size * (terms / total)
    return items, sizes


__all__ = ["cross_entropy", "definition", "divisor", "magnitudes"]

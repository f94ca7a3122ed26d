r"""Gaussian negative log-likelihood: least squares by a model that also says how sure it is.

Where it comes from
-------------------
Gauss (1809) derived least squares from errors that are normal and all of the same variance. Where the variance differs
from one observation to the next and is not known, Nix and Weigend (1994) had a network predict it, beside the mean: one
output for x, one for the variance v, and the likelihood decides. An error e then counts as e²/v, and a network that
expects to be wrong is forgiven; log v is what the excuse costs.

The formula
-----------
With e = x - t, x the predicted mean, t the target, and v the predicted variance (``var``), at least ε (``eps``)::

    ℓ(x, t, v) = (log v + e²/v) / 2              v = max(var, ε)

That is the negative logarithm of the normal density up to log(2π)/2, which ``full`` adds.

The derivative, step by step
----------------------------
1. d(e²/v)/de = 2e/v. With z = e/v::

       ∂ℓ/∂x = z                       ∂ℓ/∂t = -z

2. d(log v)/dv = 1/v and d(e²/v)/dv = -e²/v² = -z²::

       ∂ℓ/∂v = (1/v - z²) / 2

   It is 0 at v = e²: the best guess of a variance is the square of the error.

Kinks and conventions
---------------------
At var = ε, v has a corner, and below it v does not depend on var at all. PyTorch clamps outside of autograd: the
derivative is taken at v and handed to var as if there were no max, so that a variance below ε still finds its way up or
down. A nan in var stays nan. ε = 0 and var = 0 leaves log 0 = -inf, and z = e/0.

What overflows or cancels
-------------------------
e² overflows before e²/v does: in float32, at e = 1e20, whatever v is. So e²/v is formed as e · z, with the division
first. PyTorch squares first; where it has inf, this may be finite.

For v < 1, log v and e²/v have opposite signs, and 1/v and z² always do: both sums cancel, and have a zero.
``magnitudes`` measures them. The logarithm is that of the chapter on KL divergence: NumPy's own in float32 is off by
up to 4 units in the last place for variances near 1, where they often are.

In float32, ∂ℓ/∂v is six roundings in a row and one for the upstream gradient: 4.7 units in the last place at worst.

Source: David A. Nix and Andreas S. Weigend, "Estimating the Mean and Variance of the Target Probability Distribution",
IEEE International Conference on Neural Networks (1994); ``torch.nn.functional.gaussian_nll_loss``.

>>> import numpy as np
>>> x = np.array([3.0, 3.0, 3.0])
>>> t = np.array([1.0, 1.0, 1.0])
>>> v = np.array([1.0, 4.0, 0.0])

ε = 1/4. By hand, with e = 2: (log 1 + 4)/2, (log 4 + 1)/2, (log 1/4 + 16)/2; z is 2, 1/2 and 8. The derivatives by v
are (1 - 4)/2, (1/4 - 1/4)/2 and (4 - 64)/2.

>>> items, derivatives = gaussian_nll(x, t, v, eps=0.25, wants=("input", "target", "var"))
>>> (np.exp(2 * items - [4.0, 1.0, 16.0])).round(12).tolist()
[1.0, 4.0, 0.25]
>>> derivatives["input"].tolist(), derivatives["target"].tolist()
([2.0, 0.5, 8.0], [-2.0, -0.5, -8.0])
>>> derivatives["var"].tolist()
[-1.5, 0.0, -30.0]
"""

from __future__ import annotations

import math
from typing import Any

from portaloss.reference.lazy import LazyProduct, LazySum, in_place
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, log, np

#: log(2π)/2.
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def definition(input: Any, target: Any, var: Any, *, full: bool = False, eps: float = 1e-6, xp: Any = np) -> Any:
    """Minus the logarithm of the normal density; without ``full``, of the density times √(2π)."""
    v = xp.clip(var, eps, None)
    return (xp.log(2 * xp.pi * v if full else v) + (input - target) ** 2 / v) / 2


def gaussian_nll(
    input: Array,
    target: Array,
    var: Array,
    *,
    full: bool = False,
    eps: float = 1e-6,
    wants: Wants = (),
) -> Terms:
    """Items of the Gaussian negative log-likelihood, and their derivatives; operands broadcast together.

    Args:
        input: x, the predicted mean, any shape.
        target: t.
        var: the predicted variance, not negative.
        full: whether to add log(2π)/2.
        eps: ε ≥ 0, the least variance.
        wants: which of input, target, var to differentiate.
    """
    derivatives: Derivatives = {}
    e = input - target
    v = np.clip(var, eps, np.inf)
    z = e / v

    if "input" in wants:
        derivatives["input"] = z
    if "target" in wants:
        derivatives["target"] = LazyProduct(z, -1.0)
    if "var" in wants:
        derivatives["var"] = LazyProduct(in_place(np.subtract, 1 / v, z * z), 0.5)

    log_v = log(v)
    if full:
        log_v += 2 * HALF_LOG_TAU
    return LazySum((LazyProduct(e, z, 2.0), LazyProduct(log_v, 0.5))), derivatives


def magnitudes(
    input: Array, target: Array, var: Array, *, full: bool = False, eps: float = 1e-6
) -> tuple[Array, Derivatives]:
    """The sums of |terms|: log v and e²/v cancel for v < 1, and 1/v and e²/v² around v = e²."""
    e = np.abs(input - target)
    v = np.clip(var, eps, np.inf)
    z = e / v
    item = 0.5 * (np.abs(log(v)) + e * z)
    if full:
        item += HALF_LOG_TAU
    return item, {"input": z, "target": z, "var": 0.5 * (1 / v + z * z)}


__all__ = ["HALF_LOG_TAU", "definition", "gaussian_nll", "magnitudes"]

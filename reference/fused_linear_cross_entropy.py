r"""Fused linear cross-entropy: the last layer of a language model and its loss, without the logits between them.

Where it comes from
-------------------
A language model ends in a linear layer from H features to C words, and cross-entropy. The logits between the two are
by far its largest array: N = 8192 tokens and C = 128000 words make 2^30 numbers, 4 GB in float32, and as much again for
their gradient; the layer's input is a thirtieth of that. Yet nobody wants the logits. A row of them is needed for one
loss and for that row's part of two gradients, and can be forgotten at once. Computing loss and gradients a few rows at
a time was made popular by Liger Kernel (Hsu et al., 2024); Wijmans et al. (2024) go further and never store even one
block. PyTorch calls the loss ``linear_cross_entropy``.

The formula
-----------
With x a row of the input, W the weight of the layer, b its bias (0 where none is given)::

    z[j] = Σ_h x[h] W[j, h] + b[j]
    ℓ = k cross_entropy(s z, t)

where s is a scale of the logits, 1 where none is given, k is a weight of the row's own, 1 where none are given, and
cross-entropy is that of its own chapter, with class weights, label smoothing, ignored rows, soft targets and
z-loss. For K-dimensional losses W is (C, d1, ..., H): each of the positions d1, ... has a layer of its own, and its
own loss.

The scale is one number. It is 1/T for a temperature T; Cohere's and Granite's models have it as a constant, and CLIP
learns it.

Some models keep logits within (-a, a) by a soft cap (Gemma Team, 2024). Then cross-entropy is not of s z but of::

    y[j] = a tanh(s z[j] / a)

The derivative, step by step
----------------------------
1. Let d[n, j] = u[n] ∂ℓ[n]/∂(s z[n, j]), with u the upstream gradient of the items times k, and the derivative from the
   chapter on cross-entropy. With a soft cap that chapter's is ∂ℓ/∂y, and ∂y/∂(s z) = 1 - tanh²(s z/a) = 1/cosh²(s z/a).
2. s z[n, j] holds z[n, j] with the factor s, so what arrives at z is g = s d. It holds s with the factor z[n, j], in
   every row n and class j: G_s = Σ_nj d[n, j] z[n, j].
3. z[n, j] holds x[n, h] with the factor W[j, h], so what arrives at the input is ::

       G_x[n, h] = Σ_j g[n, j] W[j, h]          G_x = g W

4. It holds W[j, h] with the factor x[n, h], in every row n::

       G_W[j, h] = Σ_n g[n, j] x[n, h]          G_W = gᵀ x

5. and b[j] with the factor 1: G_b[j] = Σ_n g[n, j].
6. Soft targets belong to a row each: u ∂ℓ/∂t. A class weight serves all rows: Σ_n u[n] ∂ℓ[n]/∂w.

Steps 2 and 4 to 6 add over rows. "The derivative of the items, element by element", what every other chapter returns,
would be N x C x H numbers for W. So this chapter, alone, takes the upstream gradient and returns *gradients*, each in
the shape of its operand.

The entropy
-----------
Reinforcement learning rewards a model for staying undecided, by c times the entropy of its softmax p::

    H = -Σ_j p[j] log p[j]

It is made of the same logits y, which are gone after the row's turn, so it belongs into the same pass. By the product
rule ∂H/∂y[i] = -Σ_j (log p[j] + 1) ∂p[j]/∂y[i], and ∂p[j]/∂y[i] = p[j] ([i = j] - p[i]). The 1 adds nothing, since
Σ_j ∂p[j]/∂y[i] = 0, and what is left is ::

    ∂H/∂y[i] = -p[i] (log p[i] - Σ_j p[j] log p[j]) = -p[i] (log p[i] + H)

With v, the upstream gradient of H, v ∂H/∂y is added to u ∂ℓ/∂y, and steps 1 to 5 go on with the sum. So a loss
and an entropy need one backward pass together.

Chunks
------
Everything above is a sum over rows, or belongs to one row. So take a chunk of rows, compute their logits, the items, g
in place of the logits, and three products; add to G_W and G_b, and go on. Per chunk of n rows the memory is n x C, and
n is free. It should not be too small: each chunk reads W twice and G_W once, and a product that is n rows thin does
2n operations for a number it reads. The work is that of the unfused loss, 6 N C H operations: nothing is computed
twice, because g needs no more than the row's own logits.

This chapter is the definition and takes all rows at once. The chunked version of the CPU backend calls the same
cross-entropy on each chunk, and no more than a chunk of logits exists at any time.

Kinks and conventions
---------------------
Those of cross-entropy. An ignored row has g = 0 and adds 0 to all gradients, unless its input or W is inf or nan:
0 · inf is nan, as in any linear layer. What a mean divides by is known before any logit is (a count, or a sum of class
weights), so g can be final when it is computed.

What overflows or cancels
-------------------------
z adds H signed terms and is off by a few roundings of m = Σ |x[h] W[j, h]|, however small z is. A softmax turns an
absolute error of z into a relative error of p, and nothing after the product can mend it: in units of a rounding, the
loss may be off by Σ |∂ℓ/∂z| m, and p[i] by p[i] (m[i] + Σ p m). Errors of this loss are measured against that.

The slope of a soft cap is 1 - tanh² where it is flat, too, but there nothing is left of the difference: tanh(10) is 1
in float32. 1/cosh² keeps its digits down to the smallest number.

G_W adds N terms, chunk after chunk. With 16-bit weights the sum has to be kept in float32: a bfloat16 accumulator stops
growing when what is added falls below 1/512 of it, and a float16 one at 1/4096.

A product of matrices adds thousands of terms, and BLAS adds them one after another: relative to the sum of their sizes
the derivatives are off by up to 8 units in the last place in float32, cross-entropy's own among them, and by 12 in
float64, where PyTorch, whose products are BLAS's as well, is off by more.

Source: Pin-Lun Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024; Erik Wijmans et al., "Cut
Your Losses in Large-Vocabulary Language Models", 2024; Gemma Team, "Gemma 2: Improving Open Language Models at a
Practical Size", 2024; ``torch.nn.functional.linear_cross_entropy``.

>>> import numpy as np
>>> x = np.array([[1.0, 0.0]])
>>> W = np.array([[0.0, 4.0], [np.log(3.0), 8.0]])

z = (0, log 3), and softmax is (1, 3) / 4. The target is the second class: ℓ = log(4/3), g = (1/4, -1/4). Then
G_x = (W[0] - W[1]) / 4, its second element (4 - 8) / 4, and G_W has the rows x/4 and -x/4.

>>> items, gradients = fused_linear_cross_entropy(x, W, np.array([1]), wants=("input", "linear_weight"))
>>> round(float(np.exp(items[0])), 12)
1.333333333333
>>> float(gradients["input"][0, 1].round(12)), gradients["linear_weight"].round(12).tolist()
(-1.0, [[0.25, 0.0], [-0.25, 0.0]])
"""

from __future__ import annotations

from typing import Any

from portaloss.reference import cross_entropy as softmax
from portaloss.reference.notation import Array, Derivatives, Terms, Wants, np


def definition(
    input: Any,
    linear_weight: Any,
    target: Any,
    linear_bias: Any = 0,
    weight: Any = None,
    token_weight: Any = 1,
    logit_scale: Any = 1,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    xp: Any = np,
) -> Any:
    """k times the cross-entropy of s (x W + b), capped where there is a cap."""
    logits = logit_scale * (xp.tensordot(input, linear_weight, ([1], [linear_weight.ndim - 1])) + linear_bias)
    if softcap > 0:
        logits = softcap * xp.tanh(logits / softcap)
    target = target[:, None] if "int" in str(target.dtype) else target
    w = 1 if weight is None else weight.reshape(1, -1, *[1] * (logits.ndim - 2))
    options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss}
    return token_weight * softmax.definition(logits, target, w, **options, xp=xp)[:, 0]


def fused_linear_cross_entropy(
    input: Array,
    linear_weight: Array,
    target: Array,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    token_weight: Array | None = None,
    logit_scale: Array | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    upstream: Array | float | None = None,
    wants: Wants = (),
) -> Terms:
    """Items of the cross-entropy of a linear layer, (N, ...), and gradients in the shapes of the operands.

    Args:
        input: x, (N, H).
        linear_weight: W, (C, ..., H).
        target: t, classes (N, ...), integers; or a factor a class, (N, C, ...), floating.
        linear_bias: b, (C, ...).
        weight: the class weights, (C,).
        token_weight: k, one weight a row, (N, ...).
        logit_scale: s, one number, ().
        ignore_index: rows with this class as target cost nothing.
        label_smoothing: how much of the target is spread over all classes.
        softcap: a; 0 for none.
        z_loss: ζ in the chapter on cross-entropy.
        upstream: u, what the gradients are multiplied by before they are added up: (N, ...), or a number; None for 1.
        wants: which of input, linear_weight, linear_bias, logit_scale and, for soft targets, target and weight to
            differentiate.
    """
    unscaled = _logits(input, linear_weight, linear_bias)
    logits = unscaled if logit_scale is None else unscaled * logit_scale
    slope: Array | None = None
    if softcap > 0.0:
        logits, slope = soft_cap(logits, softcap)
    u = _rows(upstream, logits)
    if token_weight is not None:
        u = u * token_weight[:, None]
    products = {"input", "linear_weight", "linear_bias", "logit_scale"}.intersection(wants)
    items, derivatives = softmax.cross_entropy(
        logits,
        _target(target),
        _classes(weight, logits),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        wants=[*(["input"] if products else []), *(name for name in wants if name in ("target", "weight"))],
    )

    gradients: Derivatives = {}
    if products:
        g = derivatives["input"] * u
        g = g if slope is None else g * slope
        if "logit_scale" in wants:
            gradients["logit_scale"] = np.sum(g * unscaled)
        g = g if logit_scale is None else g * logit_scale
        gradients |= _products(g, input, linear_weight, products)
    if "target" in wants:
        gradients["target"] = derivatives["target"] * u
    if "weight" in wants:
        gradients["weight"] = _sum_to_classes(derivatives["weight"] * u)
    items = items[:, 0]
    return (items if token_weight is None else items * token_weight), gradients


def soft_cap(logits: Array, cap: float) -> tuple[Array, Array]:
    """A tanh(z / a) and its derivative, for a cap a."""
    scaled = logits / logits.dtype.type(cap)
    slope = 1.0 / np.cosh(scaled)
    slope *= slope
    capped = np.tanh(scaled, out=scaled)
    capped *= logits.dtype.type(cap)
    return capped, slope


def entropy(logits: Array) -> tuple[Array, Array]:
    """H of each row of logits (N, C, ...), (N, 1, ...), and its derivative by the logits; 0 log 0 is 0."""
    shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
    p = np.exp(shifted)
    total = p.sum(axis=1, keepdims=True)
    shifted -= np.log(total)
    p /= total
    terms = np.multiply(p, np.where(p == 0, 0, shifted), out=shifted)
    total = -terms.sum(axis=1, keepdims=True)
    return total, -(terms + p * total)


def _logits(input: Array, linear_weight: Array, linear_bias: Array | None) -> Array:
    """z, (N, C, ...)."""
    logits: Array = np.tensordot(input, linear_weight, axes=(1, -1))
    return logits if linear_bias is None else logits + linear_bias


def _products(g: Array, input: Array, linear_weight: Array, wants: Wants) -> Derivatives:
    """The gradients of the linear layer for the gradient g of its output."""
    gradients: Derivatives = {}
    if "input" in wants:
        outputs = g.ndim - 1
        gradients["input"] = np.tensordot(g, linear_weight, axes=(range(1, outputs + 1), range(outputs)))
    if "linear_weight" in wants:
        gradients["linear_weight"] = np.tensordot(g, input, axes=(0, 0))
    if "linear_bias" in wants:
        gradients["linear_bias"] = g.sum(axis=0)
    return gradients


def _rows(upstream: Array | float | None, logits: Array) -> Array:
    """u, broadcastable to (N, 1, ...)."""
    u = np.asarray(1.0 if upstream is None else upstream, logits.dtype)
    return u[:, None] if u.ndim else u


def _target(target: Array) -> Array:
    """One class a row as (N, 1, ...); soft targets as they are."""
    return target if target.dtype.kind == "f" else target[:, None]


def _classes(weight: Array | None, logits: Array) -> Array | None:
    """(C,) as (1, C, 1, ...)."""
    return None if weight is None else weight.reshape(1, -1, *[1] * (logits.ndim - 2))


def _sum_to_classes(array: Array) -> Array:
    """(N, C, ...) as (C,)."""
    total: Array = array.sum(axis=(0, *range(2, array.ndim)))
    return total

"""Checks a contender's loss and gradients before timing, against PyTorch's in float64 on the same operands."""

from __future__ import annotations

import math
from typing import Any

from portaloss.bench.cases import Case, Spec
from portaloss.bench.contenders import Result, function_of, on_tensors
from portaloss.kinds import LossKind
from portaloss.parity.compare import bound

#: 16-bit results are computed in float32 and rounded once: half an ulp, relative, and of the smallest subnormals.
_ROUNDING = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 2.0**-134)}

#: An ulp of 1 in the dtype of the computation.
_ULP = {"float32": 2.0**-23, "float64": 2.0**-52}

#: Elements compared at a time: float64 copies of all elements would need more memory than the losses do.
_BLOCK = 1 << 22


def truth(case: Case) -> Result:
    """PyTorch's loss and gradients in float64, of the operands as they were rounded to the spec's dtype."""
    wide = {name: value.double() if value.is_floating_point() else value for name, value in case.operands.items()}
    value, gradients = on_tensors(Case(case.spec, wide, case.wanted), function_of(case.spec)).forward_backward()
    return value.detach(), gradients


def error(case: Case, got: Result, right: Result) -> tuple[float, str]:
    """The worst error, relative to the largest number of its result; and what is wrong, or an empty text."""
    relative, problem = 0.0, ""
    names = ("the loss", *(f"the gradient of {name}" for name in case.wanted))
    for name, value, expected in zip(names, (got[0], *got[1]), (right[0], *right[1]), strict=True):
        if tuple(value.shape) != tuple(expected.shape):
            return math.inf, f"{name} is of shape {tuple(value.shape)}, should be {tuple(expected.shape)}"
        difference, largest = _difference(value, expected)
        allowed = tolerance(case.spec, largest)
        relative = max(relative, difference / largest if largest else difference)
        if not difference <= allowed and not problem:  # a nan is wrong too
            problem = f"{name} is off by {difference:.2e}, where {allowed:.2e} is allowed and {largest:.2e} the largest"
    return relative, problem


def tolerance(spec: Spec, largest: float) -> float:
    """The largest error that passes in a result with this largest number.

    It is twice the bound of the parity matrix, in the dtype of the computation, plus the rounding to 16 bits. Twice,
    because terms that cancel may be larger than the result: parity measures their size, this check does not. PyTorch's
    own float64 error is added for two kinds: for CTC it works in log space, where each of T steps, forward and back,
    rounds a logarithm of up to T log C; for the two margins of classes it adds up all N items one after another.
    """
    half, least = _ROUNDING.get(spec.dtype, (0.0, 0.0))
    computed = "float32" if spec.dtype in _ROUNDING else spec.dtype
    relative = half + 2 * bound(spec.kind, computed) * _ULP[computed]
    if spec.kind is LossKind.CTC:
        steps, _, classes, _ = spec.shape
        relative += 2 * steps * steps * math.log(classes) * 2.0**-53
    if spec.kind in (LossKind.MULTI_MARGIN, LossKind.MULTILABEL_MARGIN):
        relative += spec.shape[0] * 2.0**-53
    return relative * largest + least


def _difference(got: Any, expected: Any) -> tuple[float, float]:
    """The largest difference (nan where any is nan), and the largest number expected."""
    import torch

    from portaloss import arrays

    if not isinstance(got, torch.Tensor):
        import numpy as np

        got = arrays.like(np.asarray(got), arrays.TORCH)
    flat, right = got.detach().reshape(-1), expected.detach().reshape(-1)
    differences, largest = [0.0], 0.0
    for start in range(0, flat.numel(), _BLOCK):
        a, b = flat[start : start + _BLOCK].double(), right[start : start + _BLOCK]
        differences.append(float((a - b).abs().max()))
        largest = max(largest, float(b.abs().max()))
    return (math.nan if any(map(math.isnan, differences)) else max(differences)), largest

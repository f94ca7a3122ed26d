"""A CPU tensor of any size gets the same bits as the NumPy array that it shares memory with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from portaloss import arrays, dispatch, select, value_and_grad
from portaloss.catalogue import LOSSES, Family
from portaloss.kinds import DTYPES, LossReduction
from portaloss.parity import samples
from portaloss.plan import differentiable

#: Products of linear cross-entropy are PyTorch's for tensors and SciPy's for arrays.
KINDS = [kind for kind, loss in LOSSES.items() if loss.family is not Family.LINEAR_CROSS_ENTROPY]


def same(got, want, what):
    got = arrays.to_numpy(got.detach())
    assert (got.dtype, got.shape) == (want.dtype, want.shape), what
    assert got.tobytes() == want.tobytes(), what


def is_strided(array):
    """Whether a tensor can share the array's memory: PyTorch has no negative strides."""
    return all(stride >= 0 for stride in array.strides)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_every_case_of_the_parity_matrix(kind, dtype):
    compared = 0
    for case in samples.cases(LOSSES[kind], dtype):
        if not all(map(is_strided, case.operands.values())):
            continue
        wants = differentiable(LOSSES[kind], case.operands)
        for reduction in LossReduction:
            tensors = {name: arrays.like(np.asarray(array), arrays.TORCH) for name, array in case.operands.items()}
            value = dispatch.loss(kind, reduction, case.operands, **case.options)
            what = f"{case.name}, {reduction.name}"
            same(dispatch.loss(kind, reduction, tensors, **case.options), np.asarray(value), what)

            for name in wants:
                tensors[name].requires_grad_()
            loss = dispatch.loss(kind, reduction, tensors, **case.options)
            same(loss, np.asarray(value), f"{what}, with gradients")
            upstream = np.ones((), value.dtype)
            if reduction is LossReduction.NONE:
                upstream = case.upstream(value.shape, value.dtype)
                plan = select(kind, dtype=dtype, reduction=reduction, **case.options)
                expected = [plan.backward(upstream, wants=wants, **case.operands)[name] for name in wants]
            else:
                names = list(case.operands)

                def loss_of(*operands, names=names, reduction=reduction, case=case):
                    return dispatch.loss(kind, reduction, dict(zip(names, operands, strict=True)), **case.options)

                gradient_of = value_and_grad(loss_of, [names.index(name) for name in wants])
                _, expected = gradient_of(*case.operands.values())
            given = arrays.like(np.array(upstream), arrays.TORCH)
            gradients = torch.autograd.grad(loss, [tensors[name] for name in wants], given)
            for name, gradient, want in zip(wants, gradients, expected, strict=True):
                same(gradient, np.asarray(want), f"{what}, gradient of {name}")
            compared += 1
    assert compared >= 3 * 10, "most cases can be shared"

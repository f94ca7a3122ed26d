"""Losses of torch tensors: shared memory, what is kept and what is computed. test_torch_mutants has the numbers."""

import gc
import weakref

import numpy as np
import pytest
import torch

from portaloss import LossKind, backends, dispatch, value_and_grad

from .torch_samples import Sample


def huber(input, target, weight=None, reduction="mean", **options):
    return dispatch.loss(LossKind.HUBER, reduction, {"input": input, "target": target, "weight": weight}, **options)


def tensors(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("kind", list(LossKind), ids=lambda kind: kind.name.lower())
def test_a_dropped_loss_is_freed_at_once_with_its_gradients(kind, create_graph):
    """Without the garbage collector: a cycle would keep the gradients of every loss of an evaluation loop."""
    sample = Sample(kind)
    inputs = sample.leaves()
    gc.collect()
    gc.disable()
    try:
        value = sample(*inputs, reduction="sum")
        refs = [weakref.ref(value), *map(weakref.ref, value.grad_fn.early.values())]
        assert len(refs) > 1
        if create_graph:
            gradients = torch.autograd.grad(value, inputs, create_graph=True)
            refs += map(weakref.ref, gradients)
            del gradients
        del value
        assert not any(ref() is not None for ref in refs)
    finally:
        gc.enable()


def test_a_loss_scale_saves_small_float16_gradients():
    """A gradient of 2^-26 is 0 in float16; times a loss scale of 2^16 it is not, if it is not rounded in between."""
    count = 2**20
    x = torch.full((count,), 2.0**-6, dtype=torch.float16, requires_grad=True)
    loss = huber(x, torch.zeros_like(x))
    (loss * 2.0**12).backward()
    assert x.grad[0].item() == 2.0**-6 * 2.0**12 / count


def test_only_what_is_needed_is_computed():
    x, t = tensors(10)
    x.requires_grad_()
    huber(x, t).backward()
    assert x.grad is not None
    assert t.grad is None
    assert not huber(x.detach(), t).requires_grad
    with torch.no_grad():
        assert not huber(x, t).requires_grad


def test_bfloat16_is_read_in_place():
    from portaloss.arrays import to_numpy

    x = torch.ones(3, dtype=torch.bfloat16)
    view = to_numpy(x)
    x[1] = 2
    assert view.astype(np.float32).tolist() == [1.0, 2.0, 1.0]


def test_value_and_grad_takes_tensors_too():
    x, t = tensors(6)
    loss, (dx, dt) = value_and_grad(huber, argnums=(0, 1))(x, t)
    x.requires_grad_()
    expected = torch.nn.functional.huber_loss(x, t)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(dx, x.grad)
    torch.testing.assert_close(dt, -x.grad)


def test_other_devices_are_refused_not_copied():
    with pytest.raises(NotImplementedError, match="no backend of portaloss runs on device 'xla'"):
        backends.for_device("xla")

"""Losses under PyTorch's modes and wrappers: autocast, meta and fake tensors, checkpointing, profiler, replicas."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from portaloss import functional, nn, pytorch
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind
from portaloss.torch_ops import library

from .torch_samples import Sample

KINDS = pytest.mark.parametrize("kind", list(LossKind), ids=lambda kind: kind.name.lower())
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both:UserWarning")


def call_of(kind, dtype=torch.float64):
    """A kind's two functions, operands in a dtype, and options."""
    sample = Sample(kind)
    tensors = {n: v.to(dtype) if v.is_floating_point() else v for n, v in sample.tensors.items()}
    return getattr(functional, sample.loss.function), pytorch.function(sample.loss), tensors, sample.options


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_autocast_gives_pytorchs_dtype(kind, dtype, autocast):
    ours, theirs, tensors, options = call_of(kind, dtype)
    with torch.autocast("cpu", dtype=autocast):
        try:
            want = theirs(**tensors, **options)
        except RuntimeError as error:
            pytest.skip(f"PyTorch itself fails: {error}")
        got = ours(**tensors, **options)
    assert got.dtype == want.dtype
    first = next(iter(tensors.values())).requires_grad_()
    with torch.autocast("cpu", dtype=autocast):
        value = ours(**tensors, **options)
    (gradient,) = torch.autograd.grad(value, first)
    assert gradient.dtype == first.dtype  # back through the cast


@KINDS
def test_meta_tensors_have_a_shape_and_dtype(kind):
    ours, _, tensors, options = call_of(kind)
    if kind is LossKind.CTC:
        pytest.skip("PyTorch itself fails: it looks at the lengths")
    meta = {name: value.to("meta") for name, value in tensors.items()}
    for reduction in ("none", "mean"):
        got, want = ours(**meta, **options, reduction=reduction), ours(**tensors, **options, reduction=reduction)
        assert (got.device.type, got.shape, got.dtype) == ("meta", want.shape, want.dtype)


@KINDS
def test_fake_tensors_have_a_shape_and_dtype(kind):
    ours, _, tensors, options = call_of(kind)
    want = ours(**tensors, **options, reduction="none")
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(value) for name, value in tensors.items()}
        got = ours(**fake, **options, reduction="none")
    assert (got.shape, got.dtype) == (want.shape, want.dtype)


@pytest.mark.parametrize(
    ("function", "draw"),
    [
        (functional.cross_entropy, lambda n: (torch.randn(n, 5), torch.randint(5, (n,)))),
        (functional.mse_loss, lambda n: (torch.randn(n, 5), torch.randn(n, 5))),
        (functional.cosine_embedding_loss, lambda n: (torch.randn(n, 5), torch.randn(n, 5), torch.ones(n))),
    ],
)
def test_no_recompilation_for_another_batch_size(function, draw):
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(lambda *operands: function(*operands), backend=counter, fullgraph=True, dynamic=True)
    for count in (4, 9, 33, 150):
        operands = draw(count)
        torch.testing.assert_close(compiled(*operands), function(*operands))
    assert counter.frame_count == 1


LAYOUTS = {
    "transposed": lambda: torch.randn(5, 4, 3).permute(2, 1, 0),
    "channels last": lambda: torch.randn(3, 4, 5, 2).to(memory_format=torch.channels_last)[..., 0],
    "expanded": lambda: torch.randn(1, 4, 5).expand(3, 4, 5),
    "a part": lambda: torch.randn(3, 4, 10)[..., ::2],
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler, about itself
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_gradients_are_laid_out_as_promised(layout):
    """The compiler asserts that strides are those of ``empty_like``."""
    torch.compiler.reset()
    leaf = LAYOUTS[layout]().requires_grad_()
    target = torch.randint(0, 4, (3, 5))
    torch.compile(lambda x: functional.cross_entropy(x, target), fullgraph=True)(leaf).backward()
    (want,) = torch.autograd.grad(functional.cross_entropy(leaf, target), leaf)
    assert torch.equal(leaf.grad, want)


def logits(requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=requires_grad)
    return x, torch.arange(6) % 5


def test_the_profiler_names_the_loss():
    x, t = logits()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        functional.cross_entropy(x, t).backward()
    names = {event.key for event in profile.key_averages()}
    assert "portaloss::cross_entropy" in names
    assert "portaloss::cross_entropy_backward" in names


def test_modes_without_gradients():
    x, t = logits()
    with torch.no_grad():
        assert not functional.cross_entropy(x, t).requires_grad
    with torch.inference_mode():
        assert functional.cross_entropy(x, t).is_inference()
    with torch.inference_mode():
        inside = functional.cross_entropy(x.detach().clone(), t)
    torch.testing.assert_close(inside.clone(), F.cross_entropy(x, t).detach())


def test_checkpointing_computes_the_loss_again():
    x, t = logits()
    for use_reentrant in (False, True):
        x.grad = None
        checkpoint(lambda x: functional.cross_entropy(x * 2, t), x, use_reentrant=use_reentrant).backward()
        y, _ = logits()
        F.cross_entropy(y * 2, t).backward()
        torch.testing.assert_close(x.grad, y.grad)


def test_anomaly_mode_and_deterministic_mode():
    x, t = logits()
    torch.use_deterministic_algorithms(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that anomaly mode is slow
            with torch.autograd.detect_anomaly():
                functional.cross_entropy(x, t).backward()
                with pytest.raises(RuntimeError, match="nan values"):
                    functional.cross_entropy(x * float("inf"), t).backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_replicas_of_a_module():
    module = nn.CrossEntropyLoss(weight=torch.arange(1.0, 6.0, dtype=torch.float64), label_smoothing=0.1)
    x, t = logits()
    want = module(x, t)
    for replica in (copy.deepcopy(module), copy.copy(module)):
        replica.weight = module.weight.clone()  # as DataParallel does on each device
        torch.testing.assert_close(replica(x, t), want)


def test_the_backward_operator_has_no_derivative_in_silence():
    x, t = logits(requires_grad=False)
    upstream = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    backward = library.OPERATORS[LossKind.CROSS_ENTROPY].backward
    (gradient,) = backward(upstream, x, t, None, "mean", -100, 0.0, ["input"])
    with pytest.raises(RuntimeError, match="cross_entropy_backward has no derivative"):
        torch.autograd.grad(gradient.sum(), upstream)


def test_sparse_tensors_are_refused_by_name():
    x, _ = logits(requires_grad=False)
    with pytest.raises(NotImplementedError, match=r"input is of layout torch\.sparse_coo"):
        functional.mse_loss(x.to_sparse(), x)


def test_a_subclass_that_dispatches_itself_sees_the_operator():
    calls = []

    class Seen(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            calls.append(str(func))
            return super().__torch_function__(func, types, args, kwargs or {})

    x, t = logits(requires_grad=False)
    value = functional.cross_entropy(x.as_subclass(Seen), t)
    torch.testing.assert_close(value.as_subclass(torch.Tensor), F.cross_entropy(x, t))
    assert any("portaloss.cross_entropy" in call for call in calls)


def test_autocast_leaves_numpy_alone():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert functional.mse_loss(np.float32(1), np.float32(3)) == 4.0
        assert functional.mse_loss(np.float32(1), np.array(3, np.float32)) == 4.0


# What others do with a tensor after the loss, and with PyTorch's functions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_caller_s_storage_can_still_be_resized(dtype):
    x, t = torch.randn(5, 3).to(dtype).requires_grad_(), torch.randn(5, 3).to(dtype)
    functional.mse_loss(x, t).backward()
    assert x.untyped_storage().resizable()
    t.untyped_storage().resize_(0)  # as FSDP frees a parameter


def test_an_operand_may_change_where_the_backward_pass_does_not_read_it():
    x, t = logits()
    (want,) = torch.autograd.grad(functional.cross_entropy(x * 1, t), x)
    inner = x * 1
    loss = functional.cross_entropy(inner, t)
    inner.data.add_(0)
    with torch.no_grad():
        inner.mul_(2)  # PyTorch keeps the softmax, not the logits; the gradient is there already
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(gradient, want)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x)  # this time it would be computed from them


def test_a_second_backward_pass_without_a_graph_raises():
    x, t = logits()
    loss = functional.cross_entropy(x, t)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("size", [10, 300])
def test_a_trace_is_no_constant(size):
    x, t = torch.randn(size, size), torch.zeros(size, size)
    traced = torch.jit.trace(nn.MSELoss(), (x, t))
    torch.testing.assert_close(traced(2 * x, t), functional.mse_loss(2 * x, t))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_can_neither_be_scripted_nor_traced_in_symbols_raises():
    with pytest.raises(RuntimeError):
        torch.jit.script(nn.MSELoss())
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(nn.MSELoss())


@KINDS
def test_in_the_place_of_pytorch_s_own_function(kind, monkeypatch):
    """The usual way to install a kernel. Compositions, which are made of PyTorch's functions, are not made of ours."""
    ours, theirs, tensors, options = call_of(kind)
    want = theirs(**tensors, **options)
    monkeypatch.setattr(F, LOSSES[kind].function, ours)
    first, *rest = tensors
    fixed = {name: tensors[name] for name in rest}
    batched = torch.func.vmap(lambda x: ours(**{first: x}, **fixed, **options))(torch.stack([tensors[first]] * 2))
    torch.testing.assert_close(batched, torch.stack([want, want]))
    x = tensors[first].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ours(**{first: x}, **fixed, **options), x, create_graph=True)
    assert gradient.shape == x.shape

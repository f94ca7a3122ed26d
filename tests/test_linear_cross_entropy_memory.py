"""Peak memory of linear_cross_entropy beside PyTorch's, and what PyTorch's chunked path does not support."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from portaloss.bench import cases, memory
from portaloss.functional import linear_cross_entropy
from portaloss.kinds import LossKind

needs_pytorchs = pytest.mark.skipif(
    not hasattr(torch.nn, "LinearCrossEntropyOptions"), reason="this PyTorch has no chunked path"
)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="elsewhere a peak is that of a process's life")
@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this PyTorch does not have it")
def test_memory_beyond_the_gradients_is_an_eighth_of_pytorchs():
    """2048 rows, 1024 features, 32000 classes: the logits alone are 250 MiB, and PyTorch has them more than once."""
    kind = LossKind.FUSED_LINEAR_CROSS_ENTROPY
    rows, features, classes = shape = cases.shape_of(kind, "large")
    assert shape == (2048, 1024, 32000)
    spec = cases.Spec(kind, "float32", "large", shape)
    gradients = (rows + classes) * features * 4
    ours, pytorchs = (
        memory.peak_extra(spec, name, 2)["forward_backward"] - gradients for name in ("portaloss", "eager")
    )
    assert pytorchs > 2 * rows * classes * 4
    assert ours < pytorchs / 8, f"{ours / 2**20:.0f} MiB to {pytorchs / 2**20:.0f}"


GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(9, 5, dtype=torch.float64, generator=GENERATOR)
W = torch.randn(7, 5, dtype=torch.float64, generator=GENERATOR)
T = torch.randint(7, (9,), generator=GENERATOR)


def chunked(x, w, target=T, **options):
    """As in a program that was written for PyTorch's chunked path."""
    return linear_cross_entropy(x, w, target, options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2), **options)


def unfused(x, w, target=T, bias=None, **options):
    logits = torch.tensordot(x, w, dims=([1], [-1]))
    return F.cross_entropy(logits if bias is None else logits + bias, target, **options)


@needs_pytorchs
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's compiler and tracer, about themselves
class TestWhatTheChunkedPathCannotDo:
    """The limitations in the docstring of ``torch.nn.functional.linear_cross_entropy``, one after another."""

    def test_higher_order(self):
        x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
        assert torch.autograd.gradgradcheck(chunked, (x, w))
        hessian = torch.func.hessian(chunked, argnums=1)(X, W)
        torch.testing.assert_close(hessian, torch.func.hessian(unfused, argnums=1)(X, W))

    def test_forward_mode(self):
        tangents = (torch.ones_like(X), torch.ones_like(W) * 0.5)
        for ours, right in zip(*(torch.func.jvp(f, (X, W), tangents) for f in (chunked, unfused)), strict=True):
            torch.testing.assert_close(ours, right)
        torch.testing.assert_close(torch.func.jacfwd(chunked)(X, W), torch.func.jacfwd(unfused)(X, W))

    def test_func_grad_and_vmap(self):
        torch.testing.assert_close(torch.func.grad(chunked)(X, W), torch.func.grad(unfused)(X, W))
        each = torch.stack([X, X + 1.0])
        ours, right = (torch.func.vmap(torch.func.grad(f), in_dims=(0, None))(each, W) for f in (chunked, unfused))
        torch.testing.assert_close(ours, right)

    def test_compile_without_a_graph_break(self):
        x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
        value = torch.compile(chunked, fullgraph=True, backend="aot_eager")(x, w)
        ours, right = torch.autograd.grad(value, (x, w)), torch.autograd.grad(unfused(x, w), (x, w))
        torch.testing.assert_close(ours, right)

    def test_retained_graphs_and_repeated_backward(self):
        x = X.clone().requires_grad_()
        value = chunked(x, W)
        first, again = (torch.autograd.grad(value, x, retain_graph=True)[0].clone() for _ in range(2))
        assert torch.equal(first, again)
        torch.testing.assert_close(torch.autograd.grad(value, x, torch.tensor(2.0, dtype=x.dtype))[0], 2 * first)

    def test_options_that_fall_back(self, recwarn):
        """Label smoothing, soft targets and K-dimensional weights, with a bias: no warning, and on the same path."""
        soft = torch.rand(9, 7, generator=GENERATOR, dtype=X.dtype)
        torch.testing.assert_close(chunked(X, W, label_smoothing=0.2), unfused(X, W, label_smoothing=0.2))
        torch.testing.assert_close(chunked(X, W, soft), unfused(X, W, soft))
        w = torch.randn(7, 2, 3, 5, dtype=X.dtype, generator=GENERATOR)
        bias = torch.randn(7, 2, 3, dtype=X.dtype, generator=GENERATOR)
        target = torch.randint(7, (9, 2, 3), generator=GENERATOR)
        for reduction in ("none", "mean", "sum"):
            ours = chunked(X, w, target, linear_bias=bias, reduction=reduction)
            torch.testing.assert_close(ours, unfused(X, w, target, bias, reduction=reduction))
        assert not recwarn.list

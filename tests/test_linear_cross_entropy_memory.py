"""linear_cross_entropy beside PyTorch's: peak memory, and all that PyTorch's chunked path says it cannot do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from portaloss.functional import linear_cross_entropy

needs_pytorchs = pytest.mark.skipif(
    not hasattr(torch.nn, "LinearCrossEntropyOptions"), reason="this PyTorch has no chunked path"
)

#: Prints the bytes of the largest resident size of a forward and a backward pass, beyond what was there before and the
#: gradients. Run in a process of its own, since a process's largest size does not come down.
MEASURE = """
import sys, torch
from portaloss.functional import linear_cross_entropy as ours
from torch.nn.functional import linear_cross_entropy as pytorchs
which = {"ours": ours, "pytorchs": pytorchs}[sys.argv[1]]
def resident(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
def run(rows, features, classes):
    x = torch.zeros(rows, features).uniform_(-1, 1).requires_grad_()
    w = torch.zeros(classes, features).uniform_(-0.1, 0.1).requires_grad_()
    t = torch.arange(rows) % classes
    before = resident("VmRSS")
    gradients = torch.autograd.grad(which(x, w, t), (x, w))
    return resident("VmHWM") - before - sum(gradient.nbytes for gradient in gradients)
run(16, 1024, 256)  # libraries' threads and buffers
print(run(2048, 1024, 32000))
"""


def peak(which):
    done = subprocess.run([sys.executable, "-c", MEASURE, which], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this PyTorch does not have it")
def test_memory_beyond_the_gradients_is_an_eighth_of_pytorchs():
    """2048 rows, 1024 features, 32000 classes: the logits alone are 250 MiB, and PyTorch has them more than once."""
    ours, pytorchs = peak("ours"), peak("pytorchs")
    assert pytorchs > 2 * 2048 * 32000 * 4
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

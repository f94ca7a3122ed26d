"""Operations on logits that are not computed yet are those on logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from portaloss.integrations.lazy_head import LazyHead
from portaloss.integrations.lazy_logits import LazyLogits


class Squares(torch.autograd.Function):
    """A kernel that PyTorch's Python does not see."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, upstream):
        return 2 * upstream * ctx.saved_tensors[0]


OPERATIONS = {
    "view": lambda z: z.view(-1, 7),
    "the same shape": lambda z: z.view(2, 5, 7),
    "flatten": lambda z: z.flatten(0, 1),
    "flatten all": lambda z: z.flatten(),
    "reshape across rows": lambda z: z.reshape(7, 10),
    "slices": lambda z: z[..., :-1, :].contiguous().view(-1, 7),
    "a slice of classes": lambda z: z[..., 2:],
    "a class": lambda z: z[..., 2],
    "rows by number": lambda z: z[torch.tensor([1, 1, 0])],
    "rows by mask": lambda z: z[torch.arange(10).view(2, 5) > 3],
    "a mask of everything": lambda z: z[torch.arange(70).view(2, 5, 7) > 3],
    "new axis": lambda z: z[:, None],
    "float64": lambda z: z.double(),
    "to": lambda z: z.to("cpu", torch.float32).type(torch.float32),
    "soft cap": lambda z: torch.tanh(z / 2) * 2,
    "tanh twice": lambda z: z.tanh().tanh(),
    "scale": lambda z: 3 * z * 0.5,
    "negative": lambda z: z * -2,
    "bias": lambda z: z + torch.arange(7.0),
    "one number for each row": lambda z: z + torch.arange(5.0)[:, None],
    "transpose": lambda z: z.transpose(0, 1),
    "in place": lambda z: z.clone().mul_(2),
    "a kernel": lambda z: Squares.apply(z.view(-1, 7)),
    "detached": lambda z: z.detach() * z,
    "without a gradient": lambda z: no_gradient(lambda: z[:1]) * z,
}


def no_gradient(function):
    with torch.no_grad():
        return function()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_on_lazy_logits_are_those_on_logits(name):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 4, generator=generator)
    found = []
    for kind in (LazyHead, torch.nn.Linear):
        layer = torch.nn.Linear(4, 7)
        layer.load_state_dict({"weight": torch.linspace(-1, 1, 28).view(7, 4), "bias": torch.linspace(0, 1, 7)})
        layer.__class__ = kind
        input = x.clone().requires_grad_()
        result = OPERATIONS[name](layer(input))
        if result.ndim == 2 and result.shape[1] == 7:
            loss = F.cross_entropy(result, torch.arange(len(result)) % 7, reduction="none")
        else:
            loss = result.square()
        loss.sum().backward()
        found.append((result.detach(), loss, input.grad, layer.weight.grad, layer.bias.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][0].stride() == found[1][0].stride()
    torch.testing.assert_close(found[0][1:], found[1][1:])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_logits_that_are_scaled_and_capped_are_not_computed(cap, bias):
    generator = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(4, 7, bias=bias)
    layer.__class__ = LazyHead
    x = torch.randn(6, 4, generator=generator, requires_grad=True)
    target = torch.arange(6)

    def loss(logits):
        logits = 0.5 * logits
        return F.cross_entropy(logits if cap is None else cap * torch.tanh(logits / cap), target)

    logits = layer(x)
    found = loss(logits)
    assert logits._taken
    leaves = [x, *layer.parameters()]
    expected = loss(F.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves))


@pytest.mark.filterwarnings("ignore:.*jit.trace:DeprecationWarning")
def test_no_lazy_logits_where_pytorch_is_transforming():
    layer = torch.nn.Linear(4, 7)
    layer.__class__ = LazyHead
    x = torch.randn(3, 4)
    assert type(torch.func.vmap(layer)(x)) is torch.Tensor
    assert type(torch.jit.trace(layer, x)(x)) is torch.Tensor
    assert type(layer(x)) is LazyLogits
    with pytest.raises(RuntimeError, match="dtype"):
        layer(x.double())
    layer.requires_grad_(False)
    assert type(layer(x)) is torch.Tensor

"""Each kind under PyTorch's compilers, transforms and higher derivatives. docs/torch-features.md lists the results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind
from portaloss.torch_ops import library

from .torch_samples import Sample

DOCS = Path(__file__).parent.parent / "docs" / "torch-features.md"

pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of PyTorch's compiler, about itself
]


def close(got, want):
    """Float64, by two ways: 1e-10 of the largest."""
    for one, other in zip(got, want, strict=True):
        one, other = one.detach(), other.detach()
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * float(other.abs().max()))


def opcheck(sample):
    operator = library.OPERATORS[sample.loss.kind]
    given = {**sample.tensors, **dict(zip(sample.wants, sample.leaves(), strict=True))}
    arguments = [given.get(name) for name in operator.names]
    options = []
    for name, default, schema in operator.options:
        value = sample.options.get(name, default)
        options.append(float(value) if schema == "float" else value)
    wants = list(sample.wants)
    for reduction in ("mean", "none"):
        torch.library.opcheck(operator.forward, (*arguments, reduction, *options, wants))
    arguments = [None if value is None else value.detach() for value in arguments]
    upstream = torch.tensor(0.7, dtype=torch.float64)
    torch.library.opcheck(operator.backward, (upstream, *arguments, "mean", *options, wants))


def compiled_by(backend):
    def feature(sample):
        torch.compiler.reset()
        function = torch.compile(lambda *inputs: sample(*inputs) * 3, fullgraph=True, backend=backend)
        inputs = sample.leaves()
        value = function(*inputs)
        close([value], [sample(*inputs) * 3])
        close([g / 3 for g in torch.autograd.grad(value, inputs)], sample.gradients())

    return feature


def export(sample):
    class Model(torch.nn.Module):
        def forward(self, *inputs):
            return sample(*inputs)

    program = torch.export.export(Model(), tuple(sample.inputs))
    assert any(f"portaloss.{sample.loss.name}" in str(node.target) for node in program.graph.nodes)
    close([program.module()(*sample.inputs)], [sample(*sample.inputs)])


def batches(sample):
    generator = torch.Generator().manual_seed(1)
    factors = 1 - torch.rand(3, generator=generator, dtype=torch.float64) / 4  # probabilities stay probabilities
    return [torch.stack([value * factor for factor in factors]) for value in sample.inputs]


def vmap(sample):
    batch = batches(sample)
    got = torch.func.vmap(lambda *inputs: sample(*inputs))(*batch)
    close([got], [torch.stack([sample(*inputs) for inputs in zip(*batch, strict=True)])])


def func_grad(sample):
    got = torch.func.grad(lambda *inputs: sample(*inputs), argnums=tuple(range(len(sample.inputs))))(*sample.inputs)
    close(got, sample.gradients())


def vmap_grad(sample):
    batch = batches(sample)
    every = tuple(range(len(batch)))
    got = torch.func.vmap(torch.func.grad(lambda *inputs: sample(*inputs), argnums=every))(*batch)
    for i in range(3):
        inputs = [value[i].clone().requires_grad_() for value in batch]
        close([one[i] for one in got], torch.autograd.grad(sample(*inputs), inputs))


def jvp(sample):
    tangents = [torch.cos(value.nan_to_num(0.0, 0.0, 0.0)) for value in sample.inputs]
    _, got = torch.func.jvp(lambda *inputs: sample(*inputs), tuple(sample.inputs), tuple(tangents))
    want = sum((gradient * tangent).sum() for gradient, tangent in zip(sample.gradients(), tangents, strict=True))
    close([got], [want])


def is_grads_batched(sample):
    """As ``torch.autograd.functional.jacobian`` with vectorize asks for gradients."""
    for reduction in ("mean", "none"):
        inputs = sample.leaves()
        value = sample(*inputs, reduction=reduction)
        upstream = torch.cos(torch.arange(3.0 * value.numel(), dtype=torch.float64)).reshape(3, *value.shape)
        got = torch.autograd.grad(value, inputs, upstream, is_grads_batched=True)
        for i in range(3):
            inputs = sample.leaves()
            value = sample(*inputs, reduction=reduction)
            close([one[i] for one in got], torch.autograd.grad(value, inputs, upstream[i]))


def hessian(sample):
    first = sample.inputs[0]
    got = torch.func.hessian(lambda x: sample(x, *sample.inputs[1:]))(first)
    inputs = sample.leaves()
    (gradient,) = torch.autograd.grad(sample(*inputs), inputs[:1], create_graph=True)
    rows = []
    for one in gradient.reshape(-1):
        row = None
        if one.requires_grad:
            (row,) = torch.autograd.grad(one, inputs[0], retain_graph=True, allow_unused=True)
        rows.append(torch.zeros_like(first) if row is None else row)  # a linear loss
    close([got], [torch.stack(rows).reshape(got.shape)])


def gradcheck(sample):
    assert torch.autograd.gradcheck(normalised(sample), smooth(sample))


def gradgradcheck(sample):
    assert torch.autograd.gradgradcheck(normalised(sample), smooth(sample))


def normalised(sample):
    """CTC's derivative is that of the value only where log_probs come out of a log-softmax, in PyTorch too."""
    if sample.loss.kind is not LossKind.CTC:
        return sample
    return lambda log_probs: sample(log_probs.log_softmax(-1))


def smooth(sample):
    """Inputs a step of 1e-6 from which meets no kink: the sample's, moved a little where they tie."""
    generator = torch.Generator().manual_seed(3)
    inputs = []
    for value in sample.inputs:
        noise = 1e-3 * (1 + torch.rand(value.shape, generator=generator, dtype=torch.float64))
        inputs.append((value - noise * value.sign()).requires_grad_())
    return inputs


FEATURES = {
    "opcheck": opcheck,
    "compile (aot_eager)": compiled_by("aot_eager"),
    "compile (inductor)": compiled_by("inductor"),
    "export": export,
    "vmap": vmap,
    "func.grad": func_grad,
    "vmap(grad)": vmap_grad,
    "jvp": jvp,
    "is_grads_batched": is_grads_batched,
    "hessian": hessian,
    "gradcheck": gradcheck,
    "gradgradcheck": gradgradcheck,
}


@pytest.mark.parametrize("feature", list(FEATURES))
@pytest.mark.parametrize("kind", list(LossKind), ids=lambda kind: kind.name.lower())
def test_feature(kind, feature):
    FEATURES[feature](Sample(kind))


def table() -> str:
    """docs/torch-features.md: a yes for each test above, since all of them must pass."""
    lines = [
        "# What PyTorch makes of each kind",
        "",
        "Made by `PORTALOSS_WRITE_DOCS=1 pytest tests/test_torch_features.py`, which tries each of these on the CPU,",
        "in float64. Compilers have `fullgraph=True`; `opcheck` is of the operator and of its backward pass; gradcheck",
        "of CTC is of `log_softmax` before it, which its derivative takes for granted, as PyTorch's does.",
        "",
        f"| | {' | '.join(FEATURES)} |",
        "|---|" + "---|" * len(FEATURES),
    ]
    for kind in LossKind:
        lines.append(f"| `{LOSSES[kind].function}` | {' | '.join('yes' for _ in FEATURES)} |")
    return "\n".join(lines) + "\n"


def test_the_table_in_the_docs_lists_what_is_tested():
    if os.environ.get("PORTALOSS_WRITE_DOCS"):
        DOCS.parent.mkdir(exist_ok=True)
        DOCS.write_text(table())
    assert DOCS.read_text() == table()

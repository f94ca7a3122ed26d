"""Every kind's loss of tensors is the truth, by whichever way PyTorch takes; deliberate mistakes on these ways show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from portaloss import engine, pytorch
from portaloss.kinds import LossKind as K
from portaloss.kinds import LossReduction
from portaloss.torch_ops import composites, gradients, library

from .torch_samples import Sample, untrue

pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of PyTorch's compiler, about itself
]

#: A mistake -> the kind and case that show it, and a function of pytest's monkeypatch.
MUTANTS: dict[str, tuple[K, str, Callable]] = {}


def mutant(name, kind, case="plain"):
    def register(apply):
        MUTANTS[name] = (kind, case, apply)
        return apply

    return register


@mutant("gradients that came with the loss are not multiplied", K.HUBER)
def _(patch):
    patch.setattr(engine, "rescale", lambda prepared, early, upstream: early)


@mutant("gradients that came with the loss are multiplied twice", K.MSE)
def _(patch):
    right = engine.rescale
    patch.setattr(
        engine, "rescale", lambda prepared, early, upstream: right(prepared, right(prepared, early, upstream), upstream)
    )


@mutant("the second backward pass multiplies the first one's gradients", K.CROSS_ENTROPY)
def _(patch):
    right, kept = gradients.flowing, []

    def wrong(plan, operands, wants, upstream, early, **how):
        kept.append(early)
        return right(plan, operands, wants, upstream, early or kept[0], **how)

    patch.setattr(gradients, "flowing", wrong)


@mutant("gradients with create_graph have no derivative", K.HUBER)
def _(patch):
    right = gradients.flowing
    patch.setattr(
        gradients, "flowing", lambda *args, **how: {name: g.detach() for name, g in right(*args, **how).items()}
    )


@mutant("compositions ignore upstream", K.BCE)
def _(patch):
    right = composites.gradients
    patch.setattr(composites, "gradients", lambda *args: right(*args[:3], torch.ones_like(args[3]), args[4]))


@mutant("the composition of a definition is a sum, not a mean", K.MULTI_MARGIN)
def _(patch):
    patch.setattr(composites, "divisor", lambda *args: 1.0)


@mutant("the composition's blank is always class 0", K.CTC, "blank=1")
def _(patch):
    right = composites._OWN[K.CTC]
    patch.setitem(composites._OWN, K.CTC, lambda given, options, how: right(given, {**options, "blank": 0}, how))


@mutant("the composition ignores the normalizer", K.FUSED_LINEAR_CROSS_ENTROPY, "with-normalizer")
def _(patch):
    right = composites.linear_cross_entropy

    def wrong(operands, *rest):
        return right({name: value for name, value in operands.items() if name != "normalizer"}, *rest)

    patch.setitem(composites._OWN, K.FUSED_LINEAR_CROSS_ENTROPY, wrong)


@mutant("PyTorch's loss is not told an option", K.CROSS_ENTROPY, "label_smoothing=0.1")
def _(patch):
    right = pytorch.loss
    patch.setattr(pytorch, "loss", lambda entry, operands, options, how: right(entry, operands, {}, how))


@mutant("the operator is not told an option", K.HUBER, "delta=0.25")
def _(patch):
    right = library.call
    patch.setattr(library, "call", lambda kind, reduction, operands, options: right(kind, reduction, operands, {}))


@mutant("the operator drops the class weight", K.NLL, "with-weight")
def _(patch):
    right = library.Operator.split

    def wrong(self, arguments):
        plan, operands, wants = right(self, arguments)
        return plan, {name: value for name, value in operands.items() if name != "weight"}, wants

    patch.setattr(library.Operator, "split", wrong)


@mutant("the operator's gradients change places", K.SMOOTH_L1)
def _(patch):
    right = library._restored

    def wrong(ctx):
        arguments, early = right(ctx)
        return arguments, early[::-1]

    patch.setattr(library, "_restored", wrong)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name, monkeypatch):
    """By a comparison: an exception would fail this test."""
    kind, case, apply = MUTANTS[name]
    apply(monkeypatch)
    assert untrue(Sample(kind, case), LossReduction.MEAN, compiled=True)


@pytest.mark.parametrize(
    ("kind", "case"), sorted({(kind, case) for kind, case, _ in MUTANTS.values() if case != "plain"})
)
def test_cases_of_mutants_are_the_truth(kind, case):
    assert untrue(Sample(kind, case), LossReduction.MEAN, compiled=True) == []


@pytest.mark.parametrize("reduction", LossReduction)
@pytest.mark.parametrize("kind", K)
def test_every_kind_is_the_truth(kind, reduction):
    assert untrue(Sample(kind), reduction, compiled=reduction is LossReduction.MEAN) == []

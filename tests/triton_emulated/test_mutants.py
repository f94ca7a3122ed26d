"""Deliberate mistakes in the Triton backend, around the kernels: parity must catch them, in a few of its cases."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from portaloss.backends.triton import launch, losses, rows
from portaloss.backends.triton.backend import Call
from portaloss.kinds import LossKind as K
from portaloss.parity import eager, samples

from ..parity.mutants import Mutant, assert_caught, outcome

#: The cases that these mistakes show in.
CASES = {"plain", "broadcast-target-leading-one", "delta=0.25", "with-weight", "ignored"}


def _scale_does_nothing(patch):
    patch.setattr(launch, "scale_", lambda tensor, factor: None)


def _not_folded(patch):
    right = Call._fold

    def wrong(self, name, gradient):
        shape = self.operands[name].shape
        return right(self, name, gradient[tuple(slice(0, size) for size in shape)].to(self._given[name].dtype))

    patch.setattr(Call, "_fold", wrong)


def _upstream_ignored(patch):
    right = Call.each
    patch.setattr(Call, "each", lambda self, upstream: right(self, torch.ones_like(upstream)))


def _not_divided(patch):
    right = Call.scale
    patch.setattr(Call, "scale", lambda self, upstream, by: right(self, upstream, 1.0))


def _class_weight_dropped(patch):
    right = rows.ARGUMENTS[K.NLL]

    def wrong(call):
        given = {name: operand for name, operand in call.operands.items() if name != "weight"}
        return right(dataclasses.replace(call, operands=given))

    patch.setitem(rows.ARGUMENTS, K.NLL, wrong)


def _option_dropped(patch):
    right = losses.parameters
    patch.setattr(losses, "parameters", lambda options: right({**options, "delta": 1.0}))


MUTANTS = [
    Mutant("gradients that came with the loss are not multiplied", K.HUBER, _scale_does_nothing),
    Mutant("gradient not summed over a broadcast axis", K.HUBER, _not_folded),
    Mutant("upstream ignored", K.NLL, _upstream_ignored),
    Mutant("the gradient of a mean is not divided", K.NLL, _not_divided),
    Mutant("class weight dropped", K.NLL, _class_weight_dropped),
    Mutant("delta is always 1", K.HUBER, _option_dropped),
]


@pytest.fixture(autouse=True)
def _few_cases(monkeypatch):
    right = samples.accepted
    monkeypatch.setattr(samples, "accepted", lambda loss: [one for one in right(loss) if one.name in CASES])
    monkeypatch.setattr(eager, "installed", lambda: False)


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: f"{one.kind.name.lower()}: {one.name}")
def test_mutant_is_caught(one, monkeypatch):
    assert_caught(one, "triton", monkeypatch)


@pytest.mark.parametrize("kind", [K.HUBER, K.NLL])
def test_the_right_backend_passes(kind):
    assert outcome("triton", kind, "float32") == {}

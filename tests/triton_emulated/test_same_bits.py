"""Pointwise kernels in float32 give the same numbers on every chip: they use no instruction whose result may vary."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from portaloss import engine  # noqa: E402
from portaloss.arrange import specs  # noqa: E402
from portaloss.bench import cases  # noqa: E402
from portaloss.catalogue import LOSSES, Family  # noqa: E402
from portaloss.emulator import Model, emulating  # noqa: E402
from portaloss.kinds import LossReduction  # noqa: E402
from portaloss.plan import make_plan  # noqa: E402

POINTWISE = [loss for loss in LOSSES.values() if loss.family is Family.POINTWISE]


@pytest.mark.parametrize("loss", POINTWISE, ids=lambda loss: loss.name)
def test_nvidia_and_amd_agree(loss):
    operands = cases.draw(cases.Spec(loss.kind, "float32", "cache", (3, 1000))).operands
    plan = make_plan(loss.kind, "float32", LossReduction.NONE, "triton", ())
    found = []
    for chip, model in (("sm_90", "high"), ("gfx942", "low"), ("gfx1100", "exact")):
        with emulating(chip, model=Model(model)):
            prepared = engine.prepare(plan, specs(operands))
            items = engine.forward(prepared, operands).value
            gradients = engine.backward(prepared, operands, torch.ones_like(items), prepared.differentiable)
            found.append({"items": items, **gradients})
    for other in found[1:]:
        for name, value in found[0].items():
            # + 0: compilers may write 0 - x for -x, which is another zero
            bits, others = ((tensor + 0).numpy().view(np.int32) for tensor in (value, other[name]))
            np.testing.assert_array_equal(bits, others, name)

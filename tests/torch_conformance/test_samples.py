"""Every sample and reference input of PyTorch's OpInfos, in every dtype that PyTorch's op supports on a CPU."""

from __future__ import annotations

import functools

import pytest
import torch

from portaloss import LOSSES

from . import judge
from .material import FUNCTIONS, OPS, PLAIN_OPS, arguments, dtypes, each, pair, samples, show

IN_EACH_DTYPE = [
    pytest.param(op, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")
    for name, op in OPS.items()
    for dtype in dtypes(op)
]
EACH_OP = [pytest.param(op, id=name) for name, op in PLAIN_OPS.items()]


def compared(op, cases, wants=None):
    """What ``each`` takes, of arguments by name."""
    ours, theirs = pair(FUNCTIONS[op.name])
    for case in cases:
        yield show(case), functools.partial(judge.compare, ours, theirs, case, wants)


def test_every_loss_has_an_opinfo():
    assert {FUNCTIONS[op.name] for op in OPS.values()} == {loss.function for loss in LOSSES.values()}


@pytest.mark.parametrize(("op", "dtype"), IN_EACH_DTYPE)
def test_samples(op, dtype, tally):
    """Values, dtypes, shapes, warnings, and gradients where the sample's tensors require them; strided, too."""
    made = samples(op, dtype, requires_grad=dtype in op.supported_backward_dtypes("cpu"))
    assert made
    strided = [sample.noncontiguous() for sample in made]
    tally["samples"] += each(compared(op, (arguments(op, sample) for sample in [*made, *strided])))


@pytest.mark.parametrize("op", EACH_OP)
def test_gradients_to_every_operand(op, tally):
    """Also where no sample asks for one: a gradient, none, or PyTorch's refusal."""
    cases = [arguments(op, sample) for sample in op.sample_inputs("cpu", torch.float64, requires_grad=False)]
    for case in cases[:: max(1, len(cases) // 40)]:
        names = judge.inexact(case)
        for wants in [*([name] for name in names), names]:
            tally["samples"] += each(compared(op, [case], wants))


def transposed(tensor):
    """The same numbers, stored the other way round."""
    return tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor


def repeated(tensor):
    """The first of the outer axis everywhere, stored once."""
    return tensor[:1].expand_as(tensor) if tensor.ndim and tensor.shape[0] else tensor


def offset(tensor):
    """Every third element of a larger tensor, not from its start."""
    larger = torch.zeros((*tensor.shape, 3), dtype=tensor.dtype)
    larger[..., 1] = tensor
    return larger[..., 1]


@pytest.mark.parametrize("layout", [transposed, repeated, offset])
@pytest.mark.parametrize("op", EACH_OP)
def test_layouts(op, layout, tally):
    """Held against PyTorch's result for contiguous copies: NLL's own backward fails on transposed input."""
    ours, theirs = pair(FUNCTIONS[op.name])

    def of_copies(**case):
        return theirs(**case | {name: value.contiguous() for name, value in judge.tensors(case).items()})

    def cases():
        made = list(op.sample_inputs("cpu", torch.float64, requires_grad=True))
        for sample in made[:: max(1, len(made) // 40)]:
            case = arguments(op, sample)
            wants = [name for name, value in judge.tensors(case).items() if value.requires_grad]
            case = judge.leaves(case, ())
            case |= {name: layout(value) for name, value in judge.tensors(case).items()}
            yield show(case), functools.partial(judge.compare, ours, of_copies, case, wants)

    tally["samples"] += each(cases())

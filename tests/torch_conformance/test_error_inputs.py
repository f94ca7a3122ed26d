"""What PyTorch refuses, ours refuses with an error of the same type and text."""

from __future__ import annotations

import functools
import re

import pytest
import torch

from portaloss import LOSSES, arrays

from . import judge
from .bad_calls import BAD
from .material import FUNCTIONS, PLAIN_OPS, each, pair, show

#: PyTorch's warnings come before its errors; ``judge`` compares those of calls that succeed.
pytestmark = pytest.mark.filterwarnings("ignore:Using a target size", "ignore:reduction. 'mean' divides")

WITH_ERRORS = [pytest.param(op, id=name) for name, op in PLAIN_OPS.items() if op.error_inputs_func]


@pytest.mark.parametrize("op", WITH_ERRORS)
def test_error_inputs_of_the_opinfos(op, tally):
    ours, theirs = pair(FUNCTIONS[op.name])

    def refused(error_input, case):
        with pytest.raises(error_input.error_type, match=error_input.error_regex):
            ours(**case)
        judge.compare(ours, theirs, case)

    def cases():
        for error_input in op.error_inputs("cpu"):
            sample = error_input.sample_input
            case = judge.bind(theirs, (sample.input, *sample.args), sample.kwargs)
            yield show(case), functools.partial(refused, error_input, case)

    tally["error inputs"] += each(cases())


def test_bad_calls_of_every_function():
    assert set(BAD) == {loss.function for loss in LOSSES.values()}


@pytest.mark.parametrize("function", BAD)
def test_bad_calls(function, tally):
    ours, theirs = pair(function)

    def refused(case):
        try:
            theirs(**case)
        except Exception as error:
            judge.compare_errors(ours, case, error)
        else:
            raise AssertionError("PyTorch takes it")

    cases = [judge.bind(theirs, args, kwargs) for args, kwargs in BAD[function]]
    tally["error inputs"] += each((show(case), functools.partial(refused, case)) for case in cases)


@pytest.mark.parametrize("function", BAD)
def test_bad_calls_on_numpy_arrays(function):
    """The same but for how a size is spelled."""
    ours, _ = pair(function)

    def error_of(case):
        with pytest.raises(Exception) as raised:  # noqa: PT011  # any: it is compared with the other library's
            ours(**case)
        return raised.type, re.sub(r"torch\.Size\(\[([\d, ]*)\]\)|\(([\d, ]*?),?\)", r"(\1\2)", str(raised.value))

    def refused(case):
        in_numpy = {name: arrays.to_numpy(value) for name, value in judge.tensors(case).items()}
        assert error_of(case | in_numpy) == error_of(case)

    cases = [judge.bind(ours, args, kwargs) for args, kwargs in BAD[function]]
    each((show(case), functools.partial(refused, case)) for case in cases)


@pytest.mark.parametrize("op", [pytest.param(op, id=name) for name, op in PLAIN_OPS.items()])
def test_no_error_changes_an_operand(op):
    """An error in the reduction, found last or first, leaves every tensor as it was."""
    function, _ = pair(FUNCTIONS[op.name])
    sample = next(iter(op.sample_inputs("cpu", torch.float64, requires_grad=False)))
    case = judge.bind(function, (sample.input, *sample.args), sample.kwargs) | {"reduction": "max"}
    before = {name: value.clone() for name, value in judge.tensors(case).items()}
    with pytest.raises(ValueError, match="max is not"):
        function(**case)
    for name, value in judge.tensors(case).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)

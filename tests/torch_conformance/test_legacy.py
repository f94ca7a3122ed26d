"""The deprecated arguments, size_average and reduce: their meaning and warnings, on PyTorch's samples and modules."""

from __future__ import annotations

import functools
import inspect
import itertools
import warnings

import pytest
import torch

from . import judge
from .material import FUNCTIONS, MODULES, PLAIN_OPS, arguments, each, modules, pair, show

SETTINGS = [
    {name: value for name, value in zip(("size_average", "reduce"), values, strict=True) if value is not None}
    for values in itertools.product((None, True, False), repeat=2)
]
EACH_OP = [pytest.param(op, id=name) for name, op in PLAIN_OPS.items()]
LEGACY_OPS = [
    pytest.param(op, id=name)
    for name, op in PLAIN_OPS.items()
    if "size_average" in inspect.signature(pair(FUNCTIONS[op.name])[1]).parameters
]
LEGACY_MODULES = [name for name in MODULES if "size_average" in inspect.signature(modules(name)[1]).parameters]


def some(op):
    """A few of the samples, by name and without a reduction."""
    torch.manual_seed(0)
    made = list(op.sample_inputs("cpu", torch.float64, requires_grad=True))
    for sample in made[:: max(1, len(made) // 4)]:
        case = arguments(op, sample)
        yield {name: value for name, value in case.items() if name not in ("reduction", "size_average", "reduce")}


@pytest.mark.parametrize("op", LEGACY_OPS)
def test_of_functions(op, tally):
    """By name, beside a reduction that they overrule, and by position."""
    ours, theirs = pair(FUNCTIONS[op.name])
    cases = [case | setting for case in some(op) for setting in SETTINGS]
    cases += [case | setting | {"reduction": "none"} for case in some(op) for setting in SETTINGS]
    tally["samples"] += each((show(case), functools.partial(judge.compare, ours, theirs, case)) for case in cases)

    def by_position(case):
        names = list(inspect.signature(theirs).parameters)
        last = names.index("size_average")
        defaults = {name: parameter.default for name, parameter in inspect.signature(theirs).parameters.items()}
        given = [case.get(name, defaults[name]) for name in names[:last]]
        functions = (functools.partial(_positional, function, given) for function in (ours, theirs))
        judge.compare(*functions, {"size_average": False})

    tally["samples"] += each((show(case), functools.partial(by_position, case)) for case in some(op))


def _positional(function, given, size_average):
    return function(*given, size_average)


@pytest.mark.parametrize("op", EACH_OP)
def test_of_the_old_name_of_mean(op, tally):
    ours, theirs = pair(FUNCTIONS[op.name])
    cases = [case | {"reduction": "elementwise_mean"} for case in some(op)]
    tally["samples"] += each((show(case), functools.partial(judge.compare, ours, theirs, case)) for case in cases)


@pytest.mark.parametrize("name", LEGACY_MODULES)
def test_of_modules(name, tally):
    """The reduction that they mean, and the warnings of the constructor."""

    def made(cls, setting):
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("always")
            module = cls(**setting)
        return repr(module), module.reduction, [str(record.message) for record in records]

    def passes(setting):
        ours, theirs = (made(cls, setting) for cls in modules(name))
        assert ours == theirs
        assert bool(ours[2]) == bool(setting)

    tally["module cases"] += each((str(setting), functools.partial(passes, setting)) for setting in SETTINGS)

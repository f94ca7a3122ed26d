"""PyTorch's module database: its loss modules beside ours, made with the same arguments and state."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch.testing._internal.common_modules import ModuleErrorEnum

from portaloss import LOSSES

from . import judge
from .material import MODULES, each, modules, show

CASES = [
    pytest.param(name, dtype, training, id=f"{name}-{str(dtype).removeprefix('torch.')}-{mode}")
    for name, info in MODULES.items()
    for dtype in sorted(info.dtypes, key=str)
    for training, mode in ((True, "train"), *([(False, "eval")] if dtype == torch.float32 else []))
]

pytestmark = pytest.mark.filterwarnings(
    "ignore:reduction. 'mean' divides",  # KLDivLoss; ``judge`` compares warnings
    "ignore:Possible nested set:FutureWarning",  # of PyTorch's error_regex
)

EACH_MODULE = [pytest.param(name, id=name) for name in MODULES]


def module_inputs(name, dtype, training=True, requires_grad=True):
    torch.manual_seed(0)
    return MODULES[name].module_inputs_func(
        MODULES[name], device="cpu", dtype=dtype, requires_grad=requires_grad, training=training
    )


def built(name, constructor, training=True):
    """Ours and PyTorch's, with the same parameters and buffers."""
    ours, theirs = (cls(*constructor.args, **constructor.kwargs).train(training) for cls in modules(name))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def call(module, **arguments):
    """Forward, with those arguments that name parameters in place of the module's own."""
    parameters = dict(module.named_parameters())
    own = {name: value for name, value in arguments.items() if name in parameters}
    rest = {name: value for name, value in arguments.items() if name not in parameters}
    return torch.func.functional_call(module, own, (), rest)


def in_float64(module):
    exact = copy.deepcopy(module).double()
    if hasattr(exact, "options"):
        exact.options = None  # they are about memory
    return exact


def forward_arguments(module, given):
    arguments = judge.bind(module.forward, given.args, given.kwargs)
    return arguments | dict(module.named_parameters())


def same_state(ours, theirs):
    """Text, state, buffers and attributes."""
    assert repr(ours) == repr(theirs)
    assert ours.extra_repr() == theirs.extra_repr()
    assert ours.training == theirs.training
    assert vars(ours).keys() == vars(theirs).keys()
    for of in (torch.nn.Module.state_dict, lambda m: dict(m.named_buffers()), lambda m: dict(m.named_parameters())):
        state, expected = of(ours), of(theirs)
        assert list(state) == list(expected)
        for key, value in expected.items():
            assert (state[key].dtype, state[key].device) == (value.dtype, value.device)
            if value.device.type != "meta":
                torch.testing.assert_close(state[key], value, rtol=0, atol=0, equal_nan=True)


def test_every_loss_has_a_module_info_but_those_of_the_triplet():
    assert {loss.module for loss in LOSSES.values()} - set(MODULES) == {"TripletMarginLoss"}


@pytest.mark.parametrize(("name", "dtype", "training"), CASES)
def test_forward_and_backward(name, dtype, training, tally):
    """Values, and gradients to inputs and parameters."""

    def passes(module_input):
        ours, theirs = built(name, module_input.constructor_input, training)
        same_state(ours, theirs)
        given = forward_arguments(theirs, module_input.forward_input)
        bound = (functools.partial(call, module) for module in (ours, theirs))
        judge.compare(*bound, given, exact=functools.partial(call, in_float64(theirs)))

    cases = module_inputs(name, dtype, training)
    assert cases
    tally["module cases"] += each(
        (f"{case.desc} {show(case.constructor_input.kwargs)}", functools.partial(passes, case)) for case in cases
    )


@pytest.mark.parametrize("name", EACH_MODULE)
def test_reference_functions(name, tally):
    """PyTorch's own second opinion: what the value is, written in Python."""

    def passes(module_input):
        ours, _ = built(name, module_input.constructor_input)
        given = module_input.forward_input
        expected = module_input.reference_fn(ours, *given.args, **given.kwargs)
        torch.testing.assert_close(ours(*given.args, **given.kwargs), expected, check_dtype=False, equal_nan=True)

    cases = [case for case in module_inputs(name, torch.float64, requires_grad=False) if case.reference_fn is not None]
    chosen = cases[:: max(1, len(cases) // 60)]
    tally["module cases"] += each(
        (show(case.constructor_input.kwargs), functools.partial(passes, case)) for case in chosen
    )


@pytest.mark.parametrize("name", [name for name, info in MODULES.items() if info.module_error_inputs_func])
def test_error_inputs(name, tally):
    info = MODULES[name]

    def refused(error_input):
        module_input = error_input.module_error_input
        constructor, given = module_input.constructor_input, module_input.forward_input
        if error_input.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            for cls in modules(name):
                with pytest.raises(error_input.error_type, match=error_input.error_regex):
                    cls(*constructor.args, **constructor.kwargs)
            return
        ours, theirs = built(name, constructor)
        with pytest.raises(error_input.error_type, match=error_input.error_regex):
            ours(*given.args, **given.kwargs)
        bound = (functools.partial(call, module) for module in (ours, theirs))
        judge.compare(*bound, forward_arguments(theirs, given))

    made = info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    tally["error inputs"] += each(
        (error_input.error_regex, functools.partial(refused, error_input)) for error_input in made
    )


def constructors(name):
    """Each set of constructor arguments once, as far as repr and state can tell."""
    seen = {}
    for case in module_inputs(name, torch.float32):
        constructor = case.constructor_input
        _, theirs = built(name, constructor)
        seen.setdefault((repr(theirs), *theirs.state_dict()), (constructor, case.forward_input))
    return list(seen.values())


@pytest.mark.parametrize("name", EACH_MODULE)
def test_copies_and_moves(name, tally):
    """pickle, deepcopy, state_dict in both directions, .to() of a dtype and a device, half, double, train."""

    def passes(constructor, given):
        ours, theirs = built(name, constructor)
        value = ours(*given.args, **given.kwargs)
        for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), copy.copy(ours)):
            assert type(other) is type(ours)
            same_state(other, theirs)
            again = other(*given.args, **given.kwargs)
            torch.testing.assert_close(again, value, rtol=0, atol=0, equal_nan=True)
        state = {key: torch.rand_like(tensor) for key, tensor in theirs.state_dict().items()}
        for module in (ours, theirs):
            assert not any(module.load_state_dict(state))
        same_state(ours, theirs)
        theirs.load_state_dict(ours.state_dict())
        for move in (
            lambda module: module.to(torch.float64),
            lambda module: module.to(dtype=torch.bfloat16),
            lambda module: module.half(),
            lambda module: module.eval(),
            lambda module: module.requires_grad_(False),
            lambda module: module.float().train(),
            lambda module: module.to("meta"),
        ):
            assert move(ours) is ours
            same_state(ours, move(theirs))

    cases = constructors(name)
    tally["module cases"] += each(
        (show(constructor.kwargs), functools.partial(passes, constructor, given)) for constructor, given in cases
    )

"""Ours beside PyTorch's, on one call: value, dtype, shape, gradients, warnings, or the error.

The value and the gradients are held against PyTorch's in float64 on the same inputs, within the tolerances of PyTorch's
own tests for the result's dtype (``torch.testing.assert_close``). What PyTorch computes in the inputs' own dtype says
which dtypes, shapes, gradients and warnings there are to be; its numbers in 16 bits are too coarse to judge by.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Arguments = dict[str, Any]

#: PyTorch's chunked path cannot do these, and says so; ours has no second path.
ONLY_THEIRS = "linear_cross_entropy: ``options`` ignored"


@dataclass
class Outcome:
    """What a call gave."""

    value: torch.Tensor
    gradients: dict[str, torch.Tensor | None]
    warnings: list[tuple[type[Warning], str]] = field(default_factory=list)


def bind(function: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """The arguments by name."""
    return dict(inspect.signature(function).bind(*args, **kwargs).arguments)


def tensors(arguments: Arguments) -> dict[str, torch.Tensor]:
    """Those of the arguments that are tensors."""
    return {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}


def differentiable(arguments: Arguments) -> list[str]:
    """The tensors of a dtype that may require a gradient."""
    return [name for name, value in tensors(arguments).items() if value.is_floating_point() or value.is_complex()]


def leaves(arguments: Arguments, wants: Iterable[str], *, double: bool = False) -> Arguments:
    """The arguments with tensors of their own autograd history, on the same memory unless they are made float64."""
    wanted = set(wants)

    def leaf(name: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        if double and tensor.is_floating_point():
            tensor = tensor.double()
        elif double and tensor.is_complex():
            tensor = tensor.to(torch.complex128)
        return tensor.requires_grad_(name in wanted)

    return arguments | {name: leaf(name, tensor) for name, tensor in tensors(arguments).items()}


def run(function: Callable[..., Any], arguments: Arguments, upstream: torch.Tensor | None = None) -> Outcome:
    """Call, and go back with the upstream gradient (drawn if None) to every tensor that requires a gradient."""
    wanted = {name: value for name, value in tensors(arguments).items() if value.requires_grad}
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        value = function(**arguments)
    seen = [(record.category, str(record.message)) for record in records]
    gradients: dict[str, torch.Tensor | None] = dict.fromkeys(wanted)
    if value.requires_grad:
        if upstream is None:
            upstream = torch.randn(value.shape, dtype=value.dtype)
        given = torch.autograd.grad(value, tuple(wanted.values()), upstream.to(value.dtype), allow_unused=True)
        gradients = dict(zip(wanted, given, strict=True))
    return Outcome(value.detach(), gradients, [warning for warning in seen if ONLY_THEIRS not in warning[1]])


def compare(
    ours: Callable[..., Any], theirs: Callable[..., Any], arguments: Arguments, wants: Iterable[str] | None = None
) -> None:
    """Raise AssertionError unless ours does what theirs does, an error included.

    Args:
        ours: portaloss's function.
        theirs: PyTorch's.
        arguments: by name.
        wants: the tensors that require a gradient; by default those that do.
    """
    if wants is None:
        wants = [name for name, value in tensors(arguments).items() if value.requires_grad]
    wants = list(wants)
    try:
        expected = run(theirs, leaves(arguments, wants))
    except Exception as error:
        compare_errors(ours, leaves(arguments, wants), error)
        return
    before = {name: value.detach().clone() for name, value in tensors(arguments).items()}
    upstream = torch.randn(expected.value.shape, dtype=torch.float64).to(expected.value.dtype)
    got = run(ours, leaves(arguments, wants), upstream)
    for name, value in tensors(arguments).items():
        assert torch.equal(torch.view_as_real(value) if value.is_complex() else value.nan_to_num(), 
                           torch.view_as_real(before[name]) if value.is_complex() else before[name].nan_to_num()), f"{name} was changed"
    assert got.warnings == expected.warnings
    truth = expected
    if any(value.is_floating_point() or value.is_complex() for value in tensors(arguments).values()):
        exact = leaves(arguments, wants, double=True)
        exact.pop("options", None)  # they are about memory
        truth = run(theirs, exact, upstream.double())
    _same("the value", got.value, expected.value, truth.value)
    for name in wants:
        given, needed, true = got.gradients[name], expected.gradients[name], truth.gradients[name]
        assert (given is None) == (needed is None), f"gradient of {name}: {given}, expected {needed}"
        if given is not None:
            _same(f"the gradient of {name}", given, needed, true)


def _same(what: str, got: torch.Tensor, expected: torch.Tensor, truth: torch.Tensor) -> None:
    assert got.dtype == expected.dtype, f"{what} is of dtype {got.dtype}, expected {expected.dtype}"
    assert got.shape == expected.shape, f"{what} is of shape {got.shape}, expected {expected.shape}"
    torch.testing.assert_close(got, truth.to(got.dtype), equal_nan=True, msg=lambda text: f"{what}: {text}")


def compare_errors(ours: Callable[..., Any], arguments: Arguments, expected: Exception) -> None:
    """Raise AssertionError unless ours raises this error."""
    try:
        value = run(ours, arguments)
    except Exception as error:
        got = error
    else:
        raise AssertionError(f"gives {value}, but PyTorch raises {type(expected).__name__}: {expected}")
    same_error(got, expected)


def same_error(got: Exception, expected: Exception) -> None:
    """The same type, and PyTorch's text word for word at the start; ours may go on to say which argument and where."""
    assert isinstance(got, type(expected)), f"{type(got).__name__}: {got}\nPyTorch: {type(expected).__name__}: {expected}"
    text = str(expected).rstrip(". \n")
    assert str(got).startswith(text), f"{type(got).__name__}: {got}\nPyTorch: {text}"

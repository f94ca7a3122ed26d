"""Ours beside PyTorch's, on one call: value, dtype, shape, gradients and warnings, or the error.

What PyTorch computes in the arguments' own dtypes says which dtypes, shapes, gradients and warnings there are to be.
The numbers are held against PyTorch's in float64 on the same arguments, within the tolerances of PyTorch's own tests
for the result's dtype (``torch.testing.assert_close``): in 16 bits PyTorch's own are too coarse to judge by.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from portaloss.checks import SCALAR_TYPES

Arguments = dict[str, Any]

#: PyTorch's chunked path cannot do some calls, and warns that it is not taken; ours has no second path.
ONLY_THEIRS = "linear_cross_entropy: ``options`` ignored"


@dataclass
class Outcome:
    """What a call gave."""

    value: torch.Tensor
    gradients: dict[str, torch.Tensor | None]
    warnings: list[tuple[type[Warning], str]]


def bind(function: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """The arguments by name."""
    return dict(inspect.signature(function).bind(*args, **kwargs).arguments)


def tensors(arguments: Arguments) -> dict[str, torch.Tensor]:
    """Those of the arguments that are tensors."""
    return {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}


def inexact(arguments: Arguments) -> list[str]:
    """The tensors of a dtype that may require a gradient."""
    return [name for name, value in tensors(arguments).items() if value.is_floating_point() or value.is_complex()]


def leaves(arguments: Arguments, wants: Iterable[str], *, double: bool = False) -> Arguments:
    """The arguments with tensors that have no history, on the same memory unless they are made float64."""
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
    gradients: dict[str, torch.Tensor | None] = dict.fromkeys(wanted)
    if value.requires_grad:
        if upstream is None:
            upstream = torch.randn(value.shape, dtype=value.dtype)
        given = torch.autograd.grad(value, tuple(wanted.values()), upstream.to(value.dtype), allow_unused=True)
        gradients = dict(zip(wanted, given, strict=True))
    seen = [(record.category, str(record.message)) for record in records]
    return Outcome(value.detach(), gradients, [warning for warning in seen if ONLY_THEIRS not in warning[1]])


def compare(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    arguments: Arguments,
    wants: Iterable[str] | None = None,
    *,
    exact: Callable[..., Any] | None = None,
) -> None:
    """Raise AssertionError unless ours does what theirs does, an error included.

    Args:
        ours: portaloss's function.
        theirs: PyTorch's.
        arguments: by name.
        wants: the tensors that require a gradient; by default those that do.
        exact: PyTorch's in float64, where ``theirs`` cannot be called with float64.
    """
    wants = [name for name, value in tensors(arguments).items() if value.requires_grad] if wants is None else [*wants]
    try:
        expected = run(theirs, leaves(arguments, wants))
    except Exception as error:
        compare_errors(ours, leaves(arguments, wants), error)
        return
    upstream = torch.randn(expected.value.shape, dtype=torch.float64).to(expected.value.dtype)
    before = {name: value.detach().clone() for name, value in tensors(arguments).items()}
    got = run(ours, leaves(arguments, wants), upstream)
    for name, value in tensors(arguments).items():
        torch.testing.assert_close(value.detach(), before[name], rtol=0, atol=0, equal_nan=True)
    assert got.warnings == expected.warnings
    doubles = leaves(arguments, wants, double=True)
    doubles.pop("options", None)  # linear cross-entropy's, which are about memory, and name dtypes
    with _python_numbers_are_float64():
        truth = run(exact or theirs, doubles, upstream.double())
    _same("the value", got.value, expected.value, truth.value)
    for name in wants:
        given, needed, true = got.gradients[name], expected.gradients[name], truth.gradients[name]
        assert (given is None) == (needed is None), f"the gradient of {name} is {given}, expected {needed}"
        if given is not None:
            _same(f"the gradient of {name}", given, needed, true)


@contextmanager
def _python_numbers_are_float64() -> Iterator[None]:
    """In which integers times a float are float64, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _same(what: str, got: torch.Tensor, expected: torch.Tensor, truth: torch.Tensor) -> None:
    assert got.dtype == expected.dtype, f"{what} is of dtype {got.dtype}, expected {expected.dtype}"
    assert got.shape == expected.shape, f"{what} is of shape {got.shape}, expected {expected.shape}"
    truth_here = truth.to(got.dtype)
    try:
        torch.testing.assert_close(got, truth_here, equal_nan=True, msg=lambda text: f"{what}: {text}")
    except AssertionError:
        if got.dtype != torch.float32 or torch.allclose(expected, truth_here, *_FLOAT32, equal_nan=True):
            raise
        # a sum that cancels: PyTorch misses its own tolerance, and ours may be off by at most twice as much
        bound = 2 * (expected.double() - truth).abs().max().item()
        torch.testing.assert_close(got.double(), truth.double(), rtol=0, atol=bound, equal_nan=True)


#: rtol and atol of ``torch.testing.assert_close``.
_FLOAT32 = (1.3e-6, 1e-5)


def compare_errors(ours: Callable[..., Any], arguments: Arguments, expected: Exception) -> None:
    """Raise AssertionError unless ours raises what PyTorch does."""
    try:
        value = run(ours, arguments)
    except Exception as error:
        same_error(error, expected)
    else:
        raise AssertionError(f"gives {value}, but PyTorch raises {type(expected).__name__}: {expected}")


_FUNCTION = re.compile(r"^The function '\w+'")
_KERNEL = re.compile(r"""^"\w+" not implemented for '(\w+)'$""")
_DTYPES = {name: dtype for dtype, name in SCALAR_TYPES.items()}


def same_error(got: Exception, expected: Exception) -> None:
    """The same type, and PyTorch's text word for word at the start: ours may go on to say which argument and where.

    The one exception are the names of PyTorch's inner functions, for which ours has the name that was called.
    """
    assert isinstance(got, type(expected)), f"{got!r}\nPyTorch: {expected!r}"
    text, wanted = str(got), str(expected)
    kernel = _KERNEL.match(wanted)
    if kernel:
        assert f"not implemented for {_DTYPES[kernel[1]]}" in text, f"{got!r}\nPyTorch: {expected!r}"
        return
    text, wanted = (_FUNCTION.sub("The function", each) for each in (text, wanted))
    assert text.startswith(wanted.rstrip(". \n")), f"{got!r}\nPyTorch: {expected!r}"

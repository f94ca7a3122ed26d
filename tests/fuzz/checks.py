"""What must hold of every call: right numbers or an error that says what is wrong, and operands as they were."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

import numpy as np
from hypothesis import reject

from portaloss import arrays, functional
from portaloss.arrange import specs
from portaloss.catalogue import Domain, Loss
from portaloss.engine import select
from portaloss.kinds import LossKind, LossReduction
from portaloss.parity.compare import bound, compare
from portaloss.parity.samples import Case
from portaloss.parity.truth import Truth
from portaloss.plan import RANK, result_dtype

from .calls import Call
from .faults import Fault, apply

#: What may be raised. Not KeyError, AttributeError, OverflowError, AssertionError, MemoryError.
ERRORS = (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError)


class WrongError(AssertionError):
    """A wrong number, operands that changed, or an error that says nothing to the caller."""


def check_right(call: Call) -> None:
    """A call in which all is right but maybe the shapes: the numbers are right, or an error names what does not fit."""
    loss = call.loss
    operands = _made(call)
    arguments = placed(operands, call.library)
    defaults = {option.name: option.default for option in loss.options}
    try:
        loss.arrangement.shapes({**defaults, **call.options}, specs(operands))
        fits = True
    except ERRORS:
        fits = False
    kept = {name: memory(array) for name, array in operands.items()}
    if not fits:
        attempt(loss, {**arguments, **named(call)})
    else:
        _compare(call, operands, arguments)
    for name, bytes_before in kept.items():
        if memory(operands[name]) != bytes_before:
            raise WrongError(f"{name} was changed")


def check_wrong(call: Call, faults: list[Fault]) -> None:
    """A call with faults: an error names an argument, or the call is as PyTorch's."""
    arguments: dict[str, Any] = {**placed(_made(call), call.library), **named(call)}
    for fault in faults:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                apply(arguments, fault, call.library)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, OverflowError, AttributeError):
            reject()  # the libraries themselves refuse it
    kept = {name: memory(value) for name, value in arguments.items() if _has_memory(value)}
    result = attempt(call.loss, arguments)
    for name, bytes_before in kept.items():
        if memory(arguments[name]) != bytes_before:
            raise WrongError(f"{name} was changed")
    for name, value in arguments.items():
        strange = isinstance(value, np.ndarray) and value.dtype.kind in "SUMmOV" and value.dtype != arrays.bfloat16()
        if result is not None and strange and value.size:
            raise WrongError(f"{name} of dtype {value.dtype} was taken for numbers")
    if result is not None and arrays.is_tensor(result) and not result.is_meta:
        _compare_with_torch(call.loss, arguments, result)


def attempt(loss: Loss, arguments: dict[str, Any]) -> Any:
    """The result; None for an error of an expected type that names an argument."""
    function = getattr(functional, loss.function)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(**arguments)
    except Exception as error:
        if not isinstance(error, ERRORS):
            raise WrongError(f"{type(error).__name__}: {error}") from error
        names = {*inspect.signature(function).parameters, *arguments, *(operand.name for operand in loss.operands)}
        if not any(re.search(rf"\b{name}\b", str(error)) for name in names):
            raise WrongError(f"names no argument: {type(error).__name__}: {error}") from error
        return None


def placed(operands: dict[str, np.ndarray], library: str) -> dict[str, Any]:
    """The operands as arrays or tensors, on the same memory."""
    if library == arrays.NUMPY:
        return dict(operands)
    return {name: arrays.like(array, library) for name, array in operands.items()}


def named(call: Call) -> dict[str, Any]:
    """The call's options and reduction by the public function's names."""
    options = dict(call.options)
    reduction = call.reduction.name.lower()
    if options.pop("batchmean", False) and reduction == "mean":
        reduction = "batchmean"
    for name in ("softcap", "max_memory"):
        if options.get(name) == 0:
            options[name] = None
    return {**options, "reduction": reduction}


def memory(value: Any) -> Any:
    """All bytes of an array, with those that lie between its elements."""
    if arrays.is_tensor(value):
        value = arrays.to_numpy(value.detach())
    base = value.base if isinstance(value.base, np.ndarray) else value
    return base.tobytes() if base.dtype != object else [*base.reshape(-1)]


def _has_memory(value: Any) -> bool:
    if arrays.is_tensor(value):
        return bool(value.layout == _torch().strided and not value.is_meta and "float8" not in str(value.dtype))
    return isinstance(value, np.ndarray)


def _made(call: Call) -> dict[str, np.ndarray]:
    try:
        return call.operands()
    except (ValueError, IndexError):
        reject()  # a shape that numbers cannot be drawn for


def _compare(call: Call, operands: dict[str, np.ndarray], arguments: dict[str, Any]) -> None:
    """Every result of the call is as near to the truth as the parity matrix demands."""
    loss, reduction = call.loss, call.reduction
    try:
        dtype = result_dtype(loss, operands)
    except ERRORS:
        attempt(loss, {**arguments, **named(call)})
        return
    # the truth is that of operands in the dtype that is computed in
    math = "float64" if dtype == "float64" else "float32"
    kept = {name: array if "int" in array.dtype.name else _narrowed(array, math) for name, array in operands.items()}
    truth = Truth(loss, Case("fuzz", call.seed, kept, call.options))
    if call.library == arrays.TORCH:
        for name in truth.wants:
            arguments[name].requires_grad_()
    value = attempt(loss, {**arguments, **named(call)})
    if value is None:
        if _may_refuse(call, operands):
            return
        raise WrongError("refused, though the shapes fit")
    # some losses are stored in another dtype than they are computed in
    given = str(value.dtype).removeprefix("torch.")
    upstream = call.upstream(truth.items_shape if reduction is LossReduction.NONE else (), given)
    results = {"loss": value.detach() if call.library == arrays.TORCH else np.asarray(value)}
    if call.library == arrays.TORCH:
        if value.requires_grad:
            value.backward(arrays.like(upstream, call.library))
        gradients = {name: arguments[name].grad for name in truth.wants}
        for name in truth.wants:
            arguments[name].requires_grad_(False)
    else:
        plan = select(call.kind, dtype=dtype, reduction=reduction, **call.options)
        again = np.asarray(plan.forward(**arguments))
        if again.dtype == results["loss"].dtype and again.tobytes() != results["loss"].tobytes():
            raise WrongError("the plan and the function disagree")
        gradients = plan.backward(upstream, **arguments)
    expected = {"loss": truth.loss(reduction)}
    should = truth.gradients(reduction, upstream)
    for name in truth.wants:
        if gradients.get(name) is None:
            raise WrongError(f"no gradient of {name}")
        results["of " + name], expected["of " + name] = gradients[name], should[name]
        if gradients[name].dtype != arguments[name].dtype:
            raise WrongError(f"the gradient of {name} is of dtype {gradients[name].dtype}")
    for name, result in results.items():
        result = arrays.to_numpy(result)
        known = result.dtype.name
        if RANK[known] > RANK[dtype]:  # stored in a wider dtype than it was computed in
            known, result = dtype, result.astype(arrays.dtype_of(dtype))
        comparison = compare(result, expected[name], known)
        limit = max(bound(call.kind, known), bound(call.kind, dtype) if known == dtype else 0)
        if comparison.ulp > limit and not _is_at_a_kink(call, kept, name, upstream, comparison.index):
            error = comparison.mismatch or f"{comparison.ulp:.3g} ulp, at most {limit:g}"
            raise WrongError(f"{call.kind.name} {call.recipe.values}: {name}: {error}")


def _narrowed(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array in a dtype, if that is narrower than its own."""
    return array.astype(arrays.dtype_of(dtype)) if RANK[array.dtype.name] > RANK[dtype] else array


def _is_at_a_kink(call: Call, operands: dict[str, np.ndarray], name: str, upstream: Any, index: Any) -> bool:
    """Whether a derivative jumps there, so that rounding decides on which side the loss is.

    A cosine is compared with a margin, a distance with another one: both are rounded. Operands that differ by one part
    in 2^20 then have another derivative, by more than one part in 2^10.
    """
    if index is None or name == "loss" or call.kind not in (LossKind.COSINE_EMBEDDING, LossKind.TRIPLET_MARGIN):
        return False
    random = np.random.default_rng(0)
    for _ in range(8):
        moved = {
            one: array.astype(float) * (1.0 + random.uniform(-(2.0**-20), 2.0**-20, array.shape))
            if one != "target"
            else array
            for one, array in operands.items()
        }
        one, other = (
            Truth(call.loss, Case("fuzz", call.seed, given, call.options)).gradients(call.reduction, upstream)[name[3:]]
            for given in (operands, moved)
        )
        if abs(one.value[index] - other.value[index]) > 2.0**-10 * one.magnitude[index]:
            return True
    return False


def _may_refuse(call: Call, operands: dict[str, np.ndarray]) -> bool:
    """Whether the public function has a reason that the arrangement does not know."""
    if "normalizer" in operands and call.reduction is not LossReduction.MEAN:
        return True
    # without classes, no index is one
    if not any(operand.domain is Domain.CLASS_INDEX for operand in call.loss.operands):
        return False
    target, logits = operands["target"], operands["input"]
    classes = len(operands["linear_weight"]) if "linear_weight" in operands else logits.shape[logits.ndim > 1]
    return bool(not classes and target.size and "int" in target.dtype.name)


def _compare_with_torch(loss: Loss, arguments: dict[str, Any], result: Any) -> None:
    """Where PyTorch has an answer to what looks like a fault, ours is the same."""
    torch = _torch()
    function = getattr(torch.nn.functional, loss.function, None)
    if function is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = function(**arguments)
    except Exception:
        return
    ours = result
    if theirs.shape != ours.shape:
        raise WrongError(f"shape {tuple(ours.shape)}, PyTorch's is {tuple(theirs.shape)}")
    if theirs.dtype != ours.dtype:
        raise WrongError(f"dtype {ours.dtype}, PyTorch's is {theirs.dtype}")
    for operand in loss.operands:
        value = arguments.get(operand.name)
        index = operand.domain in (Domain.CLASS_INDEX, Domain.CLASS_SET)
        if arrays.is_tensor(value) and not index and value.dtype not in (torch.float32, torch.float64):
            # PyTorch rounds each step of a composite to 16 bits, and its products of integers wrap around: its own
            # error may be as large as the loss
            return
    if loss.kind is LossKind.MULTILABEL_MARGIN and not arguments["input"].numel():
        return  # PyTorch leaves the result as the memory was
    a, b = ours.detach().double(), theirs.detach().double()
    if not torch.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise WrongError(f"{a.reshape(-1)[:4].tolist()}, PyTorch has {b.reshape(-1)[:4].tolist()}")


def _torch() -> Any:
    import torch

    return torch


__all__ = ["WrongError", "attempt", "check_right", "check_wrong", "memory", "named", "placed"]

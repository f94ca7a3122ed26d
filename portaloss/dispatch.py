"""The one way through: from a function's arguments to a prepared plan and a result."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any

import numpy as np

from portaloss import arrays, backends, engine, gradients
from portaloss.arrange import specs
from portaloss.backends import Prepared
from portaloss.catalogue import LOSSES, Domain
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import as_number, as_reduction, make_plan, result_dtype


def loss(
    kind: LossKind,
    reduction: str | LossReduction,
    operands: Mapping[str, Any],
    *,
    dtype: str | None = None,
    **options: Any,
) -> Any:
    """Compute a loss.

    Args:
        kind: which.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        operands: by the catalogue's names; None means absent. Sequences of ints are taken for lengths.
        dtype: of the loss; by default the operands'. Linear cross-entropy of 16-bit operands may have float32.
        **options: by the catalogue's names.

    Returns:
        A NumPy array or scalar for NumPy operands, a torch tensor that knows its gradient for tensors. With the option
        return_extras, a pair of that and a tuple of what is known of each row.
    """
    if compiling():
        # the tracer reads this function, and should find little in it: checks are the operator's, when it runs
        from portaloss import torch_ops

        return torch_ops.trace(kind.name, reduction, operands, options, dtype)
    for name, number in options.items():
        if type(number) not in _NUMBERS:
            options[name] = as_number(number)
    given = {name: value for name, value in operands.items() if value is not None}
    for name in _LENGTHS.get(kind, ()):
        _length_to_array(given, name)
    torch = sys.modules.get("torch")
    if torch is not None and torch._C._is_any_autocast_enabled() and arrays.library_of(given) == arrays.TORCH:
        given = _torch_ops().autocast.cast(kind.name, given)
    prepared, given = _prepared(kind, reduction, given, dtype, options)
    recorder = gradients.active()
    if recorder is not None:
        return recorder.record(prepared, given, operands)
    if torch is not None and arrays.is_tensor(next(iter(given.values()))):
        return _torch_ops().apply(prepared, given)
    forward = engine.forward(prepared, given)
    return forward.value if forward.extras is None else (forward.value, forward.extras)


@cache
def _torch_ops() -> Any:
    from portaloss import torch_ops

    return torch_ops


def compiling() -> bool:
    """Whether torch.compile is tracing this call."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.compiler.is_dynamo_compiling())


#: The types of options that need no conversion.
_NUMBERS = (float, int, bool)

#: Calls met before, by all that decides how they are prepared. To prepare one takes longer than a small loss.
_calls: dict[Hashable, Prepared] = {}

#: Calls that are kept. Beyond these, as where every batch has another length, it starts anew.
_KEPT = 1024

#: The operands of a kind that are lengths: PyTorch takes tuples and lists of ints for them.
_LENGTHS = {
    kind: names
    for kind, entry in LOSSES.items()
    if (names := [operand.name for operand in entry.operands if operand.domain is Domain.LENGTH])
}


def _prepared(
    kind: LossKind,
    reduction: str | LossReduction,
    given: dict[str, Any],
    dtype: str | None,
    options: Mapping[str, Any],
) -> tuple[Prepared, dict[str, Any]]:
    """The call, prepared, and its operands: libraries, dtypes, devices and shapes decide that, and not their values."""
    key = _key(kind, reduction, given, dtype, options)
    prepared = None if key is None else _calls.get(key)
    if prepared is not None:
        return prepared, given
    for operand in LOSSES[kind].operands:
        if operand.name not in given and not operand.optional:
            raise TypeError(f"{operand.name} must be a NumPy array or a torch tensor, got None")
    library = arrays.library_of(given)
    plain = {name: arrays.plain(name, value) for name, value in given.items()}
    if any(plain[name] is not value for name, value in given.items()):
        return _prepared(kind, reduction, plain, dtype, options)
    device = "cpu" if library == arrays.NUMPY else _device(given)
    backend = backends.for_device("cpu" if device == "meta" else device)  # shapes alone need no backend
    found = dtype or result_dtype(LOSSES[kind], given)
    plan = make_plan(kind, found, as_reduction(reduction), backend, tuple(options.items()))
    prepared = engine.prepare(plan, specs(given))
    reason = prepared.backend.refuses(plan, given) if device != "meta" else None
    if reason is not None:
        raise NotImplementedError(reason)
    if key is not None:
        if len(_calls) >= _KEPT:
            _calls.clear()
        _calls[key] = prepared
    return prepared, given


def _key(
    kind: LossKind,
    reduction: str | LossReduction,
    given: Mapping[str, Any],
    dtype: str | None,
    options: Mapping[str, Any],
) -> Hashable:
    """All that decides how a call is prepared; None for a call that is not kept."""
    torch = sys.modules.get("torch")
    if torch is not None and torch._C._get_tracing_state() is not None:
        return None  # the sizes that torch.jit.trace sees are tensors
    try:
        key = (
            kind,
            reduction,
            type(reduction),  # 1 equals LossReduction.MEAN, but is not accepted for it
            dtype,
            *options.items(),
            *[type(value) for value in options.values()],  # True equals 1.0, but is not accepted for it
            *[
                (name, type(value), value.dtype, value.shape, getattr(value, "device", None))
                for name, value in given.items()
            ],
        )
        hash(key)
    except (AttributeError, TypeError):
        return None  # an operand that is no array, or a value that cannot be hashed
    return key


def _length_to_array(given: dict[str, Any], name: str) -> None:
    lengths = given.get(name)
    if isinstance(lengths, (tuple, list)):
        array = np.asarray(lengths, dtype=np.int64)
        tensors = any(map(arrays.is_tensor, given.values()))
        given[name] = arrays.like(array, arrays.TORCH) if tensors else array


def _device(given: Mapping[str, Any]) -> str:
    """The device that all tensors are on; 0-dimensional ones and lengths may stay on the CPU."""
    devices = {name: value.device.type for name, value in given.items()}
    first = next(iter(devices))
    for name, other in devices.items():
        if other != devices[first] and given[name].ndim > 0 and not name.endswith("_lengths"):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {first} is on {given[first].device} and {name} is "
                f"on {given[name].device}"
            )
    device: str = devices[first]
    return device

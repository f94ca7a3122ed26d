"""The one way through: from a function's arguments to a plan, a backend and a result."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any

import numpy as np

from portaloss import arrays, backends, gradients
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import Plan, as_reduction, make_plan, result_dtype


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
    given = {name: value for name, value in operands.items() if value is not None}
    if kind is LossKind.CTC:
        _lengths_to_arrays(given)
    tensors = not isinstance(next(iter(given.values()), None), np.ndarray) and "torch" in sys.modules
    if tensors and dtype is None:
        value = _torch_ops().small.loss(kind, reduction, given, options)
        if value is not None:
            return value
    if tensors and sys.modules["torch"]._C._is_any_autocast_enabled() and arrays.library_of(given) == arrays.TORCH:
        given = _torch_ops().autocast.cast(kind.name, given)
    plan = _plan(kind, reduction, given, dtype, options)
    recorder = gradients.active()
    if recorder is not None:
        return recorder.record(plan, given)
    if tensors and arrays.is_tensor(next(iter(given.values()))):
        return _torch_ops().apply(plan, given)
    forward = plan.forward_with_gradients(given, ())
    return forward.value if forward.extras is None else (forward.value, forward.extras)


@cache
def _torch_ops() -> Any:
    from portaloss import torch_ops

    return torch_ops


def compiling() -> bool:
    """Whether torch.compile is tracing this call."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.compiler.is_dynamo_compiling())


#: The plans of calls met before: to make one takes longer than a small loss.
_plans: dict[Hashable, Plan] = {}
_KEPT = 1024


def _plan(
    kind: LossKind,
    reduction: str | LossReduction,
    given: Mapping[str, Any],
    dtype: str | None,
    options: Mapping[str, Any],
) -> Plan:
    """The plan of a call: it depends on libraries, dtypes and devices of the operands, not on their shapes."""
    key: Hashable = None
    plan: Plan | None = None
    try:
        key = (
            kind,
            reduction,
            type(reduction),  # 1 equals LossReduction.MEAN, and is no reduction
            dtype,
            *options.items(),
            *[type(value) for value in options.values()],  # True equals 1.0, and is no number here
            *[(name, type(value), value.dtype, getattr(value, "device", None)) for name, value in given.items()],
        )
        plan = _plans.get(key)
    except (AttributeError, TypeError):
        pass  # what is no array, or no option's value, is refused below
    if plan is not None:
        return plan
    library = arrays.library_of(given)
    device = "cpu" if library == arrays.NUMPY else _device(given)
    backend = backends.for_device("cpu" if device == "meta" else device)  # shapes alone need no backend
    found = dtype or result_dtype(LOSSES[kind], given)
    plan = make_plan(kind, found, as_reduction(reduction), backend, tuple(options.items()))
    if key is not None and (library == arrays.NUMPY or len({value.device for value in given.values()}) == 1):
        if len(_plans) >= _KEPT:
            _plans.clear()
        _plans[key] = plan
    return plan


def _lengths_to_arrays(given: dict[str, Any]) -> None:
    """PyTorch takes tuples and lists of ints for CTC's lengths."""
    for name in ("input_lengths", "target_lengths"):
        lengths = given.get(name)
        if isinstance(lengths, (tuple, list)):
            array = np.asarray(lengths, dtype=np.int64)
            given[name] = arrays.like(array, arrays.TORCH) if arrays.is_tensor(given["log_probs"]) else array


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

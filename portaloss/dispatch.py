"""The one way through: from a function's arguments to a plan, a backend and a result."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from portaloss import arrays, backends, gradients
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind, LossReduction
from portaloss.plan import as_reduction, make_plan, result_dtype


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
    row = LOSSES[kind]
    given = {name: value for name, value in operands.items() if value is not None}
    if kind is LossKind.CTC:
        _lengths_to_arrays(given)
    if dtype is None and not isinstance(next(iter(given.values())), np.ndarray) and "torch" in sys.modules:
        value = _small().loss(kind, reduction, given, options)
        if value is not None:
            return value
    library = arrays.library_of(given)
    device = "cpu" if library == arrays.NUMPY else _device(given)
    if library == arrays.TORCH:
        from portaloss import torch_ops

        given = torch_ops.autocast.cast(kind.name, given)
    backend = backends.for_device("cpu" if device == "meta" else device)  # shapes alone need no backend
    found = dtype or result_dtype(row, given)
    plan = make_plan(kind, found, as_reduction(reduction), backend, tuple(options.items()))
    recorder = gradients.active()
    if recorder is not None:
        return recorder.record(plan, given)
    if library == arrays.NUMPY:
        forward = plan.forward_with_gradients(given, ())
        return forward.value if forward.extras is None else (forward.value, forward.extras)
    return torch_ops.apply(plan, given)


@cache
def _small() -> Any:
    from portaloss.torch_ops import small

    return small


def compiling() -> bool:
    """Whether torch.compile is tracing this call."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.compiler.is_dynamo_compiling())


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

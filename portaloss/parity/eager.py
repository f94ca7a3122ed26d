"""PyTorch's results for the same inputs, in eager mode on the CPU and in the SKU's dtype.

The report shows their errors beside portaloss's.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.catalogue import Loss
from portaloss.kinds import LossReduction
from portaloss.parity.samples import Case
from portaloss.plan import differentiable

Array = npt.NDArray[Any]

#: The exceptions that PyTorch raises for an input or a dtype that it does not support.
_UNSUPPORTED = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


@dataclass
class Eager:
    """PyTorch's results for one case, without those that it does not support."""

    losses: dict[LossReduction, Array] = field(default_factory=dict)
    gradients: dict[LossReduction, dict[str, Array]] = field(default_factory=dict)


def installed() -> bool:
    """Whether torch is installed. This does not import it."""
    return importlib.util.find_spec("torch") is not None


def run(loss: Loss, case: Case, upstreams: dict[LossReduction, Array]) -> Eager:
    """PyTorch's loss for each reduction, and the gradients of every operand for the upstream gradients."""
    import torch

    from portaloss import pytorch

    results = Eager()
    wants = differentiable(loss, case.operands)
    for reduction in LossReduction:
        tensors = {name: _tensor(array) for name, array in case.operands.items()}
        with _quiet(), _one_thread():
            try:
                value = pytorch.loss(loss, tensors, case.options, reduction.name.lower())
                results.losses[reduction] = _array(value)
                # the loss alone first: PyTorch may support it in a dtype whose gradient it does not support
                for name in wants:
                    tensors[name].requires_grad_(True)
                value = pytorch.loss(loss, tensors, case.options, reduction.name.lower())
                inputs = [tensors[name] for name in wants]
                upstream = _tensor(upstreams[reduction]).reshape(value.shape).to(value.dtype)
                gradients = torch.autograd.grad(value, inputs, upstream, allow_unused=True)
            except _UNSUPPORTED:
                continue
        results.gradients[reduction] = {
            name: _array(torch.zeros_like(tensor) if gradient is None else gradient)
            for name, tensor, gradient in zip(wants, inputs, gradients, strict=True)
        }
    return results


def _tensor(array: Array) -> Any:
    import torch

    array = np.array(array, order="C")  # contiguous, because PyTorch has no negative strides
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: Any) -> Array:
    from portaloss import arrays

    return np.array(arrays.to_numpy(tensor))


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch on one thread: its sums depend on the number of threads, and more are no faster on small inputs."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's warnings: unusual inputs are chosen on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

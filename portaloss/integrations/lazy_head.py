"""The output layer that returns lazy logits."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from portaloss import backends
from portaloss.integrations.lazy_logits import PLAIN, lazy_linear

_functorch: Any = torch._C._functorch


class LazyHead(torch.nn.Linear):
    """A linear layer that returns lazy logits while a gradient is recorded, and a plain tensor otherwise.

    A layer becomes one by its ``__class__``: nothing is added to the instance, so that copies, pickles and replicas
    hold their own weights, and hooks and wrappers find an ordinary module.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not self._may_be_lazy(input):
            return super().forward(input)
        operands = self._as_autocast_casts(input, self.weight, self.bias)
        if any(tensor is not None and tensor.dtype != operands[0].dtype for tensor in operands):
            return super().forward(input)  # which says what is wrong with that
        return lazy_linear(*operands)

    def _may_be_lazy(self, input: Any) -> bool:
        if (
            torch._C._get_tracing_state() is not None
            or _functorch.peek_interpreter_stack() is not None
            or torch.autograd.forward_ad._current_level >= 0
            or torch._C._len_torch_dispatch_stack()
            or torch._C._len_torch_function_stack()
        ):
            return False
        module = torch.nn.modules.module
        if (  # these wrap the output in C++, where it would be computed anyway
            self._backward_hooks
            or self._backward_pre_hooks
            or module._global_backward_hooks
            or module._global_backward_pre_hooks
        ):
            return False
        operands = [tensor for tensor in (input, self.weight, self.bias) if tensor is not None]
        return (
            all(type(tensor) in PLAIN and tensor.layout is torch.strided for tensor in operands)
            and all(tensor.device == operands[0].device and tensor.is_floating_point() for tensor in operands)
            and any(tensor.requires_grad for tensor in operands)
            and input.numel() > 0
            and input.shape[-1:] == self.weight.shape[1:]
            and _has_backend(input.device.type)
        )

    @staticmethod
    def _as_autocast_casts(*operands: Tensor | None) -> list[Any]:
        device = next(tensor.device.type for tensor in operands if tensor is not None)
        if not torch.is_autocast_enabled(device):
            return list(operands)
        dtype = torch.get_autocast_dtype(device)
        return [tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype) for tensor in operands]


@cache
def _has_backend(device: str) -> bool:
    try:
        return backends.available(backends.for_device(device)) is None
    except NotImplementedError:
        return False

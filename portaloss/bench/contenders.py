"""What is measured: portaloss on tensors and on arrays, PyTorch eager and compiled, liger-kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

from portaloss.bench.cases import Case, Spec, draw, shape_of
from portaloss.kinds import LossKind

#: The names, in the order in which they are shown.
NAMES = ("portaloss", "arrays", "eager", "compiled", "compile", "liger")

#: The contenders that are portaloss: their results must be right.
OURS = ("portaloss", "arrays", "compiled")

#: What a name stands for.
MEANINGS = {
    "portaloss": "portaloss on tensors",
    "arrays": "portaloss.value_and_grad on NumPy arrays",
    "eager": "PyTorch eager",
    "compiled": "portaloss through torch.compile",
    "compile": "torch.compile",
    "liger": "liger-kernel",
}

#: The note beside a time of PyTorch for operands that were widened.
WIDENED = "in float32, casts included: PyTorch has no such loss in this dtype"

#: The loss and the gradients of the operands wanted.
Result = tuple[Any, Sequence[Any]]


class UnavailableError(Exception):
    """A contender does not have the loss, or is not installed."""


@dataclass(frozen=True)
class Contender:
    """An implementation, bound to a case."""

    forward: Callable[[], Any]
    forward_backward: Callable[[], Result]
    note: str = ""


def prepare(name: str, case: Case) -> Contender:
    """Bind a contender to a case.

    Raises:
        UnavailableError: the library does not have the loss, or is not installed.
        ValueError: there is no such contender.
    """
    if name not in NAMES:
        raise ValueError(f"there is no contender {name}; there are: {', '.join(NAMES)}")
    if name == "arrays":
        return _on_arrays(case)
    if name == "portaloss":
        return on_tensors(case, _portaloss(case))
    if name == "liger":
        # it overwrites its input with the gradients
        cloned = {key: value.clone() for key, value in case.operands.items()}
        return on_tensors(replace(case, operands=cloned), _liger(case.spec.kind))
    loss, note = (_portaloss(case), "") if name == "compiled" else eager(case.spec)
    if name in ("compile", "compiled"):
        import torch

        torch.compiler.reset()  # drop what was compiled for other cases
        loss = torch.compile(loss, dynamic=False)
    return replace(on_tensors(case, loss), note=note)


def _portaloss(case: Case) -> Callable[..., Any]:
    from portaloss import functional

    loss: Callable[..., Any] = getattr(functional, case.spec.loss.function)
    return loss


def on_tensors(case: Case, loss: Callable[..., Any]) -> Contender:
    """A contender that calls a loss of tensors by name, and differentiates it with autograd."""
    import torch

    learned = {name: value.detach().requires_grad_(name in case.wanted) for name, value in case.operands.items()}
    wanted = [learned[name] for name in case.wanted]

    def forward_backward() -> Result:
        value = loss(**learned)
        return value, torch.autograd.grad(value, wanted)

    return Contender(lambda: loss(**case.operands), forward_backward)


def _on_arrays(case: Case) -> Contender:
    from portaloss import arrays, value_and_grad

    if case.spec.device != "cpu":
        raise UnavailableError("NumPy arrays are on the CPU")
    try:
        operands = [arrays.to_numpy(value) for value in case.operands.values()]
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    loss = _portaloss(case)
    names = list(case.operands)
    both = value_and_grad(loss, [names.index(name) for name in case.wanted])
    return Contender(lambda: loss(*operands), lambda: both(*operands))


# PyTorch


def eager(spec: Spec) -> tuple[Callable[..., Any], str]:
    """PyTorch's loss of the operands by name; and a note where the operands are widened for it."""
    if spec.dtype in ("float16", "bfloat16") and not _has(spec.kind, spec.dtype, spec.device):
        return _widened(function_of(spec)), WIDENED
    return function_of(spec), ""


def function_of(spec: Spec) -> Callable[..., Any]:
    """PyTorch's function of the operands by name."""
    from portaloss import pytorch

    return pytorch.function(spec.loss)


def _widened(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss of 16-bit operands cast to float32, as a user does where PyTorch has no 16-bit kernel."""

    def wide(**operands: Any) -> Any:
        return loss(**{name: value.float() if value.is_floating_point() else value for name, value in operands.items()})

    return wide


@cache
def _has(kind: LossKind, dtype: str, device: str) -> bool:
    """Whether PyTorch has a kind's forward and backward pass in a dtype: found out by a call."""
    spec = Spec(kind, dtype, "tiny", shape_of(kind, "tiny"), device)
    try:
        on_tensors(draw(spec), function_of(spec)).forward_backward()
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented for" in str(error) or "expected scalar type" in str(error):
            return False
        raise
    return True


# liger-kernel


def _liger(kind: LossKind) -> Callable[..., Any]:
    """liger-kernel's loss of a kind, called with the names of PyTorch's operands."""
    if find_spec("liger_kernel") is None:
        raise UnavailableError("liger-kernel is not installed")
    from liger_kernel import transformers

    if kind is LossKind.CROSS_ENTROPY:
        entropy = transformers.LigerCrossEntropyLoss()
        return lambda input, target: entropy(input, target)
    if kind is LossKind.KL_DIV:
        divergence = transformers.LigerKLDIVLoss(reduction="mean")
        return lambda input, target: divergence(input, target)
    if kind is LossKind.FUSED_LINEAR_CROSS_ENTROPY:
        fused = transformers.LigerFusedLinearCrossEntropyLoss()
        return lambda input, linear_weight, target: fused(linear_weight, input, target)
    raise UnavailableError("liger-kernel has no such loss")

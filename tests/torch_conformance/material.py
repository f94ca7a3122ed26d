"""PyTorch's own test material: the OpInfos and ModuleInfos of the twenty losses, and how to go through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

from portaloss import LOSSES, functional, nn

from . import judge

FUNCTIONS = {f"nn.functional.{loss.function}": loss.function for loss in LOSSES.values()}

#: Name, and variant where there are several, to OpInfo.
OPS = {
    "-".join(part for part in (FUNCTIONS[op.name], op.variant_test_name) if part): op
    for op in op_db
    if op.name in FUNCTIONS
}

#: Those of a variant are about how PyTorch chunks, and their operands are like the others.
PLAIN_OPS = {name: op for name, op in OPS.items() if not op.variant_test_name}

#: Class name to ModuleInfo.
MODULES = {
    info.module_cls.__name__: info
    for info in module_db
    if info.module_cls.__name__ in {loss.module for loss in LOSSES.values()}
}


def pair(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Ours and PyTorch's function of that name."""
    return getattr(functional, name), getattr(F, name)


def modules(name: str) -> tuple[type[torch.nn.Module], type[torch.nn.Module]]:
    """Ours and PyTorch's class of that name."""
    return getattr(nn, name), getattr(torch.nn, name)


def samples(op: Any, dtype: torch.dtype, *, requires_grad: bool) -> list[Any]:
    """The OpInfo's sample inputs, and its reference inputs where they are others; the same on every run."""
    made: list[Any] = []
    for kind in ("sample_inputs", *(["reference_inputs"] if op.reference_inputs_func else [])):
        torch.manual_seed(0)
        made += getattr(op, kind)("cpu", dtype, requires_grad=requires_grad)
    return made


def arguments(op: Any, sample: Any) -> judge.Arguments:
    """A sample's arguments by name."""
    return judge.bind(pair(FUNCTIONS[op.name])[1], (sample.input, *sample.args), sample.kwargs)


def show(arguments: judge.Arguments) -> str:
    """Arguments in short: tensors by dtype and shape."""
    return ", ".join(
        f"{name}={str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        if isinstance(value, torch.Tensor)
        else f"{name}={value!r}"
        for name, value in arguments.items()
    )


def each(cases: Iterable[tuple[str, Callable[[], None]]]) -> int:
    """Try every case, so that one failure does not hide others; returns how many there were."""
    count, failures = 0, []
    for text, case in cases:
        count += 1
        try:
            case()
        except Exception as error:
            failures.append(f"{text}\n    {type(error).__name__}: {error}")
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(failures[:20])
    return count


def dtypes(op: Any) -> Iterator[torch.dtype]:
    """The dtypes that PyTorch's op supports on a CPU, in a fixed order."""
    yield from sorted(op.supported_dtypes("cpu"), key=str)

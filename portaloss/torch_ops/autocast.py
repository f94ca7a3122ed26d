"""What torch.autocast does to each kind: PyTorch's own choice of dtypes."""

from __future__ import annotations

import torch
from torch import Tensor

from portaloss.catalogue import LOSSES, Autocast

_NARROW = (torch.float16, torch.bfloat16)

#: By a kind's name, which a tracer of Python takes for a constant; with the function's name.
_RULES = {kind.name: (entry.autocast.name, entry.function) for kind, entry in LOSSES.items()}
_LEFT, _UNSAFE_ON_GPU = Autocast.LEFT.name, Autocast.UNSAFE_ON_GPU.name


def cast(kind: str, operands: dict[str, Tensor]) -> dict[str, Tensor]:
    """The operands as autocast wants them where it is enabled, else as they are.

    Args:
        kind: the name of a LossKind.
        operands: by the catalogue's names.

    Raises:
        RuntimeError: binary cross-entropy of probabilities on a GPU, as PyTorch raises.
    """
    device = next(iter(operands.values())).device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return operands
    rule, function = _RULES[kind]
    if rule == _UNSAFE_ON_GPU and device == "cuda":
        raise RuntimeError(
            f"{function} is unsafe to autocast: probabilities near 0 and 1 are lost in float16. Leave "
            "autocast with torch.autocast('cuda', enabled=False), or use binary_cross_entropy_with_logits."
        )
    if rule == _LEFT:
        return operands
    return {name: value.float() if value.dtype in _NARROW else value for name, value in operands.items()}

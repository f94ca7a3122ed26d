"""What torch.autocast does to each kind: PyTorch's own choice of dtypes."""

from __future__ import annotations

import torch
from torch import Tensor

#: Kinds made of operators that autocast leaves alone. All others are computed in float32 at least.
_LEFT_ALONE = frozenset({"GAUSSIAN_NLL", "MULTILABEL_SOFT_MARGIN"})

_NARROW = (torch.float16, torch.bfloat16)


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
    if kind == "BCE" and device == "cuda":
        raise RuntimeError(
            "binary_cross_entropy is unsafe to autocast: probabilities near 0 and 1 are lost in float16. Leave "
            "autocast with torch.autocast('cuda', enabled=False), or use binary_cross_entropy_with_logits."
        )
    if kind in _LEFT_ALONE:
        return operands
    return {name: value.float() if value.dtype in _NARROW else value for name, value in operands.items()}

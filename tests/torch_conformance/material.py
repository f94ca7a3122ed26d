"""PyTorch's own test material: the OpInfos and ModuleInfos of the twenty losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

from portaloss import LOSSES, functional, nn

FUNCTIONS = {f"nn.functional.{loss.function}": loss.function for loss in LOSSES.values()}
OPS = {
    "-".join(part for part in (FUNCTIONS[op.name], op.variant_test_name) if part): op
    for op in op_db
    if op.name in FUNCTIONS
}


def pair(name):
    """Ours and PyTorch's function of that name."""
    return getattr(functional, name), getattr(F, name)

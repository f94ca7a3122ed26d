"""Twenty losses, forward and backward, that give the same answer on NVIDIA, AMD and CPU.

``portaloss.functional`` has PyTorch's functions, ``portaloss.nn`` its modules; both take torch tensors, the functions
NumPy arrays too. Importing this package loads neither torch nor triton.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from portaloss.backends.cpu.blocks import empty_cache, set_cache_limit
from portaloss.backends.cpu.threads import get_num_threads, set_num_threads
from portaloss.catalogue import LOSSES, SKU, skus
from portaloss.engine import select
from portaloss.gradients import value_and_grad
from portaloss.kinds import DTYPES, Direction, LossKind, LossReduction
from portaloss.plan import Plan, Precision
from portaloss.targets_mode import check_targets

if TYPE_CHECKING:
    from portaloss import functional, nn, reference

__version__ = "0.1.0"

__all__ = [
    "DTYPES",
    "LOSSES",
    "SKU",
    "Direction",
    "LossKind",
    "LossReduction",
    "Plan",
    "Precision",
    "check_targets",
    "empty_cache",
    "functional",
    "get_num_threads",
    "nn",
    "reference",
    "select",
    "set_cache_limit",
    "set_num_threads",
    "skus",
    "value_and_grad",
]


def __getattr__(name: str) -> Any:
    """Load the larger rooms on first use; ``nn`` needs torch."""
    if name in {"functional", "nn", "reference"}:
        return importlib.import_module(f"portaloss.{name}")
    raise AttributeError(f"module 'portaloss' has no attribute {name!r}")

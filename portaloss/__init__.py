"""Twenty losses, forward and backward, that give the same answer on NVIDIA, AMD and CPU.

``portaloss.functional`` has PyTorch's functions, ``portaloss.nn`` its modules; both take torch tensors, the functions
NumPy arrays too. Importing this package loads neither torch nor triton.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A clone has the book at its top, in reference/, where readers find it; an installed package has it inside, where
# Python looks for portaloss.reference. So in a clone it is loaded from the top. (An entry in __path__ would be shorter,
# but would make noxfile, tests and portaloss itself modules of portaloss.)
if (
    not Path(__file__).with_name("reference").is_dir()
    and (_book := Path(__file__).parents[1] / "reference" / "__init__.py").is_file()
):
    _spec = importlib.util.spec_from_file_location("portaloss.reference", _book)
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_spec.name])

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

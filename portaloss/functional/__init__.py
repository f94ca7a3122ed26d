"""The losses, with PyTorch's names, arguments, defaults, results and errors.

Each function takes NumPy arrays and returns a NumPy array or number, or takes torch tensors and returns a tensor that
autograd can differentiate. For NumPy arrays, ``portaloss.value_and_grad`` returns the gradients. A floating dtype is
float16, bfloat16 (for NumPy it comes from ml_dtypes), float32 or float64. Arithmetic on 16-bit operands is done in
float32. No function modifies its arguments.

>>> import numpy as np
>>> float(mse_loss(np.array([1.0, 3.0]), np.array([0.0, 1.0])))  # (1² + 2²) / 2
2.5
"""

from __future__ import annotations

import sys

# each module lists its functions in __all__: a new one needs no line here
from portaloss.functional import linear, pointwise, regression, rowwise, sequence
from portaloss.functional.linear import *  # noqa: F403
from portaloss.functional.pointwise import *  # noqa: F403
from portaloss.functional.regression import *  # noqa: F403
from portaloss.functional.rowwise import *  # noqa: F403
from portaloss.functional.sequence import *  # noqa: F403

__all__: list[str] = []
__all__ += linear.__all__
__all__ += pointwise.__all__
__all__ += regression.__all__
__all__ += rowwise.__all__
__all__ += sequence.__all__

if getattr(sys.modules.get("torch"), "nn", None) is not None:
    import portaloss.pytorch  # noqa: F401  # before somebody puts these functions in the place of PyTorch's

"""What tests of chapters share."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def quiet():
    """As the tile driver does: infinities and nans are results, not errors."""
    with np.errstate(all="ignore"):
        yield

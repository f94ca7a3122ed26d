"""Random calls of every loss. ``nox -s fuzz -- --examples N`` tries more of them than the ordinary test run does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portaloss import arrays

from .calls import calls
from .checks import check_right, check_wrong
from .faults import faults


@pytest.fixture(params=[arrays.NUMPY, arrays.TORCH])
def library(request):
    """The library of the operands."""
    if request.param == arrays.TORCH:
        pytest.importorskip("torch")
    return request.param


def test_numbers_are_right(library, fuzz):
    """Nothing is wrong with the call, but maybe shapes do not fit."""

    @fuzz
    @given(calls(library))
    def right(call):
        check_right(call)

    right()


def test_errors_name_an_argument(library, fuzz):
    """Something is wrong with the call, or looks so."""

    @fuzz
    @given(calls(library).flatmap(lambda call: st.tuples(st.just(call), faults(call.loss, library))))
    def wrong(call_and_faults):
        check_wrong(*call_and_faults)

    wrong()

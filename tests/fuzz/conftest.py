"""How many examples there are: ``--examples N`` in all, random ones; else a few of each property, always the same."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, settings

from portaloss.backends.cpu.threads import use_num_threads

#: Of each property, in the ordinary test run.
_SHARE = 50


def pytest_addoption(parser):
    parser.addoption("--examples", type=int, metavar="N", help="random calls to try in tests/fuzz, in all")


@pytest.fixture
def fuzz(request):
    """The settings of a property: a decorator."""
    examples = request.config.getoption("examples", default=None)
    properties = sum("fuzz" in item.fixturenames for item in request.session.items)
    return settings(
        max_examples=-(-examples // properties) if examples else _SHARE,
        derandomize=examples is None,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )


@pytest.fixture(autouse=True)
def _two_threads():
    """Some calls have several tiles, for several threads; on a busy machine more threads would wait for one another."""
    with use_num_threads(2):
        torch = sys.modules.get("torch")
        before = torch.get_num_threads() if torch else 0
        if torch:
            torch.set_num_threads(1)
        yield
        if torch:
            torch.set_num_threads(before)

"""Deliberately wrong backends must fail parity, and the right one must pass on the same SKUs."""

from __future__ import annotations

import pytest

from portaloss.catalogue import LOSSES
from portaloss.parity import eager

from . import driver_mutants  # noqa: F401  # adds to MUTANTS
from .mutants import MUTANTS, assert_caught, outcome

SUBSET = sorted({(one.kind, one.dtype) for one in MUTANTS})


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch):
    """Without PyTorch's errors, which are not needed here and take half of the time."""
    monkeypatch.setattr(eager, "installed", lambda: False)


def test_there_are_enough_mutants():
    assert len(MUTANTS) >= 24
    assert {one.kind for one in MUTANTS} == set(LOSSES)


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: f"{one.kind.name.lower()}: {one.name}")
def test_mutant_is_caught(one, monkeypatch):
    assert_caught(one, "cpu", monkeypatch)


@pytest.mark.parametrize(("kind", "dtype"), SUBSET, ids=[f"{kind.name.lower()}-{dtype}" for kind, dtype in SUBSET])
def test_the_right_backend_passes(kind, dtype):
    assert outcome("cpu", kind, dtype) == {}

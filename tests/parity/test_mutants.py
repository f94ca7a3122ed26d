"""Deliberately wrong backends must fail parity, and the right one must pass on the same SKUs."""

from __future__ import annotations

import pytest

from portaloss.catalogue import LOSSES
from portaloss.parity import eager, run
from portaloss.plan import _make_plan

from . import driver_mutants  # noqa: F401  # adds to MUTANTS
from .mutants import MUTANTS

SUBSET = sorted({(one.kind, one.dtype) for one in MUTANTS})


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch):
    """PyTorch's error is not asked for here, and takes half of the time."""
    monkeypatch.setattr(eager, "installed", lambda: False)


def _forget_plans():
    """Plans keep what depends on shapes alone, and a mutant's must not outlive it."""
    run._plan.cache_clear()
    _make_plan.cache_clear()


@pytest.fixture(autouse=True)
def _plans_of_its_own():
    _forget_plans()
    yield
    _forget_plans()


def outcome(kind, dtype):
    """The failures of the rows of a kind in a dtype."""
    return {row.sku: row.failures for row in run.run_kind(["cpu"], LOSSES[kind], dtype) if row.status != "passed"}


def test_there_are_enough_mutants():
    assert len(MUTANTS) >= 24
    assert {one.kind for one in MUTANTS} >= set(LOSSES) - {
        19
    }  # fused linear cross-entropy: its math is cross-entropy's


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: f"{one.kind.name.lower()}: {one.name}")
def test_mutant_is_caught(one, monkeypatch):
    one.apply(monkeypatch)
    assert outcome(one.kind, one.dtype), "parity passed a wrong backend"


@pytest.mark.parametrize(("kind", "dtype"), SUBSET, ids=[f"{kind.name.lower()}-{dtype}" for kind, dtype in SUBSET])
def test_the_right_backend_passes(kind, dtype):
    assert outcome(kind, dtype) == {}

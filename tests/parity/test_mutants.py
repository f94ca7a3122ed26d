"""Deliberately wrong backends must fail parity, and the right one must pass on the same SKUs."""

from __future__ import annotations

import re

import pytest

from portaloss.catalogue import LOSSES
from portaloss.parity import eager, run

from . import driver_mutants  # noqa: F401  # adds to MUTANTS
from .mutants import MUTANTS

SUBSET = sorted({(one.kind, one.dtype) for one in MUTANTS})


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch):
    """Without PyTorch's errors, which are not needed here and take half of the time."""
    monkeypatch.setattr(eager, "installed", lambda: False)


def outcome(kind, dtype):
    """The failures of a kind in a dtype, by SKU."""
    lines = run.run_kind(["cpu"], LOSSES[kind], dtype)
    return {line.sku: line.failures for line in lines if line.status != "passed"}


def test_there_are_enough_mutants():
    assert len(MUTANTS) >= 24
    assert {one.kind for one in MUTANTS} == set(LOSSES)


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: f"{one.kind.name.lower()}: {one.name}")
def test_mutant_is_caught(one, monkeypatch):
    one.apply(monkeypatch)
    failures = outcome(one.kind, one.dtype)
    assert failures, "parity passed a wrong backend"
    # an AssertionError is allowed: parity raises it if an operand was modified
    raised = [text for texts in failures.values() for text in texts if re.search(r"\b(?!Assertion)\w+Error: ", text)]
    assert not raised, f"caught by an exception, not by a comparison: {raised[0]}"


@pytest.mark.parametrize(("kind", "dtype"), SUBSET, ids=[f"{kind.name.lower()}-{dtype}" for kind, dtype in SUBSET])
def test_the_right_backend_passes(kind, dtype):
    assert outcome(kind, dtype) == {}

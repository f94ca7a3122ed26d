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
    """PyTorch's error is not asked for here, and takes half of the time."""
    monkeypatch.setattr(eager, "installed", lambda: False)


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
    failures = outcome(one.kind, one.dtype)
    assert failures, "parity passed a wrong backend"
    # parity itself asserts that operands are left as they were
    raised = [text for texts in failures.values() for text in texts if re.search(r"\b(?!Assertion)\w+Error: ", text)]
    assert not raised, f"caught by an exception, not by a comparison: {raised[0]}"


@pytest.mark.parametrize(("kind", "dtype"), SUBSET, ids=[f"{kind.name.lower()}-{dtype}" for kind, dtype in SUBSET])
def test_the_right_backend_passes(kind, dtype):
    assert outcome(kind, dtype) == {}

"""Counts what PyTorch's material was run on, for the summary."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from portaloss.backends.cpu.threads import use_num_threads

_COUNTS = pytest.StashKey[Counter]()
_HERE = "tests/torch_conformance/"


@pytest.fixture(autouse=True)
def _seeded():
    """The same samples and upstream gradients on every run, in any order of the tests."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Thousands of tiny calls: on a busy machine, threads that wait for one another make them ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with use_num_threads(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def tally(request):
    """Counter of "samples", "error inputs" and "module cases"."""
    return request.config.stash.setdefault(_COUNTS, Counter())


def pytest_terminal_summary(terminalreporter, config):
    counts = config.stash.get(_COUNTS, None)
    if counts is None:
        return
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if _HERE in report.nodeid]
    parts = [f"{counts[kind]} {kind}" for kind in ("samples", "error inputs", "module cases")]
    terminalreporter.write_line(f"torch conformance: {', '.join(parts)}, {len(skipped)} skipped")
    for report in skipped:
        terminalreporter.write_line(f"  {report.nodeid}: {report.longrepr[2]}")

"""The machine that a benchmark runs on: what it is, and how many of its threads are used."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from portaloss.parity import machine


def about(device: str, threads: int) -> dict[str, Any]:
    """The versions, the machine and the day."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {**machine.versions(), "liger-kernel": _version("liger-kernel")},
        "machine": {
            "processor": machine.processor(),
            "cores": machine.cores(),
            "system": f"{platform.system()} {platform.machine()}",
            **(_gpu() if device == "cuda" else {}),
        },
        "load": load(),
        "device": device,
        "threads": threads,
    }


def load() -> float | None:
    """How many threads of others want to run here, on average over the last minute; None where no one counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "architecture": getattr(properties, "gcnArchName", f"sm_{properties.major}{properties.minor}"),
        "multiprocessors": properties.multi_processor_count,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }


def default_threads() -> int:
    """As many as PyTorch takes by itself."""
    import torch

    return int(torch.get_num_threads())


@contextmanager
def use_threads(threads: int, device: str) -> Iterator[None]:
    """As many threads for PyTorch, portaloss and NumPy's BLAS; as before afterwards."""
    import torch

    import portaloss

    before = torch.get_num_threads(), portaloss.get_num_threads()
    with ExitStack() as stack:
        if device == "cpu":
            import scipy.linalg.blas  # type: ignore[import-untyped]  # noqa: F401  # only what is loaded is limited
            from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

            stack.enter_context(threadpool_limits(threads, "blas"))
        torch.set_num_threads(threads)
        portaloss.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            portaloss.set_num_threads(before[1])

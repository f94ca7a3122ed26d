"""The machine: its processor, GPU and load, the versions of packages on it, and how many threads are used."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from portaloss import backends
from portaloss.backends.cpu.threads import use_num_threads

#: Distributions whose versions a result can depend on.
_PACKAGES = ("portaloss", "numpy", "scipy", "ml_dtypes", "torch", "triton")

#: Other distributions of the same package: ROCm's builds of triton.
_OTHER_NAMES = {"triton": ("pytorch-triton-rocm", "pytorch-triton")}


@cache
def _version(package: str) -> str | None:
    for name in (package, *_OTHER_NAMES.get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def versions() -> dict[str, str | None]:
    """Package -> version; None where it is not installed. Nothing is imported."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def device(backend: str) -> str:
    """The name of what a backend runs on; empty where the backend is absent."""
    if backends.available(backend) is not None:
        return ""
    name = getattr(backends.load(backend), "device", None)
    return str(name()) if name is not None else processor()


@cache
def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def load() -> float | None:
    """How many threads wanted to run here, on average over the last minute; None where the system does not count."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


# For benchmarks, which need PyTorch


def about(device: str, threads: int) -> dict[str, Any]:
    """What a benchmark's report says about the machine, the versions and the date."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {**versions(), "liger-kernel": _version("liger-kernel")},
        "machine": {
            "processor": processor(),
            "cores": cores(),
            "system": f"{platform.system()} {platform.machine()}",
            **(_gpu() if device == "cuda" else {}),
        },
        "load": load(),
        "device": device,
        "threads": threads,
    }


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


@contextmanager
def use_threads(threads: int, device: str) -> Iterator[None]:
    """Limit PyTorch, portaloss and NumPy's BLAS to a number of threads; restore theirs afterwards."""
    import torch

    before = torch.get_num_threads()
    with ExitStack() as stack:
        if device == "cpu":
            import scipy.linalg.blas  # type: ignore[import-untyped]  # noqa: F401  # only what is loaded is limited
            from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

            stack.enter_context(threadpool_limits(threads, "blas"))
        torch.set_num_threads(threads)
        stack.enter_context(use_num_threads(threads))
        try:
            yield
        finally:
            torch.set_num_threads(before)

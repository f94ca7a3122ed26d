"""What the machine is, and which versions run on it."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from portaloss import backends

#: Distributions whose versions a result can depend on.
_PACKAGES = ("portaloss", "numpy", "scipy", "ml_dtypes", "torch", "triton")


@cache
def _versions() -> tuple[tuple[str, str | None], ...]:
    found: list[tuple[str, str | None]] = [("python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, _of_rocm(name)))
    return tuple(found)


def _of_rocm(name: str) -> str | None:
    """ROCm's builds of triton have a name of their own."""
    if name != "triton":
        return None
    for other in ("pytorch-triton-rocm", "pytorch-triton"):
        try:
            return version(other)
        except PackageNotFoundError:
            continue
    return None


def versions() -> dict[str, str | None]:
    """Package -> version; None where it is not installed. Nothing is imported."""
    return dict(_versions())


@cache
def device(backend: str) -> str:
    """The name of what a backend runs on; empty where it is absent."""
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

"""Peak extra memory: how far the memory in use rises during a forward pass, and during forward and backward.

On the CPU each contender is measured in a process of its own, in which only a tiny case has run before: memory that
another contender left to the allocator would hide a rise. On Linux the high-water mark of a process can be reset.
Elsewhere it covers the whole life of the process, including the drawing of the operands, so a rise may be missed.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import portaloss
from portaloss.bench.cases import Spec, draw, shape_of

#: Operands of fewer bytes are not measured: pages, arenas and Python's own objects would dominate.
LEAST_BYTES = 1 << 20

DIRECTIONS = ("forward", "forward_backward")

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_extra(spec: Spec, name: str, threads: int) -> dict[str, int | None]:
    """Direction -> bytes, measured in another process; None where the system cannot tell, or the process died."""
    context = _context()
    mine, other = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(other, spec, name, threads), daemon=True)
    process.start()
    other.close()
    try:
        found: dict[str, int | None] = mine.recv()
    except EOFError:
        found = dict.fromkeys(DIRECTIONS)
    finally:
        process.join()
        mine.close()
    return found


def _context() -> Any:
    """A fork server that has only imported torch, where there is one: it forks in milliseconds. Else new processes."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "portaloss.functional", __name__])
    return context


def _child(connection: Connection, spec: Spec, name: str, threads: int) -> None:
    from portaloss.bench import contenders
    from portaloss.machine import use_threads

    warnings.simplefilter("ignore")  # the parent process has shown them
    with use_threads(threads, "cpu"):
        tiny = contenders.prepare(name, draw(Spec(spec.kind, spec.dtype, "tiny", shape_of(spec.kind, "tiny"))))
        tiny.forward()
        tiny.forward_backward()
        contender = contenders.prepare(name, draw(spec))
        found = {direction: rise(getattr(contender, direction)) for direction in DIRECTIONS}
    connection.send(found)
    connection.close()


def rise(call: Callable[[], Any]) -> int | None:
    """How many bytes a call adds to this process's resident memory at the peak; None where that is unknown."""
    gc.collect()
    portaloss.empty_cache()
    _trim()
    if _reset():
        before = _resident("VmRSS")
        call()
        return max(0, _resident("VmHWM") - before)
    if sys.platform == "win32":
        return None
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return peak if sys.platform == "darwin" else peak * 1024


def of_gpu(call: Callable[[], Any]) -> int:
    """How many bytes a call adds to PyTorch's allocations on the GPU at the peak."""
    import torch

    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    del result
    return int(torch.cuda.max_memory_allocated() - before)


def _trim() -> None:
    """Return the C library's free memory to the system, where it has malloc_trim."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, TypeError, AttributeError):
        return


def _reset() -> bool:
    """Reset the high-water mark to the resident memory; returns whether that worked."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")

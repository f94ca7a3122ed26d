"""Time: contenders take turns, so that whatever else the machine does meets them all."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

#: Seconds that many calls of something take, for one call.
Clock = Callable[[Callable[[], Any], int], float]

#: What is timed lasts as long at least, in seconds: tiny losses are called many times.
_LEAST = 5e-3

#: Bytes that the copy moves each way: more than any cache holds.
_COPIED = 1 << 30

#: Rounds at least, however long they take: with fewer a median is no better than any of them.
_LEAST_ROUNDS = 5


def of_cpu(call: Callable[[], Any], number: int) -> float:
    """By the wall clock."""
    start = perf_counter()
    for _ in range(number):
        call()
    return (perf_counter() - start) / number


def of_gpu(call: Callable[[], Any], number: int) -> float:
    """By events on the GPU. Calls are queued: a launch shows only where the host can't keep up."""
    import torch

    event: Any = torch.cuda.Event  # it has no types
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    for _ in range(number):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / number


def clock(device: str) -> Clock:
    """The clock of a device."""
    return of_cpu if device == "cpu" else of_gpu


def interleaved(
    calls: Mapping[str, Callable[[], Any]], clock: Clock, rounds: int, seconds: float = math.inf
) -> dict[str, dict[str, Any]]:
    """The statistics of each call.

    Args:
        calls: by name; warm already.
        clock: measures.
        rounds: in each, every call has its turn; every other round in reverse order.
        seconds: no new round is begun after as many, once there are enough for a median.
    """
    with _no_collection():
        numbers = {name: _number(call, clock) for name, call in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        start = perf_counter()
        for i in range(rounds):
            if i >= _LEAST_ROUNDS and perf_counter() - start > seconds:
                break
            for name in list(calls)[:: 1 if i % 2 == 0 else -1]:
                times[name].append(clock(calls[name], numbers[name]))
            gc.collect(0)
    return {name: {**statistics(times[name]), "calls": numbers[name]} for name in calls}


def _number(call: Callable[[], Any], clock: Clock) -> int:
    """How many calls last long enough."""
    once = clock(call, 1)
    if once < 10 * _LEAST:  # the first one may have met what came before it in the caches, and anyone a disturbance
        once = min(once, clock(call, 1), clock(call, 1))
    return max(1, math.ceil(_LEAST / max(once, 1e-7)))


def statistics(times: Sequence[float]) -> dict[str, Any]:
    """The median and the quartiles, which a few disturbed rounds leave alone, and the least."""
    first, median, third = (float(x) for x in np.percentile(times, (25, 50, 75)))
    return {"median_s": median, "q1_s": first, "q3_s": third, "min_s": min(times), "rounds": len(times)}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's garbage collector, which would strike whoever happens to run."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def copy_bandwidth(device: str, rounds: int) -> float:
    """GB/s that a copy on a device reads and writes together: what bandwidths are compared with."""
    import torch

    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    call = partial(target.copy_, source)
    call()
    return float(2 * _COPIED / interleaved({"copy": call}, clock(device), rounds)["copy"]["median_s"] / 1e9)

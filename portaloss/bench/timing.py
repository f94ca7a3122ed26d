"""Timing: contenders take turns, so that disturbances of the machine affect all of them."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

#: Times a function over a number of calls; returns the seconds for one call.
Clock = Callable[[Callable[[], Any], int], float]

#: The shortest measurement, in seconds: a tiny loss is called many times in one.
_LEAST = 5e-3

#: Bytes that the copy reads, and writes: more than any cache holds.
_COPIED = 1 << 30

#: The least number of rounds, however long they take: the median of fewer would be too noisy.
_LEAST_ROUNDS = 5


def of_cpu(call: Callable[[], Any], number: int) -> float:
    """Time on the CPU, by the wall clock."""
    start = perf_counter()
    for _ in range(number):
        call()
    return (perf_counter() - start) / number


def of_gpu(call: Callable[[], Any], number: int) -> float:
    """Time on the GPU, by events. Calls are queued: launch time shows only where the host is slower than the GPU."""
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
        calls: by name; warmed up already.
        clock: measures the calls.
        rounds: in each, every call has its turn; every other round is in reverse order.
        seconds: no round begins after this time, once there are enough for a median.
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
    """How many calls make up one measurement."""
    once = clock(call, 1)
    if once < 10 * _LEAST:  # the first call may have found cold caches, and any call may have been disturbed
        once = min(once, clock(call, 1), clock(call, 1))
    return max(1, math.ceil(_LEAST / max(once, 1e-7)))


def statistics(times: Sequence[float]) -> dict[str, Any]:
    """The median and the quartiles, which a few disturbed rounds do not change, and the minimum."""
    first, median, third = (float(x) for x in np.percentile(times, (25, 50, 75)))
    return {"median_s": median, "q1_s": first, "q3_s": third, "min_s": min(times), "rounds": len(times)}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable Python's garbage collector, which would add its time to whichever contender is running."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def copy_bandwidth(device: str, rounds: int) -> float:
    """GB/s that a copy on the device reads and writes together; other bandwidths are compared with it."""
    import torch

    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    call = partial(target.copy_, source)
    call()
    return float(2 * _COPIED / interleaved({"copy": call}, clock(device), rounds)["copy"]["median_s"] / 1e9)

"""Records and compiles in worker processes: Triton's compiler can crash, so this process never imports it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from portaloss.chips import CHIPS
from portaloss.console import MissingExtraError, progress
from portaloss.kinds import LossKind
from portaloss.machine import cores
from portaloss.targets.report import Compiled

Task = TypeVar("Task")
Result = TypeVar("Result")


def missing() -> str | None:
    """Why kernels cannot be compiled here, or None."""
    absent = [package for package in ("torch", "triton") if find_spec(package) is None]
    return str(MissingExtraError(" and ".join(absent), "targets", "triton")) if absent else None


@dataclass(frozen=True)
class Recorded:
    """A launch as it is sent from the process that recorded it to one that compiles it."""

    key: str
    kernel: str
    variant: str
    layout: str
    kind: str
    dtype: str
    chip: str
    launch: bytes


def run(chips: Sequence[str], kinds: Sequence[LossKind], dtypes: Sequence[str]) -> list[Compiled]:
    """Compile all launches of the kinds on the chips. A launch that several kinds share is compiled once for each chip.

    Args:
        chips: names in ``CHIPS``.
        kinds: the kinds.
        dtypes: names of dtypes.
    """
    workers = cores()
    recordings = [(chip, dtype, tuple(kinds)) for chip in chips for dtype in dtypes]
    found: dict[tuple[str, ...], list[Recorded]] = {}
    with tempfile.TemporaryDirectory(prefix="portaloss-") as folder:
        with progress(len(recordings), "recording launches") as tick:
            for (chip, dtype, _), recorded in _each(_record, recordings, workers, folder):
                if recorded is None:
                    raise RuntimeError(f"a process ended while it recorded the launches for {chip} in {dtype}")
                found[chip, dtype] = recorded
                tick(1)
        unique: dict[tuple[str, str], Recorded] = {}
        for chip, dtype, _ in recordings:  # in a fixed order, whichever finished first
            for one in found[chip, dtype]:
                unique.setdefault((chip, one.key), one)
        lines: dict[tuple[str, str], Compiled] = {}
        with progress(len(unique), "compiling") as tick:
            for one, line in _each(_compile, unique.values(), workers, folder):
                lines[one.chip, one.key] = line or _crashed(one)
                tick(1)
    return [lines[where] for where in unique]


def _crashed(one: Recorded) -> Compiled:
    return Compiled(
        one.kernel, one.variant, one.layout, one.kind, one.dtype, one.chip, 0.0,
        problem="the compiler ended the process it ran in",
    )  # fmt: skip


def _each(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int, folder: str
) -> Iterator[tuple[Task, Result | None]]:
    """Tasks and their results, in the order in which they finish; None where the task ended its process."""
    waiting = deque(tasks)
    while waiting:
        running: dict[Future[Result], Task] = {}
        try:
            with _pool(min(workers, len(waiting)), folder) as pool:
                while waiting or running:
                    while waiting and len(running) < 2 * workers:
                        running[pool.submit(function, waiting[0])] = waiting[0]
                        waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield running.pop(future), result
        except BrokenProcessPool:
            for task in running.values():  # one of them ended it; alone in a process, it will do so again
                try:
                    with _pool(1, folder) as pool:
                        alone = pool.submit(function, task).result()
                except BrokenProcessPool:
                    yield task, None
                else:
                    yield task, alone


def _pool(workers: int, folder: str) -> ProcessPoolExecutor:
    # spawned: a fork would inherit locks that other threads hold
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(folder,))


# In the workers


def _start(folder: str) -> None:
    """Before Triton is imported: use an empty cache, and one thread."""
    os.environ["TRITON_CACHE_DIR"] = str(_cache(folder))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the workers
    import torch

    torch.set_num_threads(1)


def _cache(folder: str) -> Path:
    return Path(folder) / str(os.getpid())


def _record(task: tuple[str, str, tuple[LossKind, ...]]) -> list[Recorded]:
    from portaloss.targets.record import launches

    chip, dtype, kinds = task
    return [
        Recorded(one.key, one.name, one.variant, one.layout, kind.name.lower(), dtype, chip, pickle.dumps(one))
        for kind in kinds
        for one in launches(kind, dtype, CHIPS[chip])
    ]


def _compile(one: Recorded) -> Compiled:
    from portaloss.targets.compiling import compile_launch

    try:
        return compile_launch(pickle.loads(one.launch), one.kind, one.dtype, CHIPS[one.chip])
    finally:
        # the cache of ten thousand kernels would take gigabytes
        shutil.rmtree(os.environ["TRITON_CACHE_DIR"], ignore_errors=True)

"""Backends that need separate processes: Triton's interpreter must be enabled before kernels are decorated."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec

from portaloss import machine
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind
from portaloss.parity.lines import Line

#: Backend -> the environment variables that its process needs.
ENVIRONMENTS = {"triton-interpret": {"TRITON_INTERPRET": "1"}}

#: Kinds that take longest: they start first, so that no process is left waiting at the end.
_SLOW = (LossKind.CTC, LossKind.MULTILABEL_MARGIN)


def apart(name: str) -> bool:
    """Whether a backend must run in separate processes, and can."""
    needed = ENVIRONMENTS.get(name)
    if needed is None or all(os.environ.get(key) == value for key, value in needed.items()):
        return False
    return find_spec("triton") is not None and find_spec("torch") is not None


class Lane:
    """The lines of one backend, computed in the background by one process for each core."""

    def __init__(self, name: str, kinds: Sequence[LossKind], dtypes: Sequence[str]) -> None:
        self.name = name
        tasks = [(kind, dtype) for kind in kinds for dtype in dtypes]
        self._pool = ProcessPoolExecutor(
            max(1, min(machine.cores(), len(tasks))),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(ENVIRONMENTS[name],),
        )
        futures: dict[tuple[LossKind, str], Future[list[Line]]] = {
            task: self._pool.submit(_lines, name, *task)
            for task in sorted(tasks, key=lambda task: task[0] not in _SLOW)
        }
        self._futures = {task: futures[task] for task in tasks}

    def lines(self, tick: Callable[[int], None]) -> list[Line]:
        """Wait for the processes; returns the lines in the order of kinds and dtypes.

        Args:
            tick: called with 1 for each kind and dtype that is done.

        Raises:
            RuntimeError: a process ended unexpectedly.
        """
        try:
            for future in as_completed(self._futures.values()):
                future.result()
                tick(1)
        except BrokenProcessPool as error:
            raise RuntimeError(f"backend {self.name}: a process that computed its lines ended") from error
        finally:
            self._pool.shutdown(cancel_futures=True)
        return [line for future in self._futures.values() for line in future.result()]

    def __len__(self) -> int:
        return len(self._futures)


# In the processes


def _start(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)  # triton is not imported yet
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the workers
    import torch

    torch.set_num_threads(1)


def _lines(name: str, kind: LossKind, dtype: str) -> list[Line]:
    from portaloss.parity import run

    return list(run.run_kind([name], LOSSES[kind], dtype))

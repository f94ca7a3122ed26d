"""Backends that need processes of their own: Triton's interpreter has to be chosen before kernels are decorated."""

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

#: Backend -> what has to be in its process's environment.
ENVIRONMENTS = {"triton-interpret": {"TRITON_INTERPRET": "1"}}

#: Kinds to begin with, since they take longest: in the end no process should wait for another.
_SLOW = (LossKind.CTC, LossKind.MULTILABEL_MARGIN)


def apart(name: str) -> bool:
    """Whether a backend must run in other processes than this one, and can."""
    needed = ENVIRONMENTS.get(name)
    if needed is None or all(os.environ.get(key) == value for key, value in needed.items()):
        return False
    return find_spec("triton") is not None and find_spec("torch") is not None


class Lane:
    """The lines of one backend, computed by one process a core while this one goes on."""

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
        """Wait for the processes; the lines in the order of kinds and dtypes.

        Args:
            tick: told of each kind and dtype that is done.

        Raises:
            RuntimeError: a process ended before its time.
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
    os.environ.update(environment)  # nothing has imported triton yet
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the first one ends the others
    import torch

    torch.set_num_threads(1)


def _lines(name: str, kind: LossKind, dtype: str) -> list[Line]:
    from portaloss.parity import run

    return list(run.run_kind([name], LOSSES[kind], dtype))

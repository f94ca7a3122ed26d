"""Parity on emulated chips, in processes of their own: one for each core, since most of the work is Python's."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from portaloss import machine
from portaloss.catalogue import LOSSES
from portaloss.kinds import LossKind
from portaloss.parity.lines import Line

#: Kinds that take longest: they start first, so that no process is left waiting at the end.
_SLOW = (
    LossKind.MULTILABEL_MARGIN,
    LossKind.CTC,
    LossKind.FUSED_LINEAR_CROSS_ENTROPY,
    LossKind.TRIPLET_MARGIN,
    LossKind.CROSS_ENTROPY,
)


class Lane:
    """The lines of the backend ``triton`` on an emulated chip, computed in the background."""

    def __init__(self, chip: str, model: str, kinds: Sequence[LossKind], dtypes: Sequence[str]) -> None:
        self.chip = chip
        tasks = [(kind, dtype) for kind in kinds for dtype in dtypes]
        self._pool = ProcessPoolExecutor(
            max(1, min(machine.cores(), len(tasks))),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(chip, model),
        )
        futures: dict[tuple[LossKind, str], Future[list[Line]]] = {
            task: self._pool.submit(_lines, *task) for task in sorted(tasks, key=lambda task: task[0] not in _SLOW)
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
            raise RuntimeError(f"emulated {self.chip}: a process that computed its lines ended") from error
        finally:
            self._pool.shutdown(cancel_futures=True)
        return [line for future in self._futures.values() for line in future.result()]

    def __len__(self) -> int:
        return len(self._futures)


def emulate(chip: str, model: str) -> None:
    """Emulate a chip from now on in this process, with all checks."""
    from triton import knobs

    from portaloss import emulator

    knobs.compilation.store_binary_only = True  # of thousands of kernels, the cache keeps the text that is run
    emulator.install(chip, emulator.Settings(model=emulator.Model(model), races=True))


# In the processes


def _start(chip: str, model: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the workers
    import torch

    torch.set_num_threads(1)
    emulate(chip, model)


def _lines(kind: LossKind, dtype: str) -> list[Line]:
    from portaloss.parity import run

    return list(run.run_kind(["triton"], LOSSES[kind], dtype))

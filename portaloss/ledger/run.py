"""Runs each kind once on the emulated chip of a GPU, and makes a line of what was counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from portaloss import emulator, engine
from portaloss.arrange import specs
from portaloss.bench import cases
from portaloss.catalogue import Family
from portaloss.emulator.ledger import CLASSES, Entry, Ledger
from portaloss.kinds import LossKind, LossReduction
from portaloss.ledger import gpus
from portaloss.plan import make_plan

#: Rows that are emulated (samples of CTC) of ``bench``'s large operands; what they cost is multiplied.
ROWS = 64


@dataclass(frozen=True)
class Line:
    """The launches of a kind, forward and backward with reduction mean, counted and scaled to the whole shape."""

    kind: str
    dtype: str
    gpu: str
    chip: str
    shape: tuple[int, ...]
    counted_shape: tuple[int, ...]  #: what was emulated
    launches: tuple[str, ...]  #: the kernels
    ideal_bytes: int | None  #: operands read once, gradients written once; None where memory is not the limit
    moved_bytes: int  #: distinct sectors that are read, and those that are written
    sector_bytes: int  #: sectors that instructions ask for
    instructions: dict[str, float]  #: by class, in lanes for each element
    divergence: float  #: share of lanes that do not take part
    bank_conflicts: float  #: steps of shared memory, beside the least possible
    registers: int
    occupancy: float
    seconds: dict[str, float]  #: limit -> the least time

    @property
    def limit(self) -> str:
        """What takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def predicted(self) -> float:
        """How long that takes."""
        return self.seconds[self.limit]


def run(
    kinds: Sequence[LossKind], dtypes: Sequence[str], names: Sequence[str], tick: Callable[[int], None]
) -> list[Line]:
    """A line for each kind, dtype and GPU.

    Args:
        kinds: the kinds.
        dtypes: names of dtypes.
        names: names in ``gpus.GPUS``.
        tick: called with 1 after each line.
    """
    made = []
    for kind, dtype, name in product(kinds, dtypes, names):
        made.append(line(kind, dtype, gpus.GPUS[name]))
        tick(1)
    return made


def line(kind: LossKind, dtype: str, gpu: gpus.Gpu) -> Line:
    """Count a kind on the chip of a GPU."""
    whole = cases.shape_of(kind, "large")
    spec = cases.Spec(kind, dtype, "large", cases.shape_of(kind, "large", ROWS))
    case = cases.draw(spec)
    plan = make_plan(kind, dtype, LossReduction.MEAN, "triton", ())
    ledger = Ledger()
    with emulator.emulating(gpu.chip, counter=ledger):
        prepared = engine.prepare(plan, specs(case.operands))
        if engine.early_gradients(plan, case.wanted):
            engine.forward(prepared, case.operands, case.wanted)
        else:
            engine.backward(prepared, case.operands, 1.0, case.wanted)
    entries = ledger.entries
    scale = prod(whole) / prod(spec.shape)
    elements = prod(spec.shape)
    if spec.loss.family is Family.LINEAR_CROSS_ENTROPY:
        elements = spec.shape[0] * spec.shape[2]  # of the logits
    issued = {name: sum(entry.instructions[name] * entry.warp_size for entry in entries) for name in CLASSES}
    lanes = sum(issued.values())
    widest = max(entries, key=lambda entry: entry.issued)
    registers = gpus.registers(widest.text)
    ideal = case.moved("backward")
    return Line(
        kind=kind.name.lower(),
        dtype=dtype,
        gpu=gpu.name,
        chip=gpu.chip,
        shape=whole,
        counted_shape=spec.shape,
        launches=tuple(entry.kernel for entry in entries),
        ideal_bytes=None if ideal is None else round(ideal * scale),
        moved_bytes=round(sum(entry.moved for entry in entries) * scale),
        sector_bytes=round(sum(entry.sectors * entry.sector for entry in entries) * scale),
        instructions={name: count / elements for name, count in issued.items()},
        divergence=1.0 - sum(entry.lanes for entry in entries) / lanes,
        bank_conflicts=_bank_conflicts(entries),
        registers=registers,
        occupancy=gpu.occupancy(widest, registers),
        seconds={name: scale * value for name, value in gpu.seconds(entries).items()},
    )


def _bank_conflicts(entries: Sequence[Entry]) -> float:
    least = sum(entry.least_wavefronts for entry in entries)
    return sum(entry.wavefronts for entry in entries) / least if least else 1.0

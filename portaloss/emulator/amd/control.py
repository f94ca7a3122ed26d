"""Branches, barriers and the end of a kernel; and instructions that change nothing here.

Each function gets the place of the instruction, and returns a function that says where the group continues: at a
place, at the next instruction (None), or nowhere (STOP), if its waves now differ or wait. Then ``Waves.places`` says
where each wave is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from portaloss.emulator.amd.assembly import VCC, Instruction
from portaloss.emulator.amd.lanes import any_lane
from portaloss.emulator.amd.operands import Context, unknown
from portaloss.emulator.amd.vector import Run
from portaloss.emulator.amd.waves import Array, Waves
from portaloss.emulator.errors import WaitError

#: The group does not continue as it is.
STOP = -1

#: Instructions that only concern timing, caches or the end of a program.
IGNORED = frozenset(
    {
        "s_nop", "s_delay_alu", "s_clause", "s_sendmsg", "s_set_inst_prefetch_distance", "s_waitcnt_depctr",
        "s_wait_alu", "s_code_end", "s_sleep", "s_setprio", "s_inst_prefetch", "s_icache_inv",
        "buffer_gl0_inv", "buffer_gl1_inv", "buffer_inv", "buffer_wbl2", "buffer_wbinvl1", "buffer_wbinvl1_vol",
        "global_inv", "global_wb", "global_wbinv",
    }
)  # fmt: skip


def _vcc_any(waves: Waves) -> Array:
    bits = waves.scalar["u64" if waves.lanes == 64 else "u32"][waves.group, VCC * 32 // waves.lanes]
    return np.asarray(bits != 0)


_CONDITIONS: dict[str, Any] = {
    "s_cbranch_scc0": lambda waves: ~waves.scc[waves.group],
    "s_cbranch_scc1": lambda waves: waves.scc[waves.group],
    "s_cbranch_vccz": lambda waves: ~_vcc_any(waves),
    "s_cbranch_vccnz": _vcc_any,
    "s_cbranch_execz": lambda waves: ~any_lane(waves),
    "s_cbranch_execnz": any_lane,
}


def control(instruction: Instruction, place: int, context: Context) -> Run | None:
    """The function of a control instruction, or None if it is none."""
    name = instruction.name
    if name in ("s_branch", *_CONDITIONS):
        label = instruction.operands[0].text
        if label not in context.program.labels:
            raise unknown(context, instruction, f"unknown label {label}")
        target = context.program.labels[label]
        if name == "s_branch":
            return lambda waves: target
        return _branch(_CONDITIONS[name], target, place)
    if name == "s_endpgm":
        return _end
    if name in ("s_barrier", "s_barrier_signal", "s_barrier_wait"):
        return _barrier(instruction, place, context)
    return None


def _branch(condition: Any, target: int, place: int) -> Run:
    def run(waves: Waves) -> int | None:
        taken = condition(waves)
        if taken.all():
            return target
        if not taken.any():
            return None
        waves.places[waves.group] = np.where(taken, target, place + 1)
        return STOP

    return run


def _end(waves: Waves) -> int:
    waves.ended[waves.group] = True
    waves.release()
    return STOP


def _barrier(instruction: Instruction, place: int, context: Context) -> Run:
    """A wave signals that it has arrived, and waits for all waves of its block. RDNA 4 has an instruction for each."""
    signals, waits = instruction.name != "s_barrier_wait", instruction.name != "s_barrier_signal"
    site = context.site(instruction)

    def run(waves: Waves) -> int | None:
        if signals:
            if waves.tracker.stores_shared():
                raise WaitError(f"{site}: {waves.own.name(0)}: a store to shared memory is under way at the barrier")
            waves.arrived[waves.group] += 1
            if waves.stores.issued:
                waves.stores.arrive(waves, waves.tracker.stores())
        if not waits:
            return None
        waves.places[waves.group] = place + 1
        waves.waiting[waves.group] = True
        waves.release()
        return STOP

    return run

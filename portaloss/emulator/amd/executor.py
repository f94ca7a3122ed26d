"""Runs an AMD program in the lanes of a batch of blocks.

Waves at the same instruction run together: one group at a time, the one at the smallest place. A group runs until its
waves differ, wait at a barrier or end, or until it comes to a place where other waves are: these then join it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from portaloss.emulator.amd.assembly import TTMP, Program, parse
from portaloss.emulator.amd.control import STOP
from portaloss.emulator.amd.decode import Decoded, decode
from portaloss.emulator.amd.operands import Context
from portaloss.emulator.amd.waits import NOTHING, SCALAR, State
from portaloss.emulator.amd.waves import Array, Waves
from portaloss.emulator.errors import BarrierError, Site, UnknownInstructionError, WaitError
from portaloss.emulator.launch import Batch, Launch
from portaloss.emulator.models import Model

_NEVER = np.iinfo(np.int64).max


class Executor:
    """The program of a kernel, decoded."""

    def __init__(self, assembly: str, model: Model | None = None) -> None:
        self.text = assembly
        self.program: Program = parse(assembly)
        context = Context(self.program, model or Model())
        modes = self.program.descriptor
        if modes.get("float_round_mode_32", 0) or modes.get("float_round_mode_16_64", 0):
            raise UnknownInstructionError(f"{self.program.name}: a rounding mode other than to nearest")
        if modes.get("private_segment_fixed_size", 0) and modes.get("user_sgpr_private_segment_buffer", 0):
            raise UnknownInstructionError(f"{self.program.name}: private memory by a buffer, as on gfx90a")
        self._context = context
        self._issued: Array | None = None  #: of each instruction: how many waves issued it, and in how many lanes
        self._code: list[Decoded] = [
            decode(instruction, place, context) for place, instruction in enumerate(self.program.instructions)
        ]

    def run(self, batch: Batch) -> None:
        """Run the program in all lanes of a batch, to its end."""
        counter = batch.launch.settings.counter
        self._issued = None if counter is None else np.zeros((2, len(self._code)), np.int64)
        self.execute(self._waves(batch))
        if counter is not None and self._issued is not None:
            for one, (warps, lanes) in zip(self._code, self._issued.T.tolist(), strict=True):
                counter.issued(one.text, warps, lanes)

    def _waves(self, batch: Batch) -> Waves:
        """The waves as the hardware starts them: arguments' address, block index and thread number in registers."""
        program, launch = self.program, batch.launch
        if program.lanes != launch.warp_size:
            raise ValueError(f"{program.name}: {program.lanes} lanes in a wave, launched with {launch.warp_size}")
        blocks, first = batch.lanes.blocks, int(batch.lanes.block[0])
        registers = max(program.descriptor.get("next_free_vgpr", 256), 1)
        private = program.descriptor.get("private_segment_fixed_size", 0)
        waves = Waves(registers, program.lanes, launch.num_warps, blocks, first, private)
        waves.memory, waves.shared = batch.memory, batch.shared
        waves.vector["u32"][0] = waves.who.thread.reshape(waves.count, waves.lanes)
        x, y, _ = launch.grid
        block = waves.who.block.reshape(waves.count, waves.lanes)[:, 0]
        indices = (block % x, block // x % y, block // (x * y))
        self._start(waves, _argument_segment(program, batch), indices)
        return waves

    def _start(self, waves: Waves, arguments: int, indices: tuple[Any, Any, Any]) -> None:
        descriptor, scalars = self.program.descriptor, waves.scalar["u32"]
        sizes = {"private_segment_buffer": 4, "dispatch_ptr": 2, "queue_ptr": 2, "kernarg_segment_ptr": 2}
        place = 0
        for name, size in sizes.items():
            if descriptor.get(f"user_sgpr_{name}"):
                if name == "kernarg_segment_ptr":
                    scalars[:, place], scalars[:, place + 1] = arguments & 0xFFFFFFFF, arguments >> 32
                place += size
        if self.program.generation >= 12:
            scalars[:, TTMP + 9] = indices[0]
            scalars[:, TTMP + 7] = indices[1] | indices[2] << 16
            scalars[:, TTMP + 8] = np.repeat(np.arange(waves.per_block), waves.blocks) << 25
            return
        place = descriptor.get("user_sgpr_count", place)
        for axis, index in zip("xyz", indices, strict=True):
            if descriptor.get(f"system_sgpr_workgroup_id_{axis}", axis == "x"):
                scalars[:, place] = index
                place += 1

    def execute(self, waves: Waves) -> None:
        """Run waves whose registers are set, to their end."""
        states: list[State] = [NOTHING]
        number: dict[State, int] = {NOTHING: 0}
        of_wave = np.zeros(waves.count, np.int64)
        tracker = waves.tracker
        while True:
            runnable = ~(waves.ended | waves.waiting)
            if not runnable.any():
                if waves.waiting.any():
                    self._stuck(waves)
                return
            places = np.where(runnable, waves.places, _NEVER)
            place = int(places.min())
            here = np.flatnonzero(places == place)
            waves.select(here)
            tracker.join([states[k] for k in dict.fromkeys(of_wave[here].tolist())])
            places[here] = _NEVER
            self._group(waves, place, int(places.min()))
            if tracker.state not in number:
                number[tracker.state] = len(states)
                states.append(tracker.state)
            of_wave[here] = number[tracker.state]

    def _group(self, waves: Waves, place: int, limit: int) -> None:
        """Run the selected waves until they stop, or come to the place where others are."""
        code, tracker = self._code, waves.tracker
        while place < limit:
            step = code[place]
            if self._issued is not None:
                self._issued[:, place] += waves.size, waves.size * waves.lanes if waves.full else waves.active.sum()
            if tracker.pending and not tracker.pending.isdisjoint(step.touched):
                self._unwaited(place, waves)
            if step.control:
                assert step.run is not None
                target = step.run(waves)
                if target == STOP:
                    return
                place = place + 1 if target is None else target
                continue
            if step.run is not None:
                step.run(waves)
                if step.operation is not None:
                    tracker.issue(step.operation)
            elif step.waits is not None:
                tracker.wait(step.waits)
            place += 1
        waves.places[waves.group] = place

    def _site(self, place: int) -> Site:
        return self._context.site(self.program.instructions[place])

    def _unwaited(self, place: int, waves: Waves) -> None:
        names = [
            f"s{register - SCALAR}" if register >= SCALAR else f"v{register}"
            for register in sorted(waves.tracker.pending & self._code[place].touched)
        ]
        raise WaitError(
            f"{self._site(place)}: {waves.own.name(0)}: {', '.join(names)} is under way from memory, and nothing has "
            "waited for it"
        )

    def _stuck(self, waves: Waves) -> None:
        place = int(waves.places[waves.waiting][0])
        raise BarrierError(
            f"{self._site(max(place - 1, 0))}: waves wait at a barrier that the others of their block do not come to"
        )


def argument_bytes(program: Program, launch: Launch) -> np.ndarray[Any, Any]:
    """The argument segment: each argument at its offset; what the launch does not give is 0."""
    segment = np.zeros(max(program.descriptor.get("kernarg_size", 0), 8), np.uint8)
    if len(launch.arguments) > len(program.arguments):
        raise ValueError(
            f"{program.name}: {len(launch.arguments)} arguments, expected {len(program.arguments)} at most"
        )
    for given, place in zip(launch.arguments, program.arguments, strict=False):
        bits = (given.bits & ((1 << 8 * place.size) - 1)).to_bytes(place.size, "little")
        segment[place.offset : place.offset + place.size] = np.frombuffer(bits, np.uint8)
    return segment


def _argument_segment(program: Program, batch: Batch) -> int:
    """The address of the arguments, which are put into global memory by the first batch of a launch."""
    name = f"the arguments of {program.name}"
    for region in batch.memory.regions:
        if region.name == name:
            return region.base
    return batch.memory.add(name, argument_bytes(program, batch.launch), 0).base

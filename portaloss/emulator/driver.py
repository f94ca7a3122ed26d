"""A Triton driver for a GPU that is not there: kernels that are launched on CPU tensors run emulated.

    from portaloss.emulator.driver import emulating

    with emulating("gfx942"):
        kernel[grid](x, y, n, BLOCK=1024)      # x, y: CPU tensors; any kernel without matrix instructions

Everything before the hardware is Triton's own: it binds the arguments, specialises the kernel, compiles it for the
chip, and asks the driver to launch the result. Only the last stage, the assembler, is left out: the text that it would
get is what the emulator runs.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from portaloss.chips import CHIPS, Chip
from portaloss.emulator import launch as launches
from portaloss.emulator.launch import Argument, Executor, Launch, Settings
from portaloss.emulator.memory import GlobalMemory

Array = npt.NDArray[Any]

#: The vendor's assembler stage -> the name of the text that it would get.
_ASSEMBLER = {"cubin": "ptx", "hsaco": "amdgcn"}

_INTEGERS = {"i1": 1, "u1": 1, "i8": 1, "u8": 1, "i16": 2, "u16": 2, "i32": 4, "u32": 4, "i64": 8, "u64": 8}
_FLOATS = {"fp32": ("<f", 4), "fp64": ("<d", 8)}


class Driver:
    """What Triton asks of a driver, for an emulated chip."""

    def __init__(self, chip: str, settings: Settings | None = None) -> None:
        if chip not in CHIPS:
            raise ValueError(f"chip must be one of {', '.join(CHIPS)}; got {chip!r}")
        self.chip: Chip = CHIPS[chip]
        self.settings = settings or Settings()
        self.utils = _Utils(self.chip, self.settings)
        self._fresh: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}

    def __str__(self) -> str:
        """What parity calls the device."""
        model = self.settings.model.name
        return f"emulated {self.chip.name}" + ("" if model == "exact" else f", {model} errors")

    def get_current_target(self) -> GPUTarget:
        """Triton's name for the chip."""
        return self.chip.target()

    def get_current_device(self) -> str:
        """The key under which Triton keeps compiled kernels."""
        return f"{self.chip.name}, {self.settings.model}"

    def get_current_stream(self, device: Any) -> int:
        """There is one."""
        del device
        return 0

    def get_active_torch_device(self) -> torch.device:
        """Tensors are on the CPU."""
        return torch.device("cpu")

    def launcher_cls(self, source: Any, metadata: Any) -> _Launcher:
        """What launches a compiled kernel."""
        return _Launcher(source, metadata)

    def unwritten(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note that a tensor was just allocated and holds nothing yet. A kernel that reads it first is wrong.

        All its bits are set, which is nan in every floating-point type. What still has all bits set at a launch counts
        as not written, unless PyTorch has changed the tensor in place since.
        """
        storage = tensor.untyped_storage()
        if storage.nbytes() and not tensor.is_inference():  # whose changes PyTorch does not count
            _bytes(storage)[:] = 0xFF
            self._fresh[storage.data_ptr()] = weakref.ref(tensor), tensor._version
        return tensor

    def written(self, tensor: torch.Tensor, data: Array) -> Array | None:
        """Which bytes of a tensor's storage were written; None for all."""
        fresh = self._fresh.get(tensor.untyped_storage().data_ptr())
        if fresh is None or not self.settings.uninitialised:
            return None
        reference, version = fresh
        known = reference()
        if known is None or known._version != version:  # another tensor may have its memory by now
            del self._fresh[tensor.untyped_storage().data_ptr()]
            return None
        size = tensor.element_size()
        whole = len(data) // size * size
        written = np.ones(len(data), bool)
        written[:whole] = np.repeat((data[:whole].reshape(-1, size) != 0xFF).any(axis=1), size)
        return written


class _Utils:
    """What Triton calls to load a compiled kernel."""

    def __init__(self, chip: Chip, settings: Settings) -> None:
        self._chip = chip
        self._settings = settings

    def get_device_properties(self, device: Any) -> dict[str, int]:
        del device
        return {"max_shared_mem": self._chip.shared, "warpSize": self._chip.lanes}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: Any) -> tuple[Any, Executor, int, int, int]:
        """Decode a kernel: the handle, what runs it, registers and spills (unknown), and the most threads."""
        del name, shared, device
        text = kernel.decode() if isinstance(kernel, bytes) else kernel
        return self, _executor(self._chip, text, self._settings), 0, 0, 1024


def _executor(chip: Chip, text: str, settings: Settings) -> Executor:
    if chip.backend == "hip":
        from portaloss.emulator.amd import executor
    else:
        from portaloss.emulator.ptx import executor  # type: ignore[no-redef]
    made: Executor = executor.Executor(text, settings.model)
    return made


class _Launcher:
    """Launches one compiled kernel. Triton keeps it for later drivers of the same chip and model."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self._name = source.fn.__name__
        self._signature = list(source.signature.items())
        self._metadata = metadata

    def __call__(
        self, x: int, y: int, z: int, stream: int, executor: Executor, packed: Any, about: Any, enter: Any, leave: Any,
        *values: Any,
    ) -> None:  # fmt: skip
        del stream, packed
        if enter is not None:
            enter(about)
        if x * y * z:
            active: Driver = driver.active
            # AMD's chips load and store at any address; NVIDIA's need one that is a multiple of the size
            memory = GlobalMemory(
                aligned=active.chip.backend == "cuda", races=active.settings.races, counter=active.settings.counter
            )
            arguments: list[Argument] = []
            for (name, kind), value in zip(self._signature, values, strict=True):
                self._add(name, kind, value, arguments, memory)
            launch = Launch(
                self._name, arguments, (x, y, z), self._metadata.num_warps, active.chip.lanes, self._metadata.shared,
                active.settings,
            )  # fmt: skip
            launches.run(launch, executor, memory)
        if leave is not None:
            leave(about)

    def _add(self, name: str, kind: Any, value: Any, arguments: list[Argument], memory: GlobalMemory) -> None:
        if isinstance(kind, (tuple, list)):
            for k, (one, part) in enumerate(zip(kind, value, strict=True)):
                self._add(f"{name}[{k}]", one, part, arguments, memory)
        elif kind == "constexpr":
            pass  # compiled in
        elif kind.startswith("*"):
            arguments.append(Argument(self._address(name, value, memory), 8))
        elif kind in _FLOATS:
            form, size = _FLOATS[kind]
            arguments.append(Argument(int.from_bytes(struct.pack(form, value), "little"), size))
        elif kind in _INTEGERS:
            size = _INTEGERS[kind]
            arguments.append(Argument(int(value) & ((1 << 8 * size) - 1), size))
        else:
            raise NotImplementedError(f"{self._name}: argument {name} of type {kind} cannot be emulated")

    def _address(self, name: str, tensor: torch.Tensor, memory: GlobalMemory) -> int:
        if tensor.device.type != "cpu":
            raise ValueError(f"{self._name}: {name} is on {tensor.device}; emulated kernels take CPU tensors")
        storage = tensor.untyped_storage()
        start = storage.data_ptr()
        region = next((one for one in memory.regions if one.host == start and len(one.data)), None)
        if region is None:
            data = _bytes(storage)
            region = memory.add(
                name, data, start, written=driver.active.written(tensor, data), granule=tensor.element_size()
            )
        return region.base + int(tensor.storage_offset()) * tensor.element_size()


def _bytes(storage: Any) -> Array:
    """A storage's bytes, as an array that shares them."""
    count = storage.nbytes()
    if not count:
        return np.zeros(0, np.uint8)
    return np.frombuffer((ctypes.c_char * count).from_address(storage.data_ptr()), np.uint8)


# The compiler's last stage


def _leave_out_assembler(*arguments: Any, **named: Any) -> tuple[str, str] | None:
    """Triton's hook: without arguments, what to add to its cache's key; else, changes the stages of a compilation."""
    if not arguments and not named:
        key = "without the assembler"
        return key, hashlib.sha256(key.encode()).hexdigest()
    _, stages, *_ = arguments
    for name in _ASSEMBLER:
        if name in stages:
            stages[name] = lambda text, metadata: text.encode()
    return None


def install(chip: str, settings: Settings | None = None) -> Driver:
    """Emulate a chip from now on, in this process.

    Args:
        chip: one of ``portaloss.chips.CHIPS``.
        settings: which checks are made, and what approximate instructions return.

    Raises:
        ValueError: there is no such chip.
        RuntimeError: this version of Triton has no hook for the stages of a compilation.
    """
    if not hasattr(knobs.runtime, "add_stages_inspection_hook"):
        raise RuntimeError("emulation needs a Triton that lets the stages of a compilation be changed: 3.5 or later")
    new = Driver(chip, settings)
    knobs.runtime.add_stages_inspection_hook = _leave_out_assembler
    driver.set_active(new)
    return new


@contextmanager
def emulating(chip: str, settings: Settings | None = None, **changes: Any) -> Iterator[Driver]:
    """Emulate a chip in this context.

    Args:
        chip: one of ``portaloss.chips.CHIPS``.
        settings: as of ``install``.
        **changes: fields of ``Settings`` that differ from those.
    """
    before, hook = getattr(driver, "_active", None), getattr(knobs.runtime, "add_stages_inspection_hook", None)
    try:
        yield install(chip, replace(settings or Settings(), **changes))
    finally:
        driver._active = before  # reset_active would look for a GPU
        knobs.runtime.add_stages_inspection_hook = hook


def active() -> Driver | None:
    """The driver, if kernels are emulated."""
    found = getattr(driver, "_active", None)
    return found if isinstance(found, Driver) else None

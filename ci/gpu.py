"""All that needs a GPU, in one command: parity of the ``triton`` backend, a memory checker, benchmarks.

    python3 ci/gpu.py --out DIR [--kind K ...] [--rounds N] [--rows N] [--skip-parity] [--skip-sanitizer]

Needs a python with a CUDA or ROCm build of torch, triton, numpy, scipy and ml_dtypes; with rich, parity shows progress
and tables. portaloss need not be installed, it is this checkout that runs. Writes DIR/parity.json, DIR/sanitizer.json
and DIR/benchmarks.json. Exit code 0 says that parity passed, that NVIDIA's compute-sanitizer, where it is on the PATH,
found no access out of bounds in a case of each kind, and that every benchmark of portaloss ran and its loss is
PyTorch's; anything else is 1.

Benchmarks: each kind, reduction mean, forward and forward + backward, portaloss beside PyTorch eager, torch.compile and
liger-kernel where it can be imported. Times are medians by CUDA events, after a warm-up that compiles; calls are queued
without waiting, so that a launch is only seen in a time where the host can't keep up with the GPU. Bandwidth is the
bytes that portaloss's ledger says must move (see the kernels' docstrings), whoever moves them, over the time; it stands
beside that of a device-to-device copy on the same machine, before and after everything else. Operands are larger than
any L2 cache, but for CTC's. bfloat16, but for CTC, which PyTorch has in float32 at least.

Not proven: written where there was no GPU and no liger-kernel. What ran there is every case, with losses and gradients
of both libraries, on the CPU with few rows; events, the copy, torch.compile and liger-kernel have not run.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: Rows of the benchmarks' operands; ``--rows`` says otherwise. The classes are those of ``CLASSES``.
ROWS = 8192

#: Classes or features; cross-entropy has a language model's vocabulary.
CLASSES = {"nll": 32000, "cross_entropy": 32000, "multilabel_margin": 1024}
OTHER_CLASSES = 8192

#: Labels a row of multilabel margin, whose time is labels x classes.
LABELS = 4

#: Features of the rows that linear cross-entropy multiplies by its weight, of 32000 classes.
FEATURES = 4096

#: CTC: steps, samples, classes, labels.
CTC = (512, 64, 1024, 100)

#: The copy that bandwidths are compared with moves this many bytes each way.
COPY_BYTES = 1 << 30

#: The loss must be PyTorch's in float32, of the same operands, but for rounding to its own dtype, half a unit or 2^-9
#: for bfloat16, and as much again for logits that a matrix product has rounded; sums of float32 are within 1e-4.
TOLERANCE = {"bfloat16": 2.0**-8, "float32": 1e-4}


def main(argv: Sequence[str] | None = None) -> int:
    """Parity, then benchmarks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the JSON goes")
    parser.add_argument("--kind", action="append", metavar="K", help="only this kind, such as huber; repeatable")
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help="timed calls a median is taken of")
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help="fewer, for a GPU with little memory")
    parser.add_argument("--skip-parity", action="store_true")
    parser.add_argument("--skip-sanitizer", action="store_true")
    args = parser.parse_args(argv)

    reason = no_gpu()
    if reason is not None:
        say(f"ci/gpu.py needs a machine with a GPU: {reason}")
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    with package() as folder:
        sys.path.insert(0, str(folder))
        from portaloss.kinds import LossKind

        kinds = [kind.name.lower() for kind in LossKind]
        unknown = [name for name in args.kind or () if name not in kinds]
        if unknown:
            say(f"--kind {unknown[0]}: there is no such kind; there are: {', '.join(kinds)}")
            return 1
        kinds = [name for name in kinds if not args.kind or name in args.kind]
        passed = args.skip_parity or parity(folder, args.out / "parity.json", kinds)
        passed = (args.skip_sanitizer or sanitizer(folder, args.out / "sanitizer.json", kinds)) and passed
        passed = benchmarks(args.out / "benchmarks.json", kinds, args.rounds, args.rows) and passed
    say("passed" if passed else "FAILED")
    return 0 if passed else 1


def no_gpu() -> str | None:
    """Why nothing can run here; None where it can."""
    try:
        import torch
    except ImportError as error:
        return f"no torch ({error})"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA or HIP device"
    try:
        import triton  # noqa: F401  # that it can be imported is all there is to know
    except ImportError as error:
        return f"no triton ({error})"
    return None


@contextmanager
def package() -> Iterator[Path]:
    """A folder to import this checkout's portaloss from, as it installs: reference/ is portaloss.reference."""
    with tempfile.TemporaryDirectory(prefix="portaloss-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "portaloss", folder / "portaloss")
        shutil.copytree(ROOT / "reference", folder / "portaloss" / "reference")
        yield folder


def parity(folder: Path, report: Path, kinds: Sequence[str]) -> bool:
    """Whether every SKU of the triton backend passed; the report says more."""
    say("parity: 480 SKUs where all kinds run")
    command = [sys.executable, "-m", "portaloss", "parity", "--backend", "triton", "--require", "triton"]
    command += ["--json", str(report.resolve())]
    for kind in kinds:
        command += ["--kind", kind]
    return subprocess.run(command, cwd=folder, env=environment(folder)).returncode == 0


def environment(folder: Path) -> dict[str, str]:
    """This process's, with the package of the folder."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def sanitizer(folder: Path, report: Path, kinds: Sequence[str]) -> bool:
    """Whether compute-sanitizer's memcheck is content with a forward and backward pass of each kind.

    It makes a kernel a hundred times slower, so it is one case a kind: the first one of parity's, with its upstream.
    """
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        say("compute-sanitizer: not on the PATH; skipped")
        return True
    from portaloss.kinds import LossKind
    from portaloss.parity import samples

    rows = []
    for kind in kinds:
        name = samples.names(LossKind[kind.upper()])[0]
        replay = f"{kind}-float32-mean-backward:{name}"
        command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-m", "portaloss", "parity"]
        command += ["--backend", "triton", "--replay", replay]
        # PyTorch's allocator hands out pieces of large blocks, in which an access out of bounds would not be seen
        env = {**environment(folder), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        rows.append({"kind": kind, "replay": replay, "passed": done.returncode == 0, "said": done.stdout[-2000:]})
        say(f"compute-sanitizer, {replay}: {'clean' if done.returncode == 0 else 'FAILED'}")
        report.write_text(json.dumps(rows, indent=1) + "\n")
    return all(row["passed"] for row in rows)


def benchmarks(file: Path, kinds: Sequence[str], rounds: int, rows: int) -> bool:
    """Time every kind and write the numbers, after each kind anew; whether all of portaloss's are there and right."""
    import torch

    device = torch.device("cuda")
    before = copy_bandwidth(device, rounds)
    say(f"device-to-device copy: {before:.0f} GB/s")
    result: dict[str, Any] = {**about(), "rounds": rounds, "copy_gb_s": [before], "rows": []}
    passed = True
    for i, kind in enumerate(kinds, 1):
        try:
            row = measure(case(kind, device, rows), rounds)
        except torch.cuda.OutOfMemoryError as error:
            row = {"kind": kind, "error": f"out of memory: {str(error).splitlines()[0]}"}
        passed = passed and "error" not in row
        result["rows"].append(row)
        say(f"[{i:2}/{len(kinds)}] {kind}: {summary(row, before)}")
        file.write_text(json.dumps(result, indent=1) + "\n")
        torch.cuda.empty_cache()
    result["copy_gb_s"].append(copy_bandwidth(device, rounds))  # another number than before: the clocks changed
    best = max(result["copy_gb_s"])
    for row in result["rows"]:
        for times in row.get("times", {}).values():
            for direction in ("forward", "forward_backward"):
                if f"{direction}_gb_s" in times:
                    times[f"{direction}_of_copy"] = times[f"{direction}_gb_s"] / best
    file.write_text(json.dumps(result, indent=1) + "\n")
    return passed


def about() -> dict[str, Any]:
    """The GPU, the versions and the day."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    versions: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"cuda": torch.version.cuda, "hip": torch.version.hip}
    for name in ("triton", "pytorch-triton-rocm", "liger-kernel", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "gpu": properties.name,
        "architecture": getattr(properties, "gcnArchName", f"sm_{properties.major}{properties.minor}"),
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "versions": versions,
    }


def copy_bandwidth(device: Any, rounds: int) -> float:
    """GB/s that a device-to-device copy reads and writes together."""
    import torch

    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / timed(lambda: target.copy_(source), rounds) / 1e6


def timed(call: Callable[[], object], rounds: int) -> float:
    """The median time of a call on the GPU, in ms."""
    import torch

    for _ in range(3):
        call()
    torch.cuda.synchronize()
    event = partial(torch.cuda.Event, enable_timing=True)
    events = [(event(), event()) for _ in range(rounds)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return float(median(start.elapsed_time(end) for start, end in events))


# What is measured


@dataclass
class Case:
    """One kind: its operands, which of them take a gradient, and the bytes that the ledger says must move."""

    kind: str
    function: str  #: in portaloss.functional and torch.nn.functional
    operands: dict[str, Any]
    wanted: tuple[str, ...]
    read: int | None  #: None where it is not memory that limits
    written: int | None  #: by a backward pass

    @property
    def dtype(self) -> str:
        """That of the loss."""
        return str(self.operands[self.wanted[0]].dtype).removeprefix("torch.")


def case(kind: str, device: Any, rows: int) -> Case:
    """A kind's operands on a device, the same every time."""
    import torch

    from portaloss.catalogue import LOSSES, Extent, Family
    from portaloss.kinds import LossKind

    loss = LOSSES[LossKind[kind.upper()]]
    random = torch.Generator(device).manual_seed(0)
    if loss.family is Family.CTC:
        return _ctc(random)
    if loss.family is Family.LINEAR_CROSS_ENTROPY:
        return _linear(random, rows)
    classes = CLASSES.get(kind, OTHER_CLASSES)
    operands = {}
    for operand in loss.operands:
        if operand.optional:
            continue
        shape = (rows,) if operand.extent is Extent.ROWS else (rows, classes)
        operands[operand.name] = draw(operand.domain, shape, classes, random)
    # the operands that models learn by: a target is data
    wanted = tuple(o.name for o in loss.operands if o.name in operands and o.differentiable and o.name != "target")
    read = sum(size(value) for value in operands.values())
    if kind == "nll":  # one element a row is read, and the whole gradient written
        read = rows * (operands["input"].element_size() + operands["target"].element_size())
    return Case(kind, loss.function, operands, wanted, read, sum(size(operands[name]) for name in wanted))


def _ctc(random: Any) -> Case:
    import torch

    steps, samples, classes, labels = CTC
    log_probs = torch.randn(steps, samples, classes, device=random.device, generator=random).log_softmax(2)
    operands = {
        "log_probs": log_probs,
        "targets": torch.randint(1, classes, (samples, labels), device=random.device, generator=random),
        "input_lengths": torch.full((samples,), steps, device=random.device),
        "target_lengths": torch.full((samples,), labels, device=random.device),
    }
    # a walk of steps, each of which waits for the one before: bytes do not limit it
    return Case("ctc", "ctc_loss", operands, ("log_probs",), None, None)


def _linear(random: Any, rows: int) -> Case:
    import torch

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, device=random.device, generator=random).div(8).to(torch.bfloat16)

    operands = {
        "input": normal(rows, FEATURES),
        "linear_weight": normal(CLASSES["cross_entropy"], FEATURES),
        "target": torch.randint(CLASSES["cross_entropy"], (rows,), device=random.device, generator=random),
    }
    # matrix products limit it
    wanted = ("input", "linear_weight")
    return Case("fused_linear_cross_entropy", "linear_cross_entropy", operands, wanted, None, None)


def draw(domain: Any, shape: tuple[int, ...], classes: int, random: Any) -> Any:
    """A tensor of a domain."""
    import torch

    from portaloss.catalogue import Domain

    device = random.device
    if domain is Domain.CLASS_INDEX:
        return torch.randint(classes, shape, device=device, generator=random)
    if domain is Domain.CLASS_SET:
        sets = torch.full(shape, -1, dtype=torch.int64, device=device)
        first = torch.randint(classes, (shape[0], 1), device=device, generator=random)
        sets[:, :LABELS] = (first + torch.arange(LABELS, device=device) * (classes // LABELS)) % classes
        return sets
    uniform = torch.rand(shape, device=device, generator=random)
    values = {
        Domain.PROBABILITY: lambda: uniform,
        Domain.LOG_PROBABILITY: lambda: uniform.clamp(min=1e-3).log(),
        Domain.COUNT: lambda: (uniform * 5).floor(),
        Domain.SIGN: lambda: (uniform < 0.5) * 2.0 - 1.0,
        Domain.POSITIVE: lambda: uniform + 0.5,
        Domain.NON_NEGATIVE: lambda: uniform + 0.5,
        Domain.REAL: lambda: torch.randn(shape, device=device, generator=random),
    }[domain]()
    return values.to(torch.bfloat16)


def size(tensor: Any) -> int:
    """Bytes."""
    return int(tensor.numel() * tensor.element_size())


# Who is measured


def libraries(given: Case) -> dict[str, Callable[..., Any]]:
    """Name -> the loss, of the operands by name."""
    import torch

    from portaloss import functional

    ours = getattr(functional, given.function)
    return {"portaloss": ours, "eager": eager(given), "compile": torch.compile(eager(given)), **liger(given)}


def eager(given: Case) -> Callable[..., Any]:
    """PyTorch's function; for linear cross-entropy the two that it fuses, which older releases have too."""
    import torch.nn.functional as F  # noqa: N812  # its name everywhere

    if given.function != "linear_cross_entropy":
        function: Callable[..., Any] = getattr(F, given.function)
        return function

    def unfused(input: Any, linear_weight: Any, target: Any) -> Any:
        return F.cross_entropy(F.linear(input, linear_weight), target)

    return unfused


def liger(given: Case) -> dict[str, Callable[..., Any]]:
    """liger-kernel's loss of this kind, where it can be imported and has one."""
    try:
        from liger_kernel import transformers
    except ImportError:
        return {}
    if given.kind == "cross_entropy":
        loss = transformers.LigerCrossEntropyLoss()
        return {"liger": lambda input, target: loss(input, target)}
    if given.kind == "kl_div":
        loss = transformers.LigerKLDIVLoss(reduction="mean")
        return {"liger": lambda input, target: loss(input, target)}
    if given.kind == "fused_linear_cross_entropy":
        loss = transformers.LigerFusedLinearCrossEntropyLoss()
        return {"liger": lambda input, linear_weight, target: loss(linear_weight, input, target)}
    return {}


def measure(given: Case, rounds: int) -> dict[str, Any]:
    """A row of the results: every library's times, bandwidths, peak memory and loss, or why there are none."""
    import torch

    torch.compiler.reset()  # what was compiled for other kinds does not count against this one
    row: dict[str, Any] = {
        "kind": given.kind,
        "dtype": given.dtype,
        "shapes": {name: list(value.shape) for name, value in given.operands.items()},
        "gradients": list(given.wanted),
        "ledger_forward_bytes": given.read,
        "ledger_forward_backward_bytes": None if given.read is None else given.read + (given.written or 0),
        "times": {},
    }
    for name, loss in libraries(given).items():
        # liger-kernel puts gradients where its input was
        operands = {n: v.clone() for n, v in given.operands.items()} if name == "liger" else dict(given.operands)
        try:
            row["times"][name] = _measure_one(given, loss, operands, rounds)
        except Exception as error:  # one that can't is a result too, and the others go on
            row["times"][name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        finally:
            del operands
    row |= verdict(row, truth(given))
    return row


def _measure_one(
    given: Case, loss: Callable[..., Any], operands: dict[str, Any], rounds: int
) -> dict[str, float | None]:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="reduction: 'mean' divides the total loss by both")  # kl_div
        torch.cuda.synchronize()
        resident = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        value = forward_backward(given, loss, operands)
        times: dict[str, float | None] = {
            "loss": float(value),
            "peak_mib": (torch.cuda.max_memory_allocated() - resident) / 2**20,
            "forward_backward_ms": timed(lambda: forward_backward(given, loss, operands), rounds),
        }
        with torch.no_grad():
            times["forward_ms"] = timed(lambda: loss(**operands), rounds)
    if given.read is not None:
        times["forward_gb_s"] = given.read / (times["forward_ms"] or 0.0) / 1e6
        both = given.read + (given.written or 0)
        times["forward_backward_gb_s"] = both / (times["forward_backward_ms"] or 0.0) / 1e6
    return times


def forward_backward(given: Case, loss: Callable[..., Any], operands: dict[str, Any]) -> Any:
    """One forward and one backward pass; returns the loss."""
    import torch

    operands = {n: v.detach().requires_grad_(n in given.wanted) for n, v in operands.items()}
    value = loss(**operands)
    torch.autograd.grad(value, [operands[name] for name in given.wanted])
    return value.detach()


def truth(given: Case) -> float:
    """PyTorch's loss in float32."""
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="reduction: 'mean' divides the total loss by both")
        wide = {n: v.float() if v.is_floating_point() else v for n, v in given.operands.items()}
        return float(eager(given)(**wide))


def verdict(row: dict[str, Any], loss: float) -> dict[str, Any]:
    """PyTorch's loss, and an error where portaloss did not run, or has another one."""
    ours = row["times"]["portaloss"]
    found: dict[str, Any] = {"float32_loss": loss}
    if "error" in ours:
        found["error"] = f"portaloss: {ours['error']}"
    elif not abs(ours["loss"] - loss) <= TOLERANCE[row["dtype"]] * abs(loss):
        found["error"] = f"the loss is {ours['loss']}, but PyTorch's is {loss}"
    return found


def summary(row: dict[str, Any], copy: float) -> str:
    """A line for who waits."""
    parts = []
    for name, times in row.get("times", {}).items():
        if "error" in times:
            parts.append(f"{name} failed")
            continue
        share = f" ({times['forward_backward_gb_s'] / copy:.0%} of copy)" if "forward_backward_gb_s" in times else ""
        parts.append(f"{name} {times['forward_backward_ms']:.3f} ms{share}")
    if "error" in row:
        parts.append(row["error"])
    return ", ".join(parts)


def say(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""All checks that need a GPU, in one command: parity of the ``triton`` backend, a memory checker, the benchmark.

    python3 ci/gpu.py --out DIR [--kind K ...] [--rounds N] [--rows N] [--skip-parity] [--skip-sanitizer]

Needs a python with a CUDA or ROCm build of torch, triton, numpy, scipy and ml_dtypes; rich adds progress bars and
tables. portaloss need not be installed: this checkout runs. Writes DIR/parity.json, DIR/sanitizer.json and
DIR/bench.json. The exit code is 0 if parity passed, if NVIDIA's compute-sanitizer, where it is on the PATH, found no
access out of bounds in one case of each kind, and if ``portaloss bench``, on operands larger than any L2 cache, found
every result of portaloss right; otherwise it is 1.

Not proven: written where there was no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    """Run parity, the sanitizer and the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the JSON goes")
    parser.add_argument("--kind", action="append", metavar="K", help="only this kind, such as huber; repeatable")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="rounds to take the median of")
    parser.add_argument("--rows", type=int, metavar="N", help="at most N rows, for a GPU with little memory")
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
        passed = bench(folder, args.out / "bench.json", kinds, args.rounds, args.rows) and passed
    say("passed" if passed else "FAILED")
    return 0 if passed else 1


def no_gpu() -> str | None:
    """Why the checks cannot run here; None where they can."""
    try:
        import torch
    except ImportError as error:
        return f"no torch ({error})"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA or HIP device"
    try:
        import triton  # noqa: F401  # only whether it can be imported matters here
    except ImportError as error:
        return f"no triton ({error})"
    return None


@contextmanager
def package() -> Iterator[Path]:
    """A folder with this checkout's portaloss as it is installed: reference/ is portaloss.reference."""
    with tempfile.TemporaryDirectory(prefix="portaloss-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "portaloss", folder / "portaloss")
        shutil.copytree(ROOT / "reference", folder / "portaloss" / "reference")
        yield folder


def parity(folder: Path, report: Path, kinds: Sequence[str]) -> bool:
    """Whether every SKU of the triton backend passed; details are in the report."""
    say("parity: all SKUs of the kinds")
    command = [sys.executable, "-m", "portaloss", "parity", "--backend", "triton", "--require", "triton"]
    command += ["--json", str(report.resolve())]
    for kind in kinds:
        command += ["--kind", kind]
    return subprocess.run(command, cwd=folder, env=environment(folder)).returncode == 0


def environment(folder: Path) -> dict[str, str]:
    """This process's environment, with the folder on the import path."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def sanitizer(folder: Path, report: Path, kinds: Sequence[str]) -> bool:
    """Whether compute-sanitizer's memcheck finds no error in a forward and backward pass of each kind.

    It makes kernels a hundred times slower, so only the first parity case of each kind is run.
    """
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        say("compute-sanitizer: not on the PATH; skipped")
        return True
    from portaloss.kinds import LossKind
    from portaloss.parity import samples

    lines = []
    for kind in kinds:
        name = samples.names(LossKind[kind.upper()])[0]
        replay = f"{kind}-float32-mean-backward:{name}"
        command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-m", "portaloss", "parity"]
        command += ["--backend", "triton", "--replay", replay]
        # PyTorch's allocator splits large blocks, which would hide accesses out of bounds
        env = {**environment(folder), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        lines.append({"kind": kind, "replay": replay, "passed": done.returncode == 0, "said": done.stdout[-2000:]})
        say(f"compute-sanitizer, {replay}: {'clean' if done.returncode == 0 else 'FAILED'}")
        report.write_text(json.dumps(lines, indent=1) + "\n")
    return all(line["passed"] for line in lines)


def bench(folder: Path, report: Path, kinds: Sequence[str], rounds: int, rows: int | None) -> bool:
    """Whether every result was right; the times, with those of PyTorch and others, are in the report."""
    say("bench: bfloat16, operands larger than any cache")
    command = [sys.executable, "-m", "portaloss", "bench", "--device", "cuda", "--size", "huge", "--dtype", "bfloat16"]
    command += ["--rounds", str(rounds), "--json", str(report.resolve())]
    command += [] if rows is None else ["--rows", str(rows)]
    for kind in kinds:
        command += ["--kind", kind]
    return subprocess.run(command, cwd=folder, env=environment(folder)).returncode == 0


def say(line: str) -> None:
    """Print progress to stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""The command ``bench`` and its subcommands: ``compare`` two reports, the ``table`` of one, ``growth`` with size."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from portaloss import console, usage
from portaloss.kinds import DTYPES, LossKind
from portaloss.usage import FAILED, PASSED, UsageError

#: ``cases.SIZES``, and ``contenders.NAMES`` without the first: copies, so that parsing does not load those modules.
_SIZES = ("tiny", "cache", "large", "huge")
_OTHERS = ("arrays", "eager", "compiled", "compile", "liger")


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    bench = commands.add_parser("bench", help="how fast the losses are, beside PyTorch")
    bench.set_defaults(command=_bench)
    _add_common(bench, "float32, all kinds; tiny, cache-sized and large operands, on a GPU huge ones instead of large")
    bench.add_argument("--size", action="append", metavar="S", choices=_SIZES, help=f"{', '.join(_SIZES)}; repeatable")
    bench.add_argument("--rows", type=_positive, metavar="N", help="at most N rows, where there is little memory")
    bench.add_argument("--skip-memory", action="store_true", help="do not measure peak memory")

    others = bench.add_subparsers(metavar="[compare | table | growth]")
    comparing = others.add_parser("compare", help="what got slower from one report to another")
    comparing.add_argument("before", type=Path, metavar="A.json")
    comparing.add_argument("after", type=Path, metavar="B.json")
    comparing.add_argument("--threshold", type=float, default=0.05, metavar="X", help="ignore what grew by less; 0.05")
    comparing.set_defaults(command=_compare)

    table = others.add_parser("table", help="the tables of a report")
    table.add_argument("report", type=Path, metavar="A.json")
    table.add_argument("--markdown", action="store_true", help="as Markdown")
    table.set_defaults(command=_table)

    growth = others.add_parser("growth", help="how time grows with elements, with steps of CTC, with a vocabulary")
    growth.set_defaults(command=_growth)
    _add_common(growth, "float32; some pointwise kinds, cross_entropy and ctc")
    growth.add_argument(
        "--most", type=_positive, default=10**8, metavar="N", help="at most N elements an operand; 100000000"
    )


def _add_common(parser: argparse.ArgumentParser, without: str) -> None:
    parser.description = f"Without options: {without}."
    parser.add_argument("--kind", action="append", metavar="K", help="only this kind, such as huber; repeatable")
    parser.add_argument("--dtype", action="append", metavar="D", choices=DTYPES, help="this dtype; repeatable")
    beside = f"measured beside portaloss: {', '.join(_OTHERS)}; repeatable; default: the first two, on a GPU all"
    parser.add_argument("--with", action="append", dest="others", metavar="C", choices=_OTHERS, help=beside)
    parser.add_argument("--rounds", type=_positive, default=9, metavar="N", help="rounds to take the median of; 9")
    parser.add_argument("--threads", type=_positive, metavar="N", help="for all contenders; default: PyTorch's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda includes AMD GPUs")
    parser.add_argument("--json", type=Path, metavar="F", help="write the report as JSON, again after each case")
    parser.add_argument("--picture", type=Path, metavar="F", help="draw it: .png, .svg or .pdf")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _bench(args: argparse.Namespace) -> int:
    _check(args)
    from portaloss.bench import cases, lines, picture, report

    gpu = args.device == "cuda"
    sizes = [size for size in _SIZES if size in (args.size or ("tiny", "cache", "huge" if gpu else "large"))]
    specs = cases.specs(usage.kinds(args.kind), _dtypes(args), sizes, args.device, args.rows)
    made = _run(args, specs, "bench", lines.Report.write)
    console.show(lambda: report.print_tables(made))
    return _finish(args, made, lambda path: picture.speedups(made, path))


def _growth(args: argparse.Namespace) -> int:
    _check(args)
    from portaloss.bench import growth, lines, picture

    kinds = usage.kinds(args.kind) if args.kind else [*growth.POINTWISE, LossKind.CROSS_ENTROPY, LossKind.CTC]
    for kind in kinds:
        if not growth.can_grow(kind):
            raise UsageError(f"--kind {kind.name.lower()}: growth knows pointwise kinds, cross_entropy, nll and ctc")
    args.skip_memory = True
    specs = growth.specs(kinds, _dtypes(args), args.device, args.most)

    def write(report: lines.Report, path: Path) -> None:
        about = {**report.about, "growth": growth.as_dicts(growth.curves(report.lines))}
        lines.Report(about, report.lines).write(path)

    made = _run(args, specs, "growth", write)
    curves = growth.curves(made.lines)
    console.show(lambda: growth.print_table(curves))
    return _finish(args, made, lambda path: picture.growth(curves, path))


def _table(args: argparse.Namespace) -> int:
    from portaloss.bench import report

    (read,) = _read(args.report)
    console.show(lambda: report.print_tables(read, markdown=args.markdown))
    return PASSED


def _compare(args: argparse.Namespace) -> int:
    from portaloss.bench import compare

    before, after = _read(args.before, args.after)
    if not compare.common(before, after):
        raise UsageError(f"{args.before} and {args.after} have no line in common")
    for note in compare.differences(before, after):
        print(f"portaloss: {note}", file=sys.stderr)
    changes = compare.compare(before, after, args.threshold)
    console.show(lambda: compare.print_table(changes))
    print(compare.summary(before, after, changes))
    return FAILED if changes else PASSED


def _read(*paths: Path) -> list[Any]:
    from portaloss.bench import lines
    from portaloss.reports import ReportError

    try:
        return [lines.read(path) for path in paths]
    except (OSError, ReportError) as error:
        raise UsageError(str(error)) from error


# What bench and growth share


def _dtypes(args: argparse.Namespace) -> list[str]:
    return [dtype for dtype in DTYPES if dtype in (args.dtype or ("float32",))]


def _check(args: argparse.Namespace) -> None:
    """Find out before the work whether it can be done."""
    from portaloss.bench import picture

    needed = {"torch": "bench", **({"threadpoolctl": "bench on the CPU"} if args.device == "cpu" else {})}
    for package, purpose in needed.items():
        if find_spec(package) is None:
            raise UsageError(str(console.MissingExtraError(package, purpose, "bench")))
    for path in (args.json, args.picture):
        usage.check_folder(path)
    if args.picture is not None:
        try:
            picture.require(args.picture)
        except (console.MissingExtraError, ValueError) as error:
            raise UsageError(str(error)) from error
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError(f"--device cuda: torch {torch.__version__} sees no CUDA or HIP device")


def _run(args: argparse.Namespace, specs: Sequence[Any], label: str, write: Callable[[Any, Path], None]) -> Any:
    """The report of the specs, written after each of them."""
    import torch

    from portaloss import machine
    from portaloss.bench import lines, run, timing

    others = args.others or (_OTHERS if args.device == "cuda" else _OTHERS[:2])
    names = ["portaloss", *(name for name in _OTHERS if name in others)]
    threads = args.threads or torch.get_num_threads()
    settings = run.Settings(names, threads, args.rounds, memory=not args.skip_memory)
    about = {**machine.about(args.device, threads), "reduction": "mean", "rounds": args.rounds}
    load, cores = about["load"], about["machine"]["cores"]
    if args.device == "cpu" and load is not None and load > cores / 2:
        # a thread without a core holds up all that wait for it: PyTorch's threads wait at every barrier
        print(f"portaloss: others are busy here (load {load:.1f}, {cores} cores): times mean little", file=sys.stderr)
    if args.device == "cuda":  # measured again at the end, since clocks change
        about["copy_gb_s"] = [timing.copy_bandwidth(args.device, args.rounds)]

    def save(made: list[lines.Line]) -> None:
        if args.json:
            with usage.writing():
                write(lines.Report(about, made), args.json)

    with console.progress(len(specs), label) as tick:

        def done(made: list[lines.Line]) -> None:
            save(made)
            tick(1)

        made = run.run(specs, settings, done)
    if args.device == "cuda":
        about["copy_gb_s"].append(timing.copy_bandwidth(args.device, args.rounds))
    save(made)
    return lines.Report(about, made)


def _finish(args: argparse.Namespace, made: Any, draw: Callable[[Path], None]) -> int:
    """The picture, what failed, the last line and the exit code."""
    from portaloss.bench import lines, report

    report.print_failures(made.lines)
    if args.picture:
        with usage.writing(f"draw {args.picture}"):
            draw(args.picture)
    print(report.summary(made.lines))
    return FAILED if lines.failed(made.lines) else PASSED

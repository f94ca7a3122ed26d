"""``python -m portaloss``: info (versions), parity (accuracy), targets (compilation), ledger (costs), bench (speed)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from portaloss import console, usage
from portaloss.bench import command as bench
from portaloss.kinds import DTYPES, LossKind
from portaloss.usage import FAILED, INTERRUPTED, PASSED, USAGE, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        code: int = args.command(args)
    except UsageError as error:
        print(f"portaloss: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output has gone; Python would complain at exit
        return FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="portaloss", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="versions, backends, threads")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(command=_info)

    parity = commands.add_parser("parity", help="every SKU of every backend against the reference")
    parity.set_defaults(command=_parity)
    parity.add_argument("--backend", action="append", metavar="B", help="only this backend; repeatable")
    parity.add_argument("--kind", action="append", metavar="K", help="only this kind, such as huber; repeatable")
    parity.add_argument("--dtype", action="append", metavar="D", choices=DTYPES, help="only this dtype; repeatable")
    parity.add_argument(
        "--emulate", action="append", metavar="C", default=[], help="this chip, such as gfx942, emulated"
    )
    parity.add_argument("--model", metavar="M", default="exact", help="how approximate instructions of it err")
    parity.add_argument("--require", action="append", metavar="B", default=[], help="fail if this backend is absent")
    parity.add_argument("--json", type=Path, metavar="F", help="write the report as JSON")
    parity.add_argument("--html", type=Path, metavar="F", help="write the report as a page")
    parity.add_argument("--list", action="store_true", help="print the SKUs and how many cases each has; run nothing")
    parity.add_argument("--replay", metavar="SKU:CASE", help="run one case again and print its numbers")

    merging = parity.add_subparsers(metavar="merge")
    merge = merging.add_parser("merge", help="merge reports of several machines")
    merge.add_argument("reports", type=Path, nargs="+", metavar="A.json")
    merge.add_argument("--json", type=Path, metavar="F", help="write the merged report as JSON")
    merge.add_argument("--html", type=Path, metavar="F", help="write the merged report as a page")
    merge.set_defaults(command=_merge)

    targets = commands.add_parser("targets", help="compile every Triton kernel for every GPU; needs no GPU")
    targets.set_defaults(command=_targets)
    targets.add_argument("--chip", action="append", metavar="C", help="only this chip, such as gfx942; repeatable")
    targets.add_argument("--kind", action="append", metavar="K", help="only this kind, such as huber; repeatable")
    targets.add_argument("--dtype", action="append", metavar="D", choices=DTYPES, help="only this dtype; repeatable")
    targets.add_argument("--json", type=Path, metavar="F", help="write the report as JSON: a line for each launch")

    ledger = commands.add_parser("ledger", help="what kernels cost, counted on emulated chips; needs no GPU")
    ledger.set_defaults(command=_ledger)
    ledger.add_argument("--kind", action="append", metavar="K", help="only this kind, such as huber; repeatable")
    ledger.add_argument("--dtype", action="append", metavar="D", choices=DTYPES, help="this dtype; repeatable; float32")
    ledger.add_argument("--gpu", action="append", metavar="G", help="only this GPU, H200 or MI300X; repeatable")
    ledger.add_argument("--json", type=Path, metavar="F", help="write the report as JSON")
    ledger.add_argument("--markdown", action="store_true", help="the table as Markdown")

    bench.add(commands)
    return parser


def _info(args: argparse.Namespace) -> int:
    from portaloss import backends, get_num_threads, machine

    absent = {name: backends.available(name) for name in backends.names()}
    if args.json:
        found = {
            "versions": machine.versions(),
            "backends": {
                name: {"available": reason is None, "reason": reason, "device": machine.device(name) or None}
                for name, reason in absent.items()
            },
            "threads": get_num_threads(),
            "cores": machine.cores(),
        }
        print(json.dumps(found, indent=1))
        return PASSED
    for name, version in machine.versions().items():
        print(f"{name:<10} {version or 'not installed'}")
    for name, reason in absent.items():
        print(f"backend {name}: {f'absent, {reason}' if reason else f'available, on {machine.device(name)}'}")
    print(f"threads    {get_num_threads()} of {machine.cores()} cores")
    if machine.versions()["ml_dtypes"] is None:
        print("bfloat16   NumPy arrays of it need ml_dtypes: pip install 'portaloss[bfloat16]'")
    return PASSED


def _parity(args: argparse.Namespace) -> int:
    from portaloss.parity import lanes, lines, run

    required = _backends(args.require, "--require") if args.require else []
    _check_chips(args.emulate, args.model)
    names = [] if args.emulate and not args.backend else _backends(args.backend, "--backend")
    kinds = usage.kinds(args.kind)
    dtypes = [dtype for dtype in DTYPES if args.dtype is None or dtype in args.dtype]
    if args.list:
        return _list(kinds, dtypes)
    if args.replay:
        return _replay(args, names)
    _check_files(args)

    names = [*names, *(name for name in required if name not in names)]
    made: list[lines.Line] = []
    if names:
        with console.progress(run.count(kinds, dtypes), "parity") as tick:
            made += run.run(names, kinds, dtypes, tick=tick)
    for chip in args.emulate:
        lane = lanes.Lane(chip, args.model, kinds, dtypes)
        with console.progress(len(lane), f"parity, emulated {chip}") as tick:
            made += lane.lines(tick)
    code = _show(args, made)
    missing = [name for name in required if any(line.backend == name and line.status == "absent" for line in made)]
    for name in missing:
        reason = next(line.reason for line in made if line.backend == name and line.status == "absent")
        print(f"portaloss: backend {name} is required but absent: {reason}", file=sys.stderr)
    print(lines.summary(made))
    return FAILED if missing else code


def _merge(args: argparse.Namespace) -> int:
    from portaloss.parity import lines
    from portaloss.reports import ReportError

    _check_files(args)
    try:
        reports = [lines.read(path) for path in args.reports]
    except (OSError, ReportError) as error:
        raise UsageError(str(error)) from error
    merged, notes = lines.merge(reports)
    for note in notes:
        print(f"portaloss: {note}", file=sys.stderr)
    code = _show(args, merged)
    print(lines.summary(merged))
    return code


def _targets(args: argparse.Namespace) -> int:
    from portaloss import machine
    from portaloss.chips import CHIPS
    from portaloss.targets import report, run

    reason = run.missing()
    if reason is not None:
        raise UsageError(reason)
    for name in args.chip or ():
        if name not in CHIPS:
            raise UsageError(f"--chip {name}: there is no such chip; there are: {', '.join(CHIPS)}")
    usage.check_folder(args.json)
    chips = [name for name in CHIPS if args.chip is None or name in args.chip]
    dtypes = [dtype for dtype in DTYPES if args.dtype is None or dtype in args.dtype]
    made = run.run(chips, usage.kinds(args.kind), dtypes)
    console.show(lambda: report.print_table(made))
    report.print_problems(made)
    if args.json:
        with usage.writing():
            report.write(made, machine.versions(), args.json)
    print(report.summary(made))
    return FAILED if any(line.problem for line in made) else PASSED


def _ledger(args: argparse.Namespace) -> int:
    usage.check_emulator("ledger")
    from portaloss import machine
    from portaloss.ledger import gpus, report, run

    for name in args.gpu or ():
        if name not in gpus.GPUS:
            raise UsageError(f"--gpu {name}: there is no such GPU; there are: {', '.join(gpus.GPUS)}")
    usage.check_folder(args.json)
    kinds, dtypes = usage.kinds(args.kind), args.dtype or ["float32"]
    names = [name for name in gpus.GPUS if args.gpu is None or name in args.gpu]
    with console.progress(len(kinds) * len(dtypes) * len(names), "ledger") as tick:
        made = run.run(kinds, dtypes, names, tick)
    console.show(lambda: report.print_table(made, markdown=args.markdown))
    if args.json:
        with usage.writing():
            report.write(made, machine.versions(), args.json)
    return PASSED


def _show(args: argparse.Namespace, made: list[Any]) -> int:
    """Print tables and failures, and write the files that were asked for."""
    from portaloss.parity import lines, report

    console.show(lambda: report.print_tables(made))
    report.print_failures(made)
    with usage.writing():
        if args.json:
            lines.write(made, args.json)
        if args.html:
            report.write_page(made, args.html, lines.summary(made))
    return FAILED if any(line.status == "failed" for line in made) else PASSED


def _list(kinds: Sequence[LossKind], dtypes: Sequence[str]) -> int:
    from portaloss.catalogue import skus
    from portaloss.parity import samples

    for sku in skus():
        if sku.kind in kinds and sku.dtype in dtypes:
            print(f"{sku!s:<56} {len(samples.names(sku.kind))} cases")
    return PASSED


def _replay(args: argparse.Namespace, names: Sequence[str]) -> int:
    from portaloss import backends
    from portaloss.parity import lanes, replay

    try:
        sku, case, seed = replay.parse(args.replay)
    except replay.ReplayError as error:
        raise UsageError(str(error)) from error
    backend = "triton" if args.emulate else names[0]
    if args.emulate:
        lanes.emulate(args.emulate[0], args.model)
    reason = backends.available(backend)
    if reason is not None:
        raise UsageError(f"backend {backend} is absent: {reason}")
    return PASSED if replay.replay(sku, case, seed, backend) else FAILED


def _backends(given: Sequence[str] | None, flag: str) -> list[str]:
    from portaloss import backends

    known = backends.names()
    for name in given or ():
        if name not in known:
            raise UsageError(f"{flag} {name}: there is no such backend; there are: {', '.join(known)}")
    return list(dict.fromkeys(given or known))


def _check_chips(chips: Sequence[str], model: str) -> None:
    if not chips:
        return
    usage.check_emulator("--emulate")
    from portaloss.chips import CHIPS
    from portaloss.emulator.models import MODELS

    for name in chips:
        if name not in CHIPS:
            raise UsageError(f"--emulate {name}: there is no such chip; there are: {', '.join(CHIPS)}")
    if model not in MODELS:
        raise UsageError(f"--model {model}: there is no such model; there are: {', '.join(MODELS)}")


def _check_files(args: argparse.Namespace) -> None:
    """Find out before the matrix runs whether its reports can be written."""
    from portaloss.parity import report

    for path in (args.json, args.html):
        usage.check_folder(path)
    if args.html is not None:
        try:
            report.require_page()
        except console.MissingExtraError as error:
            raise UsageError(str(error)) from error

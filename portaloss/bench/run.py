"""Runs a benchmark: draws a case, checks every contender's result, and then times the contenders in turns."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from portaloss.bench import check, contenders, memory, timing
from portaloss.bench.cases import Case, Spec, draw
from portaloss.bench.contenders import OURS, Contender
from portaloss.bench.lines import Line, speedups
from portaloss.machine import use_threads


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    names: Sequence[str]  #: of the contenders
    threads: int
    rounds: int = 9
    seconds: float = 30.0  #: about how long the rounds of a line may take; there are at least five
    memory: bool = True


def run(specs: Sequence[Spec], settings: Settings, done: Callable[[list[Line]], None]) -> list[Line]:
    """Two lines for each spec: the forward pass, and forward and backward.

    Args:
        specs: what to measure, in this order.
        settings: how.
        done: called after each spec with all lines so far.
    """
    lines: list[Line] = []
    for spec in specs:
        with use_threads(settings.threads, spec.device), _quiet():
            try:
                lines += measure(spec, settings)
            except Exception as error:  # such as too little memory; the other specs go on
                lines += [_failed(spec, direction, _said(error)) for direction in memory.DIRECTIONS]
        _forget(spec.device)
        done(lines)
    return lines


def measure(spec: Spec, settings: Settings) -> list[Line]:
    """The lines of a spec."""
    case = draw(spec)
    there, found = _prepare(case, settings.names)
    problem = _check(case, there, found)
    rises = {} if problem else _memory(case, there, settings)
    lines = []
    for direction in memory.DIRECTIONS:
        calls = {name: getattr(contender, direction) for name, contender in there.items()}
        times = {} if problem else timing.interleaved(
            calls, timing.clock(spec.device), settings.rounds, settings.seconds
        )  # fmt: skip
        moved = case.moved(direction)
        results = {name: dict(about) for name, about in found.items()}
        for name, result in results.items():
            if name in there:
                result |= {**times.get(name, {}), "peak_extra_bytes": rises.get(name, {}).get(direction)}
            if moved is not None and "median_s" in result:
                result["gb_s"] = moved / result["median_s"] / 1e9
        lines.append(_line(case, direction, results, problem))
    return lines


def _prepare(case: Case, names: Sequence[str]) -> tuple[dict[str, Contender], dict[str, dict[str, Any]]]:
    """The contenders that can run the case, and for every name a note, or why it cannot run."""
    there, found = {}, {}
    for name in names:
        try:
            there[name] = contenders.prepare(name, case)
            found[name] = {"note": there[name].note} if there[name].note else {}
        except contenders.UnavailableError as error:
            found[name] = {"absent": str(error)}
        except Exception as error:
            found[name] = {"error": _said(error)}
    return there, found


def _check(case: Case, there: dict[str, Contender], found: dict[str, dict[str, Any]]) -> str:
    """Run each contender once, and remove those that fail. Returns what is wrong with those of portaloss."""
    problems = [f"{name}: {about['error']}" for name, about in found.items() if name in OURS and "error" in about]
    try:
        right = check.truth(case)
    except Exception as error:  # such as too little memory for float64
        return f"no truth to check with: {_said(error)}"
    for name, contender in list(there.items()):
        try:
            contender.forward()
            relative, problem = check.error(case, contender.forward_backward(), right)
        except Exception as error:  # this is a result too, and the other contenders go on
            del there[name]
            found[name] = {"error": _said(error)}
            if name in OURS:
                problems.append(f"{name}: {_said(error)}")
            continue
        found[name]["relative_error"] = relative
        if problem and name in OURS:  # the errors of others are shown, but are not failures
            problems.append(f"{name}: {problem}")
    return "; ".join(problems)


def _memory(case: Case, there: dict[str, Contender], settings: Settings) -> dict[str, dict[str, int | None]]:
    if not settings.memory:
        return {}
    if case.spec.device != "cpu":
        return {
            name: {direction: memory.of_gpu(getattr(one, direction)) for direction in memory.DIRECTIONS}
            for name, one in there.items()
        }
    # each process would compile the loss again
    names = [name for name in there if name not in ("compile", "compiled")]
    if case.operand_bytes < memory.LEAST_BYTES:
        return {}
    return {name: memory.peak_extra(case.spec, name, settings.threads) for name in names}


def _line(case: Case, direction: str, found: dict[str, dict[str, Any]], problem: str) -> Line:
    spec = case.spec
    return Line(
        kind=spec.loss.name,
        dtype=spec.dtype,
        size=spec.size,
        shape=list(spec.shape),
        shapes={name: list(value.shape) for name, value in case.operands.items()},
        direction=direction,
        gradients=list(case.wanted),
        gradient_bytes=case.gradient_bytes,
        moved_bytes=case.moved(direction),
        contenders=found,
        speedups=speedups(found),
        error=problem,
    )


def _failed(spec: Spec, direction: str, problem: str) -> Line:
    return Line(spec.loss.name, spec.dtype, spec.size, list(spec.shape), {}, direction, [], 0, None, {}, {}, problem)


def _forget(device: str) -> None:
    """Free the memory of one case before the next."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # the warning about kl_div's mean, which both libraries give
        warnings.filterwarnings("ignore", message="reduction: 'mean' divides the total loss by both")
        # warnings of the compiler about its own internals
        warnings.filterwarnings("ignore", module=r"torch\._(inductor|dynamo|functorch).*")
        yield

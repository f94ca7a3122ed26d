"""Runs one case of one SKU again, and prints its inputs, results and errors."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.catalogue import LOSSES, SKU, skus
from portaloss.parity import run, samples
from portaloss.parity.compare import bound, compare, ulp
from portaloss.parity.truth import Expected

Array = npt.NDArray[Any]


class ReplayError(ValueError):
    """There is no SKU, or no case, of this name."""


def parse(text: str) -> tuple[SKU, str, int | None]:
    """The parts of ``SKU:CASE`` or ``SKU:CASE@SEED``.

    Raises:
        ReplayError: there is no such SKU, or it has no such case.
    """
    name, colon, rest = text.partition(":")
    by_name = {str(sku): sku for sku in skus()}
    if not colon or name not in by_name:
        raise ReplayError(f"--replay takes SKU:CASE; there is no SKU {name!r} (--list prints them)")
    case, at, seed = rest.partition("@")
    sku = by_name[name]
    known = samples.names(sku.kind)
    if case not in known:
        raise ReplayError(f"{name} has no case {case!r}; it has: {', '.join(known)}")
    if at and not seed.isdecimal():
        raise ReplayError(f"a seed is a whole number, got {seed!r}")
    return sku, case, int(seed) if at else None


def replay(sku: SKU, name: str, seed: int | None, backend: str, *, file: Any = None) -> bool:
    """Run a case and print its inputs, its results and their errors; returns whether it passed."""
    out = file or sys.stdout
    loss = LOSSES[sku.kind]
    case = samples.case(sku, None, name, seed)
    trial = run.Trial(loss, case, sku.dtype)
    limit = bound(sku.kind, sku.dtype)
    print(f"{sku}, case {case.name}, seed {case.seed}, backend {backend}", file=out)
    for option, value in case.options.items():
        print(f"  {option} = {value!r}", file=out)
    for operand, array in case.operands.items():
        print(f"  {operand}: {_described(array)}", file=out)

    outcome = trial.ours(backend, sku)
    if outcome.error:
        print(f"{backend} raised {outcome.error}", file=out)
    else:
        _print_results(backend, trial.results(backend, sku), trial.expected(sku), sku.dtype, out)
    theirs = trial.pytorch_results(sku)
    if theirs is None:
        print("PyTorch: not installed, or it does not support the case", file=out)
    else:
        _print_results("PyTorch", theirs, trial.expected(sku), sku.dtype, out)
    passed = outcome.worst.ulp <= limit
    print(f"{'passed' if passed else 'FAILED'}: {outcome.worst.ulp:.4g} ulp, at most {limit:g}", file=out)
    return passed


def _described(array: Array) -> str:
    text = f"{array.dtype.name} {array.shape}, strides {array.strides}"
    if array.size:
        wide = array.astype(np.float64)
        finite = wide[np.isfinite(wide)]
        if finite.size:
            text += f", {finite.min():.6g} .. {finite.max():.6g}"
        if finite.size < array.size:
            text += f", {array.size - finite.size} not finite"
    return text


def _print_results(who: str, results: dict[str, Array], expected: dict[str, Expected], dtype: str, out: Any) -> None:
    for name, should in expected.items():
        what = name if name == "loss" else f"gradient of {name}"
        if name not in results:
            continue
        got = results[name]
        comparison = compare(got, should, dtype)
        if comparison.mismatch:
            print(f"{who}, {what}: {comparison.mismatch}", file=out)
            continue
        print(f"{who}, {what}: {comparison.ulp:.4g} ulp, relative {comparison.relative:.3g}", file=out)
        index = comparison.index
        if index is not None:
            truth, magnitude = float(should.value[index]), float(should.magnitude[index])
            spacing = float(ulp(np.fmax(np.abs(should.value[index]), magnitude), dtype))
            print(
                f"  worst at {list(index)}: {float(got[index])!r}, should be {truth!r}; "
                f"sum of |terms| {magnitude!r}, ulp {spacing:.3g}",
                file=out,
            )

"""Runs the parity matrix: compares the results of every SKU on every backend, in all its cases, with the truth.

The module of a backend may define two names for this: ``place(operands)`` moves NumPy arrays to where the backend takes
them, and ``device()`` returns the name of the device that it runs on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss import arrays, backends, engine
from portaloss.arrange import specs
from portaloss.backends.poison import poisoned
from portaloss.catalogue import LOSSES, SKU, Loss
from portaloss.engine import Executable, select
from portaloss.kinds import Direction, LossKind, LossReduction
from portaloss.machine import device, versions
from portaloss.parity import eager, samples
from portaloss.parity.compare import Comparison, bound, compare
from portaloss.parity.lines import Line
from portaloss.parity.samples import Case
from portaloss.parity.truth import Expected, Truth

Array = npt.NDArray[Any]

#: Called after each case with the number of cases done.
Tick = Callable[[int], None]

#: Added to the name of a gradient that came with the loss, and to that of one that was then multiplied by an upstream
#: gradient.
_EARLY, _RESCALED = ", with the loss", ", with the loss and rescaled"

#: How many failures of a SKU have their messages in the report.
_MESSAGES = 5


def _no_tick(done: int) -> None:
    del done


def count(kinds: Sequence[LossKind], dtypes: Sequence[str]) -> int:
    """How many cases ``run`` has, whatever the number of backends."""
    return sum(len(samples.names(kind)) for kind in kinds) * len(dtypes)


def run(
    names: Sequence[str], kinds: Sequence[LossKind], dtypes: Sequence[str], *, tick: Tick = _no_tick
) -> Iterator[Line]:
    """The lines of the report: one for each backend, kind, dtype, reduction and direction.

    Args:
        names: backends; the lines of one that is absent on this machine say so.
        kinds: the losses.
        dtypes: the dtypes.
        tick: called after each case with the number of cases done, for a progress bar.
    """
    for kind in kinds:
        for dtype in dtypes:
            yield from run_kind(names, LOSSES[kind], dtype, tick)


def run_kind(names: Sequence[str], loss: Loss, dtype: str, tick: Tick = _no_tick) -> Iterator[Line]:
    """The lines of one loss in one dtype. They share the truth and PyTorch's result of each case."""
    reasons = {name: _absence(name, dtype) for name in names}
    present = [name for name in names if reasons[name] is None]
    tallies = {(name, sku): _Tally(sku) for name in names for sku in _skus(loss.kind, dtype)}
    if present:
        for case in samples.cases(loss, dtype):
            trial = Trial(loss, case, dtype)
            for (name, sku), tally in tallies.items():
                if name in present:
                    tally.take(case, trial.ours(name, sku), trial.pytorch(sku), bound(loss.kind, dtype))
            tick(1)
    for (name, _), tally in tallies.items():
        yield tally.line(name, reasons[name])


def _skus(kind: LossKind, dtype: str) -> list[SKU]:
    return [SKU(kind, dtype, reduction, direction) for reduction in LossReduction for direction in Direction]


def _absence(name: str, dtype: str) -> str | None:
    """Why a backend cannot run a dtype on this machine; None if it can."""
    try:
        arrays.dtype_of(dtype)
    except ImportError as error:
        return str(error)
    return backends.available(name)


@dataclass
class Outcome:
    """The errors of one backend, or of PyTorch, in one case of one SKU."""

    worst: Comparison = field(default_factory=Comparison)
    what: str = "loss"  #: the result with the worst error: the loss, or an operand's gradient
    error: str = ""  #: the exception that was raised, if any

    @property
    def message(self) -> str:
        """What is wrong, unless it is only the size of the error."""
        return self.error or (f"{self.what}: {self.worst.mismatch}" if self.worst.mismatch else "")


class Trial:
    """One case: its truth, its upstream gradients and PyTorch's results. A backend's results are compared with them."""

    def __init__(self, loss: Loss, case: Case, dtype: str) -> None:
        self._loss = loss
        self._case = case
        self._dtype = dtype
        self._resolved = arrays.dtype_of(dtype)
        self.truth = Truth(loss, case)
        self.upstreams = {
            reduction: case.upstream(self.truth.items_shape if reduction is LossReduction.NONE else (), self._resolved)
            for reduction in LossReduction
        }
        self._kept = {name: np.array(array) for name, array in case.operands.items()}
        self._losses = {reduction: self.truth.loss(reduction) for reduction in LossReduction}
        self._gradients = {reduction: self._expected_gradients(reduction) for reduction in LossReduction}
        self._eager = eager.run(loss, case, self.upstreams) if eager.installed() else None

    def _expected_gradients(self, reduction: LossReduction) -> dict[str, Expected]:
        gradients = self.truth.gradients(reduction, self.upstreams[reduction])
        if reduction is LossReduction.NONE:
            return gradients
        early = self.truth.gradients(reduction, np.ones((), self._resolved))
        return {
            **gradients,
            **{name + _EARLY: should for name, should in early.items()},
            **{name + _RESCALED: should for name, should in gradients.items()},
        }

    def expected(self, sku: SKU) -> dict[str, Expected]:
        """The right results of a SKU, by name: the loss, or each gradient."""
        if sku.direction is Direction.FORWARD:
            return {"loss": self._losses[sku.reduction]}
        return self._gradients[sku.reduction]

    def ours(self, backend: str, sku: SKU) -> Outcome:
        """The errors of a backend."""
        try:
            results = self.results(backend, sku)
        except Exception as error:  # any exception is a failure of this case; other cases still run
            return Outcome(Comparison(math.inf, math.inf), error=f"{type(error).__name__}: {error}")
        return self._judge(results, sku)

    def pytorch(self, sku: SKU) -> Outcome | None:
        """The errors of PyTorch; None if it is not installed or does not support the case."""
        results = self.pytorch_results(sku)
        return None if results is None else self._judge(results, sku)

    def results(self, backend: str, sku: SKU) -> dict[str, Array]:
        """The results of a backend. Memory for results is filled with nan first."""
        plan = _plan(backend, sku, tuple(self._case.options.items()))
        operands = place(backend, self._case.operands)
        with poisoned():
            if sku.direction is Direction.FORWARD:
                results = {"loss": plan.forward(**operands)}
            else:
                upstream = place(backend, {"upstream": self.upstreams[sku.reduction]})["upstream"]
                results = plan.backward(upstream, **operands)
                if sku.reduction is not LossReduction.NONE:
                    results |= _early(plan, operands, upstream, tuple(results))
        arrived = {
            name: arrays.to_numpy(value.cpu() if arrays.is_tensor(value) else value) for name, value in results.items()
        }
        for name, kept in self._kept.items():
            if kept.tobytes() != np.ascontiguousarray(self._case.operands[name]).tobytes():
                raise AssertionError(f"operand {name} was overwritten")
        return arrived

    def pytorch_results(self, sku: SKU) -> dict[str, Array] | None:
        """PyTorch's results; None if it is not installed or does not support the case."""
        if self._eager is None:
            return None
        if sku.direction is Direction.BACKWARD:
            return self._eager.gradients.get(sku.reduction)
        loss = self._eager.losses.get(sku.reduction)
        return None if loss is None else {"loss": loss}

    def _judge(self, results: dict[str, Array], sku: SKU) -> Outcome:
        expected = self.expected(sku)
        outcome = Outcome()
        needed = set(expected) if sku.direction is Direction.FORWARD else set(self.truth.wants)
        if not needed <= set(results) <= set(expected):
            return Outcome(
                Comparison(math.inf, math.inf), error=f"gave {sorted(results)}, should give {sorted(needed)}"
            )
        relative = 0.0
        for name, result in results.items():
            comparison = compare(result, expected[name], self._dtype)
            relative = max(relative, comparison.relative)
            if comparison.ulp > outcome.worst.ulp:
                outcome = Outcome(comparison, name)
        worst = outcome.worst
        return Outcome(Comparison(worst.ulp, relative, worst.index, worst.mismatch), outcome.what)


def _early(plan: Executable, operands: dict[str, Any], upstream: Any, wants: tuple[str, ...]) -> dict[str, Any]:
    """The gradients that are computed together with the loss, as autograd uses them.

    They are for an upstream gradient of 1; those with the second name were then multiplied by ``upstream``.
    """
    prepared = engine.prepare(plan, specs(operands))
    early = engine.forward(prepared, operands, wants)
    if early.gradients is None:
        return {}
    results = {
        name + _EARLY: gradient.clone() if arrays.is_tensor(gradient) else gradient.copy()
        for name, gradient in early.gradients.items()
    }
    rescaled = engine.rescale(prepared, early.gradients, upstream)
    return results | {name + _RESCALED: gradient for name, gradient in (rescaled or {}).items()}


class _Tally:
    """Collects the outcomes of a SKU's cases for its line in the report."""

    def __init__(self, sku: SKU) -> None:
        self._sku = sku
        self._cases = 0
        self._worst: tuple[float, str, int | None] = (0.0, "", None)
        self._relative = 0.0
        self._failures: list[str] = []
        self._failed = 0
        self._torch: list[Comparison] = []
        self._beside = 0.0

    def take(self, case: Case, ours: Outcome, pytorch: Outcome | None, limit: float) -> None:
        """Add the outcome of a case."""
        self._cases += 1
        worst = ours.worst
        if worst.ulp > self._worst[0] or not self._worst[1]:
            self._worst = (worst.ulp, case.name, case.seed)
        if math.isfinite(worst.relative):
            self._relative = max(self._relative, worst.relative)
        if worst.ulp > limit:
            self._failed += 1
            text = ours.message or f"{ours.what}: {worst.ulp:.3g} ulp at {list(worst.index or ())}, at most {limit:g}"
            if len(self._failures) < _MESSAGES:
                self._failures.append(f"{case.name}: {text}")
        if pytorch is not None:
            self._torch.append(pytorch.worst)
            if math.isfinite(pytorch.worst.ulp):
                self._beside = max(self._beside, worst.ulp)

    def line(self, backend: str, absent: str | None) -> Line:
        """The line of the report; ``absent`` says why the backend cannot run here."""
        sku = self._sku
        numeric = [comparison for comparison in self._torch if math.isfinite(comparison.ulp)]
        return Line(
            sku=str(sku),
            kind=sku.kind.name.lower(),
            dtype=sku.dtype,
            reduction=sku.reduction.name.lower(),
            direction=sku.direction.name.lower(),
            backend=backend,
            architecture="" if absent is not None else backends.load(backend).architecture(),
            device=device(backend),
            versions=versions(),
            cases=self._cases,
            bound_ulp=bound(sku.kind, sku.dtype),
            worst_ulp=self._worst[0] if math.isfinite(self._worst[0]) else None,
            worst_relative=self._relative,
            worst_case=self._worst[1],
            worst_seed=self._worst[2],
            torch_ulp=max((c.ulp for c in numeric), default=None),
            torch_relative=max((c.relative for c in numeric), default=None),
            torch_cases=len(self._torch),
            torch_mismatches=len(self._torch) - len(numeric),
            status="absent" if absent is not None else "failed" if self._failed else "passed",
            reason=absent or "",
            failed_cases=self._failed,
            failures=list(self._failures),
            ulp_beside_torch=self._beside if numeric and math.isfinite(self._beside) else None,
        )


def _plan(backend: str, sku: SKU, options: tuple[tuple[str, Any], ...]) -> Executable:
    return select(sku.kind, dtype=sku.dtype, reduction=sku.reduction, backend=backend, **dict(options))


def place(backend: str, operands: dict[str, Array]) -> dict[str, Any]:
    """The operands where the backend takes them: as NumPy arrays, unless its module defines ``place``."""
    placed: dict[str, Any] = getattr(backends.load(backend), "place", dict)(operands)
    return placed

"""Class indices and lengths that another thread or library changes between a check and a use, or between two passes.

Whatever they hold by then, no address outside of an array is read or written: an error is raised, or numbers are wrong.
"""

import importlib.util
import threading

import numpy as np
import pytest

from portaloss import arrays, dispatch
from portaloss.backends.cpu.backend import Call
from portaloss.catalogue import INDICES, LOSSES, Family
from portaloss.engine import select
from portaloss.parity import samples

LABELS = [
    (kind, operand.name) for kind, loss in LOSSES.items() for operand in loss.operands if operand.domain in INDICES
]
WITH_GRADIENT = {kind: loss.differentiable[0].name for kind, loss in LOSSES.items()}

#: Beside the classes there are, far beyond an array's memory, and where a product with a stride wraps around.
WILD = [-1, 1 << 20, 1 << 40, -(1 << 40), (1 << 61) + 3, np.iinfo(np.int64).max, np.iinfo(np.int64).min]

LIBRARIES = [arrays.NUMPY, *([arrays.TORCH] if importlib.util.find_spec("torch") else [])]

#: What is raised for a label that is out of range: by the checks, by NumPy where it is used, or where shapes follow.
ERRORS = (IndexError, ValueError, RuntimeError)


def trials(kind):
    """Small cases with every wild label, and one of several tiles with one."""
    small, large = ("plain", "unbatched"), "tile-of-rows+1"
    if LOSSES[kind].family is Family.CTC:
        small, large = ("padded", "concatenated"), "tile+1"
    yield from ((name, wild) for name in small if name in samples.names(kind) for wild in WILD)
    yield large, 1 << 40


def made(kind, name, library):
    """Operands, and arrays on the same memory."""
    own = {name: array.copy() for name, array in samples.case(kind, "float32", name).operands.items()}
    if library == arrays.NUMPY:
        return own, own
    import torch

    return {name: torch.from_numpy(array) for name, array in own.items()}, own


def is_safe(function):
    """Whether the function returns numbers, or raises one of the errors."""
    try:
        result = function()
    except ERRORS:
        return True
    return all(np.asarray(value).dtype.kind == "f" for value in result.values())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("kind", "label"), LABELS)
def test_labels_change_between_forward_and_backward(kind, label, library):
    for name, wild in trials(kind):
        for reduction in ("none", "mean"):
            given, memory = made(kind, name, library)
            plan = select(kind, dtype="float32", reduction=reduction)
            upstream = arrays.like(np.ones(np.shape(plan.forward(**given)), np.float32), library)
            memory[label][...] = wild
            assert is_safe(lambda plan=plan, upstream=upstream, given=given: plan.backward(upstream, **given))


@pytest.mark.skipif(arrays.TORCH not in LIBRARIES, reason="needs torch")
@pytest.mark.parametrize(("kind", "label"), LABELS)
def test_labels_change_where_autograd_does_not_see_it(kind, label):
    """NumPy made the change, so that the tensor's version is the old one."""
    for name, wild in trials(kind):
        for reduction in ("none", "mean"):
            given, memory = made(kind, name, arrays.TORCH)
            leaf = given[WITH_GRADIENT[kind]].requires_grad_()
            loss = dispatch.loss(kind, reduction, given)
            memory[label][...] = wild

            def backward(loss=loss, leaf=leaf):
                loss.sum().backward()
                return {"gradient": leaf.grad}

            assert is_safe(backward)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("kind", "label"), LABELS)
def test_labels_change_between_their_check_and_their_use(kind, label, library, monkeypatch):
    run = Call.run
    plan = select(kind, dtype="float32", reduction="sum")
    for name, wild in trials(kind):
        for backward in (False, True):
            given, memory = made(kind, name, library)

            def changed(call, *args, wild=wild, memory=memory, **options):
                memory[label][...] = wild
                return run(call, *args, **options)

            def called(given=given, backward=backward):
                return plan.backward(1.0, **given) if backward else {"loss": plan.forward(**given)}

            with monkeypatch.context() as patch:
                patch.setattr(Call, "run", changed)
                assert is_safe(called)


@pytest.mark.parametrize("name", ["plain", "tile-of-rows+1"])
@pytest.mark.parametrize(("kind", "label"), [pair for pair in LABELS if LOSSES[pair[0]].family is Family.ROWWISE])
def test_labels_change_while_they_are_used(kind, label, name):
    """NumPy checks all indices before it reads the first, and then reads them once more."""
    given, memory = made(kind, name, arrays.NUMPY)
    right = memory[label].copy()
    plan = select(kind, dtype="float32", reduction="mean")
    stop = threading.Event()

    def change():
        while not stop.is_set():
            memory[label][...] = 1 << 40
            memory[label][...] = right

    other = threading.Thread(target=change)
    other.start()
    try:
        for _ in range(100):
            assert is_safe(lambda: plan.backward(1.0, **given))
    finally:
        stop.set()
        other.join()

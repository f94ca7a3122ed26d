"""Gradients without autograd: ``value_and_grad``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from portaloss import arrays, engine

if TYPE_CHECKING:
    from portaloss.backends import Prepared

_active: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def active() -> Recorder | None:
    """The recorder of the ``value_and_grad`` that is running; None if none is."""
    return _active.get()


class Recorder:
    """Records the one loss that a function computes, together with its gradients."""

    def __init__(self, watched: Sequence[Any]) -> None:
        self._watched = watched
        self.value: Any = None
        self.gradients: list[Any] | None = None

    def record(self, prepared: Prepared, operands: dict[str, Any], given: Mapping[str, Any]) -> Any:
        """Compute the loss, and the gradients of those operands that are watched."""
        if self.gradients is not None:
            raise ValueError("value_and_grad: the function computes more than one loss; its gradient is not known")
        possible = prepared.differentiable
        names: list[list[str]] = []
        for array in self._watched:
            found = [name for name, value in given.items() if value is array]
            for name in found:
                if name not in possible:
                    raise ValueError(f"value_and_grad: {name} of {prepared.plan.loss.function} has no gradient here")
            names.append(found)
        wants = tuple(dict.fromkeys([name for found in names for name in found]))
        result = engine.forward(prepared, operands, wants)
        if result.value.ndim != 0:
            raise ValueError(f"value_and_grad needs a scalar loss, got shape {tuple(result.value.shape)}")
        computed = result.gradients
        if computed is None:
            computed = engine.backward(prepared, operands, 1.0, wants) if wants else {}
        self.value = result.value
        self.gradients = []
        for found in names:
            if not found:
                raise ValueError("value_and_grad: an argument to differentiate is not an operand of the loss")
            total = computed[found[0]]
            for name in found[1:]:  # the same array is two operands, as in mse_loss(x, x)
                total = total + computed[name]
            self.gradients.append(total)
        return self.value if result.extras is None else (self.value, result.extras)


def value_and_grad(fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., tuple[Any, Any]]:
    """A function that returns the loss of ``fn`` and its gradients.

    ``fn`` is a function of ``portaloss.functional``, or a function that calls one of them on its own arguments and
    returns the result: ``lambda x: cross_entropy(x, target, label_smoothing=0.1)``. The arguments are NumPy arrays, or
    torch tensors, which need no autograd.

    Args:
        fn: computes one loss, with reduction mean or sum.
        argnums: which positional arguments to differentiate.

    Returns:
        A function with the arguments of fn. It returns the loss and the gradient, or a tuple of gradients if argnums is
        a sequence. Each has the shape and dtype of its argument.

    Raises:
        TypeError: fn is not callable, or argnums are not ints.
        ValueError: raised by the returned function if the loss is not a scalar, if fn does not return the one loss that
            it computed, or if an argument has no gradient.

    >>> import numpy as np
    >>> from portaloss.functional import mse_loss
    >>> loss, gradient = value_and_grad(mse_loss)(np.array([1.0, 3.0]), np.array([0.0, 1.0]))
    >>> float(loss), gradient.tolist()
    (2.5, [1.0, 2.0])
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {type(fn).__name__}")
    single = not isinstance(argnums, Sequence)
    positions: tuple[Any, ...] = tuple(argnums) if isinstance(argnums, Sequence) else (argnums,)
    if not positions or not all(isinstance(i, int) and not isinstance(i, bool) for i in positions):
        raise TypeError(f"argnums must be an int or a sequence of ints, got {argnums!r}")

    @wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        for i in positions:
            if not -len(args) <= i < len(args):
                raise ValueError(f"value_and_grad: argnums has {i}, but there are {len(args)} positional arguments")
        watched = [args[i] for i in positions]
        if not all(isinstance(array, np.ndarray) for array in watched):
            arrays.library_of({f"argument {i}": value for i, value in zip(positions, watched, strict=True)})
        recorder = Recorder(watched)
        token = _active.set(recorder)
        try:
            value = fn(*args, **kwargs)
        finally:
            _active.reset(token)
        if recorder.gradients is None:
            raise ValueError("value_and_grad: the function computes no loss of portaloss")
        if value is not recorder.value:
            raise ValueError("value_and_grad: the function must return the loss itself, not something made from it")
        return value, recorder.gradients[0] if single else tuple(recorder.gradients)

    return wrapped

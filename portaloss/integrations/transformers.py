"""Hugging Face's language models with portaloss's loss, which never stores all logits.

from portaloss.integrations.transformers import patch, unpatch

patch(model)    # then train as before
unpatch(model)  # restores the model

The model's own forward pass runs. Only its output layer, and only while a gradient is recorded, returns logits that are
not computed yet (see ``lazy_logits``): the cross-entropy that the model or the user calls takes them as they are, and
whatever else looks at them gets numbers.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any
from weakref import WeakSet

try:
    from transformers import PreTrainedModel
except ImportError as error:  # pragma: no cover
    raise ImportError("portaloss.integrations.transformers needs transformers: pip install transformers") from error

import torch

from portaloss.integrations.lazy_head import LazyHead
from portaloss.integrations.lazy_logits import watch_optimizers


def patch(model: Any) -> Any:
    """Have a model compute its training loss by linear cross-entropy, wherever it calls PyTorch's cross-entropy.

    Loss and gradients are those of before. ``outputs.logits`` is a tensor whose numbers are computed if they are looked
    at, which takes the memory that was saved. Without a gradient to record, as in evaluation and ``generate``, nothing
    changes.

    Only the class of the output layer changes, to ``LazyHead``. A new output layer, as after
    ``resize_token_embeddings``, has to be patched again.

    Args:
        model: a model of transformers, or a wrapper such as PEFT's, whose output layer is a ``torch.nn.Linear``.

    Returns:
        The model.

    Raises:
        TypeError: the output layer is absent, or of another class, which may do more than multiply.
    """
    head = _head(model)
    if type(head) is not LazyHead and not _become_lazy(head):
        found = "none" if head is None else f"one of class {type(head).__module__}.{type(head).__qualname__}"
        raise TypeError(f"the output layer must be of class torch.nn.Linear; {type(model).__name__} has {found}")
    return model


def unpatch(model: Any) -> Any:
    """Undo ``patch``. A model that is not patched is left as it is. Returns the model."""
    for module in model.modules():
        if type(module) is LazyHead:
            _set_class(module, torch.nn.Linear)
    return model


class patch_all:  # noqa: N801  # called like a function
    """Patch every model of transformers when it is called next, whoever made it.

    A model that cannot be patched stays as it is. ``unpatch_all()`` undoes it, and so does the end of a with
    statement::

        with patch_all():
            trainer.train()
    """

    def __init__(self) -> None:
        if "__call__" not in PreTrainedModel.__dict__:
            setattr(PreTrainedModel, "__call__", _patch_and_call)  # noqa: B010  # types forbid to assign a method

    def __enter__(self) -> None:
        """Nothing is left to do."""

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        """Undo it."""
        unpatch_all()


def unpatch_all() -> None:
    """Undo ``patch_all``: the models it patched, and no others, are as they were."""
    if PreTrainedModel.__dict__.get("__call__") is _patch_and_call:
        del PreTrainedModel.__call__
    for head in _patched_by_all:
        if type(head) is LazyHead:
            _set_class(head, torch.nn.Linear)
    _patched_by_all.clear()


#: The output layers that ``patch_all`` has met.
_patched_by_all: WeakSet[torch.nn.Module] = WeakSet()


def _patch_and_call(model: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.compiler.is_compiling():
        head = _head(model)
        if head is not None and _become_lazy(head):
            _patched_by_all.add(head)
    return torch.nn.Module.__call__(model, *args, **kwargs)


def _set_class(module: Any, to: type) -> None:
    module.__class__ = to


def _head(model: Any) -> Any:
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def _become_lazy(head: Any) -> bool:
    """Make a LazyHead of a plain linear layer; False where it is none."""
    if type(head) is not torch.nn.Linear:
        return False
    watch_optimizers()
    _set_class(head, LazyHead)
    return True


__all__ = ["patch", "patch_all", "unpatch", "unpatch_all"]

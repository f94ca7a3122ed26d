"""Hugging Face's causal language models with portaloss's fused loss, which never stores all logits.

from portaloss.integrations.transformers import patch, unpatch

patch(model)    # then train as before
unpatch(model)  # restores the model
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

try:
    from transformers.modeling_outputs import CausalLMOutputWithPast
except ImportError as error:  # pragma: no cover
    raise ImportError("portaloss.integrations.transformers needs transformers: pip install transformers") from error

import torch
from torch import Tensor

from portaloss import dispatch
from portaloss.kinds import LossKind

#: Fields of a configuration that change the logits before the loss; the fused loss does not implement them.
_LOGIT_OPTIONS = ("logits_scaling", "logit_scale", "router_aux_loss_coef")

#: Arguments of the loss that the base model does not take.
_OF_THE_LOSS = ("labels", "num_items_in_batch", "shift_labels", "ignore_index", "logits_to_keep", "return_dict")


def patch(model: Any) -> Any:
    """Have a causal language model compute its training loss by ``portaloss.functional.linear_cross_entropy``.

    A forward pass with labels gives the same loss as before, and None for the logits: not storing them is what saves
    memory. A forward pass without labels, as in ``generate``, does not change; nor do the model's type and weights.

    Args:
        model: a base model with one linear layer on top of it, such as LlamaForCausalLM.

    Returns:
        The model.

    Raises:
        TypeError: the model has no linear layer on top of a base model.
        NotImplementedError: its configuration changes the logits after the linear layer.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if not isinstance(head, torch.nn.Linear) or getattr(model, "base_model", model) is model:
        raise TypeError(f"model must be a base model with a linear layer on top of it, got {type(model).__name__}")
    for name in _LOGIT_OPTIONS:
        if getattr(model.config, name, None):
            raise NotImplementedError(f"{type(model).__name__}: config.{name} changes logits; patch does not know how")
    if not hasattr(model.forward, "_portaloss"):
        model.forward = _fused(model, model.forward)
    return model


def unpatch(model: Any) -> Any:
    """Undo ``patch``. A model that is not patched is left as it is. Returns the model."""
    if hasattr(model.forward, "_portaloss"):
        del model.forward  # the instance's attribute: the class's method becomes visible again
    return model


def _fused(model: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(forward)

    @wraps(forward)  # trainers inspect the signature
    def fused(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        arguments = {**given.arguments, **given.arguments.pop("kwargs", {})}
        if arguments.get("labels") is None:
            return forward(*args, **kwargs)
        of_the_loss = {name: arguments.pop(name) for name in _OF_THE_LOSS if name in arguments}
        outputs = model.base_model(**arguments)
        softcap = getattr(model.config, "final_logit_softcapping", None)
        loss = _loss(outputs[0], model.get_output_embeddings(), softcap=softcap, **of_the_loss)
        shared = {name: getattr(outputs, name, None) for name in _SHARED}
        result = CausalLMOutputWithPast(loss=loss, logits=None, **shared)
        return result if of_the_loss.get("return_dict") is not False else result.to_tuple()

    fused._portaloss = True  # type: ignore[attr-defined]  # marks the model as patched
    return fused


#: The fields that the base model's output and this one share; their names changed with transformers 5.
_SHARED = tuple(name for name in inspect.signature(CausalLMOutputWithPast).parameters if name not in ("loss", "logits"))


def _loss(
    hidden: Tensor,
    head: torch.nn.Linear,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    shift_labels: Tensor | None = None,
    ignore_index: int = -100,
    softcap: float | None = None,
    **others: Any,
) -> Tensor:
    """The loss of predicting each token from those before it: the mean, or the sum divided by num_items_in_batch."""
    del others
    if shift_labels is None:
        hidden, shift_labels = hidden[..., :-1, :], labels[..., 1:]
    loss: Tensor = dispatch.loss(
        LossKind.FUSED_LINEAR_CROSS_ENTROPY,
        "mean",
        {
            "input": hidden.reshape(-1, hidden.shape[-1]),
            "linear_weight": head.weight,
            "target": shift_labels.reshape(-1).to(hidden.device),
            "linear_bias": head.bias,
            "normalizer": _as_tensor(num_items_in_batch, hidden),
        },
        ignore_index=ignore_index,
        softcap=softcap or 0.0,
        dtype="float32" if hidden.element_size() == 2 else None,  # as transformers does
    )
    return loss


def _as_tensor(count: Tensor | int | None, like: Tensor) -> Tensor | None:
    if count is None:
        return None
    if isinstance(count, Tensor):
        return count.to(like.device).reshape(())
    return like.new_full((), count, dtype=torch.float64)


__all__ = ["patch", "unpatch"]

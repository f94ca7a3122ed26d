"""Logits that are not computed until somebody looks: a linear layer's output that cross-entropy takes as a product.

``LazyLogits`` is a tensor in every respect but one: its memory does not exist. ``lazy_head`` has the layer that returns
it. A short list of operations (``_RULES``) gives lazy logits again: casts, slices and reshapes of rows, a
scale, a soft cap, an added vector. ``torch.nn.functional.cross_entropy`` of them is computed by linear cross-entropy,
which needs the factors alone. Whatever else touches them gets the logits that the layer would have returned.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from portaloss import dispatch
from portaloss.kinds import LossKind

PLAIN = (Tensor, torch.nn.Parameter)
_NARROW = (torch.float16, torch.bfloat16)
_compiler: Any = torch.compiler  # of which not all has types


class _Product:
    """The factors of lazy logits, and what was done to their product since. It holds no lazy tensor: no cycles."""

    def __init__(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.operands = (input, weight, bias)
        self.steps: tuple[Callable[[Tensor], Tensor], ...] = ()
        self.stale = False
        self._versions = self._versions_now()
        _products.add(self)

    def then(self, step: Callable[[Tensor], Tensor]) -> _Product:
        """The product with one more step."""
        self.check()
        result = _Product(*self.operands)
        result.steps = (*self.steps, step)
        return result

    def compute(self, *operands: Tensor | None) -> Tensor:
        """The logits as the layer and the steps compute them, of these operands or the own ones."""
        self.check()
        input, weight, bias = operands or self.operands
        assert input is not None
        assert weight is not None
        with torch.autocast(input.device.type, enabled=False):  # the operands are as it casts them
            result = functional.linear(input, weight, bias)
            for step in self.steps:
                result = step(result)
        return result

    def check(self) -> None:
        """Raise where the factors are no longer what they were when the layer was called."""
        if self.stale or self._versions != self._versions_now():
            raise RuntimeError(
                "these logits were not stored, and what they are computed from has changed since: look at them before "
                "optimizer.step(), or undo portaloss's patch of the model"
            )

    def _versions_now(self) -> list[tuple[int, bool]]:
        # FSDP frees the memory of gathered weights
        return [(x._version, x.untyped_storage().nbytes() > 0) for x in self.operands if x is not None]


_products: weakref.WeakSet[_Product] = weakref.WeakSet()


@cache  # once
def watch_optimizers() -> None:
    """Have products know when an optimizer changes their weights; some change memory without telling PyTorch."""
    register_optimizer_step_post_hook(_compiler.disable(_after_step))


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    del args, kwargs
    if not _products:
        return
    changed = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for product in list(_products):
        for factor in product.operands[1:]:
            # one that is no leaf may be a view of a parameter; autocast's copies are no views
            if factor is not None and (id(factor) in changed or factor._is_view()):
                product.stale = True


class _Connect(torch.autograd.Function):
    """Lazy logits as a function of their factors, for those who reach them past ``__torch_function__``, as C++ does."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, product: _Product, meta: Tensor) -> Any:
        ctx.product = product
        return Tensor._make_wrapper_subclass(
            LazyLogits, meta.shape, strides=meta.stride(), dtype=meta.dtype, device=input.device
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Any) -> Any:
        wanted = [i for i in range(3) if ctx.needs_input_grad[i]]
        operands: list[Any] = [None if x is None else x.detach() for x in ctx.product.operands]
        with torch.enable_grad():
            for i in wanted:
                operands[i].requires_grad_()
            result = ctx.product.compute(*operands)
        found = iter(torch.autograd.grad(result, [operands[i] for i in wanted], *upstream))
        return *(next(found) if i in wanted else None for i in range(3)), None, None


_connect: Any = _Connect.apply


class LazyLogits(Tensor):
    """The output of a linear layer, (..., C), computed the first time it is looked at."""

    _product: _Product
    _meta: Tensor  #: an empty tensor of the same shape, strides and dtype
    _rows: Tensor  #: what the layer's input becomes where the same rows are chosen of it: (..., D)
    _scale: float  #: the logits are _scale (x Aᵀ + b),
    _cap: float | None  #: or _cap tanh(_scale (x Aᵀ + b))
    _bias: Tensor | None
    _source: LazyLogits | None  #: what this is a view of
    _step: Callable[[Tensor], Tensor] | None  #: what the view is made by
    _parent: LazyLogits | None  #: what this is made of
    _computed: Any
    _taken: bool  #: whether a loss was computed from the factors
    _hooks: list[Any]

    def is_computed(self) -> bool:
        """Whether the logits have been computed."""
        return self._computed is not None or (self._source is not None and self._source.is_computed())

    def computed(self) -> Tensor:
        """The logits, computed now unless they were before. A view shares memory with what it is a view of."""
        if self._computed is None:
            with torch.inference_mode(False), torch.enable_grad():
                if self._source is not None and self._step is not None:
                    self._computed = self._step(self._source.computed())
                else:
                    self._computed = self._product.compute()
                for hook in self._hooks:
                    self._computed.register_hook(hook)
        result: Tensor = self._computed
        return result

    def _hook_later(self, hook: Any) -> Any:
        self._hooks.append(hook)  # for gradients that flow through the logits once they are computed
        with torch._C.DisableTorchFunctionSubclass():
            return Tensor.register_hook(self, hook)  # type: ignore[no-untyped-call]  # for those past __torch_function__

    def derive(self, step: Callable[[Tensor], Tensor], rows: Tensor, **changes: Any) -> LazyLogits | None:
        """Lazy logits after a step; ``changes`` are of the attributes. None where the step touches more than rows."""
        meta = step(self._meta)
        if meta is self._meta:
            return self
        if meta.shape != (*rows.shape[:-1], self._meta.shape[-1]):
            return None
        product = self._product.then(step)
        result: LazyLogits = _connect(*product.operands, product, meta)
        known = {"_scale": self._scale, "_cap": self._cap, "_bias": self._bias}
        result.__dict__.update(known, **changes, _product=product, _meta=meta, _rows=rows)
        is_view = meta.untyped_storage()._cdata == self._meta.untyped_storage()._cdata
        source = self if is_view else None
        result.__dict__.update(_source=source, _step=step, _parent=self, _computed=None, _taken=False, _hooks=[])
        return result

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Lazy logits or a loss for the operations that have a rule; for all others the logits are computed."""
        return _call_as_it_stands(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch's own is no class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """What C++ does to the logits, with the values alone: autograd has looked at it before."""
        del types
        if func._schema.is_mutable:
            raise NotImplementedError(f"{func} in place, called by C++ on logits that were not computed")
        args, kwargs = tree_map_only(LazyLogits, lambda x: x.computed().detach(), (args, kwargs or {}))
        return func(*args, **kwargs)


def lazy_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``torch.nn.functional.linear``, lazily."""
    product = _Product(input, weight, bias)
    meta = torch.empty(*input.shape[:-1], weight.shape[0], dtype=input.dtype, device="meta")
    result: Tensor = _connect(input, weight, bias, product, meta)
    result.__dict__.update(_product=product, _meta=meta, _rows=input, _scale=1.0, _cap=None, _bias=bias)
    result.__dict__.update(_source=None, _step=None, _parent=None, _computed=None, _taken=False, _hooks=[])
    return result


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    first: Any = args[0] if args else None
    lazy = isinstance(first, LazyLogits) and not first.is_computed()
    if (lazy and func in _KNOWN) or func is Tensor.__hash__:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    if func in _ASK_FOR_GRADIENTS:
        if func is Tensor.register_hook and lazy and first._taken and _is_pytorchs(args[1]):
            return first._hook_later(args[1])
        _refuse_if_taken(func, args, kwargs)
    rule = _RULES.get(func)
    # what is made without a gradient has none, also where it is used with one
    if rule is not None and lazy and torch.is_grad_enabled():
        result = rule(func, *args, **kwargs)
        if result is not None:
            return result
    args, kwargs = tree_map_only(LazyLogits, LazyLogits.computed, (args, kwargs))
    return func(*args, **kwargs)


#: A compiled function that is given lazy logits does not compile what it does to them.
_call_as_it_stands: Any = _compiler.disable(_call)


def _is_pytorchs(hook: Any) -> bool:
    """Whether FSDP set it, which has all outputs tell when the backward pass begins. The loss tells that too."""
    while isinstance(hook, partial):
        hook = hook.func
    return str(getattr(hook, "__module__", "")).startswith("torch.")


def _refuse_if_taken(func: Any, args: Any, kwargs: Any) -> None:
    asked = (args[1:2], kwargs.get("inputs")) if func is torch.autograd.grad else args[:1]
    pytorchs = func is Tensor.register_hook and _is_pytorchs(args[1])
    if not pytorchs and any(isinstance(leaf, LazyLogits) and leaf._taken for leaf in tree_leaves(asked)):
        raise RuntimeError(
            f"{func.__name__}: the loss was computed without these logits, so no gradient flows through them. Call it "
            "before the loss is computed, or undo portaloss's patch of the model"
        )


# The rules: each takes the function and its arguments, and returns None where it does not apply


def _cast(func: Any, logits: LazyLogits, *args: Any, **kwargs: Any) -> LazyLogits | None:
    if func is Tensor.to:
        try:
            parsed: Any = torch._C._nn._parse_to(*args, **kwargs)
        except (RuntimeError, TypeError):  # .to(other), .to(copy=True)
            return None
        device, dtype, _, memory_format = parsed
        if memory_format is not None or (device is not None and device != logits.device):
            return None
        if dtype is None:
            return logits
        args, kwargs = (dtype,), {}
    meta = func(logits._meta, *args, **kwargs)
    if not isinstance(meta, Tensor) or not meta.is_meta:  # .type() gives a text, .type(name) may move
        return None
    if meta.dtype != logits.dtype and not (logits.dtype in _NARROW and meta.dtype == torch.float32):
        return None  # of less digits, or of more than the loss would have
    return logits.derive(lambda x: func(x, *args, **kwargs), logits._rows)


def _reshape(func: Any, logits: LazyLogits, *args: Any, **kwargs: Any) -> LazyLogits | None:
    meta = func(logits._meta, *args, **kwargs)
    if meta.dtype != logits.dtype or meta.ndim == 0 or meta.shape[-1] != logits.shape[-1]:
        return None
    # elements keep their order, and the last axis its length, so that each row stays together
    rows = logits._rows.reshape(*meta.shape[:-1], logits._rows.shape[-1])
    return logits.derive(lambda x: func(x, *args, **kwargs), rows)


def _index(func: Any, logits: LazyLogits, index: Any) -> LazyLogits | None:
    axes = logits.ndim - 1
    if isinstance(index, Tensor):
        if type(index) is not Tensor or index.device != logits.device or not index.ndim >= 1 or axes == 0:
            return None
        if index.dtype == torch.int64:
            taken: Any = index.clone()  # as it is now
        elif index.dtype == torch.bool and index.shape == logits.shape[:axes][: index.ndim]:
            taken = index.nonzero(as_tuple=True)
        else:
            return None
        on_meta = tree_map(lambda x: torch.empty_like(x, device="meta"), taken)
        return logits.derive(lambda x: x[on_meta if x.is_meta else taken], logits._rows[taken])
    entries = index if isinstance(index, tuple) else (index,)
    if not all(entry is Ellipsis or isinstance(entry, (int, slice)) for entry in entries):
        return None
    if any(isinstance(entry, bool) for entry in entries):
        return None
    if Ellipsis in entries:
        reaches_last = len(entries) - 1 > axes or entries[-1] is not Ellipsis
    else:
        reaches_last = len(entries) > axes
    if reaches_last and entries[-1] != slice(None):
        return None
    return logits.derive(lambda x: x[index], logits._rows[index])


def _scale(func: Any, logits: LazyLogits, by: Any, **kwargs: Any) -> LazyLogits | None:
    if isinstance(by, bool) or not isinstance(by, (int, float)) or not 0 < by < float("inf") or kwargs:
        return None
    factor = 1 / by if func in _DIVISIONS else by
    changes = {"_scale": logits._scale * factor} if logits._cap is None else {"_cap": logits._cap * factor}
    return logits.derive(lambda x: func(x, by), logits._rows, **changes)


def _tanh(func: Any, logits: LazyLogits) -> LazyLogits | None:
    return None if logits._cap is not None else logits.derive(func, logits._rows, _cap=1.0)


def _add(func: Any, logits: LazyLogits, other: Any, **kwargs: Any) -> LazyLogits | None:
    classes = logits.shape[-1]
    if kwargs or type(other) not in PLAIN or other.shape not in ((classes,), (1, classes)) or other.requires_grad:
        return None
    if other.dtype != logits.dtype or other.device != logits.device or logits._cap is not None or logits._scale != 1:
        return None
    now = other.detach().clone()
    vector = now.reshape(classes) if logits._bias is None else logits._bias + now.reshape(classes)
    on_meta = torch.empty_like(now, device="meta")
    return logits.derive(lambda x: func(x, on_meta if x.is_meta else now), logits._rows, _bias=vector)


def _cross_entropy(
    func: Any,
    logits: LazyLogits,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    """The loss from the factors, where it is of rows and classes; None where it is not."""
    del func
    if weight is not None or size_average is not None or reduce is not None:
        return None
    if reduction not in ("none", "mean", "sum") or type(target) is not Tensor or target.dtype != torch.int64:
        return None
    if logits.ndim != 2 or target.shape != logits.shape[:1] or target.device != logits.device or not target.numel():
        return None
    rows, matrix, bias = logits._rows, logits._product.operands[1], logits._bias
    scale = logits._scale * (logits._cap or 1.0)
    is_scaled = abs(scale - 1) > 1e-12  # a soft cap divides and multiplies by the same number
    logits._product.check()
    device = logits.device.type
    wide = logits.dtype == torch.float32 or torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False):
        loss: Tensor = dispatch.loss(
            LossKind.FUSED_LINEAR_CROSS_ENTROPY,
            reduction,
            {
                "input": rows,
                "linear_weight": matrix,
                "target": target,
                "linear_bias": bias,
                "logit_scale": rows.new_full((), scale, dtype=torch.float64) if is_scaled else None,
            },
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            softcap=logits._cap or 0.0,
            dtype="float32" if wide and rows.dtype in _NARROW else None,
        )
    step: LazyLogits | None = logits
    while step is not None:
        step._taken, step = True, step._parent
    return loss


_DIVISIONS = {Tensor.div, Tensor.__truediv__, Tensor.true_divide, torch.div, torch.true_divide}

#: What gives lazy logits, or a loss.
_RULES: dict[Any, Callable[..., Any]] = {
    functional.cross_entropy: _cross_entropy,
    Tensor.__getitem__: _index,
    Tensor.tanh: _tanh,
    torch.tanh: _tanh,
    **dict.fromkeys((Tensor.float, Tensor.to, Tensor.type, Tensor.contiguous), _cast),
    **dict.fromkeys((Tensor.view, Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten), _reshape),
    **dict.fromkeys((Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.mul, *_DIVISIONS), _scale),
    **dict.fromkeys((Tensor.add, Tensor.__add__, torch.add), _add),
}

#: What asks for a gradient that flows through the logits.
_ASK_FOR_GRADIENTS = {Tensor.register_hook, Tensor.retain_grad, torch.autograd.grad}


def _getter(name: str) -> Any:
    return getattr(Tensor, name).__get__


#: What is known without computing the logits.
_KNOWN = {
    *map(_getter, ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_leaf", "itemsize", "nbytes")),
    *map(_getter, ("grad_fn", "_base")),
    *map(_getter, ("is_cuda", "is_cpu", "is_meta", "is_sparse", "is_quantized", "is_nested", "is_mps", "is_xla")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.stride, Tensor.is_contiguous, Tensor.__len__),
    *(Tensor.element_size, Tensor.is_floating_point, Tensor.is_complex, Tensor.get_device),
    *(torch.is_floating_point, torch.is_complex, torch.numel),
}

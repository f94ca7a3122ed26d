"""What can be wrong with a call: random faults, and the calls that have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from portaloss import arrays
from portaloss.catalogue import Loss
from portaloss.parity import draws

#: Values of operands that are no arrays, and of options that are of a wrong type or beyond what a loss can do.
NO_ARRAYS = (None, 1.5, 2, True, "text", [1.0, 2.0], (1,), {"a": 1}, ..., np.float32(0.5), 1j, b"bytes")
ODD = (
    *(
        None,
        "0.5",
        "",
        [0.5],
        (1,),
        {},
        ...,
        1j,
        float("nan"),
        float("inf"),
        float("-inf"),
        -1,
        -0.5,
        0,
        10**400,
        2**63,
    ),
    *(True, False, np.float16(0.1), np.int32(1), np.bool_(True), np.array(0.5), np.array([0.5, 0.25]), 1e-300, 1e300),
)
REDUCTIONS = ("median", "", None, 1, True, "MEAN", ["mean"], "elementwise_mean", "batchmean", b"mean", 0.5)

OF_ARRAYS = (
    "int64",
    "int8",
    "uint64",
    "bool",
    "complex64",
    "complex128",
    "object",
    "U3",
    "M8[s]",
    ">f4",
    "longdouble",
    "V4",
)
OF_TENSORS = ("int64", "uint8", "bool", "complex64", "complex128", "float8_e4m3fn", "uint16", "int16")
STATES = ("sparse", "meta", "requires grad", "other library", "list", "0-d", "extra axis", "flat", "nested")

#: What, of which argument, and how.
Fault = tuple[str, str, Any]


@st.composite
def faults(draw: Any, loss: Loss, library: str) -> list[Fault]:
    """One fault, or two."""
    operand = st.sampled_from([operand.name for operand in loss.operands])
    small = st.lists(st.sampled_from([0, 1, 2, 3, 5]), max_size=4).map(tuple)
    labels = [operand.name for operand in loss.operands if operand.domain in draws.INTEGER]
    options = [option.name for option in loss.options if option.name != "batchmean"]
    dtypes = OF_ARRAYS if library == arrays.NUMPY else OF_TENSORS
    kinds = [
        st.tuples(st.just("dtype"), operand, st.sampled_from(dtypes)),
        st.tuples(st.just("shape"), operand, small),
        st.tuples(st.just("value"), operand, st.sampled_from(NO_ARRAYS)),
        st.tuples(st.just("state"), operand, st.sampled_from(STATES)),
        st.tuples(st.just("missing"), operand, st.none()),
        st.tuples(st.just("argument"), st.just("reduction"), st.sampled_from(REDUCTIONS)),
        st.tuples(st.just("argument"), st.just("bogus"), st.just(1)),
    ]
    if options:
        kinds += [st.tuples(st.just("argument"), st.sampled_from(options), st.sampled_from(ODD))] * 3
    if labels:
        wild = st.sampled_from([-1, -2, 1000, -100, 2**31, -(2**31), 2**63 - 1, -(2**63)])
        kinds += [st.tuples(st.just("label"), st.sampled_from(labels), wild)] * 2
    return draw(st.lists(st.one_of(kinds), min_size=1, max_size=2))


def apply(arguments: dict[str, Any], fault: Fault, library: str) -> None:
    """Change the arguments of a call; where a fault does not suit an operand, it is left alone."""
    what, name, how = fault
    if what == "argument":
        arguments[name] = how
        return
    value = arguments.get(name)
    if value is None or not hasattr(value, "shape"):
        return
    if what == "missing":
        del arguments[name]
    elif what == "value":
        arguments[name] = how
    elif what == "dtype":
        arguments[name] = _cast(value, how)
    elif what == "shape":
        arguments[name] = _filled(value, how)
    elif what == "label":
        _set_first(value, how)
    else:
        arguments[name] = _in_state(value, how, library)


def _cast(value: Any, dtype: str) -> Any:
    if not arrays.is_tensor(value):
        with np.errstate(all="ignore"):
            return value.astype("i4").view("V4") if dtype == "V4" else value.astype(np.dtype(dtype))
    import torch

    wanted = getattr(torch, dtype, None)
    if wanted is None:
        raise TypeError(f"torch has no {dtype}")
    return value.to(wanted)


def _filled(value: Any, shape: tuple[int, ...]) -> Any:
    if arrays.is_tensor(value):
        return value.new_ones(shape)
    return np.ones(shape, value.dtype)


def _set_first(value: Any, label: int) -> None:
    if value.ndim and 0 not in value.shape and "int" in str(value.dtype):
        bits = 63 if "64" in str(value.dtype) else 31
        if -(2**bits) <= label < 2**bits and (not arrays.is_tensor(value) or value.is_contiguous()):
            value[(0,) * value.ndim] = label


def _in_state(value: Any, state: str, library: str) -> Any:
    tensors = library == arrays.TORCH
    match state:
        case "sparse" if tensors and value.ndim:
            return value.to_sparse()
        case "meta" if tensors:
            return value.to("meta")
        case "requires grad" if tensors and value.is_floating_point():
            return value.detach().requires_grad_()
        case "other library":
            return arrays.to_numpy(value) if tensors else _as_tensor(value)
        case "list":
            return value.tolist()
        case "0-d":
            return value.reshape(-1)[0] if 0 not in value.shape else value
        case "extra axis":
            return value[None]
        case "flat":
            return value.reshape(-1)
        case "nested":
            return [value]
    return value


def _as_tensor(value: Any) -> Any:
    import torch

    return torch.zeros(value.shape)


__all__ = ["Fault", "apply", "faults"]

"""Faults that the campaign has found and that are not mended yet, so that it goes on behind them.

An entry hides whatever else has the same text: whoever mends a fault deletes it here.
"""

from __future__ import annotations

import re

#: Texts of errors, as regular expressions.
KNOWN: list[str] = [
    # a required operand of None
    r"KeyError: '(?!torch)\w+'",
    r"AttributeError: 'NoneType' object has no attribute 'dtype'",
    # no classes, or no features with p = inf
    r"zero-size array to reduction operation maximum",
    r"ZeroDivisionError",
    r"argmax of an empty sequence",
    r"index 0 is out of bounds for axis \d with size 0",
    # the margin losses' error for a wrong number of axes names no argument
    r"Expected non-empty vector or matrix",
    # an error of PyTorch's text that speaks of targets, where the argument is target
    r"only batches of spatial targets supported",
    # a normalizer of text
    r"the resolved dtypes are not compatible with add.reduce",
    # a variance that is not of a floating dtype
    r"OverflowError: cannot convert float infinity to integer",
    r"data type '=u16' not understood",
    # an option that is an int beyond float's range
    r"OverflowError: int too large to convert to float",
    # triplet_margin_loss with swap, where both distances are equal: rounding decides which of them is smaller
    r"TRIPLET_MARGIN (kinks|extremes): of (anchor|positive): ",
    # no rows of 128 classes or more
    r"cannot reshape array of size 0 into shape \(0,newaxis,128\)",
    # triplet_margin_loss with a large eps and a p that is no whole number: 8.5 ulp in float32, at most 4
    r"TRIPLET_MARGIN \w+: of \w+: \d\.?\d* ulp",
    # huber_loss and hinge_embedding_loss of a float8 target
    r"Got unsupported ScalarType",
    # l1_loss of complex and uint16 operands
    r"Promotion for uint16, uint32, uint64 types is not supported",
    # poisson_nll_loss of a 0-dimensional input of integers: float32, where PyTorch has the dtype of a 16-bit target
    r"dtype torch.float32, PyTorch's is torch.b?float16",
    # text, dates and objects in NumPy arrays
    r"was taken for numbers",
    r"could not convert string to float",
    # labels of CTC that are text, dates, structured or complex
    r"invalid literal for int\(\) with base 10",
    # targets of CTC without axes
    r"IndexError: tuple index out of range",
    # float16 beside bfloat16 in losses that are stored in the dtype of some operands
    r"could not be promoted by",
    # structured arrays
    r"setting an array element with a sequence",
    # complex operands
    r"PyTorch's is torch.complex",
    r"float\(\) argument must be a string or a real number, not 'complex'",
]


def is_known(error: Exception) -> bool:
    """Whether an error is one of those."""
    text = f"{type(error).__name__}: {error}"
    return any(re.search(pattern, text) for pattern in KNOWN)

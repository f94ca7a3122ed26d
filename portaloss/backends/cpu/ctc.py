"""Runs the chapter of CTC, which computes all samples and labels of a step at once; threads share the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from portaloss.arrange.sequence import pad_labels
from portaloss.backends.cpu.casts import narrow_into, widen
from portaloss.backends.cpu.threads import parallel

Array = npt.NDArray[Any]

#: How many extended labels (2 S + 1 for each sample) a NumPy call handles in a step of the recursion. With fewer, most
#: of the time is that of the calls themselves, and dividing the batch among threads would save nothing.
STEP = 16384


def run(
    chapter: Callable[..., tuple[Array, dict[str, Array]]],
    operands: Mapping[str, Array],
    options: Mapping[str, Any],
    math: np.dtype[Any],
    upstream: float | Array,
    items: Array | None,
    gradient: Array | None,
    *,
    tensors: bool = False,
) -> Array:
    """Fill ``items`` (N,) and ``gradient`` (T, N, C). Returns the items in float64."""
    log_probs = operands["log_probs"]
    batch = log_probs.shape[1]
    results = np.zeros(batch)
    if batch == 0:
        return results
    input_lengths, target_lengths = (operands[name].astype(np.int64) for name in ("input_lengths", "target_lengths"))
    targets = pad_labels(operands["targets"], target_lengths)
    upstreams = np.broadcast_to(widen(upstream, math) if isinstance(upstream, np.ndarray) else upstream, (batch,))
    size = max(1, STEP // (2 * targets.shape[1] + 1))
    wants = () if gradient is None else ("log_probs",)

    def samples(index: int) -> None:
        part = slice(index * size, (index + 1) * size)
        with np.errstate(all="ignore"):
            values, derivatives = chapter(
                widen(log_probs[:, part], math),
                targets[part],
                input_lengths[part],
                target_lengths[part],
                **options,
                wants=wants,
            )
            results[part] = values
            if gradient is not None:
                derivative = derivatives["log_probs"]
                derivative *= upstreams[part].astype(math)[None, :, None]
                narrow_into(derivative, gradient[:, part])

    parallel(samples, -(-batch // size), tensors=tensors)
    if items is not None:
        narrow_into(results.astype(math), items)
    return results


def workspace_size(log_probs: tuple[int, ...], targets: tuple[int, ...], itemsize: int) -> int:
    """An upper bound in bytes: for both recursions over all steps, and for casts and posteriors of log_probs' size."""
    steps, classes = log_probs[0], log_probs[-1]
    batch = log_probs[1] if len(log_probs) == 3 else 1
    labels = 2 * targets[-1] + 1
    return steps * batch * (8 * labels + 8 * classes) * max(itemsize, 8) + 65536

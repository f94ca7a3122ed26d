"""What is measured: each kind at a few sizes, with operands from a fixed seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portaloss.catalogue import LOSSES, Domain, Extent, Family, Loss
from portaloss.kinds import LossKind

#: tiny: only overhead. cache: fits a core's own cache. large: does not fit a CPU's caches. huge: nor a GPU's.
SIZES = ("tiny", "cache", "large", "huge")

Shape = tuple[int, ...]
Shapes = tuple[Shape, Shape, Shape, Shape]

#: One shape for each size. Pointwise: elements. Rowwise: rows and columns. CTC: steps, samples, classes and labels.
#: Linear cross-entropy: rows, features and classes.
_OF_FAMILY: Mapping[Family, Shapes] = {
    Family.POINTWISE: ((64,), (256, 256), (4096, 4096), (8192, 8192)),
    Family.ROWWISE: ((32, 10), (256, 256), (4096, 4096), (8192, 8192)),
    Family.CTC: ((32, 4, 10, 5), (100, 16, 40, 20), (500, 32, 80, 100), (512, 64, 1024, 100)),
    Family.LINEAR_CROSS_ENTROPY: ((32, 16, 10), (64, 128, 1000), (2048, 1024, 32000), (8192, 4096, 32000)),
}

_VOCABULARY: Shapes = ((32, 10), (64, 1000), (4096, 32000), (8192, 32000))
_VECTORS: Shapes = ((32, 10), (256, 256), (65536, 256), (262144, 256))

#: Kinds whose shapes differ from their family's.
_OF_KIND: Mapping[LossKind, Shapes] = {
    LossKind.NLL: _VOCABULARY,
    LossKind.CROSS_ENTROPY: _VOCABULARY,
    LossKind.MULTI_MARGIN: ((32, 10), (640, 100), (65536, 100), (524288, 128)),
    LossKind.MULTILABEL_MARGIN: ((32, 10), (640, 100), (16384, 100), (65536, 1024)),
    LossKind.COSINE_EMBEDDING: _VECTORS,
    LossKind.TRIPLET_MARGIN: _VECTORS,
}

#: Labels in each row of multilabel margin, whose time grows with labels x classes.
_LABELS = 4


@dataclass(frozen=True)
class Spec:
    """What is measured, without the operands: small enough to send to another process."""

    kind: LossKind
    dtype: str
    size: str
    shape: Shape
    device: str = "cpu"

    @property
    def loss(self) -> Loss:
        """The kind's entry in the catalogue."""
        return LOSSES[self.kind]

    def __str__(self) -> str:
        return f"{self.loss.name} {self.dtype} {' x '.join(map(str, self.shape))}"


def shape_of(kind: LossKind, size: str, rows: int | None = None) -> Shape:
    """The shape of a kind at a size, with at most ``rows`` rows (for CTC: samples)."""
    family = LOSSES[kind].family
    shape = list((_OF_KIND.get(kind) or _OF_FAMILY[family])[SIZES.index(size)])
    if rows is not None:
        axis = 1 if family is Family.CTC else 0
        shape[axis] = min(shape[axis], rows)
    return tuple(shape)


def specs(
    kinds: Sequence[LossKind], dtypes: Sequence[str], sizes: Sequence[str], device: str, rows: int | None = None
) -> list[Spec]:
    """Everything to measure, small sizes first."""
    return [
        Spec(kind, dtype, size, shape_of(kind, size, rows), device)
        for size in sizes
        for dtype in dtypes
        for kind in kinds
    ]


@dataclass(frozen=True)
class Case:
    """A spec and its operands: torch tensors that do not require gradients."""

    spec: Spec
    operands: dict[str, Any]
    wanted: tuple[str, ...]  #: the operands whose gradients are measured; not the target, which is data

    @property
    def operand_bytes(self) -> int:
        """The size of all operands together."""
        return sum(value.nbytes for value in self.operands.values())

    @property
    def gradient_bytes(self) -> int:
        """The size of the gradients, which every implementation allocates."""
        return sum(self.operands[name].nbytes for name in self.wanted)

    def moved(self, direction: str) -> int | None:
        """The bytes that a direction must read and write; None where something else limits the speed.

        NLL reads one element of each row. The steps of CTC wait for each other, and linear cross-entropy consists of
        matrix products: there, memory traffic is not the limit.
        """
        if self.spec.loss.family in (Family.CTC, Family.LINEAR_CROSS_ENTROPY):
            return None
        read = self.operand_bytes
        if self.spec.kind is LossKind.NLL:
            input, target = self.operands["input"], self.operands["target"]
            read = target.numel() * (input.element_size() + target.element_size())
        return read if direction == "forward" else read + self.gradient_bytes


def draw(spec: Spec) -> Case:
    """The operands of a spec, on its device."""
    import torch

    random = torch.Generator(spec.device).manual_seed(0)
    if spec.loss.family is Family.CTC:
        operands = _ctc(spec, random)
    elif spec.loss.family is Family.LINEAR_CROSS_ENTROPY:
        operands = _linear(spec, random)
    else:
        operands = {
            operand.name: _typical(
                operand.domain, spec.shape[:1] if operand.extent is Extent.ROWS else spec.shape, spec, random
            )
            for operand in spec.loss.operands
            if not operand.optional
        }
    wanted = tuple(
        operand.name
        for operand in spec.loss.operands
        if operand.name in operands and operand.differentiable and operand.name != "target"
    )
    return Case(spec, operands, wanted)


def _ctc(spec: Spec, random: Any) -> dict[str, Any]:
    import torch

    steps, samples, classes, labels = spec.shape
    log_probs = _typical(Domain.REAL, (steps, samples, classes), spec, random).float().log_softmax(2)
    return {
        "log_probs": log_probs.to(getattr(torch, spec.dtype)),
        "targets": torch.randint(1, classes, (samples, labels), device=random.device, generator=random),
        "input_lengths": torch.full((samples,), steps, device=random.device),
        "target_lengths": torch.full((samples,), labels, device=random.device),
    }


def _linear(spec: Spec, random: Any) -> dict[str, Any]:
    rows, features, classes = spec.shape
    return {
        "input": _typical(Domain.REAL, (rows, features), spec, random),
        # scaled for logits of about 1, as at the start of training
        "linear_weight": _typical(Domain.REAL, (classes, features), spec, random).div_(features**0.5),
        "target": _typical(Domain.CLASS_INDEX, (rows, classes), spec, random),
    }


def _typical(domain: Domain, shape: Shape, spec: Spec, random: Any) -> Any:
    """A tensor of a domain. The last axis of the shape has the classes; there is one class index for each row."""
    import torch

    dtype = getattr(torch, spec.dtype)
    kwargs: dict[str, Any] = {"device": random.device, "generator": random}
    if domain is Domain.CLASS_INDEX:
        return torch.randint(spec.shape[-1], shape[:1], **kwargs)
    if domain is Domain.CLASS_SET:
        classes = shape[-1]
        sets = torch.full(shape, -1, dtype=torch.int64, device=random.device)
        first = torch.randint(classes, (shape[0], 1), **kwargs)
        sets[:, :_LABELS] = (first + torch.arange(_LABELS, device=random.device) * (classes // _LABELS)) % classes
        return sets
    # a probability computed in 16 bits would often be 0 or 1, where gradients are infinite
    kwargs["dtype"] = torch.promote_types(dtype, torch.float32)
    return _TYPICAL[domain](lambda: torch.randn(shape, **kwargs)).to(dtype)


#: Domain -> a function from a generator of normal numbers to numbers in the domain.
_TYPICAL: Mapping[Domain, Callable[[Callable[[], Any]], Any]] = {
    Domain.REAL: lambda normal: normal(),
    Domain.POSITIVE: lambda normal: normal().exp_(),
    Domain.NON_NEGATIVE: lambda normal: normal().exp_(),
    Domain.PROBABILITY: lambda normal: normal().sigmoid_(),
    Domain.LOG_PROBABILITY: lambda normal: normal().abs_().neg_(),
    Domain.COUNT: lambda normal: normal().abs_().mul_(3.0).floor_(),
    Domain.SIGN: lambda normal: normal().lt_(0.0).mul_(-2.0).add_(1.0),  # sign_ would leave a 0
}

"""One entry a kind. SKUs, samples, tables in the docs, checks and the parity matrix all derive from these entries.

An entry says what a loss takes, how its operands are arranged and checked, what it divides a mean by, and what PyTorch
knows of it. It holds no math: that is in ``reference/``. The file is long because every loss has its entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from portaloss.arrange import Arrangement, linear_cross_entropy, pointwise, rowwise, sequence
from portaloss.kinds import DTYPES, Direction, LossKind, LossReduction


class Family(Enum):
    """Kinds that share a skeleton: how an item depends on the operands."""

    POINTWISE = "pointwise"  #: item i depends on element i of each operand
    ROWWISE = "rowwise"  #: item i depends on a whole row (all classes, or all features)
    CTC = "ctc"  #: item i depends on a whole sequence
    LINEAR_CROSS_ENTROPY = "linear_cross_entropy"  #: rowwise, and the rows are a matrix product


class Domain(Enum):
    """Which numbers an operand may hold. Samples are drawn from it."""

    REAL = "any real number"
    POSITIVE = "> 0"
    NON_NEGATIVE = ">= 0"
    PROBABILITY = "in [0, 1]"
    LOG_PROBABILITY = "<= 0"
    COUNT = "a whole number >= 0"
    SIGN = "-1 or 1"
    CLASS_INDEX = "0 .. C-1, or ignore_index"
    CLASS_SET = "distinct classes 0 .. C-1, then -1"
    LABEL = "a class other than blank"
    LENGTH = "a length"


#: Domains whose values are used to find something. They are checked before they are.
INDICES = frozenset({Domain.CLASS_INDEX, Domain.CLASS_SET, Domain.LABEL, Domain.LENGTH})


class Extent(Enum):
    """Which axes an operand spans."""

    FULL = "every element"
    ROWS = "one value a row"
    CLASSES = "one value a class"
    ONE = "one value"


class Divisor(Enum):
    """What the mean divides the sum of the items by."""

    ITEMS = "the number of items"
    WEIGHT_SUM = "the sum of weight where it is given, else the number of items"
    #: Each target counts as much as its token_weight, and a normalizer replaces it all, where these are given.
    CLASS_WEIGHT_SUM = "the sum of the class weights of the targets that count; the number of items for soft targets"
    TARGET_LENGTHS = "each item's target length, at least 1, and then the batch size"


class Autocast(Enum):
    """What torch.autocast does to a loss's operands of 16 bits."""

    WIDENED = "they become float32"
    LEFT = "they stay as they are"
    UNSAFE_ON_GPU = "they become float32; on a GPU it raises"


@dataclass(frozen=True)
class Operand:
    """An array argument of a loss."""

    name: str
    domain: Domain
    extent: Extent = Extent.FULL
    differentiable: bool = False
    optional: bool = False
    #: A second domain, and the option value that selects it; ``None`` there means that both are always allowed.
    other_domain: Domain | None = None
    other_when: tuple[str, object] | None = None
    #: Differentiable only where the named operand is of a floating dtype (soft targets).
    differentiable_with: str | None = None
    #: PyTorch's function does not have it.
    extension: bool = False
    #: Its dtype has a say in the dtype of the loss.
    decides: bool = True
    #: An integer dtype is an error, whatever the other operands are.
    floating: bool = False
    #: The chapter reads one class of a row only, and the gradient is 0 in all others.
    sparse: bool = False


@dataclass(frozen=True)
class Limit:
    """A condition that an option's value must meet, and the error where it does not."""

    holds: Callable[[Any], bool]
    error: type[Exception]
    text: str  #: a format, which is given the value


@dataclass(frozen=True)
class Option:
    """A scalar argument: its default, and the other values that the parity matrix exercises."""

    name: str
    default: object
    others: tuple[object, ...] = ()
    #: It changes no item, but what a mean divides by, the memory, or what is returned: chapters do not know it.
    changes_items: bool = True
    #: PyTorch's function does not have it.
    extension: bool = False
    limit: Limit | None = None
    #: bool, int or float; the default's type where it is None.
    takes: type | None = None

    @property
    def type(self) -> type:
        """bool, int or float: what a value must be. An int is taken for a float."""
        return self.takes or type(self.default)


@dataclass(frozen=True)
class Loss:
    """An entry of the catalogue."""

    kind: LossKind
    family: Family
    function: str  #: in ``portaloss.functional`` and ``torch.nn.functional``
    module: str  #: in ``portaloss.nn`` and ``torch.nn``
    operands: tuple[Operand, ...]
    arrangement: Arrangement
    options: tuple[Option, ...] = ()
    divisor: Divisor = Divisor.ITEMS
    autocast: Autocast = Autocast.WIDENED
    in_torch: bool = True  #: whether ``torch.nn.functional`` has the function
    twice_in_torch: bool = True  #: whether PyTorch can differentiate it twice

    def __post_init__(self) -> None:
        if self.arrangement.values is None and any(operand.domain in INDICES for operand in self.operands):
            raise TypeError(f"{self.function} has an operand of indices, but its arrangement checks no values")

    @cached_property
    def differentiable(self) -> tuple[Operand, ...]:
        """The operands that have a gradient, where their dtype allows."""
        return tuple(operand for operand in self.operands if operand.differentiable)

    @cached_property
    def name(self) -> str:
        """The chapter of ``reference/``, and the function in it."""
        return self.kind.name.lower()

    def item_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the options that a chapter takes."""
        return {option.name: options[option.name] for option in self.options if option.changes_items}

    def operand(self, name: str) -> Operand:
        """The operand of that name; ``KeyError`` where there is none."""
        return {operand.name: operand for operand in self.operands}[name]

    def option(self, name: str) -> Option:
        """The option of that name; ``KeyError`` where there is none."""
        return {option.name: option for option in self.options}[name]


def _real(name: str, *, optional: bool = False, decides: bool = True) -> Operand:
    return Operand(name, Domain.REAL, differentiable=True, optional=optional, decides=decides)


def _weight(*, differentiable: bool = False) -> Operand:
    return Operand("weight", Domain.NON_NEGATIVE, differentiable=differentiable, optional=True)


def _not_negative(name: str) -> Limit:
    return Limit(lambda value: value >= 0, ValueError, f"linear_cross_entropy: {name} must not be negative, got {{}}")


_FLOATING_INPUT = Operand("input", Domain.REAL, differentiable=True, floating=True)
_CLASS_INDEX = Operand("target", Domain.CLASS_INDEX, Extent.ROWS)
_CLASS_WEIGHT = Operand("weight", Domain.NON_NEGATIVE, Extent.CLASSES, optional=True)
_CLASS_OR_SOFT = Operand(
    "target", Domain.CLASS_INDEX, Extent.ROWS, differentiable=True, other_domain=Domain.PROBABILITY
)
_SOFT_CLASS_WEIGHT = Operand(
    "weight", Domain.NON_NEGATIVE, Extent.CLASSES, differentiable=True, optional=True, differentiable_with="target"
)
_IGNORE_INDEX = Option("ignore_index", -100, (0,))
_LABEL_SMOOTHING = Option(
    "label_smoothing",
    0.0,
    (0.1, 1.0),
    limit=Limit(
        lambda smoothing: not (smoothing < 0.0 or smoothing > 1.0),
        RuntimeError,
        "label_smoothing must be between 0.0 and 1.0. Got: {}",
    ),
)

_ENTRIES = (
    Loss(
        LossKind.MSE,
        Family.POINTWISE,
        "mse_loss",
        "MSELoss",
        (_real("input"), _real("target"), _weight(differentiable=True)),
        pointwise.WEIGHTED,
        divisor=Divisor.WEIGHT_SUM,
    ),
    Loss(
        LossKind.NLL,
        Family.ROWWISE,
        "nll_loss",
        "NLLLoss",
        (Operand("input", Domain.LOG_PROBABILITY, differentiable=True, sparse=True), _CLASS_INDEX, _CLASS_WEIGHT),
        rowwise.NLL,
        (_IGNORE_INDEX,),
        Divisor.CLASS_WEIGHT_SUM,
    ),
    Loss(
        LossKind.CROSS_ENTROPY,
        Family.ROWWISE,
        "cross_entropy",
        "CrossEntropyLoss",
        (_real("input"), _CLASS_OR_SOFT, _SOFT_CLASS_WEIGHT),
        rowwise.CROSS_ENTROPY,
        (_IGNORE_INDEX, _LABEL_SMOOTHING),
        Divisor.CLASS_WEIGHT_SUM,
    ),
    Loss(
        LossKind.BCE,
        Family.POINTWISE,
        "binary_cross_entropy",
        "BCELoss",
        (
            Operand("input", Domain.PROBABILITY, differentiable=True),
            Operand("target", Domain.PROBABILITY, differentiable=True),
            _weight(),
        ),
        pointwise.BCE,
        autocast=Autocast.UNSAFE_ON_GPU,
    ),
    Loss(
        LossKind.KL_DIV,
        Family.POINTWISE,
        "kl_div",
        "KLDivLoss",
        (
            Operand("input", Domain.LOG_PROBABILITY, differentiable=True),
            Operand(
                "target",
                Domain.PROBABILITY,
                differentiable=True,
                other_domain=Domain.LOG_PROBABILITY,
                other_when=("log_target", True),
            ),
        ),
        pointwise.KL_DIV,
        (Option("log_target", False, (True,)), Option("batchmean", False, (True,), changes_items=False)),
    ),
    Loss(
        LossKind.L1,
        Family.POINTWISE,
        "l1_loss",
        "L1Loss",
        (_real("input"), _real("target"), _weight(differentiable=True)),
        pointwise.WEIGHTED,
        divisor=Divisor.WEIGHT_SUM,
    ),
    Loss(
        LossKind.SMOOTH_L1,
        Family.POINTWISE,
        "smooth_l1_loss",
        "SmoothL1Loss",
        (_real("input"), _real("target")),
        pointwise.ALIKE,
        (
            Option(
                "beta",
                1.0,
                (0.0, 0.25, 3.0),
                limit=Limit(
                    lambda beta: not beta < 0,
                    RuntimeError,
                    "smooth_l1_loss does not support negative values for beta; got {}",
                ),
            ),
        ),
    ),
    Loss(
        LossKind.HINGE_EMBEDDING,
        Family.POINTWISE,
        "hinge_embedding_loss",
        "HingeEmbeddingLoss",
        (_FLOATING_INPUT, Operand("target", Domain.SIGN, decides=False)),
        pointwise.TARGET_FIRST,
        (Option("margin", 1.0, (0.25, 0.0, -0.5)),),
    ),
    Loss(
        LossKind.MARGIN_RANKING,
        Family.POINTWISE,
        "margin_ranking_loss",
        "MarginRankingLoss",
        (_real("input1"), _real("input2"), Operand("target", Domain.SIGN, differentiable=True)),
        pointwise.MARGIN_RANKING,
        (Option("margin", 0.0, (0.5, -0.25)),),
    ),
    Loss(
        LossKind.TRIPLET_MARGIN,
        Family.ROWWISE,
        "triplet_margin_loss",
        "TripletMarginLoss",
        (_real("anchor"), _real("positive"), _real("negative")),
        rowwise.TRIPLET_MARGIN,
        (
            Option(
                "margin",
                1.0,
                (0.25,),
                limit=Limit(lambda m: not m <= 0, ValueError, "margin must be greater than 0, got {}"),
            ),
            Option("p", 2.0, (1.0, 3.0, 1.5, 2.7, 0.5, -1.5, float("inf"), float("-inf"), 0.0)),
            Option("eps", 1e-6, (1e-2, 0.0)),
            Option("swap", False, (True,)),
        ),
    ),
    Loss(
        LossKind.CTC,
        Family.CTC,
        "ctc_loss",
        "CTCLoss",
        (
            Operand("log_probs", Domain.LOG_PROBABILITY, differentiable=True),
            Operand("targets", Domain.LABEL, Extent.ROWS),
            Operand("input_lengths", Domain.LENGTH, Extent.ROWS),
            Operand("target_lengths", Domain.LENGTH, Extent.ROWS),
        ),
        sequence.CTC,
        (Option("blank", 0, (1,)), Option("zero_infinity", False, (True,))),
        Divisor.TARGET_LENGTHS,
    ),
    Loss(
        LossKind.POISSON_NLL,
        Family.POINTWISE,
        "poisson_nll_loss",
        "PoissonNLLLoss",
        (
            Operand(
                "input",
                Domain.REAL,
                differentiable=True,
                other_domain=Domain.NON_NEGATIVE,
                other_when=("log_input", False),
            ),
            Operand("target", Domain.COUNT, differentiable=True),
        ),
        pointwise.TARGET_FIRST,
        (Option("log_input", True, (False,)), Option("full", False, (True,)), Option("eps", 1e-8, (1e-2,))),
    ),
    Loss(
        LossKind.HUBER,
        Family.POINTWISE,
        "huber_loss",
        "HuberLoss",
        (_FLOATING_INPUT, _real("target", decides=False), _weight(differentiable=True)),
        pointwise.WEIGHTED,
        (
            Option(
                "delta",
                1.0,
                (0.25, 3.0),
                limit=Limit(
                    lambda delta: delta > 0,
                    RuntimeError,
                    "huber_loss does not support non-positive values for delta; got {}",
                ),
            ),
        ),
    ),
    Loss(
        LossKind.BCE_WITH_LOGITS,
        Family.POINTWISE,
        "binary_cross_entropy_with_logits",
        "BCEWithLogitsLoss",
        (
            _real("input"),
            Operand("target", Domain.PROBABILITY, differentiable=True),
            _weight(),
            Operand("pos_weight", Domain.POSITIVE, optional=True),
        ),
        pointwise.BCE_WITH_LOGITS,
    ),
    Loss(
        LossKind.GAUSSIAN_NLL,
        Family.POINTWISE,
        "gaussian_nll_loss",
        "GaussianNLLLoss",
        (_real("input"), _real("target"), Operand("var", Domain.NON_NEGATIVE, differentiable=True)),
        pointwise.GAUSSIAN_NLL,
        (Option("full", False, (True,)), Option("eps", 1e-6, (1e-2,))),
        autocast=Autocast.LEFT,
    ),
    Loss(
        LossKind.COSINE_EMBEDDING,
        Family.ROWWISE,
        "cosine_embedding_loss",
        "CosineEmbeddingLoss",
        (_real("input1"), _real("input2"), Operand("target", Domain.SIGN, Extent.ROWS)),
        rowwise.COSINE_EMBEDDING,
        (Option("margin", 0.0, (0.5, -0.25)),),
    ),
    Loss(
        LossKind.MULTI_MARGIN,
        Family.ROWWISE,
        "multi_margin_loss",
        "MultiMarginLoss",
        (_real("input"), _CLASS_INDEX, _CLASS_WEIGHT),
        rowwise.MULTI_MARGIN,
        (
            Option(
                "p",
                1,
                (2,),
                limit=Limit(lambda p: p in (1, 2), ValueError, "only p == 1 and p == 2 supported, got p {}"),
                takes=float,
            ),
            Option("margin", 1.0, (0.25,)),
        ),
        twice_in_torch=False,
    ),
    Loss(
        LossKind.MULTILABEL_MARGIN,
        Family.ROWWISE,
        "multilabel_margin_loss",
        "MultiLabelMarginLoss",
        (_real("input"), Operand("target", Domain.CLASS_SET)),
        rowwise.MULTILABEL_MARGIN,
        twice_in_torch=False,
    ),
    Loss(
        LossKind.MULTILABEL_SOFT_MARGIN,
        Family.ROWWISE,
        "multilabel_soft_margin_loss",
        "MultiLabelSoftMarginLoss",
        (
            _real("input"),
            Operand("target", Domain.PROBABILITY, differentiable=True),
            _weight(differentiable=True),
        ),
        rowwise.MULTILABEL_SOFT_MARGIN,
        autocast=Autocast.LEFT,
    ),
    Loss(
        LossKind.FUSED_LINEAR_CROSS_ENTROPY,
        Family.LINEAR_CROSS_ENTROPY,
        "linear_cross_entropy",
        "LinearCrossEntropyLoss",
        (
            _real("input"),
            _real("linear_weight"),
            _CLASS_OR_SOFT,
            _real("linear_bias", optional=True),
            _SOFT_CLASS_WEIGHT,
            Operand("token_weight", Domain.NON_NEGATIVE, Extent.ROWS, optional=True, extension=True, decides=False),
            Operand("normalizer", Domain.POSITIVE, Extent.ONE, optional=True, extension=True, decides=False),
            Operand(
                "logit_scale",
                Domain.POSITIVE,
                Extent.ONE,
                differentiable=True,
                optional=True,
                extension=True,
                decides=False,
            ),
        ),
        linear_cross_entropy.LINEAR_CROSS_ENTROPY,
        (
            _IGNORE_INDEX,
            _LABEL_SMOOTHING,
            Option("softcap", 0.0, (2.0,), extension=True, limit=_not_negative("softcap")),
            Option("z_loss", 0.0, (0.25,), extension=True, limit=_not_negative("z_loss")),
            Option("max_memory", 0, (1,), changes_items=False, extension=True, limit=_not_negative("max_memory")),
            Option("return_extras", False, changes_items=False, extension=True),
        ),
        Divisor.CLASS_WEIGHT_SUM,
    ),
)

#: The catalogue: every kind has exactly one entry.
LOSSES: Mapping[LossKind, Loss] = {entry.kind: entry for entry in _ENTRIES}


@dataclass(frozen=True, order=True)
class SKU:
    """Kind x dtype x reduction x direction: the unit that parity validates, 480 on each backend."""

    kind: LossKind
    dtype: str
    reduction: LossReduction
    direction: Direction

    def __str__(self) -> str:
        return f"{self.kind.name.lower()}-{self.dtype}-{self.reduction.name.lower()}-{self.direction.name.lower()}"


def skus() -> Iterator[SKU]:
    """Every SKU, in a fixed order."""
    for kind in LossKind:
        for dtype in DTYPES:
            for reduction in LossReduction:
                for direction in Direction:
                    yield SKU(kind, dtype, reduction, direction)

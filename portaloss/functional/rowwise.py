"""Losses with one item for each row, over its classes or features: cross-entropy, NLL, margins, distances."""

from __future__ import annotations

from portaloss import dispatch
from portaloss.functional._arrays import Array, ArrayT, as_pytorch_promotes, floating, in_dtype_of
from portaloss.functional._legacy import reduction_of
from portaloss.functional._triplets import triplet_loss
from portaloss.kinds import LossKind


def nll_loss(
    input: ArrayT,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> ArrayT:
    """Negative log-likelihood of the target class, given log-probabilities.

    Formula::

        item = -w[t] x[t]        (0 where t = ignore_index)

    with x the input's row, t its target class and w the class weights, 1 by default.

    Args:
        input: x, log-probabilities of a floating dtype: (C), (N, C) or (N, C, d1, ...), with C classes.
        target: t, classes from 0 to C - 1 or ignore_index, of an integer dtype: (), (N) or (N, d1, ...).
        weight: w, (C), of input's dtype.
        size_average: deprecated, use reduction.
        ignore_index: a target; rows with it have an item and a gradient of 0.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the sum of w[t] over the targets
            that are not ignored (nan where all are ignored), or ``"sum"``.

    Returns:
        The loss, in the dtype of input: items of the shape of target, or one number. The gradient flows to input only.

    Raises:
        TypeError: an operand is not an array, or NumPy arrays and torch tensors are mixed.
        ValueError: the batch sizes of input and target differ, or reduction is unknown.
        RuntimeError: target has a wrong shape in another way or is not of an integer dtype, or weight has a wrong shape
            or dtype, or requires a gradient.
        IndexError: a target is not a class; the message says which one and where.
        NotImplementedError: input is not of a floating dtype.

    Source: R. A. Fisher, "On the Mathematical Foundations of Theoretical Statistics", Philosophical Transactions of the
    Royal Society A 222 (1922); ``torch.nn.functional.nll_loss``.

    >>> import numpy as np
    >>> log_probs = np.array([[-0.5, -1.5], [-2.5, -0.25]])
    >>> float(nll_loss(log_probs, np.array([1, 0])))  # (1.5 + 2.5) / 2
    2.0
    """
    reduction = reduction_of(reduction, size_average, reduce)
    operands = {"input": input, "target": target, "weight": weight}
    loss: ArrayT = dispatch.loss(LossKind.NLL, reduction, operands, ignore_index=ignore_index)
    return loss


def cross_entropy(
    input: ArrayT,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> ArrayT:
    """Cross-entropy of logits with a target class, or with a target distribution over classes.

    Formula, with log p = x - log Σ exp(x) along the classes::

        item = -w[t] log p[t]                for a target class t; 0 where t = ignore_index
               -Σ w[c] t[c] log p[c]         for a target distribution t

    with x the input's row and w the class weights, 1 by default. Label smoothing ε mixes the target with the
    uniform distribution: (1 - ε) t + ε / C. The derivative with respect to x, without weights, is p Σt - t.

    Args:
        input: x, logits of a floating dtype: (C), (N, C) or (N, C, d1, ...), with C classes.
        target: classes from 0 to C - 1 or ignore_index, of an integer dtype: (), (N) or (N, d1, ...); or distributions
            of the shape of input and a floating dtype, which need not sum to 1.
        weight: w, (C), of input's dtype.
        size_average: deprecated, use reduction.
        ignore_index: a target class; rows with it have an item and a gradient of 0.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the sum of w[t] over the targets
            that are not ignored (nan where all are ignored), and for target distributions by the number of items,
            also with weight, or ``"sum"``.
        label_smoothing: ε, from 0 to 1.

    Returns:
        The loss, in the dtype of input: items of the shape of input without its class axis, or one number. The gradient
        flows to input, and with target distributions to target and weight.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or an option has a wrong type.
        ValueError: the batch sizes of input and target differ, or reduction is unknown.
        RuntimeError: target has a wrong shape in another way or a wrong dtype, weight has a wrong shape or dtype,
            label_smoothing is outside of [0, 1], or ignore_index ≥ 0 is given with target distributions.
        IndexError: a target is not a class; the message says which one and where.
        NotImplementedError: input is not of a floating dtype.

    Source: John S. Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs, with
    Relationships to Statistical Pattern Recognition", Neurocomputing (Springer, 1990); for label smoothing, Christian
    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016;
    ``torch.nn.functional.cross_entropy``.

    >>> import numpy as np
    >>> logits = np.log([[3.0, 1.0], [1.0, 4.0]])  # probabilities 3/4 and 1/4, 1/5 and 4/5
    >>> np.exp(-cross_entropy(logits, np.array([0, 1]), reduction="none")).round(6).tolist()
    [0.75, 0.8]
    """
    reduction = reduction_of(reduction, size_average, reduce)
    operands = {"input": input, "target": target, "weight": weight}
    loss: ArrayT = dispatch.loss(
        LossKind.CROSS_ENTROPY, reduction, operands, ignore_index=ignore_index, label_smoothing=label_smoothing
    )
    return loss


def multi_margin_loss(
    input: ArrayT,
    target: Array,
    p: int = 1,
    margin: float = 1.0,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> ArrayT:
    """Multi-class hinge: the score of the target class should exceed that of each other class by the margin.

    Formula::

        item = w[t] Σ_{c ≠ t} max(0, margin - x[t] + x[c])^p / C

    with x the input's row, t its target class and w the class weights, 1 by default. At the kink the
    derivative is 0.

    Args:
        input: x, scores of a floating dtype: (C) or (N, C), with C ≥ 1 classes.
        target: t, classes from 0 to C - 1, of an integer dtype: () or (N).
        p: the exponent, 1 or 2.
        margin: the difference of scores from which on a class adds nothing.
        weight: w, (C), of input's dtype.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items (also with
            weight), or ``"sum"``.

    Returns:
        The loss, in the dtype of input: items of the shape of target, or one number. The gradient flows to input only.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or an option has a wrong type.
        ValueError: p is neither 1 nor 2, weight is not one-dimensional, or reduction is unknown.
        RuntimeError: input or target has a wrong shape, target is not of an integer dtype, weight has a wrong length or
            dtype, or requires a gradient.
        IndexError: a target is not a class; the message says which one and where. (The error is a RuntimeError too,
            which is what PyTorch raises.)
        NotImplementedError: input is not of a floating dtype.

    Source: Jason Weston and Chris Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", ESANN 1999;
    ``torch.nn.functional.multi_margin_loss``.

    >>> import numpy as np
    >>> float(multi_margin_loss(np.array([[2.0, 1.5, 3.0, -1.0]]), np.array([0])))  # (0.5 + 2 + 0) / 4
    0.625
    """
    reduction = reduction_of(reduction, size_average, reduce)
    operands = {"input": input, "target": target, "weight": weight}
    loss: ArrayT = dispatch.loss(LossKind.MULTI_MARGIN, reduction, operands, p=p, margin=margin)
    return loss


def multilabel_margin_loss(
    input: ArrayT,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> ArrayT:
    """Multi-label hinge: the score of each class in a set should exceed that of each class outside of it by 1.

    Formula::

        item = Σ_{t in the set} Σ_{c outside} max(0, 1 - x[t] + x[c]) / C

    with x the input's row. At the kink the derivative is 0.

    Args:
        input: x, scores of a floating dtype: (C) or (N, C), with C ≥ 1 classes.
        target: the classes of each row's set, from 0 to C - 1, of an integer dtype and the shape of input. The first
            -1 ends the set; the numbers after it are ignored.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items, or ``"sum"``.

    Returns:
        The loss, in the dtype of input: items () or (N), or one number. The gradient flows to input.

    Raises:
        TypeError: an operand is not an array, or NumPy arrays and torch tensors are mixed.
        ValueError: reduction is unknown.
        RuntimeError: input or target has a wrong shape, or target is not of an integer dtype.
        IndexError: a target is neither a class nor -1; the message says which one and where. (The error is a
            RuntimeError too, which is what PyTorch raises.)
        NotImplementedError: input is not of a floating dtype.

    Source: André Elisseeff and Jason Weston, "A Kernel Method for Multi-Labelled Classification", NIPS 14 (2001);
    ``torch.nn.functional.multilabel_margin_loss``.

    >>> import numpy as np
    >>> scores, labels = np.array([[0.0, 0.5, 1.0, 1.5]]), np.array([[3, 2, -1, -1]])
    >>> float(multilabel_margin_loss(scores, labels))  # ((0 + 0) + (0 + 0.5)) / 4
    0.125
    """
    reduction = reduction_of(reduction, size_average, reduce)
    loss: ArrayT = dispatch.loss(LossKind.MULTILABEL_MARGIN, reduction, {"input": input, "target": target})
    return loss


def multilabel_soft_margin_loss(
    input: ArrayT,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> ArrayT:
    """Multi-label logistic loss: the mean of the binary cross-entropy of logits over the classes.

    Formula, with σ(x) = 1 / (1 + exp(-x))::

        item = -Σ w (t log σ(x) + (1 - t) log(1 - σ(x))) / C

    with x, t and w the rows of the input, the target and the weight; w is 1 by default.

    Args:
        input: x, logits of a floating dtype: (..., C), with C classes.
        target: t, from 0 to 1, of the shape of input or one that broadcasts to it.
        weight: w, broadcast to the shape of input: usually (C).
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items (also with
            weight), or ``"sum"``.

    Returns:
        The loss, in the dtype that the operands promote to: items of the shape of input without its last axis, or one
        number. The gradient flows to input, target and weight.

    Raises:
        TypeError: an operand is not an array, or NumPy arrays and torch tensors are mixed.
        ValueError: reduction is unknown.
        RuntimeError: the shapes do not broadcast.
        IndexError: input has no axes.
        NotImplementedError: input is not of a floating dtype.

    Source: Matthew R. Boutell, Jiebo Luo, Xipeng Shen and Christopher M. Brown, "Learning Multi-Label Scene
    Classification", Pattern Recognition 37 (2004); ``torch.nn.functional.multilabel_soft_margin_loss``.

    >>> import numpy as np
    >>> item = multilabel_soft_margin_loss(np.log([[1.0, 3.0]]), np.array([[1.0, 0.0]]))  # σ: 1/2 and 3/4
    >>> float(np.exp(-2 * item).round(6))  # 1/2 · (1 - 3/4)
    0.125
    """
    reduction = reduction_of(reduction, size_average, reduce, own_text="{} is not valid")
    operands = {"input": input, "target": target, "weight": weight}
    loss = dispatch.loss(LossKind.MULTILABEL_SOFT_MARGIN, reduction, operands)
    promoted: ArrayT = as_pytorch_promotes(loss, *(value for value in operands.values() if value is not None))
    return promoted


def cosine_embedding_loss(
    input1: ArrayT,
    input2: Array,
    target: Array,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> ArrayT:
    """Cosine embedding: similar rows should have a cosine of 1, dissimilar ones a cosine of at most the margin.

    Formula, with cos = x₁·x₂ / √((x₁·x₁ + ε)(x₂·x₂ + ε)) and ε = 1e-12::

        item = 1 - cos                   where t = 1
               max(0, cos - margin)      where t = -1
               0                         for any other t

    with x₁ and x₂ rows of the inputs and t the target.

    Args:
        input1: x₁, (D) or (N, D), with D features. Integers are converted to float32.
        input2: x₂, of the shape of input1 or one that broadcasts with it.
        target: t, 1 or -1, of any dtype: () or (N).
        margin: the cosine up to which dissimilar rows have an item of 0; usually from 0 to 0.5.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items, or ``"sum"``.

    Returns:
        The loss, in the dtype that the inputs promote to: items () or (N), or one number. The gradient flows to input1
        and input2.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or margin is not a number.
        ValueError: reduction is unknown.
        RuntimeError: an operand has a wrong number of axes, or the shapes do not broadcast.

    Source: Jane Bromley, Isabelle Guyon, Yann LeCun, Eduard Säckinger and Roopak Shah, "Signature Verification Using a
    'Siamese' Time Delay Neural Network", NIPS 6 (1993); ``torch.nn.functional.cosine_embedding_loss``.

    >>> import numpy as np
    >>> x, y = np.array([[3.0, 4.0], [3.0, 4.0]]), np.array([[4.0, 3.0], [4.0, 3.0]])  # the cosine is 24/25
    >>> cosine_embedding_loss(x, y, np.array([1, -1]), reduction="none").round(6).tolist()
    [0.04, 0.96]
    """
    reduction = reduction_of(reduction, size_average, reduce)
    input1, input2 = floating(input1), floating(input2)
    operands = {"input1": input1, "input2": input2, "target": target}
    loss: ArrayT = in_dtype_of(
        dispatch.loss(LossKind.COSINE_EMBEDDING, reduction, operands, margin=margin), input1, input2
    )
    return loss


def triplet_margin_loss(
    anchor: ArrayT,
    positive: Array,
    negative: Array,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> ArrayT:
    """Triplet margin: an anchor should be nearer to the positive than to the negative, by at least the margin.

    Formula, with d(x, y) = ‖x - y + ε‖ₚ::

        item = max(0, d(a, p) - d(a, n) + margin)

    with a, p and n the rows of anchor, positive and negative, and ε ``eps``. With ``swap``, the smaller of d(a, n) and
    d(p, n) replaces d(a, n).

    Args:
        anchor: a, (D) or (N, D), or with more axes before the features. Integers and complex numbers are accepted
            too; the loss is always real.
        positive: p, with the same number of axes as anchor; broadcast with it.
        negative: n, with the same number of axes as anchor; broadcast with it.
        margin: the difference of the distances from which on the item is 0; > 0.
        p: the exponent of the norm, any number or ±inf, as in PyTorch; it is a norm for p ≥ 1.
        eps: ε, added to each difference; it keeps the derivative of the norm finite.
        swap: whether the distance of the positive from the negative counts, too.
        size_average: deprecated, use reduction.
        reduce: deprecated, use reduction.
        reduction: ``"none"`` for the items, ``"mean"``, which divides their sum by the number of items, or ``"sum"``.

    Returns:
        The loss, in the dtype that the operands promote to: items of the broadcast shape without its last axis, or one
        number. The gradient flows to anchor, positive and negative.

    Raises:
        TypeError: an operand is not an array, NumPy arrays and torch tensors are mixed, or an option has a wrong type.
        ValueError: margin is not positive, or reduction is unknown.
        RuntimeError: the operands differ in their number of axes, or do not broadcast.

    Source: Kilian Q. Weinberger, John Blitzer and Lawrence K. Saul, "Distance Metric Learning for Large Margin Nearest
    Neighbor Classification", NIPS 18 (2005); for swap, Vassileios Balntas, Edgar Riba, Daniel Ponsa and Krystian
    Mikolajczyk, "Learning Local Feature Descriptors with Triplets and Shallow Convolutional Neural Networks", BMVC
    2016; ``torch.nn.functional.triplet_margin_loss``.

    >>> import numpy as np
    >>> anchor, positive, negative = np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])
    >>> float(triplet_margin_loss(anchor, positive, negative, eps=0.0))  # 5 - 2 + 1
    4.0
    """
    reduction = reduction_of(reduction, size_average, reduce)
    loss: ArrayT = triplet_loss(reduction, anchor, positive, negative, margin=margin, p=p, eps=eps, swap=swap)
    return loss


__all__ = [
    "cosine_embedding_loss",
    "cross_entropy",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "triplet_margin_loss",
]

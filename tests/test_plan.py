"""Plans and what they promise: precision, scratch memory, and which operands they can run."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import portaloss
from portaloss import DTYPES, LOSSES, LossKind, LossReduction, select
from portaloss.kinds import Direction


def huber(**changes):
    arguments = {"dtype": "float64", "reduction": "mean", **changes}
    return select(LossKind.HUBER, **arguments)


def test_discriminants_are_stable():
    expected = [
        "MSE",
        "NLL",
        "CROSS_ENTROPY",
        "BCE",
        "KL_DIV",
        "L1",
        "SMOOTH_L1",
        "HINGE_EMBEDDING",
        "MARGIN_RANKING",
        "TRIPLET_MARGIN",
        "CTC",
        "POISSON_NLL",
        "HUBER",
        "BCE_WITH_LOGITS",
        "GAUSSIAN_NLL",
        "COSINE_EMBEDDING",
        "MULTI_MARGIN",
        "MULTILABEL_MARGIN",
        "MULTILABEL_SOFT_MARGIN",
        "FUSED_LINEAR_CROSS_ENTROPY",
    ]
    assert [kind.name for kind in LossKind] == expected
    assert [int(kind) for kind in LossKind] == list(range(len(expected)))
    assert {reduction.name: int(reduction) for reduction in LossReduction} == {"NONE": 0, "MEAN": 1, "SUM": 2}


def test_the_catalogue_has_every_sku():
    skus = list(portaloss.skus())
    assert len(skus) == len(set(skus)) == len(LossKind) * 4 * 3 * 2
    assert set(LOSSES) == set(LossKind)


def test_a_plan_is_hashable_and_equal_by_value():
    assert hash(huber(delta=2.0)) == hash(huber(delta=2.0))
    assert huber(delta=2.0) == huber(delta=2.0)
    assert huber(delta=2.0) != huber(delta=3.0)
    assert dict(huber().options) == {"delta": 1.0}


def test_a_plan_names_its_skus():
    plan = huber(reduction="sum")
    assert str(plan.sku) == "huber-float64-sum-forward"
    assert plan.backward_sku.direction is Direction.BACKWARD


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
def test_dtypes_may_be_numpys(dtype):
    assert huber(dtype=dtype).dtype == "float32"


def test_forward_and_backward():
    x, t = np.array([0.5, 3.0]), np.zeros(2)
    plan = huber()
    assert plan.forward(x, t) == plan.forward(input=x, target=t) == (0.125 + 2.5) / 2
    gradients = plan.backward(4.0, x, t)
    assert gradients["input"].tolist() == [1.0, 2.0]  # 4/2 times [0.5, 1]
    assert gradients["target"].tolist() == [-1.0, -2.0]
    assert set(plan.backward(4.0, x, t, wants=["target"])) == {"target"}


def test_wrong_arguments_name_what_is_wrong():
    x = np.zeros(3)
    with pytest.raises(ValueError, match="dtype must be one of"):
        huber(dtype="int8")
    with pytest.raises(ValueError, match="max is not a valid value for reduction"):
        huber(reduction="max")
    with pytest.raises(ValueError, match="backend must be one of cpu"):
        huber(backend="tpu")
    with pytest.raises(TypeError, match="huber_loss has no option 'beta'"):
        huber(beta=1.0)
    with pytest.raises(RuntimeError, match="non-positive values for delta; got 0"):
        huber(delta=0)
    with pytest.raises(TypeError, match="needs operand 'target'"):
        huber().forward(x)
    with pytest.raises(TypeError, match="no operand 'targets'"):
        huber().forward(x, targets=x)
    with pytest.raises(TypeError, match="got operand 'input' twice"):
        huber().forward(x, x, input=x)
    with pytest.raises(TypeError, match="takes 3 operands, got 4"):
        huber().forward(x, x, x, x)
    with pytest.raises(RuntimeError, match=r"plan is for float64, but these operands give float32"):
        huber().forward(x.astype(np.float32), x.astype(np.float32))
    with pytest.raises(ValueError, match="wants names 'weight'"):
        huber().backward(1.0, x, x, wants=["weight"])
    with pytest.raises(ValueError, match=r"upstream must be one number, got shape \(3,\)"):
        huber().backward(x, x, x)
    with pytest.raises(ValueError, match=r"upstream must have the shape of the loss, \(3,\), got \(\)"):
        huber(reduction="none").backward(1.0, x, x)


def test_can_implement_says_what_forward_would_do():
    plan = huber()
    assert plan.can_implement(np.zeros((2, 3)), np.zeros(3))
    assert not plan.can_implement(np.zeros((2, 3)), np.zeros(4))
    assert not plan.can_implement(np.zeros(3, np.float32), np.zeros(3, np.float32))
    assert not plan.can_implement(np.zeros(3))
    nll = select(LossKind.NLL, dtype="float64")
    assert nll.can_implement(np.zeros((2, 3)), np.array([0, 2]))
    assert not nll.can_implement(np.zeros((2, 3)), np.array([0, 3]))


def test_precision_is_what_the_arithmetic_shows():
    for dtype in DTYPES:
        precision = huber(dtype=dtype).precision
        assert precision.math_dtype == ("float64" if dtype == "float64" else "float32")
        assert precision.deterministic
    # a float16 sum would stop at 2048 and a float32 sum of 0.1 would drift: neither accumulates the items
    ones = np.full(100_000, 2.0, np.float16)
    assert huber(dtype="float16").forward(ones, np.zeros_like(ones)) == 1.5
    tenth = np.full(3_000_000, 0.1, np.float32)
    mean = huber(dtype="float32").forward(tenth, np.zeros_like(tenth))
    assert abs(mean - 0.5 * float(tenth[0]) ** 2) <= np.spacing(mean)  # of runs of 128, a quarter's sum is off by less


def test_results_have_the_plans_dtype():
    for dtype in DTYPES:
        array = np.ones(3, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        for reduction in ("none", "mean", "sum"):
            plan = huber(dtype=dtype, reduction=reduction)
            assert plan.forward(array, array).dtype.name == dtype
            upstream = array if reduction == "none" else 1.0
            assert all(gradient.dtype.name == dtype for gradient in plan.backward(upstream, array, array).values())


def workspace_cases():
    rng = np.random.default_rng(0)

    def real(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def unit(*shape):
        return rng.uniform(0.01, 0.99, shape).astype(np.float32)

    pair = {"input": real(700, 500), "target": real(700, 500)}
    classes = {"input": real(4000, 100), "target": rng.integers(0, 100, 4000)}
    return {
        LossKind.MSE: {**pair, "weight": unit(700, 500)},
        LossKind.L1: pair,
        LossKind.SMOOTH_L1: pair,
        LossKind.HUBER: pair,
        LossKind.BCE: {"input": unit(700, 500), "target": unit(700, 500), "weight": unit(500)},
        LossKind.BCE_WITH_LOGITS: {**pair, "weight": unit(500), "pos_weight": unit(500)},
        LossKind.KL_DIV: {"input": np.log(unit(700, 500)), "target": unit(700, 500)},
        LossKind.POISSON_NLL: {"input": real(700, 500), "target": unit(700, 500) * 9},
        LossKind.GAUSSIAN_NLL: {**pair, "var": unit(700, 500)},
        LossKind.HINGE_EMBEDDING: {"input": real(700, 500), "target": np.sign(real(700, 500))},
        LossKind.MARGIN_RANKING: {
            "input1": real(700, 500),
            "input2": real(700, 500),
            "target": np.sign(real(700, 500)),
        },
        LossKind.NLL: classes,
        LossKind.CROSS_ENTROPY: {**classes, "weight": unit(100)},
        LossKind.MULTI_MARGIN: classes,
        LossKind.MULTILABEL_MARGIN: {
            "input": real(4000, 100),
            "target": np.where(np.arange(100) < 5, np.arange(100), -1) * np.ones((4000, 1), np.int64),
        },
        LossKind.MULTILABEL_SOFT_MARGIN: {"input": real(4000, 100), "target": unit(4000, 100)},
        LossKind.COSINE_EMBEDDING: {
            "input1": real(4000, 100),
            "input2": real(4000, 100),
            "target": np.sign(real(4000)),
        },
        LossKind.TRIPLET_MARGIN: {name: real(4000, 100) for name in ("anchor", "positive", "negative")},
        LossKind.CTC: {
            "log_probs": np.log(unit(60, 8, 30)),
            "targets": rng.integers(1, 30, (8, 20)),
            "input_lengths": np.full(8, 60),
            "target_lengths": np.full(8, 20),
        },
        LossKind.FUSED_LINEAR_CROSS_ENTROPY: {
            "input": real(512, 64),
            "linear_weight": real(5000, 64),
            "target": rng.integers(0, 5000, 512),
        },
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", list(LossKind), ids=lambda kind: kind.name.lower())
def test_workspace_size_bounds_the_memory_that_is_used(kind, dtype):
    operands = {
        name: array.astype(dtype) if array.dtype.kind == "f" else array
        for name, array in workspace_cases()[kind].items()
    }
    plan = select(kind, dtype=dtype, reduction="sum")
    plan.forward(**operands)  # imports and pools are not workspace
    tracemalloc.start()
    try:
        gradients = plan.backward(1.0, **operands)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    scratch = peak - sum(gradient.nbytes for gradient in gradients.values())
    assert scratch <= plan.workspace_size({name: array.shape for name, array in operands.items()})


def test_a_plan_that_is_kept_does_not_pass_for_another_type():
    """True equals 1.0, but is no number here; after a call with 1.0 as before it."""
    huber(dtype="float32", delta=1.0)
    with pytest.raises(TypeError, match="delta"):
        huber(dtype="float32", delta=True)

"""The cases of the parity matrix: they can be made again, and they cover what a loss can be given."""

from __future__ import annotations

import numpy as np
import pytest

from portaloss import arrays
from portaloss.arrange import specs
from portaloss.catalogue import LOSSES, Domain, Family
from portaloss.kinds import DTYPES, LossKind
from portaloss.parity import samples
from portaloss.parity.recipes import TILE

POINTWISE = [kind for kind, loss in LOSSES.items() if loss.family is Family.POINTWISE]
WITH_IGNORE_INDEX = [kind for kind, loss in LOSSES.items() if any(o.name == "ignore_index" for o in loss.options)]


def cases(kind, dtype="float32"):
    return {case.name: case for case in samples.cases(kind, dtype)}


def of_domain(kind, domain, dtype="float32"):
    """All numbers that the cases of a kind draw for operands of a domain."""
    names = [operand.name for operand in LOSSES[kind].operands if operand.domain is domain]
    found = [case.operands[name] for case in samples.cases(kind, dtype) for name in names if name in case.operands]
    return np.concatenate([np.ravel(array).astype(np.float64) for array in found])


@pytest.mark.parametrize("kind", LossKind)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_case_is_made_again_from_its_name_and_seed(kind, dtype):
    for case in samples.cases(kind, dtype):
        again = samples.case(kind, dtype, case.name, case.seed)
        assert again.options == case.options
        assert again.operands.keys() == case.operands.keys()
        for name, array in case.operands.items():
            other = again.operands[name]
            assert array.tobytes() == other.tobytes()
            assert (array.dtype, array.shape, array.strides) == (other.dtype, other.shape, other.strides)
        shape = (3, 2)
        resolved = arrays.dtype_of(dtype)
        assert case.upstream(shape, resolved).tobytes() == again.upstream(shape, resolved).tobytes()


def test_another_seed_gives_other_numbers():
    first = samples.case(LossKind.HUBER, "float32", "plain")
    second = samples.case(LossKind.HUBER, "float32", "plain", seed=first.seed + 1)
    assert not np.array_equal(first.operands["input"], second.operands["input"])


@pytest.mark.parametrize("kind", LossKind)
def test_every_case_is_accepted_and_every_float_is_of_the_dtype(kind):
    loss = LOSSES[kind]
    defaults = {option.name: option.default for option in loss.options}
    for case in samples.cases(kind, "bfloat16"):
        loss.arrangement.shapes({**defaults, **case.options}, specs(case.operands))
        for array in case.operands.values():
            assert array.dtype.name == "bfloat16" or array.dtype.kind == "i"


@pytest.mark.parametrize("kind", LossKind)
def test_the_number_of_cases_is_bounded(kind):
    # with fewer, something would not be covered; with more, the matrix would be slow; extensions need some more
    beyond = any(option.extension for option in LOSSES[kind].options)
    assert 20 <= len(samples.names(kind)) <= (80 if beyond else 60)
    assert len(set(samples.names(kind))) == len(samples.names(kind))


@pytest.mark.parametrize("kind", LossKind)
def test_every_other_value_of_every_option_is_used(kind):
    used = [case.options for case in samples.cases(kind, "float32")]
    for option in LOSSES[kind].options:
        for value in option.others:
            assert any(option.name in options and options[option.name] == value for options in used), option


@pytest.mark.parametrize("kind", LossKind)
def test_every_optional_operand_is_given_and_left_out(kind):
    for operand in LOSSES[kind].operands:
        if operand.optional:
            given = [operand.name in case.operands for case in samples.cases(kind, "float32")]
            assert any(given)
            assert not all(given)


@pytest.mark.parametrize("kind", LossKind)
def test_shapes_empty_one_and_around_a_tile(kind):
    sizes = [max(array.size for array in case.operands.values()) for case in samples.cases(kind, "float32")]
    firsts = [next(iter(case.operands.values())).size for case in samples.cases(kind, "float32")]
    assert min(firsts) == 0
    assert any(len(case.operands[next(iter(case.operands))].ravel()) <= 5 for case in samples.cases(kind, "float32"))
    if LOSSES[kind].family in {Family.POINTWISE, Family.ROWWISE}:
        assert any(TILE - 4 <= size <= TILE for size in sizes)
        assert any(TILE < size <= TILE + 4 for size in sizes)


@pytest.mark.parametrize("kind", LossKind)
def test_layouts_are_not_contiguous(kind):
    found = [array for case in samples.cases(kind, "float32") for array in case.operands.values() if array.size > 1]
    assert any(not array.flags.c_contiguous and all(stride > 0 for stride in array.strides) for array in found)
    assert any(any(stride < 0 for stride in array.strides) for array in found)
    assert any(array.ndim > 1 and array.flags.f_contiguous for array in found)


@pytest.mark.parametrize("kind", POINTWISE)
def test_pointwise_losses_meet_broadcast_operands(kind):
    names = samples.names(kind)
    assert "scalar" in names
    assert any(name.startswith("broadcast-") for name in names)
    assert any(name.startswith("tile-broadcast-") for name in names)


def test_which_losses_broadcast_which_operands():
    # if a check in arrange became too strict, these cases would be dropped without an error
    expected = {
        LossKind.MSE: {"target", "input", "both", "weighted"},
        LossKind.KL_DIV: {"target", "input", "both"},
        LossKind.BCE: {"weight"},
        LossKind.BCE_WITH_LOGITS: {"weight", "pos_weight"},
        LossKind.GAUSSIAN_NLL: {"target", "var"},
        LossKind.MARGIN_RANKING: {"input1", "input2", "target", "both"},
        LossKind.TRIPLET_MARGIN: {"anchor", "positive", "negative"},
        LossKind.COSINE_EMBEDDING: {"input1", "input2"},
        LossKind.MULTILABEL_SOFT_MARGIN: {"input", "target", "weight"},
        LossKind.CROSS_ENTROPY: set(),
        LossKind.NLL: set(),
        LossKind.MULTI_MARGIN: set(),
    }
    for kind, operands in expected.items():
        found = {name.split("-")[1] for name in samples.names(kind) if name.startswith("broadcast-")}
        assert found == operands, kind


def test_ties_and_kinks():
    for kind in (LossKind.MSE, LossKind.L1, LossKind.SMOOTH_L1, LossKind.HUBER):
        case = cases(kind)["kinks"]
        e = np.abs(case.operands["input"] - case.operands["target"])
        assert (e == 0).any()
        for option in LOSSES[kind].options:
            for value in (option.default, *option.others):
                assert (e == value).any(), (kind, option.name, value)
    for option in ("margin=0.25", "margin=0.0", "margin=-0.5"):
        case = cases(LossKind.HINGE_EMBEDDING)[option]
        x, t = case.operands["input"], case.operands["target"]
        assert ((x == case.options["margin"]) & (t == -1)).any()
    for option in ("kinks", "margin=0.5", "margin=-0.25"):
        case = cases(LossKind.MARGIN_RANKING)[option]
        x1, x2, t = (case.operands[name] for name in ("input1", "input2", "target"))
        assert (-t * (x1 - x2) + case.options.get("margin", 0.0) == 0).any()
    x = cases(LossKind.MULTI_MARGIN)["kinks"].operands
    rows = np.arange(len(x["target"]))
    gaps = 1.0 - x["input"][rows, x["target"]][:, None] + x["input"]
    gaps[rows, x["target"]] = np.nan
    assert (gaps == 0).any()


def test_vectors_that_are_equal_zero_and_orthogonal():
    case = cases(LossKind.COSINE_EMBEDDING)["kinks"]
    a, b = case.operands["input1"], case.operands["input2"]
    assert (a == b).all(axis=1).any()
    assert (a == 0).all(axis=1).any()
    assert (((a * b).sum(axis=1) == 0) & (a != 0).any(axis=1) & (b != 0).any(axis=1)).any()


@pytest.mark.parametrize("kind", WITH_IGNORE_INDEX)
def test_ignored_rows(kind):
    by_name = cases(kind)
    some = by_name["ignored"].operands["target"]
    assert (some == -100).any()
    assert (some != -100).any()
    assert (by_name["all-ignored"].operands["target"] == -100).all()
    assert (by_name["ignored-class"].operands["target"] == 0).any()


@pytest.mark.parametrize("kind", [LossKind.CROSS_ENTROPY, LossKind.FUSED_LINEAR_CROSS_ENTROPY])
def test_soft_targets(kind):
    by_name = cases(kind, "float64")
    np.testing.assert_allclose(by_name["soft"].operands["target"].sum(axis=1), 1.0, rtol=1e-15)
    assert set(np.unique(by_name["one-hot"].operands["target"])) == {0.0, 1.0}
    assert (np.abs(by_name["unnormalised"].operands["target"].sum(axis=1) - 1.0) > 0.1).any()
    assert {"1-dimension-more", "2-dimensions-more", "unbatched", "soft-dimensions"} <= by_name.keys()


@pytest.mark.parametrize("kind", [LossKind.NLL, LossKind.CROSS_ENTROPY, LossKind.MULTI_MARGIN])
def test_class_weights_with_zeros(kind):
    weights = cases(kind)["weights-with-zeros"].operands["weight"]
    assert (weights == 0).any()
    assert (weights > 0).any()


def test_far_ends():
    for kind in (LossKind.BCE_WITH_LOGITS, LossKind.CROSS_ENTROPY, LossKind.MSE):
        reals = of_domain(kind, Domain.REAL)
        assert {1e4, -1e4} <= set(reals)
        assert np.isneginf(reals).any()
    for dtype, subnormal in {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149}.items():
        probabilities = of_domain(LossKind.BCE, Domain.PROBABILITY, dtype)
        assert {0.0, 1.0, subnormal} <= set(probabilities)
    both = cases(LossKind.KL_DIV)["0-log-0"].operands
    assert (both["target"] == 0).any()
    assert np.isneginf(both["input"]).any()


def test_sequences():
    by_name = cases(LossKind.CTC)
    assert by_name["concatenated"].operands["targets"].ndim == 1
    assert by_name["padded"].operands["targets"].ndim == 2
    assert by_name["unbatched"].operands["log_probs"].ndim == 2
    for name, case in by_name.items():
        targets, lengths = case.operands["targets"], np.atleast_1d(case.operands["target_lengths"])
        if targets.ndim == 2:
            for row, length in zip(targets, lengths, strict=True):
                assert not (row[:length] == case.options.get("blank", 0)).any(), name
    repeated = by_name["repeated-labels"].operands
    first = repeated["targets"][0, : repeated["target_lengths"][0]]
    assert (first[1:] == first[:-1]).any()
    impossible = by_name["impossible"].operands
    assert (impossible["target_lengths"] > impossible["input_lengths"]).any()
    assert (impossible["target_lengths"] <= impossible["input_lengths"]).any()

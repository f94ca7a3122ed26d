"""The operands of every benchmark case, and the check of results."""

from __future__ import annotations

import math

import pytest

from portaloss.kinds import DTYPES, LossKind

torch = pytest.importorskip("torch")

from portaloss.bench import cases, check, command, contenders  # noqa: E402  # what they need is there now
from portaloss.bench.cases import Spec, draw, shape_of, specs  # noqa: E402

CASES = [(kind, dtype) for kind in LossKind for dtype in DTYPES]
IDS = [f"{kind.name.lower()}-{dtype}" for kind, dtype in CASES]


def tiny(kind: LossKind, dtype: str = "float32") -> Spec:
    return Spec(kind, dtype, "tiny", shape_of(kind, "tiny"))


@pytest.mark.parametrize(("kind", "dtype"), CASES, ids=IDS)
def test_operands(kind, dtype):
    case, again = draw(tiny(kind, dtype)), draw(tiny(kind, dtype))
    assert list(case.operands) == [one.name for one in tiny(kind).loss.operands if not one.optional]
    for name, value in case.operands.items():
        assert torch.equal(value, again.operands[name])
        assert not value.requires_grad
        if value.is_floating_point():
            assert value.dtype == getattr(torch, dtype)
            assert value.isfinite().all()
    assert case.wanted
    assert "target" not in case.wanted
    assert case.gradient_bytes == sum(case.operands[name].nbytes for name in case.wanted)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both")  # of kl_div, from both
@pytest.mark.parametrize(("kind", "dtype"), CASES, ids=IDS)
def test_right_results_pass_and_wrong_ones_fail(kind, dtype):
    case = draw(tiny(kind, dtype))
    right = check.truth(case)
    for name in ("portaloss", "arrays"):  # to compile each would take minutes; test_torch_features compiles every kind
        value, gradients = contenders.prepare(name, case).forward_backward()
        relative, problem = check.error(case, (value, gradients), right)
        assert not problem
        assert relative < 2**-7  # half an ulp of bfloat16 is 2^-8
    value, gradients = contenders.prepare("portaloss", case).forward_backward()
    value = value.detach()

    # one ulp is wrong in a 16-bit loss, a few ulp in others; the truth of CTC is less exact
    ulps = 2 if dtype in ("float16", "bfloat16") else 2 * check.bound(kind, dtype) + 1
    off = value * (1 + ulps * torch.finfo(value.dtype).eps + 2 * (check.tolerance(case.spec, 1.0)))
    assert "the loss is off" in check.error(case, (off, gradients), right)[1]

    flat = gradients[-1].clone()
    worst = flat.view(-1).double().abs().argmax()
    flat.view(-1)[worst] *= 1.125
    assert f"the gradient of {case.wanted[-1]} is off" in check.error(case, (value, (*gradients[:-1], flat)), right)[1]
    flat.view(-1)[worst] = math.nan
    assert "off by nan" in check.error(case, (value, (*gradients[:-1], flat)), right)[1]
    assert "of shape" in check.error(case, (value.reshape(1, 1), gradients), right)[1]


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        ("mse l1 smooth_l1 huber hinge_embedding bce bce_with_logits multilabel_soft_margin", (4096, 4096)),
        ("poisson_nll kl_div margin_ranking gaussian_nll", (4096, 4096)),
        ("cross_entropy nll", (4096, 32000)),
        ("multi_margin", (65536, 100)),
        ("multilabel_margin", (16384, 100)),
        ("cosine_embedding triplet_margin", (65536, 256)),
        ("ctc", (500, 32, 80, 100)),
        ("fused_linear_cross_entropy", (2048, 1024, 32000)),
    ],
)
def test_the_large_shapes(names, shape):
    assert {shape_of(LossKind[name.upper()], "large") for name in names.split()} == {shape}


def test_other_shapes():
    assert shape_of(LossKind.CROSS_ENTROPY, "cache") == (64, 1000)
    assert shape_of(LossKind.MSE, "tiny") == (64,)
    assert shape_of(LossKind.CROSS_ENTROPY, "tiny") == (32, 10)
    assert shape_of(LossKind.CROSS_ENTROPY, "huge", rows=100) == (100, 32000)
    assert shape_of(LossKind.CTC, "huge", rows=10) == (512, 10, 1024, 100)
    assert shape_of(LossKind.CTC, "huge", rows=10**9) == shape_of(LossKind.CTC, "huge")


def test_every_kind_at_every_size_is_measured_once():
    found = specs(list(LossKind), DTYPES, cases.SIZES, "cpu")
    assert len(found) == len(LossKind) * len(DTYPES) * len(cases.SIZES)
    assert len({(one.kind, one.dtype, one.size) for one in found}) == len(found)
    assert len({(one.kind, one.dtype, one.shape) for one in found}) == len(found)  # reports are compared by shape


def test_the_command_line_knows_the_names():
    assert command._SIZES == cases.SIZES
    assert ("portaloss", *command._OTHERS) == contenders.NAMES == tuple(contenders.MEANINGS)


def test_bytes_that_must_move():
    mse, nll = draw(tiny(LossKind.MSE)), draw(tiny(LossKind.NLL))
    assert (mse.moved("forward"), mse.moved("forward_backward")) == (2 * 64 * 4, 3 * 64 * 4)
    # one float32 and one int64 for each row, and the whole gradient
    assert (nll.moved("forward"), nll.moved("forward_backward")) == (32 * 12, 32 * 12 + 320 * 4)
    assert draw(tiny(LossKind.CTC)).moved("forward") is None


def test_where_pytorch_has_no_16_bit_loss_operands_are_widened():
    loss, note = contenders.eager(tiny(LossKind.CTC, "bfloat16"))
    assert note == contenders.WIDENED
    case = draw(tiny(LossKind.CTC, "bfloat16"))
    assert loss(**case.operands).dtype == torch.float32
    _, (gradient,) = contenders.prepare("eager", case).forward_backward()
    assert gradient.dtype == torch.bfloat16
    assert contenders.eager(tiny(LossKind.MSE, "bfloat16"))[1] == ""
    assert contenders.eager(tiny(LossKind.CTC))[1] == ""


def test_unavailable_contenders():
    with pytest.raises(contenders.UnavailableError, match="liger-kernel"):
        contenders.prepare("liger", draw(tiny(LossKind.MSE)))  # not installed, or without this loss
    with pytest.raises(ValueError, match="no contender nobody; there are: portaloss"):
        contenders.prepare("nobody", draw(tiny(LossKind.MSE)))


def test_the_tolerance_includes_pytorch_s_rounding_of_long_sums():
    """For 65536 rows in float64, PyTorch's error was 1.42e-14 of 1.19 (against math.fsum), ours 2.2e-16."""
    spec = cases.Spec(LossKind.MULTI_MARGIN, "float64", "large", (65536, 100))
    assert check.tolerance(spec, 1.19) > 1.44e-14
    assert check.tolerance(spec, 1.19) < 1e-11

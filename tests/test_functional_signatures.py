"""The signatures, deprecated arguments and warnings of portaloss.functional are those of torch.nn.functional."""

import inspect
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as torchs

from portaloss import LOSSES, LossKind, LossReduction, functional
from portaloss.parity.samples import cases

EXTENSIONS = {row.name for loss in LOSSES.values() for row in (*loss.operands, *loss.options) if row.extension}

ROWS = [pytest.param(loss, id=loss.function) for loss in LOSSES.values()]
LEGACY = [
    pytest.param(loss, id=loss.function)
    for loss in LOSSES.values()
    if "size_average" in inspect.signature(getattr(functional, loss.function)).parameters
]
SIZED = ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"]  # those that warn where sizes differ


def arrays_for(loss):
    """Typical operands, by name."""
    return dict(next(iter(cases(loss, "float64"))).operands)


def tensors_for(loss):
    return {name: torch.from_numpy(array) for name, array in arrays_for(loss).items()}


def theirs(name):
    if not hasattr(torchs, name):
        pytest.skip(f"this PyTorch does not have {name}")
    return getattr(torchs, name)


def warned(function, *args, **kwargs):
    """The result, and the warnings: category, text, and whether they point to the line of the call."""
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        result = function(*args, **kwargs)
    return result, [(w.category, str(w.message)) for w in records], {w.filename for w in records}


@pytest.mark.parametrize("loss", ROWS)
def test_signatures_are_torchs(loss):
    def parts(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    ours = parts(getattr(functional, loss.function))
    beyond = [part for part in ours if part[0] in EXTENSIONS]
    assert [part for part in ours if part not in beyond] == parts(theirs(loss.function))
    # what PyTorch does not have comes after, by keyword alone, and changes nothing unless it is given
    assert ours[len(ours) - len(beyond) :] == beyond
    assert all(kind is inspect.Parameter.KEYWORD_ONLY and not default for _, kind, default in beyond)


def test_every_kind_has_its_function_and_nothing_else_is_exported():
    assert set(functional.__all__) == {loss.function for loss in LOSSES.values()} | {
        "fused_linear_cross_entropy",
        "LinearCrossEntropyExtras",
    }
    assert functional.fused_linear_cross_entropy is functional.linear_cross_entropy


@pytest.mark.parametrize("loss", ROWS)
def test_docstrings_are_complete(loss):
    function = getattr(functional, loss.function)
    documentation = inspect.getdoc(function)
    for section in ("Formula", "Args:", "Returns:", "Raises:", "Source: ", ">>> "):
        assert section in documentation
    assert f"torch.nn.functional.{loss.function}" in documentation
    assert "TypeError: an operand is not an array" in documentation
    described = documentation[documentation.index("Args:") : documentation.index("Returns:")]
    for name in inspect.signature(function).parameters:
        assert re.search(rf"^    {name}: \S", described, re.MULTILINE), name
    flows = documentation[documentation.index("Returns:") : documentation.index("Raises:")]
    flows = " ".join(flows.split()).partition("The gradient flows to ")[2]
    for row in loss.operands:
        assert (row.name in flows.partition(", not ")[0]) == row.differentiable, row.name


def test_the_functions_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np, portaloss.functional as P\n"
        "assert P.mse_loss(np.array([1.0, 3.0]), np.array([0.0, 1.0])) == 2.5\n"
        "assert P.gaussian_nll_loss(np.array([3.0]), np.array([1.0]), 1.0) == 2.0\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("loss", LEGACY)
@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_size_average_and_reduce_mean_and_warn_as_torchs(loss, size_average, reduce):
    tensors = tensors_for(loss)
    arguments = {"size_average": size_average, "reduce": reduce}
    if size_average is None and reduce is None:
        arguments["reduction"] = "sum"  # takes effect only now
    expected, warnings_expected, _ = warned(theirs(loss.function), **tensors, **arguments)
    value, warnings_given, files = warned(getattr(functional, loss.function), **tensors, **arguments)
    assert warnings_given == warnings_expected
    assert len(warnings_given) == ("reduction" not in arguments)
    assert files <= {__file__}
    assert value.shape == expected.shape
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)  # far below any difference between reductions


@pytest.mark.parametrize("loss", LEGACY)
def test_size_average_overrides_a_reduction_however_wrong(loss):
    arrays = arrays_for(loss)
    with pytest.warns(UserWarning, match="please use reduction='sum' instead"):
        value = getattr(functional, loss.function)(**arrays, size_average=False, reduction="max")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kl_div's
        assert value == getattr(functional, loss.function)(**arrays, reduction="sum")


@pytest.mark.parametrize("loss", ROWS)
@pytest.mark.parametrize("reduction", ["max", "batchmean", "Mean", "", None, 3])
def test_other_reductions_are_value_errors(loss, reduction):
    if loss.kind is LossKind.KL_DIV and reduction == "batchmean":
        pytest.skip("kl_div has it")
    with pytest.raises(ValueError, match="is not a valid value for reduction"):
        getattr(functional, loss.function)(**arrays_for(loss), reduction=reduction)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("loss", ROWS)
def test_reductions_may_be_members_of_the_enum(loss):
    for reduction in LossReduction:
        member = getattr(functional, loss.function)(**arrays_for(loss), reduction=reduction)
        np.testing.assert_array_equal(
            member, getattr(functional, loss.function)(**arrays_for(loss), reduction=reduction.name.lower())
        )


@pytest.mark.parametrize("function", SIZED)
def test_another_target_size_is_broadcast_with_torchs_warning(function):
    input, target = torch.arange(6.0).reshape(2, 3), torch.tensor([1.0, 2.0, 0.5])
    expected, warnings_expected, _ = warned(getattr(torchs, function), input, target, reduction="none")
    value, warnings_given, files = warned(getattr(functional, function), input, target, reduction="none")
    assert warnings_given == warnings_expected
    assert len(warnings_given) == 1
    assert files == {__file__}
    torch.testing.assert_close(value, expected)
    with pytest.warns(UserWarning, match=r"target size \(\(3,\)\) that is different to the input size \(\(2, 3\)\)"):
        np.testing.assert_array_equal(
            getattr(functional, function)(input.numpy(), target.numpy(), reduction="none"), value
        )


@pytest.mark.parametrize("function", SIZED)
def test_equal_sizes_do_not_warn(function):
    assert warned(getattr(functional, function), np.ones(3), np.ones(3))[1] == []


def test_kl_div_warns_of_mean_as_torch_does_and_divides_by_the_batch_with_batchmean():
    tensors = tensors_for(LOSSES[LossKind.KL_DIV])
    expected, warnings_expected, _ = warned(torchs.kl_div, **tensors)
    value, warnings_given, files = warned(functional.kl_div, **tensors)
    assert warnings_given == warnings_expected
    assert files == {__file__}
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for reduction in ("none", "sum", "batchmean"):
        value, warnings_given, _ = warned(functional.kl_div, **tensors, reduction=reduction)
        assert warnings_given == []
        torch.testing.assert_close(value, torchs.kl_div(**tensors, reduction=reduction), rtol=1e-12, atol=0)


def test_kl_div_of_numbers_has_a_batch_of_one():
    input, target = torch.tensor(-0.5, dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64)
    torch.testing.assert_close(
        functional.kl_div(input, target, reduction="batchmean"), torchs.kl_div(input, target, reduction="batchmean")
    )


def test_batchmean_does_not_mix_with_the_deprecated_arguments():
    with pytest.raises(ValueError, match="'batchmean' cannot be combined with size_average or reduce"):
        functional.kl_div(np.zeros(3), np.zeros(3), size_average=True, reduction="batchmean")


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("loss", ROWS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_numpy_gives_numpy(loss, reduction):
    function = getattr(functional, loss.function)
    value = function(**arrays_for(loss), reduction=reduction)
    assert isinstance(value, np.ndarray if reduction == "none" else np.float64)
    assert value.dtype == np.float64


@pytest.mark.parametrize("loss", ROWS)
def test_what_is_no_array_and_mixed_arrays_are_refused(loss):
    function, arrays = getattr(functional, loss.function), arrays_for(loss)
    first, second = list(arrays)[:2]
    with pytest.raises(TypeError, match=f"{first} must be a NumPy array or a torch tensor, got list"):
        function(**{**arrays, first: arrays[first].tolist()}, reduction="sum")
    with pytest.raises(TypeError, match=f"{second} is a torch array but {first} is a numpy array"):
        function(**{**arrays, second: torch.from_numpy(arrays[second])}, reduction="sum")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_a_variance_may_be_a_number(dtype):
    input, target = torch.tensor([3, 0, 1]).to(dtype), torch.tensor([1.0, 0.0, 2.0], dtype=torch.float32)
    value = functional.gaussian_nll_loss(input, target, 0.7, reduction="none")
    expected = torchs.gaussian_nll_loss(input, target, 0.7, reduction="none")
    # of the same dtype; PyTorch takes the log of the variance in the input's dtype, which is one rounding
    epsilon = torch.finfo(dtype if dtype.is_floating_point else torch.float32).eps
    torch.testing.assert_close(value, expected, rtol=2 * max(epsilon, torch.finfo(torch.float32).eps), atol=0)
    from portaloss.arrays import to_numpy

    np.testing.assert_array_equal(
        functional.gaussian_nll_loss(to_numpy(input), target.numpy(), 0.7, reduction="none"), value.numpy()
    )


def test_a_variance_that_is_a_number_is_checked():
    for var in (-1.0, -1e-12):  # the second is -0 in float16
        with pytest.raises(ValueError, match="var has negative entry"):
            functional.gaussian_nll_loss(np.zeros(3, np.float16), np.zeros(3, np.float16), var)
    with pytest.raises(TypeError, match="input must be a NumPy array or a torch tensor, got list"):
        functional.gaussian_nll_loss([0.0], np.zeros(1), 1.0)
    with pytest.raises(TypeError, match="var must be a NumPy array or a torch tensor, got int"):  # as in PyTorch
        functional.gaussian_nll_loss(np.zeros(1), np.zeros(1), 1)
    assert (
        functional.gaussian_nll_loss(np.zeros(1, np.float16), np.zeros(1, np.float16), 1e9) == np.inf
    )  # beyond float16


def test_lengths_may_be_sequences():
    log_probs, targets = np.log(np.full((4, 2, 3), 1 / 3)), np.array([[1, 2], [2, 0]])
    expected = functional.ctc_loss(log_probs, targets, np.array([4, 3]), np.array([2, 1]))
    for sequence in (tuple, list):
        assert functional.ctc_loss(log_probs, targets, sequence([4, 3]), sequence([2, 1])) == expected


def test_options_of_linear_cross_entropy_change_nothing():
    arrays = arrays_for(LOSSES[LossKind.FUSED_LINEAR_CROSS_ENTROPY])
    expected = functional.linear_cross_entropy(**arrays)
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2)
        assert functional.linear_cross_entropy(**arrays, options=options) == expected
    with pytest.raises(TypeError, match="options must be None or a LinearCrossEntropyOptions, got int"):
        functional.linear_cross_entropy(**arrays, options=2)


def test_ignore_index_of_linear_cross_entropy():
    arrays = arrays_for(LOSSES[LossKind.FUSED_LINEAR_CROSS_ENTROPY])
    target = arrays["target"].copy()
    target[::2] = -100
    for name in (None, -100):
        items = functional.linear_cross_entropy(**{**arrays, "target": target}, ignore_index=name, reduction="none")
        assert (items == 0).tolist() == (target == -100).tolist()
    soft = np.full((target.size, arrays["linear_weight"].shape[0]), 0.1)
    functional.linear_cross_entropy(**{**arrays, "target": soft})
    with pytest.raises(RuntimeError, match="ignore_index cannot be specified when target contains probabilities"):
        functional.linear_cross_entropy(**{**arrays, "target": soft}, ignore_index=-100)

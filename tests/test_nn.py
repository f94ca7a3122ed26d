"""The modules of portaloss.nn, compared with those of torch.nn: values, gradients, state, repr, pickling."""

import copy
import inspect
import io
import pickle
import subprocess
import sys

import pytest
import torch

from portaloss import LOSSES, LossKind, functional, nn
from portaloss.catalogue import Extent
from portaloss.parity.samples import cases

CLASSES = {loss.module: next(iter(cases(loss, "float64"))).operands for loss in LOSSES.values()}


def configurations(loss):
    """Arguments of the module: the defaults, and then another value for each of them."""
    parameters = inspect.signature(getattr(nn, loss.module)).parameters
    yield {}
    for option in loss.options:
        if option.name in parameters and not option.extension:
            yield from ({option.name: value} for value in option.others if (option.name, value) not in WRONG)
    yield from ({"reduction": reduction} for reduction in ("none", "sum"))
    if loss.kind is LossKind.KL_DIV:
        yield {"reduction": "batchmean"}
    generator = torch.Generator().manual_seed(0)
    for row in loss.operands:
        if row.optional and row.name in parameters:
            yield {row.name: 0.5 + torch.rand(classes_of(loss), generator=generator, dtype=torch.float64)}
    if "bias" in parameters:
        yield {"bias": True}


#: torch.nn.CTCLoss takes any blank, but the sample's labels are drawn for 0.
WRONG = {("blank", 1)}


def classes_of(loss):
    """The length of a weight for each class; of the last axis, for losses that have no classes."""
    operands = CLASSES[loss.module]
    if loss.kind is LossKind.FUSED_LINEAR_CROSS_ENTROPY:
        return operands["linear_weight"].shape[0]
    first = next(iter(operands.values()))
    return first.shape[1 if loss.operand("weight").extent is Extent.CLASSES else -1]


def modules(loss, **configuration):
    """Ours and torch.nn's, with the same parameters."""
    theirs = getattr(torch.nn, loss.module, None)
    if theirs is None:
        pytest.skip(f"this PyTorch does not have {loss.module}")
    if loss.kind is LossKind.FUSED_LINEAR_CROSS_ENTROPY:
        classes, features = CLASSES[loss.module]["linear_weight"].shape
        configuration.update(in_features=features, num_classes=classes, dtype=torch.float64)
    ours, expected = getattr(nn, loss.module)(**configuration), theirs(**configuration)
    ours.load_state_dict(expected.state_dict())
    return ours, expected


def inputs(loss, configuration):
    """What ``forward`` takes; the tensors that have a gradient want one."""
    parameters = inspect.signature(getattr(nn, loss.module).forward).parameters
    made = []
    for row in loss.operands:
        if row.optional or row.name.startswith("linear_"):
            continue
        tensor = torch.from_numpy(CLASSES[loss.module][row.name])
        if configuration.get("log_input") is False and row.name == "input":
            tensor = tensor.abs()  # a rate
        if configuration.get("log_target") and row.name == "target":
            tensor = tensor.log()
        made.append(tensor.clone().requires_grad_(row.differentiable and tensor.is_floating_point()))
    extensions = {row.name for row in loss.operands if row.extension}
    assert len(made) == len(parameters.keys() - {"self"} - extensions)
    return made


EACH = [pytest.param(loss, id=loss.module) for loss in LOSSES.values()]
CONFIGURED = [
    pytest.param(loss, configuration, id=f"{loss.module}-{i}")
    for loss in LOSSES.values()
    for i, configuration in enumerate(configurations(loss))
]
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # KLDivLoss, as in PyTorch


def test_every_kind_has_its_module_and_nothing_else_is_exported():
    assert set(nn.__all__) == {loss.module for loss in LOSSES.values()} | {"FusedLinearCrossEntropyLoss"}
    assert nn.FusedLinearCrossEntropyLoss is nn.LinearCrossEntropyLoss


@pytest.mark.parametrize(("loss", "configuration"), CONFIGURED)
def test_values_and_gradients_are_torchs(loss, configuration):
    ours, theirs = modules(loss, **configuration)
    given, expected = inputs(loss, configuration), inputs(loss, configuration)
    value, value_expected = ours(*given), theirs(*expected)
    assert type(value) is torch.Tensor
    # float64's accuracy, far below any difference that another option would make
    torch.testing.assert_close(value, value_expected, rtol=1e-10, atol=1e-12)
    upstream = torch.linspace(-1.0, 2.0, value.numel(), dtype=torch.float64).reshape(value.shape)
    value.backward(upstream)
    value_expected.backward(upstream)
    for tensor, tensor_expected in zip(given, expected, strict=True):
        if tensor_expected.grad is None:  # no gradient, or, for the norm p = 0, one of zeros
            assert tensor.grad is None or not tensor.grad.any()
        else:
            # nan: that of Poisson's target, where it is 0 and full is True
            torch.testing.assert_close(tensor.grad, tensor_expected.grad, rtol=1e-10, atol=1e-12, equal_nan=True)
    for parameter, parameter_expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, parameter_expected.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("loss", "configuration"), CONFIGURED)
def test_state_and_repr_are_torchs(loss, configuration):
    ours, theirs = modules(loss, **configuration)
    assert isinstance(ours, getattr(torch.nn, loss.module))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_buffers()] == [name for name, _ in theirs.named_buffers()]
    theirs.load_state_dict(ours.state_dict())  # and back


@pytest.mark.parametrize("loss", EACH)
def test_constructors_are_torchs(loss):
    theirs = getattr(torch.nn, loss.module, None)
    if theirs is None:
        pytest.skip(f"this PyTorch does not have {loss.module}")
    ours = inspect.signature(getattr(nn, loss.module))
    extensions = {row.name for row in loss.options if row.extension}
    if not extensions:
        assert ours == inspect.signature(theirs)
        return
    # annotations apart, for ours are strings; what PyTorch's does not have is by keyword alone
    parts = [(p.name, p.kind, p.default) for p in ours.parameters.values()]
    expected = [(p.name, p.kind, p.default) for p in inspect.signature(theirs).parameters.values()]
    assert [part for part in parts if part[0] not in extensions] == expected
    assert {kind for name, kind, _ in parts if name in extensions} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("loss", EACH)
def test_copies_compute_the_same(loss):
    *_, configuration = configurations(loss)
    module, _ = modules(loss, **configuration)
    value = module(*inputs(loss, configuration))
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    copies = (
        pickle.loads(pickle.dumps(module)),
        copy.deepcopy(module),
        copy.copy(module),
        torch.load(saved, weights_only=False),
    )
    for other in copies:
        assert type(other) is getattr(nn, loss.module)
        assert torch.equal(other(*inputs(loss, configuration)), value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "loss", [each for each in EACH if "weight" in inspect.signature(getattr(nn, each.values[0].module)).parameters]
)
def test_buffers_move_with_the_module(loss, dtype):
    weight = torch.ones(classes_of(loss), dtype=torch.float64)
    module, _ = modules(loss, weight=weight)
    assert module.to(dtype) is module
    assert module.weight.dtype == dtype
    given = [
        tensor.detach().to(dtype) if tensor.is_floating_point() else tensor
        for tensor in inputs(loss, {"weight": weight})
    ]
    assert module(*given).dtype == dtype


def test_both_weights_of_bce_with_logits_are_buffers():
    module = nn.BCEWithLogitsLoss(weight=torch.ones(3), pos_weight=torch.ones(3)).double()
    assert {name: tensor.dtype for name, tensor in module.named_buffers()} == {
        "weight": torch.float64,
        "pos_weight": torch.float64,
    }


def test_deprecated_arguments_still_mean_what_they_did():
    with pytest.warns(UserWarning, match="please use reduction='sum' instead"):
        module = nn.MSELoss(size_average=False)
    assert module.reduction == "sum"
    assert module(torch.tensor([1.0, 3.0]), torch.zeros(2)) == 10.0


def test_a_variance_may_be_a_number():
    x, t = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0])
    assert nn.GaussianNLLLoss(reduction="none")(x, t, 1.0).tolist() == [2.0, 0.0]


def test_lengths_may_be_tuples():
    log_probs = torch.full((4, 2, 3), 1 / 3, dtype=torch.float64).log()
    targets = torch.tensor([[1, 2], [2, 1]])
    torch.testing.assert_close(
        nn.CTCLoss()(log_probs, targets, (4, 3), (2, 1)), torch.nn.CTCLoss()(log_probs, targets, (4, 3), (2, 1))
    )


class TestLinearCrossEntropyLoss:
    """What needs more than two axes, or a torch without the module."""

    def test_k_dimensional(self):
        if not hasattr(torch.nn, "LinearCrossEntropyLoss"):
            pytest.skip("this PyTorch does not have LinearCrossEntropyLoss")
        arguments = {"out_features": (2, 3), "bias": True, "dtype": torch.float64, "ignore_index": 1}
        ours, theirs = nn.LinearCrossEntropyLoss(5, 4, **arguments), torch.nn.LinearCrossEntropyLoss(5, 4, **arguments)
        ours.load_state_dict(theirs.state_dict())
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(7, 5, dtype=torch.float64, generator=generator)
        t = torch.randint(4, (7, 2, 3), generator=generator)
        value, expected = ours(x, t), theirs(x, t)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        value.backward()
        expected.backward()
        for name in ("weight", "bias"):
            gradient = getattr(ours.linear, name).grad
            torch.testing.assert_close(gradient, getattr(theirs.linear, name).grad, rtol=1e-10, atol=1e-12)

    def test_what_pytorchs_does_not_have(self):
        arguments = {"softcap": 1.5, "z_loss": 0.1, "max_memory": 1 << 20, "return_extras": True}
        module = nn.LinearCrossEntropyLoss(5, 4, **arguments)
        assert "softcap=1.5, z_loss=0.1, max_memory=1048576, return_extras=True" in repr(module)
        x, t = torch.eye(6, 5), torch.arange(6) % 4
        loss, extras = module(x, t, token_weight=torch.arange(6.0), normalizer=3)
        expected, right = functional.linear_cross_entropy(
            x, module.linear.weight, t, token_weight=torch.arange(6.0), normalizer=3, **arguments
        )
        assert torch.equal(loss, expected)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(extras, right, strict=True))

    def test_options_are_taken_and_change_nothing(self):
        if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
            pytest.skip("this PyTorch does not have LinearCrossEntropyOptions")
        module = nn.LinearCrossEntropyLoss(5, 4)
        x, t = torch.ones(6, 5), torch.arange(6) % 4
        plain = module(x, t)
        module.options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2)
        assert torch.equal(module(x, t), plain)

    def test_the_equivalent_for_an_older_torch_is_equivalent(self):
        if not hasattr(torch.nn, "LinearCrossEntropyLoss"):
            pytest.skip("this PyTorch does not have LinearCrossEntropyLoss")
        equivalent, theirs = nn._LinearCrossEntropyLoss, torch.nn.LinearCrossEntropyLoss

        def parts(module):
            return [(p.name, p.kind, p.default) for p in inspect.signature(module).parameters.values()]

        assert parts(equivalent) == parts(theirs)
        for arguments in ({}, {"bias": True, "out_features": (2,), "weight": torch.ones(4), "label_smoothing": 0.1}):
            ours, expected = equivalent(5, 4, **arguments), theirs(5, 4, **arguments)
            assert str(ours).replace("_Linear", "Linear", 1) == str(expected)
            ours.load_state_dict(expected.state_dict())
            for name in vars(expected):
                assert hasattr(ours, name)
        for wrong in ({"weight": torch.ones(3)}, {"label_smoothing": -0.1}, {"label_smoothing": 1.1}):
            for module in (equivalent, theirs):
                with pytest.raises(RuntimeError, match=rf"expected {next(iter(wrong))}"):
                    module(5, 4, **wrong)


def test_without_torch_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import portaloss\n"
        "try:\n    portaloss.nn\n"
        "except ImportError as error:\n    assert 'portaloss[torch]' in str(error), error\n"
        "else:\n    raise AssertionError('imported')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)

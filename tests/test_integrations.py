"""Hugging Face models with portaloss's loss: what they computed before, without their logits in memory."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")

import transformers

from portaloss.integrations import lazy_logits
from portaloss.integrations.lazy_head import LazyHead
from portaloss.integrations.lazy_logits import LazyLogits
from portaloss.integrations.transformers import patch, patch_all, unpatch, unpatch_all

VOCABULARY = 50
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def build(name="Llama", task="ForCausalLM", **options):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL, **options)
    return getattr(transformers, f"{name}{task}")(config)


def batch():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, VOCABULARY, (3, 9), generator=generator)
    labels = tokens.clone()
    labels[0, :4] = -100  # a prompt
    return {"input_ids": tokens, "labels": labels}


def run(model, **arguments):
    """The outputs, the gradients, and whether the logits were computed for them."""
    model.zero_grad()
    torch.manual_seed(2)  # for dropout
    outputs = model(**(batch() | arguments))
    outputs.loss.backward()
    computed = not (isinstance(outputs.logits, LazyLogits) and not outputs.logits.is_computed())
    return outputs, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, computed


def assert_same(found, wanted, rtol=1e-6, of_largest=1e-5):
    """Equal but for the order in which float32 terms are added."""
    torch.testing.assert_close(found[0].loss, wanted[0].loss, rtol=rtol, atol=0)
    assert found[1].keys() == wanted[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted[1].values())
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=of_largest * largest, msg=name)


@pytest.fixture(autouse=True)
def no_patch_of_all_stays():
    yield
    unpatch_all()


SHIFTED = torch.cat([batch()["labels"][:, 1:], torch.full((3, 1), -100)], dim=1)
KEPT = {"logits_to_keep": 4, "labels": batch()["labels"][:, -4:]}

MODELS = {
    "Llama": {},
    "Llama, tied": {"tie_word_embeddings": True},
    "Gemma2, a soft cap": {"head_dim": 8, "num_key_value_heads": 1, "final_logit_softcapping": 0.02},
    "Cohere, a scale": {"logit_scale": 0.3, "pad_token_id": 0},
    "Granite, a divisor": {"logits_scaling": 3.0},
    "Mixtral, an auxiliary loss": {"output_router_logits": True, "num_local_experts": 2, "num_key_value_heads": 1},
    "Bert, a transform": {"task": "LMHeadModel", "is_decoder": True},
    "Bert, masked": {"task": "ForMaskedLM"},
}


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_stay_and_logits_are_not_computed(name):
    model = build(name.split(",")[0], **MODELS[name])
    wanted = run(model)
    assert patch(model) is model
    found = run(model)
    assert not found[2]
    assert_same(found, wanted)
    assert torch.equal(found[0].logits, wanted[0].logits)  # where somebody looks
    unpatch(model)
    again = run(model)
    assert again[2]
    assert torch.equal(again[0].loss, wanted[0].loss)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_items_in_batch": 7},
        {"num_items_in_batch": torch.tensor(7)},
        {"shift_labels": SHIFTED.roll(1)},
        KEPT,
        {"attention_mask": (batch()["input_ids"] > 9).long()},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_arguments_of_the_model_are_the_models_own(arguments):
    model = build()
    wanted = run(model, **arguments)
    found = run(patch(model), **arguments)
    assert not found[2]
    assert_same(found, wanted)


def test_tuples_without_labels_and_generation():
    model = build()
    tokens = batch()["input_ids"]
    wanted = model(input_ids=tokens).logits
    text = model.generate(tokens, max_new_tokens=3, do_sample=False, pad_token_id=0)
    patch(patch(model))  # twice is once
    assert torch.equal(model(input_ids=tokens).logits, wanted)
    assert torch.equal(model.generate(tokens, max_new_tokens=3, do_sample=False, pad_token_id=0), text)
    loss, logits = model(**batch(), return_dict=False)[:2]
    assert loss.ndim == 0
    assert logits.shape == (3, 9, VOCABULARY)


def test_a_bart_that_adds_a_bias_and_does_not_shift():
    torch.manual_seed(0)
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(vocab_size=VOCABULARY, **small, **heads)
    model = transformers.BartForConditionalGeneration(config)
    model.final_logits_bias.normal_()
    wanted = run(model)
    found = run(patch(model))
    assert not found[2]
    assert_same(found, wanted)


def test_gradient_checkpointing():
    model = build()
    wanted = run(model.train())
    for reentrant in (False, True):
        enable = getattr(
            model, "activation_checkpointing_enable", model.gradient_checkpointing_enable
        )  # its older name
        enable({"use_reentrant": reentrant})
        patch(model).enable_input_require_grads()
        found = run(model)
        assert not found[2]
        assert_same(found, wanted)


def test_a_bfloat16_model_and_autocast_give_a_float32_loss():
    for model, context in ((build().bfloat16(), False), (build(), True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=context):
            wanted = run(model)
            found = run(patch(model))
        assert not found[2]
        assert found[0].loss.dtype == torch.float32
        assert found[0].loss != found[0].loss.bfloat16()  # it was not rounded
        assert {name: x.dtype for name, x in found[1].items()} == {name: x.dtype for name, x in wanted[1].items()}
        # PyTorch rounds logits and their gradients to bfloat16, 2^-9 each
        assert_same(found, wanted, rtol=2**-9, of_largest=2**-6)
        assert found[0].logits.dtype == torch.bfloat16
        assert torch.equal(found[0].logits, wanted[0].logits)


def test_evaluation_has_logits():
    model = build().eval()
    with torch.no_grad():
        wanted = model(**batch())
        patch(model)
        found = model(**batch())
    assert type(found.logits) is torch.Tensor
    assert torch.equal(found.logits, wanted.logits)
    assert torch.equal(found.loss, wanted.loss)
    assert found.keys() == wanted.keys()


def double(module, arguments, output):
    return output * 2 - output.mean()


def test_hooks_of_the_head_run():
    for hook in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        model, calls = build(), []
        effects = {
            "register_forward_hook": double,
            "register_forward_pre_hook": lambda module, arguments: (arguments[0] * 3,),
            "register_full_backward_hook": lambda module, upstream, _, calls=calls: calls.append(1),
        }
        getattr(model.lm_head, hook)(effects[hook])
        wanted, called = run(model), list(calls)
        assert_same(run(patch(model)), wanted)
        assert calls == called * 2


class LowRank(torch.nn.Module):
    """What PEFT makes of a layer."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = torch.nn.Linear(base_layer.in_features, 2, bias=False)
        self.B = torch.nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + 0.5 * self.B(self.A(x))


def test_low_rank_adapters_of_any_layer_learn():
    model = patch(build())
    assert type(model.lm_head) is LazyHead
    model.lm_head = LowRank(model.lm_head)
    model.model.layers[0].mlp.up_proj = LowRank(model.model.layers[0].mlp.up_proj)
    found = run(model)
    assert float(found[1]["lm_head.B.weight"].abs().max()) > 0
    assert "lm_head.base_layer.weight" not in found[1]
    assert_same(found, run(unpatch(model)))


def test_heads_that_may_do_more_are_refused_and_left():
    class Twice(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = build()
    model.lm_head = Twice(16, VOCABULARY, bias=False)
    with pytest.raises(TypeError, match=r"LlamaForCausalLM has one of class .*\.Twice"):
        patch(model)
    assert type(model.lm_head) is Twice
    with pytest.raises(TypeError, match="LlamaModel has none"):
        patch(model.model)


def test_the_users_loss_function_is_called():
    def smooth(logits, labels, vocab_size, **_):
        return F.cross_entropy(logits.float().view(-1, vocab_size), labels.view(-1), label_smoothing=0.2)

    def focal(logits, labels, **_):
        log_p = logits.log_softmax(-1).gather(-1, labels.clamp(0)[..., None])
        return (-((1 - log_p.exp()) ** 2) * log_p).mean()

    def weighted(logits, labels, vocab_size, **_):
        return F.cross_entropy(logits.view(-1, vocab_size), labels.view(-1), weight=torch.arange(float(vocab_size)))

    for loss, computed in ((smooth, False), (focal, True), (weighted, True)):
        model = build()
        model.loss_function = loss
        wanted = run(model)
        found = run(patch(model))
        assert found[2] == computed
        assert_same(found, wanted)


def test_logits_that_change_in_place_before_the_loss():
    def masked(logits, labels, vocab_size, **_):
        early = logits[..., :-1, :]
        logits[..., 7] = -5.0  # early is a view
        return F.cross_entropy(early.reshape(-1, vocab_size), labels[..., 1:].reshape(-1))

    def copied(logits, labels, vocab_size, **_):
        wide = logits[labels > 9]  # a copy, which does not change
        logits.mul_(3)
        return F.cross_entropy(wide, labels[labels > 9]) + logits.square().mean()

    for loss in (masked, copied):
        model = build()
        model.loss_function = loss
        assert_same(run(patch(model)), run(unpatch(model)))


def test_copies_replicas_and_pickles_run_their_own_weights():
    model = patch(build())
    swa = torch.optim.swa_utils.AveragedModel(model).module
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    replica = copy.copy(model)  # what DataParallel does
    replica._modules = dict(model._modules)
    replica._modules["lm_head"] = model.lm_head._replicate_for_data_parallel()
    replica.lm_head._parameters["bias"] = None
    replica.lm_head.weight = model.lm_head.weight.detach().clone().requires_grad_()
    copies = [copy.deepcopy(model), swa, pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    want = run(model)[0].loss.detach()
    for other in [*copies, replica]:
        assert type(other.lm_head) is LazyHead
        with torch.no_grad():
            other.lm_head.weight.mul_(2)
        found = other(**batch())
        assert not found.logits.is_computed()
        assert abs(float(found.loss.detach() - want)) > 1e-4
        torch.testing.assert_close(found.loss, unpatch(other)(**batch()).loss, rtol=1e-6, atol=0)
        patch(model)  # the replica shares other modules
    assert torch.equal(run(model)[0].loss, want)


def test_outputs_can_be_kept():
    outputs = patch(build())(**batch())
    assert type(pickle.loads(pickle.dumps(outputs.logits.detach()))) is torch.Tensor
    other = patch(build())(**batch())
    assert "grad_fn" in repr(other.logits)
    assert hash(other.logits) == id(other.logits)


def test_compiled_models_and_losses():
    model = build()
    wanted = run(model)
    compiled = torch.compile(patch(model), backend="aot_eager", fullgraph=True)
    outputs = compiled(**batch(), use_cache=False)
    assert type(outputs.logits) is torch.Tensor
    torch.testing.assert_close(outputs.loss, wanted[0].loss, rtol=1e-6, atol=0)
    torch._dynamo.reset()


def test_logits_of_weights_that_are_gone_are_refused():
    class Unseen(torch.optim.Optimizer):
        """Changes weights where PyTorch does not see it, as 8-bit optimizers do."""

        def step(self):
            for parameter in self.param_groups[0]["params"]:
                parameter.data.mul_(2)

    for optimizer in (lambda p: torch.optim.SGD(p, 0.1), lambda p: Unseen(p, {})):
        model = patch(build())
        early, late = run(model)[0], run(model)[0]
        early.logits.sum()
        optimizer(model.parameters()).step()
        early.logits.sum()  # computed before
        assert late.logits.shape == (3, 9, VOCABULARY)
        with pytest.raises(RuntimeError, match=r"look at them before optimizer\.step"):
            late.logits.argmax(-1)
        run(model)[0].logits.sum()


def test_gradients_of_logits():
    model = patch(build())
    outputs = model(**batch())
    for ask in (outputs.logits.retain_grad, lambda: torch.autograd.grad(outputs.loss, outputs.logits)):
        with pytest.raises(RuntimeError, match="no gradient flows through them"):
            ask()
    (model(**batch()).logits.square().sum() + model(**batch()).loss).backward()  # a loss of one's own
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    unpatch(model)
    outputs = model(**batch())
    (outputs.logits.square().sum() + outputs.loss).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_patch_all_patches_models_that_exist_and_models_to_come():
    old, encoder = build(), build("Bert", "Model")
    with patch_all():
        new, patched = build(), patch(build())
        assert not run(old)[2]
        assert not run(new)[2]
        encoder(batch()["input_ids"])
        assert not run(patched)[2]
    assert run(old)[2]
    assert run(new)[2]
    assert not run(patched)[2]  # by hand: it stays
    patch_all()
    assert not run(old)[2]
    unpatch_all()
    assert run(old)[2]
    assert transformers.PreTrainedModel.__call__ is torch.nn.Module.__call__


def test_lazy_logits_are_freed_with_the_outputs():
    before = len(lazy_logits._products)
    model = patch(build())
    outputs = model(**batch())
    outputs.loss.backward()
    assert len(lazy_logits._products) > before
    del outputs
    assert len(lazy_logits._products) == before

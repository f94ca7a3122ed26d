"""Patched Hugging Face models: the same loss and gradients, no logits, and unpatching."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, T5Config, T5EncoderModel

from portaloss.integrations.transformers import patch, unpatch


def llama(**options):
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **small, **options))


def batch():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(50, (3, 9), generator=generator)
    labels = tokens.clone()
    labels[0, :4] = -100  # a prompt
    return tokens, labels


def loss_and_gradients(model, **arguments):
    tokens, labels = batch()
    model.zero_grad()
    output = model(input_ids=tokens, labels=labels, **arguments)
    output.loss.backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("arguments", [{}, {"num_items_in_batch": 7}, {"num_items_in_batch": torch.tensor(7)}])
@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_and_its_gradients_stay_and_the_logits_go(tied, arguments):
    model = llama(tie_word_embeddings=tied)
    before, gradients = loss_and_gradients(model, **arguments)
    assert patch(model) is model
    after, others = loss_and_gradients(model, **arguments)
    assert after.logits is None
    # float32: sums of 24 items and of 50 terms of a softmax, in another order
    torch.testing.assert_close(after.loss, before.loss, rtol=1e-6, atol=0)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(others[name], gradient, rtol=0, atol=1e-5 * scale, msg=name)
    unpatch(model)
    again, _ = loss_and_gradients(model, **arguments)
    assert again.logits is not None
    assert torch.equal(again.loss, before.loss)


def test_a_model_with_a_soft_cap():
    torch.manual_seed(0)
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    model = Gemma2ForCausalLM(Gemma2Config(vocab_size=50, num_key_value_heads=1, final_logit_softcapping=0.02, **small))
    before, gradients = loss_and_gradients(model)
    after, others = loss_and_gradients(patch(model))
    torch.testing.assert_close(after.loss, before.loss, rtol=1e-6, atol=0)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(others[name], gradient, rtol=0, atol=1e-5 * scale, msg=name)
    model.config.final_logit_softcapping = None
    assert (
        abs(float(model(input_ids=batch()[0], labels=batch()[1]).loss.detach()) - float(before.loss.detach())) > 1e-3
    )  # it did cap


def test_the_loss_of_a_bfloat16_model_is_float32():
    model = llama().bfloat16()
    before, _ = loss_and_gradients(model)
    after, gradients = loss_and_gradients(patch(model))
    assert after.loss.dtype == before.loss.dtype == torch.float32
    # PyTorch rounds the logits to bfloat16, 2^-9 each; their mean is off by less
    torch.testing.assert_close(after.loss, before.loss, rtol=2**-9, atol=0)
    assert after.loss != after.loss.bfloat16()  # it was not rounded
    assert {gradient.dtype for gradient in gradients.values()} == {torch.bfloat16}


def test_what_has_no_labels_is_untouched():
    model = llama()
    tokens, labels = batch()
    want = model(input_ids=tokens).logits
    patch(patch(model))  # twice is once
    assert torch.equal(model(input_ids=tokens).logits, want)
    assert model(tokens, None, labels=labels, return_dict=False)[0].ndim == 0
    assert "forward" not in unpatch(model).__dict__
    unpatch(model)


def test_models_that_do_more_to_logits_are_refused():
    model = llama()
    model.config.logit_scale = 30.0
    with pytest.raises(NotImplementedError, match=r"config\.logit_scale"):
        patch(model)
    config = T5Config(d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8, vocab_size=50)
    with pytest.raises(TypeError, match="got T5EncoderModel"):
        patch(T5EncoderModel(config))

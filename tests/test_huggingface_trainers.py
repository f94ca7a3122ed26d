"""The patch under transformers' Trainer and PEFT's adapters, where these are installed: nox -s huggingface."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from portaloss.integrations import lazy_logits
from portaloss.integrations.transformers import patch

pytestmark = pytest.mark.filterwarnings("ignore")  # these libraries call each other's deprecated functions


def build():
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **small))


def rows():
    tokens = torch.randint(3, 50, (12, 9), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row.clone(), "attention_mask": torch.ones_like(row)} for row in tokens]


@pytest.fixture
def computed(monkeypatch):
    """How often logits were computed that were lazy."""
    calls = mock.Mock()
    compute = lazy_logits._Product.compute
    monkeypatch.setattr(lazy_logits._Product, "compute", lambda *args: (calls(), compute(*args))[1])
    return lambda: calls.call_count


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}, {"label_smoothing_factor": 0.1}])
def test_trainer_trains_evaluates_and_predicts(options, tmp_path, computed):
    pytest.importorskip("accelerate")

    def train(model):
        files = {"output_dir": str(tmp_path), "save_strategy": "no", "report_to": [], "disable_tqdm": True}
        steps = {"max_steps": 3, "logging_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True, "seed": 1}
        arguments = transformers.TrainingArguments(**files, **steps, **options)
        trainer = transformers.Trainer(model, arguments, train_dataset=rows(), eval_dataset=rows())
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        unwrapped = trainer.accelerator.unwrap_model(trainer.model)
        return losses, trainer.evaluate()["eval_loss"], trainer.predict(rows()).predictions, unwrapped

    wanted, found = train(build()), train(patch(build()))
    assert len(found[0]) == 3
    assert found[:2] == (pytest.approx(wanted[0], rel=1e-6), pytest.approx(wanted[1], rel=1e-6))
    assert found[2] == pytest.approx(wanted[2], abs=1e-6)
    assert found[2].shape == (12, 9, 50)
    assert type(found[3]) is transformers.LlamaForCausalLM
    assert computed() == (3 if "label_smoothing_factor" in options else 0)


@pytest.mark.parametrize("targets", ["all-linear", ["lm_head", "q_proj"]])
@pytest.mark.parametrize("saved", [None, ["lm_head"]])
def test_adapters_learn(targets, saved, computed):
    peft = pytest.importorskip("peft")
    if saved and "lm_head" in targets:
        pytest.skip("PEFT adapts a layer or saves it")
    found = []
    for prepare in (lambda model: model, patch):
        model = prepare(build())
        torch.manual_seed(3)
        config = peft.LoraConfig(target_modules=targets, modules_to_save=saved, init_lora_weights=False)
        model = peft.get_peft_model(model, config)
        tokens = torch.stack([row["input_ids"] for row in rows()])
        model(input_ids=tokens, labels=tokens).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any("lm_head" in name for name in found[1]) == (targets != "all-linear" or saved is not None)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    assert computed() == ("lm_head" in targets)


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
@pytest.mark.parametrize("options", [{}, {"find_unused_parameters": True}, {"static_graph": True}])
def test_data_parallel(options, one_process, computed):
    tokens = torch.stack([row["input_ids"] for row in rows()])
    found = []
    for model in (build(), patch(build())):
        parallel = torch.nn.parallel.DistributedDataParallel(model, **options)
        parallel(input_ids=tokens, labels=tokens).loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    assert (computed() > 0) == bool(options)  # with these, it passes all outputs through C++ at the first step


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_fully_sharded(one_process, computed):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    tokens = torch.stack([row["input_ids"] for row in rows()])
    losses = []
    for model in (build(), patch(build())):
        for module in (*model.model.layers, model):
            fsdp.fully_shard(module, mesh=mesh)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            outputs = model(input_ids=tokens, labels=tokens)
            outputs.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(outputs.loss.detach()))
    assert losses[3:] == pytest.approx(losses[:3], rel=1e-6)
    assert computed() == 0
    with pytest.raises(RuntimeError, match=r"look at them before optimizer\.step"):
        outputs.logits.sum()

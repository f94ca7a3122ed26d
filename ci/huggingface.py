"""Every language model class of the installed transformers, before and after ``patch``: nox -s huggingface.

    python ci/huggingface.py [--only TEXT] [--write docs/huggingface.md]

Each class of the causal, masked and sequence-to-sequence mappings is built with random weights and a configuration that
is shrunk by the names of its options. Nothing is downloaded. The same batch goes through the model with and without the
patch, in training mode and from the same state of the random generators. It must give the same loss, the same gradient
of every parameter, and the same logits to the bit where somebody looks. A model that cannot be patched must be left as
it was. Exits with 1 where anything is wrong, raises, or where fewer classes save memory than ``--at-least``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import logging
import random
import re
import signal
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from portaloss.integrations import lazy_logits
from portaloss.integrations.lazy_head import LazyHead
from portaloss.integrations.transformers import patch, unpatch

MAPPINGS = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}

VOCABULARY = 128
SECONDS = 60  # for one class

#: A loss or gradient may differ by this share of itself: sums of float32 terms in another order. A derivative that is
#: wrong in kind (a missing scale, shift or term) is off by far more.
OF_ITSELF = 1e-4
#: A gradient may differ by this share of the model's largest: some are sums that would be 0 without rounding.
OF_LARGEST = 1e-6

SAVED, COMPUTED, LEFT, ABSENT, WRONG = "saved", "computed", "left", "absent", "wrong"


@dataclass
class Result:
    """What became of one class."""

    mapping: str
    name: str
    state: str
    note: str = ""


# Configurations: the first pattern that a name matches decides

SIZES: list[tuple[str, Any]] = [
    (r"(text_|decoder_|encoder_)?vocab_size|src_vocab_size|tgt_vocab_size|.*vocab_size.*", VOCABULARY),
    (r"pad_token_id|.*pad_token_id", 0),
    (r"bos_token_id|decoder_start_token_id|sep_token_id|forced_bos_token_id", 1),
    (r"eos_token_id|forced_eos_token_id|.*eos_token_id", 2),
    (r".*_token_id|.*_token_index", VOCABULARY - 1),
    (r"num_key_value_heads|.*kv_heads|num_query_groups|n_head_kv", 2),
    (r"(num_)?(.*_)?(attention_)?heads|n_head|n_heads|num_heads|.*_heads|.*_attention_heads|.*num_heads.*", 4),
    (r".*(head_dim|head_size|d_kv|attention_head_dim|kv_channels).*", 8),
    (r"qk_nope_head_dim|qk_rope_head_dim|v_head_dim", 8),
    (r"q_lora_rank|kv_lora_rank|.*lora_rank|.*_rank", 16),
    (r".*(hidden_layers|n_layers?|num_layers|_layers|num_blocks|n_layer)", 2),
    (r".*(intermediate_size|ffn_dim|d_ff|n_inner|ffn_hidden_size|d_inner|ffn_size|inner_dim|ff_dim|dim_ff).*", 64),
    (r"hidden_size|d_model|n_embd|embed_dim|emb_dim|dim|hidden_dim|embedding_size|.*(hidden_size|_embed_dim)", 32),
    (r"num_experts_per_tok|.*experts_per_tok.*|.*top_?k.*|moe_k", 2),
    (r"n_group|topk_group|.*_group(s)?", 1),
    (r".*(num_.*experts|n_routed_experts|num_local_experts|moe_num_experts)", 4),
    (r"max_position_embeddings|n_positions|max_target_positions|max_source_positions|n_ctx|.*max_.*positions?.*", 64),
    (r".*(sliding_window|attention_window|chunk_size|window).*", 8),
    (r"image_size", 16),
    (r"patch_size", 8),
]


def shrunk(config: Any) -> dict[str, Any]:
    """The options that make a small configuration of this one's class."""
    options: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, transformers.PretrainedConfig):
            options[name] = {"model_type": value.model_type, **shrunk(value)}
        elif isinstance(value, int) and not isinstance(value, bool) and not name.startswith("_"):
            size = next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), value)
            options[name] = size if value > 0 and (size < value or "token" in name) else value
    return options


#: Tried in turn, where a configuration has such options, until a model runs: what small models must agree on.
VARIANTS: list[dict[str, Any]] = [
    {},
    {"num_key_value_heads": 4, "head_dim": None},
    {"num_hidden_layers": 4, "num_key_value_heads": 4},
    {"num_hidden_layers": 8, "num_key_value_heads": 4},
    {"mamba_d_head": 16, "mamba_n_heads": 4, "mamba_d_ssm": 64, "mamba_head_dim": 16, "n_mamba_heads": 2},
    {"num_heads": 4, "head_dim": 16, "n_groups": 1, "is_decoder": True, "rotary_dim": 4, "d_head": 8},
    {"attention_types": [[["global", "local"], 1]], "rotary_dim": 4, "head_dim": 8},
]


#: What classes need that nothing else tells.
NEEDS: dict[str, dict[str, Any]] = {
    **{key: {"decoder_start_token_id": 0} for key in ("t5", "longt5", "switch_transformers")},
    "xmod": {"default_language": "en_XX"},
    "reformer": {"attn_layers": ["local"], "axial_pos_embds": False, "is_decoder": True},
}


def build(name: str, kind: str, given: dict[str, torch.Tensor]) -> Any:
    """A small model with random weights, which has a loss."""
    model_class = getattr(transformers, name)
    mapped = CONFIG_MAPPING[kind]
    classes = [mapped] if model_class.config_class in (None, mapped) else [model_class.config_class, mapped]
    first: Exception | None = None
    for config_class in classes:
        default = config_class()
        for variant in VARIANTS:
            known = {option: value for option, value in variant.items() if hasattr(default, option)}
            try:
                seed()
                model = model_class(config_class(**{**shrunk(default), **NEEDS.get(kind, {}), **known})).float().train()
                run(model, given)
                return model
            except TimeoutError:
                raise
            except Exception as error:
                first = first or error
    assert first is not None
    raise first


def batch() -> dict[str, torch.Tensor]:
    """Tokens and their labels, some of which are ignored."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, VOCABULARY - 8, (2, 16), generator=generator)
    labels = tokens.clone()
    labels[0, :5] = -100
    return {"input_ids": tokens, "labels": labels, "attention_mask": torch.ones_like(tokens)}


def seed() -> None:
    """The same random numbers from here on."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


# One class


def examine(mapping: str, kind: str, name: str) -> Result:
    """Build, run, patch, run again and compare."""
    try:
        with limit(SECONDS):
            given = batch()
            model = build(name, kind, given)  # has run once: a model that keeps state has it by now
            before = run(model, given)
            if difference(before, run(model, given)) is not None:
                model.eval()  # its dropout does not follow torch.manual_seed
                before = run(model, given)
            if not torch.isfinite(before[0]):
                return Result(mapping, name, ABSENT, f"its loss is {before[0].item()}")
    except Exception as error:
        return Result(mapping, name, ABSENT, shortly(error))
    try:
        with limit(SECONDS):
            head = model.get_output_embeddings()
            kept = dict(vars(head)) if head is not None else {}
            try:
                patch(model)
            except TypeError:
                if head is not None and (vars(head) != kept or type(head) is LazyHead):
                    return Result(mapping, name, WRONG, "patch refused the model and changed it")
                return Result(mapping, name, LEFT, type(head).__name__ if head is not None else "none")
            return compared(Result(mapping, name, SAVED), model, given, before)
    except Exception as error:
        return Result(mapping, name, WRONG, "raises " + shortly(error))


def compared(result: Result, model: Any, given: dict[str, torch.Tensor], before: Run) -> Result:
    """The result of a patched model."""
    compute, fused = lazy_logits._Product.compute, lazy_logits.dispatch.loss
    counts: Counter[str] = Counter()

    def count(what: str, function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[what] += 1
            return function(*args, **kwargs)

        return counted

    with (
        mock.patch.object(lazy_logits._Product, "compute", count("computed", compute)),
        mock.patch.object(lazy_logits.dispatch, "loss", count("fused", fused)),
    ):
        after = run(model, given)
    result.state = SAVED if counts["fused"] and not counts["computed"] else COMPUTED
    wrong = difference(before, after)
    if wrong is None:
        looked = run(model, given, look=True)
        wrong = difference(before, looked)
        if wrong is None and not same(logits_of(before[2]), logits_of(looked[2])):
            wrong = "other logits"
    if wrong is None:
        model.eval()
        with torch.no_grad():
            seed()
            patched = model(**given)
            seed()
            plain = unpatch(copy.deepcopy(model))(**given)
        if not same(logits_of(plain), logits_of(patched)) or not torch.equal(plain.loss, patched.loss):
            wrong = "other results in evaluation"
    if wrong is not None:
        result.state, result.note = WRONG, wrong
    return result


#: The loss, the gradients by name, and the outputs.
Run = tuple[torch.Tensor, dict[str, torch.Tensor], Any]


def run(model: Any, given: dict[str, torch.Tensor], *, look: bool = False) -> Run:
    """One forward and backward pass; with ``look``, the logits are looked at before the backward pass."""
    model.zero_grad(set_to_none=True)
    seed()
    outputs = model(**given)
    if look:
        logits_of(outputs).sum().item()
    outputs.loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return outputs.loss.detach(), found, outputs


def logits_of(outputs: Any) -> Any:
    """The logits by the name the class has for them."""
    return outputs.logits if "logits" in outputs else outputs["prediction_logits"]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal to the bit; nan equals nan."""
    a, b = a.detach(), b.detach()
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(7), b.nan_to_num(7))


def difference(before: Run, after: Run) -> str | None:
    """What is different beyond rounding, in words; None where nothing is."""
    want, got = float(before[0]), float(after[0])
    if before[0].dtype != after[0].dtype or not abs(got - want) <= OF_ITSELF * abs(want):
        return f"loss {got:.6g} for {want:.6g}"
    gradients, others = before[1], after[1]
    if gradients.keys() != others.keys():
        return f"gradients of other parameters: {sorted(gradients.keys() ^ others.keys())[:3]}"
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        allowed = OF_ITSELF * float(gradient.abs().max()) + OF_LARGEST * largest
        apart = float((gradient - others[name]).abs().max())
        if not apart <= allowed:
            return f"the gradient of {name} is off by {apart:.1e}; {allowed:.1e} is allowed"
    return None


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the body after so many seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"takes more than {seconds} s")

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def shortly(error: Exception) -> str:
    """The error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:140]}"


TABLES = {
    SAVED: "Classes whose logits stay out of memory in training",
    COMPUTED: "Classes whose logits are computed all the same, because they do more with them; results agree",
    LEFT: "Classes that `patch` refuses, with the class of their output layer, and leaves as they were",
    ABSENT: "Classes that this sweep cannot build or run without the patch, with the reason: nothing is known of them",
    WRONG: "Wrong",
}
MARK = "<!-- ci/huggingface.py writes what follows -->"


def write(path: Path, results: list[Result]) -> None:
    """The tables into the page, after the mark."""
    lines = [MARK, "", f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}:", ""]
    lines += ["| | " + " | ".join(MAPPINGS) + " |", "|---|" + "---|" * len(MAPPINGS)]
    counts = Counter((result.state, result.mapping) for result in results)
    lines += [f"| {state} | " + " | ".join(str(counts[state, name]) for name in MAPPINGS) + " |" for state in TABLES]
    for state, title in TABLES.items():
        found = [result for result in results if result.state == state]
        if found:
            lines += ["", f"## {state.capitalize()}", "", title + ".", ""]
        for mapping in MAPPINGS:
            here = [result for result in found if result.mapping == mapping]
            if not any(result.note for result in here):
                names = ", ".join(result.name for result in here)
                lines += textwrap.wrap(f"- {mapping}: {names}", 118, subsequent_indent="  ") if here else []
            else:
                lines += [f"- {mapping}:"]
                lines += [f"  - {result.name}: {result.note.replace('<', '&lt;')}" for result in here]
    prose = path.read_text().partition(MARK)[0] if path.exists() else ""
    path.write_text(prose + "\n".join(lines) + "\n")


def main() -> int:
    """The sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression that a class must contain")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a Markdown page with the tables")
    parser.add_argument("--at-least", type=int, default=0, metavar="N", help="causal classes that must save memory")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = []
    for mapping, names in MAPPINGS.items():
        classes: dict[str, str] = {}
        for kind, name in names.items():
            classes.setdefault(name, kind)
        for name, kind in sorted(classes.items()):
            if args.only and not re.search(args.only, name):
                continue
            result = examine(mapping, kind, name)
            results.append(result)
            print(f"{mapping:8} {name:50} {result.state:9} {result.note}", flush=True)
            gc.collect()
    for mapping in MAPPINGS:
        counts = Counter(result.state for result in results if result.mapping == mapping)
        print(f"{mapping}: " + ", ".join(f"{counts[s]} {s}" for s in (SAVED, COMPUTED, LEFT, ABSENT, WRONG)))
    if args.write:
        write(args.write, results)
    saved = sum(result.state == SAVED for result in results if result.mapping == "causal")
    return int(any(result.state == WRONG for result in results) or saved < args.at_least)


if __name__ == "__main__":
    sys.exit(main())

"""A small Llama, trained on the book in reference/, with PyTorch's loss and with portaloss's.

    python examples/finetune.py [--steps N] [--out DIR]

The model is transformers' LlamaForCausalLM with random weights; the tokens are the words of the book. The two runs
differ by one line, ``patch(model)``: with it, the logits (one row over the vocabulary for each token) are never all in
memory. Each run is a separate process, so that its peak memory can be measured. Both loss curves are printed and drawn;
over 50 steps they agree to about 1e-6, relative to the loss.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SEQUENCE = 128
BATCH = 16
HIDDEN = 64


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, list[float] | float]]:
    """Both runs; returns their losses and peak memory in MiB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where finetune.png goes")
    parser.add_argument("--run", choices=("torch", "portaloss"), help=argparse.SUPPRESS)  # one run, in a child
    args = parser.parse_args(argv)
    if args.run:
        print(json.dumps(train(args.run == "portaloss", args.steps)))
        return {}

    results = {}
    for name in ("torch", "portaloss"):
        command = [sys.executable, __file__, "--steps", str(args.steps), "--run", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
    theirs, ours = results["torch"]["losses"], results["portaloss"]["losses"]
    apart = max(abs(a - b) / a for a, b in zip(theirs, ours, strict=True))
    for step in range(0, args.steps, max(1, args.steps // 10)):
        print(f"step {step:3}: PyTorch {theirs[step]:.5f}, portaloss {ours[step]:.5f}")
    print(f"the curves agree to {apart:.1e}")
    for name, result in results.items():
        print(f"{name:<10} {result['memory']:6.0f} MiB beyond the model and its data at the peak")
    draw(theirs, ours, args.out / "finetune.png")
    return results


def train(fused: bool, steps: int) -> dict[str, list[float] | float]:
    """One run: the loss of every step, and by how much the peak of memory grew."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens, vocabulary = words()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=SEQUENCE,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    if fused:
        from portaloss.integrations.transformers import patch

        patch(model)
    text = torch.tensor(tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    before = peak()
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(text) - SEQUENCE, (BATCH,), generator=generator)
        batch = torch.stack([text[start : start + SEQUENCE] for start in starts])
        optimizer.zero_grad()
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "memory": peak() - before}


def words() -> tuple[list[int], int]:
    """The words and punctuation marks of the book as numbers, and how many different ones there are."""
    text = " ".join(path.read_text() for path in sorted((ROOT / "reference").glob("*.py")))
    found = re.findall(r"\w+|\S", text)
    numbers = {word: i for i, word in enumerate(sorted(set(found)))}
    return [numbers[word] for word in found], len(numbers)


def peak() -> float:
    """The most memory that this process has had so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, where getrusage would include the parent's memory at the fork
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text()).group(1)) / 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10  # bytes on a Mac, KiB elsewhere


def draw(theirs: Sequence[float], ours: Sequence[float], path: Path) -> None:
    """Save a picture of both curves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    import matplotlib

    matplotlib.use("Agg")  # pictures go to files: no screen needed
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(theirs, label="PyTorch", linewidth=4, alpha=0.4)
    axes.plot(ours, label="portaloss", linewidth=1.5)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend()
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()

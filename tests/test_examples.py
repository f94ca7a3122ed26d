"""The examples learn what they should. They run with fewer steps here."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def main_of(path: str):
    return runpy.run_path(str(ROOT / path))["main"]


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_digits_are_read(array, tmp_path, capsys):
    if array == "torch":
        pytest.importorskip("torch")
    accuracy = main_of("examples/digits.py")(["--array", array, "--epochs", "15", "--out", str(tmp_path)])
    assert accuracy >= 0.95
    assert (tmp_path / "digits.png").stat().st_size > 5000  # an empty plot is smaller
    assert f"{100 * accuracy:.1f}%" in capsys.readouterr().out


# 500 steps bring 27%, 1000 bring 15% and the full 2500 bring 6%; one guess in ten would be right by chance.
@pytest.mark.parametrize(("array", "steps", "bound"), [("numpy", 1000, 0.2), ("torch", 500, 0.35)])
def test_strips_are_read_without_alignment(array, steps, bound, tmp_path, capsys):
    if array == "torch":
        pytest.importorskip("torch")
    main = main_of("examples/ctc_digits.py")
    before, after = main(["--array", array, "--steps", str(steps), "--out", str(tmp_path)])
    assert before > 0.8
    assert after < bound
    assert (tmp_path / "ctc_digits.png").stat().st_size > 5000
    assert "strip 0: shows" in capsys.readouterr().out


def test_a_language_model_learns_the_same_with_either_loss(tmp_path, capsys):
    pytest.importorskip("transformers")
    results = main_of("examples/finetune.py")(["--steps", "10", "--out", str(tmp_path)])
    theirs, ours = (results[name]["losses"] for name in ("torch", "portaloss"))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours[-1] < 0.9 * ours[0]
    # the logits, their softmax and their gradient: 16 x 128 rows of the vocabulary in float32, three times
    assert results["portaloss"]["memory"] < results["torch"]["memory"]
    assert "the curves agree to" in capsys.readouterr().out

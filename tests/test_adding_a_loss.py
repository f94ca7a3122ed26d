"""The recipe for a new loss in CONTRIBUTING.md: applied to a copy of the tree, it gives a loss that passes parity."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Kind -> where its recipe is, and a program that uses it; PyTorch has neither loss.
RECIPES = {
    "log_cosh": (
        "CONTRIBUTING.md",
        """
        x = torch.tensor([0.5, -3.0], dtype=torch.float64, requires_grad=True)
        loss = nn.LogCoshLoss()(x, torch.zeros(2, dtype=torch.float64))
        torch.testing.assert_close(loss, x.cosh().log().mean())
        hessian = torch.func.hessian(lambda x: functional.log_cosh_loss(x, x.detach() * 0, reduction="sum"))(x)
        torch.testing.assert_close(hessian, torch.diag(1 - x.tanh() ** 2))
        """,
    ),
    "focal": (
        "tests/focal_loss.txt",
        """
        x = torch.tensor([[0.5, -3.0, 1.0]], dtype=torch.float64, requires_grad=True)
        loss = nn.FocalLoss()(x, torch.tensor([2]))
        p = x.softmax(1)[0, 2]
        torch.testing.assert_close(loss, -((1 - p) ** 2) * p.log())
        for _ in range(2):  # a shape that has been met, too
            try:
                functional.focal_loss(x, torch.tensor([3]))
            except IndexError:
                continue
            raise AssertionError("a class out of range was not seen")
        assert torch.autograd.gradcheck(lambda x: functional.focal_loss(x, torch.tensor([2])), x)
        assert torch.autograd.gradgradcheck(lambda x: functional.focal_loss(x, torch.tensor([2])), x)
        """,
    ),
}

STEP = re.compile(r"(New file|In|At the end of)\s`([^`]+)`(?:, below\s+`([^`]+)`)?:\n\n```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("kind", RECIPES)
def test_the_recipe(kind, tmp_path):
    where, program = RECIPES[kind]
    for folder in ("portaloss", "reference"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    steps = STEP.findall((ROOT / where).read_text(encoding="utf-8"))
    assert [step[0] for step in steps] == ["New file", "In", "In", "At the end of", "At the end of"]
    for place, name, line, text in steps:
        path = tmp_path / name
        assert path.exists() is (place != "New file")
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if place != "In":
            path.write_text(before + text, encoding="utf-8")
            continue
        assert before.count(f"\n{line}\n") == 1, f"{name} must have exactly one line {line!r}"
        path.write_text(before.replace(f"\n{line}\n", f"\n{line}\n{text}"), encoding="utf-8")

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    said = run("-m", "portaloss", "parity", "--backend", "cpu", "--kind", kind)
    assert "24 passed, 0 failed" in said  # four dtypes, three reductions, forward and backward
    run("-m", "doctest", f"reference/{kind}.py")
    head = "import torch\nfrom portaloss import functional, nn\n"
    run("-W", "ignore", "-c", head + textwrap.dedent(program))

"""Every code block of docs/training.md runs as typed, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


@pytest.mark.filterwarnings(
    "ignore:When training, we now always track global mean and variance"
)  # Paddle's BatchNorm
def test_code_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```python")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "documentation"}
    for block in blocks:
        exec(compile(block, "docs/training.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "run/checkpoints/step-00000032 6" in printed
    assert "PER 1.0 1.0 1.0 1" in printed

"""Every code block of docs/peft.md runs as typed, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paddle_infra.train import seed_everything


def test_code_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "peft.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```python") > 4
    monkeypatch.chdir(tmp_path)
    seed_everything(0)
    namespace: dict[str, object] = {"__name__": "documentation"}
    for block in blocks:
        exec(compile(block, "docs/peft.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "encoder.stack.layers.0.attention.query\n" in printed
    assert "['default', 'scales', 'again'] again\n" in printed
    assert "48 triplets in 12 layers\n" in printed
    assert (tmp_path / "merged/model.safetensors").exists()

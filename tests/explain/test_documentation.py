"""Every code block of docs/explain.md runs as typed."""

from __future__ import annotations

import re
from pathlib import Path

import paddle
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "explain.md"


def test_code_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    paddle.seed(0)
    namespace: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "True"
    assert [line.split()[0] for line in printed[2:4]] == ["not", "boring"]
    assert [line.split()[:2] for line in printed[-3:]] == [
        ["income", "0.3"],
        ["debt", "missing"],
        ["town", "Ulm"],
    ]
    assert "##ring" in (tmp_path / "why.html").read_text(encoding="utf-8")

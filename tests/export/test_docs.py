from __future__ import annotations

import re
from pathlib import Path

import pytest

from paddle_infra.export.lowering import registry

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def test_the_code_of_the_page_runs_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))  # the page adds to it
    # The tracer reads the model's source: it needs a file.
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)))
    exec(compile(script.read_text(), str(script), "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert "onnxruntime" in printed
    assert "#9 (batch=32, length=64)" in printed
    assert "(2, 3) ('low', 'middle', 'high')" in printed

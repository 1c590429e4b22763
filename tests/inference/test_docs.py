from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "inference.md"


def test_the_code_of_the_page_runs_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # The tracer reads the model's source: it needs a file.
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)))
    exec(compile(script.read_text(), str(script), "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert "the fastest of" in printed
    assert "(2, 12, 3)" in printed
    assert "12 shapes are ready\n(3, 24, 3)" in printed

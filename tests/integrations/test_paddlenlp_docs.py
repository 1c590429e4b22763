from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integrations.nlp_models import transformers

PAGE = Path(__file__).parents[2] / "docs/paddlenlp.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    assert transformers
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), encoding="utf-8")
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    (report,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert printed.startswith(report)
    assert "{'accuracy': 1.0" in printed
    assert "onnxruntime" in printed

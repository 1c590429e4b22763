"""Every code block of docs/compress.md runs as typed, one after the other, and loses what the page says: little."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "compress.md"
OPTIONAL = "<!-- needs the extra [quantize] -->\n"


def test_the_code_of_the_page_runs_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    has_quantizer = all(importlib.util.find_spec(name) for name in ("onnxruntime", "ml_dtypes"))
    if not has_quantizer:
        text = re.sub(f"{re.escape(OPTIONAL)}```python.*?```", "", text, flags=re.DOTALL)
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)))
    exec(compile(script.read_text(), str(script), "exec"), {"__name__": "page"})
    lines = dict(re.findall(r"^(\w+) (.*)$", capsys.readouterr().out, re.MULTILINE))
    before = float(lines["before"])
    assert before > 0.85
    for form in ("int8", "bfloat16", *(["static"] if has_quantizer else [])):
        assert float(lines[form]) >= before - 0.01
    accuracy, width = lines["channels"].split()
    assert float(accuracy) >= before - 0.05
    assert width == "128"
    assert lines["heads"].endswith("]")
    sparsity, accuracy = lines["sparse"].split()
    assert float(sparsity) == 0.5
    assert float(accuracy) >= before - 0.05
    assert float(lines["student"]) >= before - 0.05

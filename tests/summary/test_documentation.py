"""Every code block of docs/summary.md runs as typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "summary.md"


def test_code_blocks_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    # Paddle's capture reads the model's source: it needs a file.
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    matrices = 2 * (4 * 64 * 64 + 2 * 64 * 128)
    products = 2 * matrices * 8 * 32 + 2 * 4 * 8 * 32 * 32 * 64 + 2 * 8 * 64 * 2
    norms_and_biases = 2 * (4 * 64 + 128 + 64 + 4 * 64)
    assert f"{products} {matrices + norms_and_biases}" in printed
    assert "{'pd_op.inverse': 1}\n128" in printed

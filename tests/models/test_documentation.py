"""The code of docs/models.md runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def run(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)
    return names


def test_loading_and_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minilm_dir: Path) -> None:
    names = run(BLOCKS[0], tmp_path, monkeypatch)
    assert names["model"].load_report.missing == ("classifier.weight", "classifier.bias")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "mine").iterdir()
    }


def test_similar_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, e5_dir: Path) -> None:
    names = run(BLOCKS[1], tmp_path, monkeypatch)
    near, far = (names["questions"] @ names["answers"].T)[0]
    assert near > far + 0.05


def test_a_model_of_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(BLOCKS[2], tmp_path, monkeypatch)
    assert capsys.readouterr().out.strip() == "ScorerConfig(width=4)"


def test_generating_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(BLOCKS[3], tmp_path, monkeypatch)
    assert capsys.readouterr().out.strip() == "(2, 2) (2, 2)"


def test_the_page_has_code() -> None:
    assert len(BLOCKS) == 4

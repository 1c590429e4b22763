from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddle_infra._core.errors import MissingExtraError
from paddle_infra._core.extras import require


def test_a_module_that_is_there() -> None:
    assert require("json", extra="x", purpose="x") is json


def test_a_missing_module_names_the_extra() -> None:
    with pytest.raises(
        MissingExtraError, match=r"ONNX export needs the package 'no_such'.*paddle_infra\[onnx\]"
    ):
        require("no_such.part", extra="onnx", purpose="ONNX export")


def test_a_broken_module_speaks_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("import not_there_either\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_there_either"):
        require("broken_module", extra="x", purpose="x")

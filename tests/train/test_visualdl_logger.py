from __future__ import annotations

import sys
from pathlib import Path

import pytest

from paddle_infra._core.errors import MissingExtraError
from paddle_infra.train import Checkpoint, History, VisualDLLogger, read_history
from tests.train.problem import SeekableLoader, make_trainer


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What VisualDL shows: the newest file of the folder, read with its own reader."""
    from visualdl import LogReader

    newest = max(directory.glob("vdlrecords*"))
    reader = LogReader(file_path=str(newest))
    tags = reader.get_tags()["scalar"]
    return {tag: [(item.id, item.value) for item in reader.get_data("scalar", tag)] for tag in tags}


def test_scalars_equal_the_history(tmp_path: Path) -> None:
    trainer = make_trainer([VisualDLLogger(tmp_path / "log"), History(tmp_path / "h.jsonl")])
    trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=2)
    shown, records = scalars(tmp_path / "log"), read_history(tmp_path / "h.jsonl")
    steps = [r for r in records if r["kind"] == "train"]
    assert [step for step, _ in shown["train/loss"]] == list(range(1, 27))
    assert [value for _, value in shown["train/loss"]] == pytest.approx([r["loss"] for r in steps])
    assert [value for _, value in shown["train/lr"]] == pytest.approx([r["lr"] for r in steps])
    accuracy = [(r["step"], pytest.approx(r["metrics"]["accuracy"])) for r in records if r["kind"] == "eval"]
    assert shown["eval/accuracy"] == accuracy


def test_resumed_run_shows_every_step_once(tmp_path: Path) -> None:
    def fit(max_steps: int, resume: str | None) -> None:
        callbacks = [Checkpoint(tmp_path / "c", every_steps=4), VisualDLLogger(tmp_path / "log")]
        make_trainer(callbacks).fit(SeekableLoader(), max_steps=max_steps, resume=resume)

    fit(4, None)
    with max((tmp_path / "log").glob("vdlrecords*")).open("ab") as file:
        file.write((100).to_bytes(8, "little") + b"\x0a\x50half")  # the half record of a killed run
    fit(7, "latest")
    assert [step for step, _ in scalars(tmp_path / "log")["train/loss"]] == list(range(1, 8))


def test_missing_visualdl_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "visualdl", None)
    with pytest.raises(MissingExtraError, match="VisualDLLogger needs the package 'visualdl'"):
        make_trainer([VisualDLLogger(tmp_path)]).fit(SeekableLoader(), max_steps=1)

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import CheckpointError, StorageError
from paddle_infra.train import Checkpoint, History, read_history
from tests.train.problem import SeekableLoader, make_trainer
from tests.train.test_checkpointing import FakeScores


def test_records(tmp_path: Path) -> None:
    path = tmp_path / "run" / "history.jsonl"
    trainer = make_trainer([History(path)], accumulate=7)
    trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=2)
    records = read_history(path)
    assert [(r["kind"], r["step"], r["epoch"]) for r in records] == [
        ("train", 1, 1),
        ("train", 2, 1),
        ("eval", 2, 1),
        ("train", 3, 2),
        ("train", 4, 2),
        ("eval", 4, 2),
    ]
    assert [r["samples"] for r in records if r["kind"] == "train"] == [112, 200, 312, 400]
    assert records[0]["lr"] == pytest.approx(0.01 / 3)
    assert records[4]["loss"] == trainer.state.loss
    assert records[5]["metrics"] == trainer.state.metrics


def test_new_run_replaces_and_resumed_run_continues(tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [Checkpoint(tmp_path, overwrite=True), History(tmp_path / "h.jsonl")]

    for _ in range(2):
        make_trainer(callbacks()).fit(SeekableLoader(), max_steps=4)
    with (tmp_path / "h.jsonl").open("a") as file:  # what a killed run wrote after its last checkpoint
        file.write(json.dumps({"kind": "train", "step": 5}) + "\n" + '{"kind": "tr')
    assert [r["step"] for r in read_history(tmp_path / "h.jsonl")] == [1, 2, 3, 4, 5]
    make_trainer(callbacks()).fit(SeekableLoader(), max_steps=6, resume="latest")
    records = read_history(tmp_path / "h.jsonl")
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6]
    assert "loss" in records[4]


def test_lost_history_of_a_resumed_run(tmp_path: Path) -> None:
    callbacks = [Checkpoint(tmp_path), History(tmp_path / "h.jsonl")]
    make_trainer(callbacks).fit(SeekableLoader(), max_steps=2)
    (tmp_path / "h.jsonl").unlink()
    with pytest.raises(CheckpointError, match=r"h.jsonl: expected the history .* at least \d+ bytes, got 0"):
        make_trainer(callbacks).fit(SeekableLoader(), max_steps=4, resume="latest")


def test_non_finite_metric_is_null(tmp_path: Path) -> None:
    trainer = make_trainer([FakeScores(math.nan), History(tmp_path / "h.jsonl")])
    trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=1)
    assert read_history(tmp_path / "h.jsonl")[-1]["metrics"]["score"] is None


def test_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    history = History(tmp_path / "h.jsonl")
    trainer = make_trainer([history])

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.lines = file, 0

        def write(self, line: bytes) -> None:
            self.lines += 1
            self.file.write(line[: 10 if self.lines == 3 else None])

        def flush(self) -> None:
            self.file.flush()
            if self.lines == 3:
                raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            self.file.close()

    class Replace(History):
        def on_fit_begin(self, trainer: Any) -> None:
            history._file = Full(history._file)  # type: ignore[assignment]

        on_step_end = on_close = lambda self, trainer: None  # type: ignore[assignment]

    trainer.callbacks.append(Replace(tmp_path / "unused"))
    with pytest.raises(StorageError, match=r"cannot write .*h.jsonl: No space left on device"):
        trainer.fit(SeekableLoader(), max_steps=9)
    assert [r["step"] for r in map(json.loads, (tmp_path / "h.jsonl").read_text().splitlines())] == [1, 2]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*file/h.jsonl"):
        make_trainer([History(tmp_path / "file" / "h.jsonl")]).fit(SeekableLoader(), max_steps=1)

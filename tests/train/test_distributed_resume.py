"""Two processes that are killed or stopped, and go on from a checkpoint: bit for bit, or in another number."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_infra.train import Checkpoint, History, Trainer, checkpoints_in, read_history
from tests.train import distributed_cases as cases
from tests.train.launching import launch
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, tensors


def one_process(directory: Path, **options: Any) -> Trainer:
    callbacks = [Checkpoint(directory / "checkpoints"), History(directory / "h.jsonl")]
    return make_trainer(callbacks, accumulate=4, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two launches: straight runs, one stopped by SIGTERM and one by SIGKILL; then the last two resumed."""
    path = tmp_path_factory.mktemp("resume")
    printed = launch("straight", path, expect_failure=True)
    assert "SIGTERM: finishing this step" in printed
    for name in ("parallel", "sharding", "parameters"):
        shutil.copytree(path / name / "checkpoints", path / "kept" / name)
    single = one_process(path / "grown", model=cases.seeded_mlp())
    single.fit(SeekableLoader(), SeekableLoader(), max_steps=3)
    printed = launch("resumed", path)
    assert "written by 1 processes, now there are 2: batches go on where they were" in printed
    return path


def arrays(folder: Path, name: str, rank: int) -> dict[str, np.ndarray]:
    return dict(np.load(folder / f"final-{name}-{rank}.npz"))


def numbered(path: Path) -> list[str]:
    return [checkpoint.name for checkpoint in checkpoints_in(path)]


@pytest.mark.parametrize("kind", ["parallel", "sharding", "parameters"])
def test_a_resumed_run_is_the_same_bit_for_bit(folder: Path, kind: str) -> None:
    for rank in (0, 1):
        assert_same_bits(arrays(folder, kind, rank), arrays(folder, f"straight-{kind}", rank))
    records = [read_history(folder / name / "h.jsonl") for name in (kind, f"straight-{kind}")]
    for record in (*records[0], *records[1]):
        del record["seconds"]
    assert records[0] == records[1]
    assert [record["step"] for record in records[0] if record["kind"] == "train"] == list(range(1, 11))


def test_a_process_that_is_killed_ends_the_other_and_leaves_whole_checkpoints(folder: Path) -> None:
    assert numbered(folder / "kept/sharding") == ["step-00000002", "step-00000004", "step-00000006"]
    assert not (folder / "stopped-sharding-0.json").exists()


def test_a_signal_to_one_process_stops_both_after_the_same_step(folder: Path) -> None:
    notes = [json.loads((folder / f"stopped-parallel-{rank}.json").read_text()) for rank in (0, 1)]
    assert notes[0]["step"] == notes[1]["step"] == 7
    assert re.search(
        "stopped by a signal to another process after step 7; checkpoint saved in", notes[0]["text"]
    )
    assert "stopped by SIGTERM after step 7" in notes[1]["text"]
    assert numbered(folder / "kept/parallel") == [
        "step-00000002",
        "step-00000004",
        "step-00000006",
        "step-00000007",
    ]


class Order:
    """A loader that notes which batches it gave out."""

    def __init__(self) -> None:
        self.loader, self.given = SeekableLoader(), []  # type: ignore[var-annotated]

    def __len__(self) -> int:
        return len(self.loader)

    def iterate(self, epoch: int, start: int = 0, step: int = 1):  # type: ignore[no-untyped-def]
        for index, batch in zip(
            range(start, len(self), step), self.loader.iterate(epoch, start, step), strict=True
        ):
            self.given.append((epoch, index))
            yield batch


def test_two_processes_go_on_where_one_was(folder: Path) -> None:
    straight = make_trainer(model=cases.seeded_mlp(), accumulate=4)
    straight.fit(SeekableLoader(), SeekableLoader(), max_steps=10)
    for rank in (0, 1):
        found, expected = arrays(folder, "grown", rank), tensors(straight)
        assert found.keys() == expected.keys()
        assert max(float(np.abs(found[name] - expected[name]).max()) for name in expected) <= 1e-6


@pytest.mark.parametrize("kind", ["parallel", "sharding", "parameters"])
def test_one_process_goes_on_where_two_were(folder: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(folder / "kept" / kind, tmp_path / "checkpoints")
    shutil.copy(folder / f"straight-{kind}" / "h.jsonl", tmp_path / "h.jsonl")
    order = Order()
    trainer = one_process(tmp_path)
    with pytest.warns(
        UserWarning, match="written by 2 processes, now there are 1: batches go on where they were"
    ):
        trainer.fit(order, SeekableLoader(), max_steps=10, resume="latest")
    assert trainer.resumed_from is not None
    steps = int(trainer.resumed_from.name[5:])
    # Windows of 4 in an epoch of 13 batches: 4 steps per epoch.
    assert order.given[0] == (steps // 4, 4 * (steps % 4))
    batches = [(epoch, batch) for epoch in range(3) for batch in range(13)]
    assert order.given == batches[batches.index(order.given[0]) :][: len(order.given)]
    assert trainer.state.step == 10
    # Dropout draws other numbers than two processes would have, so only the position can be the same.
    straight = json.loads((folder / f"final-straight-{kind}-0.json").read_text())["state"]
    assert (trainer.state.epoch, trainer.state.batch) == (straight["epoch"], straight["batch"])
    assert (trainer.state.samples, trainer.state.items) == (straight["samples"], straight["items"])
    assert tensors(trainer).keys() == arrays(folder, kind, 0).keys()

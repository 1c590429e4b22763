"""A run that was killed, stopped or copied goes on bit for bit where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra import train
from paddle_infra._core.errors import CheckpointError, InvalidInputError
from paddle_infra.train import (
    Checkpoint,
    EarlyStopping,
    History,
    checkpoints_in,
    read_history,
    verify_checkpoint,
)
from paddle_infra.train.checkpoints.optimizer_state import optimizer_tensors
from tests.train.problem import (
    PlainLoader,
    SeekableLoader,
    assert_same_bits,
    make_trainer,
    mlp,
    tensors,
)

ROOT = Path(__file__).parents[2]


def command(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "tests.train.problem", str(directory), *arguments]


def run_process(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    directory.mkdir(exist_ok=True)
    return subprocess.run(
        command(directory, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def logged(directory: Path) -> list[dict[str, Any]]:
    """The history without the times."""
    records = read_history(directory / "history.jsonl")
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def assert_same_run(left: Path, right: Path) -> None:
    assert_same_bits(dict(np.load(left / "final.npz")), dict(np.load(right / "final.npz")))
    assert logged(left) == logged(right)
    assert [record["step"] for record in logged(right) if record["kind"] == "train"] == list(range(1, 11))


def debris(directory: Path) -> list[Path]:
    return list(directory.rglob(".incomplete-*"))


@pytest.fixture(scope="module", params=["seekable", "plain"])
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp(request.param)
    done = run_process(directory, "--loader", request.param)
    assert done.returncode == 0, done.stderr
    return request.param, directory


# 13 micro-batches per epoch in windows of 3 are steps 1-5; checkpoints after 2, 4, 5, 6, 8. The three calls
# lie in step 4 (resumes inside the first epoch), step 6 (at the start of the second) and step 10 (inside it).
@pytest.mark.parametrize("call", [11, 15, 26])
def test_killed_run_resumes_bit_identical_in_a_fresh_process(
    uninterrupted: tuple[str, Path], tmp_path: Path, call: int
) -> None:
    loader, reference = uninterrupted
    killed = run_process(tmp_path, "--loader", loader, "--kill-at", str(call))
    assert killed.returncode == -signal.SIGKILL
    resumed = run_process(tmp_path, "--loader", loader, "--resume", "latest")
    assert resumed.returncode == 0, resumed.stderr
    assert "step 1\n" not in resumed.stdout
    assert_same_run(reference, tmp_path)
    assert not debris(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_a_checkpoint_and_leaves_no_debris(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        command(tmp_path, "--max-steps", "100000"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any(line == "step 7\n" for line in process.stdout)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    last = checkpoints_in(tmp_path / "checkpoints")[-1]
    verify_checkpoint(last)
    step = int(last.name.removeprefix("step-"))
    assert f"training stopped by {number.name} after step {step}; checkpoint saved in {last}" in out
    assert f"{number.name}: finishing this step, then saving a checkpoint" in err
    assert "Traceback" not in err
    assert not debris(tmp_path)
    assert [r["step"] for r in logged(tmp_path) if r["kind"] == "train"] == list(range(1, step + 1))


def test_stopped_run_resumes_bit_identical(tmp_path: Path) -> None:
    """SIGINT between two steps that no other rule would have saved."""

    class Interrupt(EarlyStopping):
        def on_step_end(self, trainer: Any) -> None:
            if trainer.state.step == 3 and trainer.resumed_from is None:
                os.kill(os.getpid(), signal.SIGINT)

    def callbacks(directory: Path) -> list[Any]:
        return [Checkpoint(directory), History(directory / "h.jsonl"), Interrupt("accuracy")]

    whole = make_trainer(callbacks(tmp_path / "whole"), accumulate=3)
    whole.callbacks[1].__class__ = EarlyStopping  # the reference is not interrupted
    whole.fit(SeekableLoader(), SeekableLoader(), max_epochs=2)
    stopped = make_trainer(callbacks(tmp_path / "stopped"), accumulate=3)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        KeyboardInterrupt, match=r"stopped by SIGINT after step 3; checkpoint saved in .*step-00000003"
    ):
        stopped.fit(SeekableLoader(), SeekableLoader(), max_epochs=2)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    resumed = make_trainer(callbacks(tmp_path / "stopped"), accumulate=3, seed=99)
    resumed.fit(SeekableLoader(), SeekableLoader(), max_epochs=2, resume="latest")
    assert_same_bits(tensors(whole), tensors(resumed))


def test_signal_during_validation_stops_it(tmp_path: Path) -> None:
    class Interrupt(EarlyStopping):
        def on_evaluate_batch(self, trainer: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer = make_trainer([Checkpoint(tmp_path), Interrupt("accuracy")])
    with pytest.raises(KeyboardInterrupt, match="SIGTERM after step 13"):
        trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=2)
    resumed = make_trainer([Checkpoint(tmp_path)], seed=99)
    with pytest.warns(UserWarning, match=r"callbacks that this run does not have: \['Interrupt'\]"):
        resumed.fit(SeekableLoader(), SeekableLoader(), max_epochs=2, resume="latest")
    whole = make_trainer()
    whole.fit(SeekableLoader(), SeekableLoader(), max_epochs=2)
    assert_same_bits(tensors(whole), tensors(resumed))


def test_second_signal_stops_at_once_without_debris(tmp_path: Path) -> None:
    class Twice(EarlyStopping):
        def on_step_end(self, trainer: Any) -> None:
            if trainer.state.step == 3:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    trainer = make_trainer([Twice("accuracy"), Checkpoint(tmp_path, every_steps=2)])
    with pytest.raises(KeyboardInterrupt, match="stopped at once, without a checkpoint"):
        trainer.fit(SeekableLoader(), max_epochs=1)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-00000002"]
    assert not debris(tmp_path)


OPTIMIZERS = {
    "SGD": {},
    "Momentum": {},
    "Adam": {},
    "AdamW": {},
    "Adamax": {},
    "Adagrad": {},
    "Adadelta": {},
    "RMSProp": {"centered": True},
    "Lamb": {},
    "NAdam": {},
    "RAdam": {},
    "ASGD": {"batch_num": 2},
    "Rprop": {},
    "Lion": {"weight_decay": 0.1},
    "Adafactor": {},
    "Adafactor with momentum": {"beta1": 0.9, "relative_step": False, "weight_decay": 0.1},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_loads_into_a_second_model_of_the_same_process(tmp_path: Path, name: str) -> None:
    def trainer(seed: int, checkpoint: Path) -> Any:
        model = mlp()
        rate = paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.StepDecay(0.01, 3), 2, 0.001, 0.01)
        if name == "Rprop":
            rate = 0.01  # it takes no schedule
        kind = getattr(train, name.split()[0], None) or getattr(paddle.optimizer, name)
        optimizer = kind(learning_rate=rate, parameters=model.parameters(), **OPTIMIZERS[name])
        return make_trainer([Checkpoint(checkpoint)], seed=seed, model=model, optimizer=optimizer)

    first = trainer(0, tmp_path)
    first.fit(PlainLoader(), max_steps=3)
    second = trainer(1, tmp_path)
    second.fit(PlainLoader(), max_steps=3, resume="latest")
    assert_same_bits(tensors(first), tensors(second))
    assert set(optimizer_tensors(first.model, first.optimizer)) == set(
        optimizer_tensors(second.model, second.optimizer)
    )
    for target in (first, second):
        target.callbacks = []
        target.fit(PlainLoader(), max_steps=7, resume=tmp_path / "step-00000003")
    assert_same_bits(tensors(first), tensors(second))
    assert first.optimizer.get_lr() == second.optimizer.get_lr()


def test_parameter_groups_and_frozen_parameters_resume(tmp_path: Path) -> None:
    def trainer() -> Any:
        model = mlp()
        model[0].bias.stop_gradient = True
        groups = [
            {"params": [model[0].weight, model[1].weight], "weight_decay": 0.1},
            {"params": [model[1].bias, *model[4].parameters()]},
        ]
        optimizer = paddle.optimizer.AdamW(0.01, parameters=groups, weight_decay=0.0)
        return make_trainer([Checkpoint(tmp_path)], model=model, optimizer=optimizer)

    first, second = trainer(), trainer()
    first.fit(SeekableLoader(), max_steps=4)
    second.fit(SeekableLoader(), max_steps=4, resume=tmp_path / "step-00000004")
    assert_same_bits(tensors(first), tensors(second))


def test_accumulators_that_the_checkpoint_lacks_start_anew(tmp_path: Path) -> None:
    """A trainer that has already trained more parameters resumes as a fresh one would."""

    def partial(model: Any, batch: Any) -> Any:  # trains the last layer only
        return paddle.nn.functional.cross_entropy(
            model[4](paddle.ones([len(batch["labels"]), 32])), batch["labels"], ignore_index=-100
        )

    source = make_trainer([Checkpoint(tmp_path)], training_step=partial)
    source.fit(SeekableLoader(), max_steps=2)
    fresh, used = make_trainer(), make_trainer()
    used.fit(SeekableLoader(), max_steps=3)
    for trainer in (fresh, used):
        trainer.fit(SeekableLoader(), max_steps=5, resume=tmp_path / "step-00000002")
    assert_same_bits(tensors(fresh), tensors(used))


def test_plain_loader_that_became_shorter_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer([Checkpoint(tmp_path)])
    trainer.fit(PlainLoader(), max_steps=5)
    short = list(PlainLoader())[:3]
    with pytest.raises(
        CheckpointError, match=r"epoch 1 after batch 5: expected .* at least that many batches, got 3"
    ):
        make_trainer().fit(short, max_steps=9, resume=tmp_path / "step-00000005")


def test_completed_run_resumes_to_more_epochs(tmp_path: Path) -> None:
    whole = make_trainer()
    whole.fit(SeekableLoader(), SeekableLoader(), max_epochs=3)
    part = make_trainer([Checkpoint(tmp_path)])
    part.fit(SeekableLoader(), SeekableLoader(), max_epochs=1)
    rest = make_trainer([Checkpoint(tmp_path)], seed=5)
    state = rest.fit(SeekableLoader(), SeekableLoader(), max_epochs=3, resume="latest")
    assert (state.epoch, state.step, state.samples) == (3, 39, 600)
    assert state == whole.state
    assert_same_bits(tensors(whole), tensors(rest))


def test_latest_needs_a_checkpoint_callback_and_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="resume='latest': expected a Checkpoint callback"):
        make_trainer().fit(SeekableLoader(), max_steps=1, resume="latest")
    with pytest.raises(CheckpointError, match="expected an intact checkpoint, found none"):
        make_trainer([Checkpoint(tmp_path)]).fit(SeekableLoader(), max_steps=1, resume="latest")


def test_signal_after_the_last_step_is_not_swallowed(tmp_path: Path) -> None:
    class Interrupt(EarlyStopping):
        def on_epoch_end(self, trainer: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    trainer = make_trainer([Checkpoint(tmp_path), Interrupt("accuracy")])
    with pytest.raises(KeyboardInterrupt, match=r"SIGINT after step 13; checkpoint saved in .*step-00000013"):
        trainer.fit(SeekableLoader(), max_epochs=1)
    verify_checkpoint(tmp_path / "step-00000013")

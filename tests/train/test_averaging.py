"""Averages of weights: their values, evaluation with them, checkpoints, resuming after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import CheckpointError, InvalidInputError, UnsupportedError
from paddle_infra.train import (
    EMA,
    SWA,
    Callback,
    Checkpoint,
    freeze,
    load_model,
    optimizer,
    refresh_batch_norm,
)
from tests.train.averaged import averages, forward, network
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, mlp, tensors

pytestmark = pytest.mark.filterwarnings("ignore:When training, we now always track global mean and variance")
ROOT = Path(__file__).parents[2]


class Recorder(Callback):
    """Keeps the weights after every step, and those that every evaluation used."""

    def __init__(self) -> None:
        self.steps: list[dict[str, np.ndarray]] = []
        self.evaluated: list[dict[str, np.ndarray]] = []

    def on_fit_begin(self, trainer: Any) -> None:
        self.start = weights(trainer.model)

    def on_step_end(self, trainer: Any) -> None:
        self.steps.append(weights(trainer.model))

    def on_evaluate_begin(self, trainer: Any, batches: int | None) -> None:
        self.evaluated.append(weights(trainer.model))


def weights(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def arrays(average: EMA | SWA) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in average.state_tensors().items()}


def assert_close(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=2e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("warmup", "every"), [(True, 1), (False, 1), (True, 3)])
def test_ema_by_hand(warmup: bool, every: int) -> None:
    recorder, ema = Recorder(), EMA(0.3, every_steps=every, warmup=warmup)
    trainer = make_trainer([recorder, ema], model=network())
    trainer.fit(SeekableLoader(), max_steps=9)
    expected = {name: value.astype("float64") for name, value in recorder.start.items()}
    for update, now in enumerate(recorder.steps[every - 1 :: every]):
        # 1/10, 2/11, 3/12, 4/13 = 0.308 > 0.3
        decay = [0.1, 2 / 11, 0.25][update] if warmup and update < 3 else 0.3
        expected = {name: decay * value + (1 - decay) * now[name] for name, value in expected.items()}
    assert ema.updates == 9 // every
    assert_close(arrays(ema), expected)
    assert "1._mean" in expected


def test_swa_is_the_mean_of_the_chosen_weights_with_fresh_statistics() -> None:
    recorder, swa = Recorder(), averages()[1]
    trainer = make_trainer([recorder, swa], model=network())
    trainer.fit(SeekableLoader(), max_steps=8)
    chosen = [recorder.steps[step - 1] for step in (3, 5, 7)]
    assert swa.updates == 3
    learned = [name for name, p in trainer.model.named_parameters() if not p.stop_gradient]
    mean = {name: np.mean([w[name].astype("float64") for w in chosen], axis=0) for name in learned}
    assert_close({name: arrays(swa)[name] for name in learned}, mean)
    other = network()
    swa.apply_to(other)
    assert_close({name: weights(other)[name] for name in learned}, mean)
    # The statistics: means over the batches of the mean and variance of the first layer's outputs.
    outputs = [batch["points"] @ mean["0.weight"] + mean["0.bias"] for batch in SeekableLoader()]
    found = weights(other)
    np.testing.assert_allclose(found["1._mean"], np.mean([x.mean(0) for x in outputs], 0), atol=1e-5)
    np.testing.assert_allclose(found["1._variance"], np.mean([x.var(0) for x in outputs], 0), rtol=1e-4)
    assert other[1]._momentum == 0.9
    assert other.training


def test_evaluations_use_the_average_and_put_the_weights_back() -> None:
    recorder, ema = Recorder(), EMA(0.9)
    trainer = make_trainer([recorder, ema])
    trainer.fit(SeekableLoader(), SeekableLoader(), max_steps=4)
    averaged = arrays(ema)
    assert_same_bits(recorder.evaluated[0] | averaged, recorder.evaluated[0])
    assert_same_bits(weights(trainer.model), recorder.steps[-1])
    assert any((averaged[name] != value).any() for name, value in recorder.steps[-1].items())
    plain = make_trainer()
    plain.fit(SeekableLoader(), SeekableLoader(), max_steps=4)
    assert_same_bits(tensors(plain), tensors(trainer))  # averaging changes nothing in the training
    assert plain.state.metrics != trainer.state.metrics


def test_two_averages_are_put_back_one_in_the_other() -> None:
    recorder, ema, swa = Recorder(), EMA(0.5), SWA(2)
    trainer = make_trainer([recorder, ema, swa])
    trainer.fit(SeekableLoader(), SeekableLoader(), max_steps=4)
    assert_same_bits(recorder.evaluated[0], recorder.evaluated[0] | arrays(swa))  # the last one counts
    assert_same_bits(weights(trainer.model), recorder.steps[-1])


def test_weights_are_put_back_after_an_error() -> None:
    class Broken(Callback):
        def on_evaluate_batch(self, trainer: Any) -> None:
            raise RuntimeError("broken")

    ema = EMA(0.9)
    trainer = make_trainer([ema])
    trainer.fit(SeekableLoader(), max_steps=4)
    before, average = weights(trainer.model), {name: value.copy() for name, value in arrays(ema).items()}
    trainer.callbacks.append(Broken())
    with pytest.raises(RuntimeError, match="broken"):
        trainer.evaluate(SeekableLoader())
    assert_same_bits(weights(trainer.model), before)
    assert_same_bits(arrays(ema), average)


def test_exchange_is_seen_by_caches_of_a_weight() -> None:
    ema = EMA(0.9)
    trainer = make_trainer([ema])
    trainer.fit(SeekableLoader(), max_steps=1)
    weight = trainer.model[0].weight
    versions = [weight.inplace_version]
    with ema.exchanged(trainer.model):
        versions.append(weight.inplace_version)
    versions.append(weight.inplace_version)
    assert versions[0] < versions[1] < versions[2]
    assert not weight.stop_gradient


def test_frozen_weights_are_not_copied_until_they_learn() -> None:
    model = mlp()
    ours = optimizer(model, 0.1, name="sgd")
    freeze(model, ["0.*"])
    ema = EMA(0.9)
    trainer = make_trainer([ema], model=model, optimizer=ours)
    trainer.fit(SeekableLoader(), max_steps=2)
    assert set(arrays(ema)) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    model[0].weight.stop_gradient = False
    ema.on_step_end(trainer)
    assert set(arrays(ema)) == {"0.weight", "1.weight", "1.bias", "4.weight", "4.bias"}


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "tests.train.averaged", str(directory), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    done = run(directory)
    assert done.returncode == 0, done.stderr
    return directory


# Three micro-batches per step; 13 per epoch: five steps, then a validation with either average.
# Killed in step 2 (before SWA starts), 5 (short last window) and 8 (after an evaluation with both averages).
@pytest.mark.parametrize("call", [4, 13, 22])
def test_killed_run_resumes_bit_identical(uninterrupted: Path, tmp_path: Path, call: int) -> None:
    assert run(tmp_path, "--kill-at", str(call)).returncode == -signal.SIGKILL
    resumed = run(tmp_path, "--resume", "latest")
    assert resumed.returncode == 0, resumed.stderr
    expected = dict(np.load(uninterrupted / "final.npz"))
    assert {name.split("/")[0] for name in expected} == {"model", "optimizer", "EMA", "SWA"}
    assert_same_bits(expected, dict(np.load(tmp_path / "final.npz")))


def test_load_averaged_weights_from_a_checkpoint(uninterrupted: Path) -> None:
    final = dict(np.load(uninterrupted / "final.npz"))
    checkpoint = uninterrupted / "checkpoints" / "step-00000010"
    for average in ("EMA", "SWA"):
        model = network()
        load_model(checkpoint, model, average=average)
        found = {f"{average}/{name}": value for name, value in weights(model).items()}
        if average == "SWA":  # saved before the last evaluation computed the statistics of the final average
            found = {
                name: value for name, value in found.items() if name not in ("SWA/1._mean", "SWA/1._variance")
            }
        assert_same_bits(found, {name: final[name] for name in found})
    load_model(checkpoint, model)
    assert_same_bits(weights(model), {name: final[f"model/{name}"] for name in weights(model)})
    before = weights(model)
    with pytest.raises(CheckpointError, match=r"expected averaged weights 'Mean', found \['EMA', 'SWA'\]"):
        load_model(checkpoint, model, average="Mean")
    assert_same_bits(weights(model), before)


def test_a_second_fit_starts_a_new_average(tmp_path: Path) -> None:
    ema = EMA(0.9)
    trainer = make_trainer([ema])
    trainer.fit(SeekableLoader(), max_steps=3)
    trainer.fit(SeekableLoader(), max_steps=1)
    assert ema.updates == 1


def test_checkpoint_without_an_average_warns(tmp_path: Path) -> None:
    make_trainer([Checkpoint(tmp_path)]).fit(SeekableLoader(), max_steps=2)
    ema = EMA(0.9)
    with pytest.warns(UserWarning, match="EMA: .*step-00000002 holds no average: a new one starts here"):
        make_trainer([ema]).fit(SeekableLoader(), max_steps=4, resume=tmp_path / "step-00000002")
    assert ema.updates == 2


def test_average_of_another_model_is_refused(tmp_path: Path) -> None:
    ema = EMA(0.9)
    ema.load_state_dict({"updates": 3})
    ema.load_state_tensors({"0.weight": paddle.ones([2, 2])})
    with pytest.raises(CheckpointError, match=r"0.weight: expected \[64, 32\], got shape \[2, 2\]"):
        make_trainer([ema]).fit(SeekableLoader(), max_steps=1)


def test_statistics_of_batch_norm_are_put_back_with_their_modes_on_error() -> None:
    model = network()
    model[3].eval()

    def broken(model: Any, batch: Any) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        refresh_batch_norm(model, [0], broken)
    assert model[1]._momentum == 0.9
    assert (model.training, model[1].training, model[3].training) == (True, True, False)
    with pytest.raises(InvalidInputError, match="at least one batch, got none"):
        refresh_batch_norm(model, [], forward)
    with pytest.raises(InvalidInputError, match="a model with BatchNorm layers, got none"):
        refresh_batch_norm(mlp(), [0], forward)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (EMA, {"decay": 1.0}, "decay: expected a number from 0 up to but not 1, got 1.0"),
        (EMA, {"every_steps": 0}, "every_steps: expected a positive integer, got 0"),
        (SWA, {"start_step": 0}, "start_step: expected a positive integer, got 0"),
        (SWA, {"start_step": 1, "batches": []}, "expected batches and forward, or neither, got one of them"),
    ],
)
def test_bad_arguments(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        kind(**options)


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(
        InvalidInputError, match="SWA: expected batches and forward, since the model has BatchNorm"
    ):
        make_trainer([SWA(1)], model=network()).fit(SeekableLoader(), max_steps=1)
    with pytest.raises(InvalidInputError, match="EMA: expected an average, got none"):
        EMA(0.9).apply_to(mlp())
    model = mlp()
    model.register_buffer("low", paddle.ones([2]).astype("float16"))
    with pytest.raises(
        UnsupportedError, match=r"expected weights of float32 or float64, got .*float16 \(low\)"
    ):
        make_trainer([EMA(0.9)], model=model).fit(SeekableLoader(), max_steps=1)

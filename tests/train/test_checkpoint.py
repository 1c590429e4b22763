from __future__ import annotations

import errno
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import CheckpointError, StorageError
from paddle_infra.train import (
    Checkpoint,
    checkpoints_in,
    load_model,
    newest_intact,
    read_checkpoint,
    verify_checkpoint,
)
from paddle_infra.train.checkpoints.checkpoint import CheckpointData, write_checkpoint
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, mlp, tensors


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Checkpoints of steps 1, 2 and 3."""
    trainer = make_trainer([Checkpoint(tmp_path, every_steps=1, keep_last=None)])
    trainer.fit(SeekableLoader(), max_steps=3)
    return tmp_path


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def everything(trainer: Any) -> dict[str, np.ndarray]:
    return {name: value.copy() for name, value in tensors(trainer).items()}


def test_content_is_readable_without_this_package(three: Path) -> None:
    from safetensors.numpy import load_file

    folder = three / "step-00000003"
    assert sorted(path.name for path in folder.iterdir()) == [
        "callbacks.safetensors",
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert set(load_file(folder / "model.safetensors")) == set(mlp().state_dict())
    assert "4.weight/moment1" in load_file(folder / "optimizer.safetensors")
    assert json.loads((folder / "state.json").read_text())["train"]["step"] == 3


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink], ids=["bit", "truncated", "missing"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "callbacks.safetensors", "state.json"]
)
def test_damage_is_found_and_named(three: Path, name: str, damage: Callable[[Path], None]) -> None:
    folder = three / "step-00000003"
    before = (folder / name).stat().st_size
    damage(folder / name)
    if damage is Path.unlink:
        message = f"step-00000003: expected the file {name}, found none"
    else:
        got = (folder / name).stat().st_size
        message = f"{name} is damaged: expected {before} bytes with SHA-256 [0-9a-f]{{64}}, got {got} bytes"
    with pytest.raises(CheckpointError, match=message):
        verify_checkpoint(folder)
    trainer = make_trainer()
    unchanged = everything(trainer)
    with pytest.raises(CheckpointError, match=message):
        trainer.fit(SeekableLoader(), max_steps=4, resume=folder)
    assert_same_bits(unchanged, tensors(trainer))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "manifest.json is damaged: expected sizes and checksums, got JSONDecodeError"),
        ('{"format": 2, "files": {}}', "manifest.json is damaged: .* KeyError"),
        (None, "expected the file manifest.json, found none"),
    ],
)
def test_damaged_manifest(three: Path, content: str | None, message: str) -> None:
    file = three / "step-00000003" / "manifest.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(three / "step-00000003")


def test_missing_checkpoint_and_other_format(three: Path) -> None:
    with pytest.raises(CheckpointError, match="step-00000009: expected a folder, found none"):
        read_checkpoint(three / "step-00000009")
    file = three / "step-00000003" / "manifest.json"
    file.write_text(file.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(CheckpointError, match="expected format 2, got 1"):
        read_checkpoint(three / "step-00000003")


def test_latest_skips_damaged_ones_and_says_so(three: Path) -> None:
    flip_a_bit(three / "step-00000003" / "model.safetensors")
    truncate(three / "step-00000002" / "state.json")
    trainer = make_trainer([Checkpoint(three, keep_last=None)])
    with pytest.warns(UserWarning, match="skipped a damaged checkpoint, using") as warned:
        trainer.fit(SeekableLoader(), max_steps=3, resume="latest")
    texts = [str(warning.message) for warning in warned]
    assert len(texts) == 2
    for text, step, name in zip(texts, (3, 2), ("model.safetensors", "state.json"), strict=True):
        assert f"step-0000000{step}: {name} is damaged" in text
    assert trainer.resumed_from == three / "step-00000001"
    verify_checkpoint(three / "step-00000003")  # written anew
    assert (three / "damaged-step-00000003").is_dir()
    whole = make_trainer()
    whole.fit(SeekableLoader(), max_steps=3)
    assert_same_bits(tensors(whole), tensors(trainer))


def test_all_damaged(three: Path) -> None:
    for path in checkpoints_in(three):
        flip_a_bit(path / "state.json")
    with pytest.raises(
        CheckpointError, match=r"expected an intact checkpoint, .*step-00000003.*step-00000001"
    ):
        newest_intact(three)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: paddle.nn.Sequential(paddle.nn.Linear(64, 32)), "unknown to the model: 1.weight"),
        (
            lambda: paddle.nn.Sequential(*mlp(), paddle.nn.Linear(10, 10)),
            "missing in the checkpoint: 5.weight; missing in the checkpoint: 5.bias",
        ),
        (
            lambda: paddle.nn.Sequential(*list(mlp())[:4], paddle.nn.Linear(32, 9)),
            r"4.bias: expected float32\[9\], got float32\[10\]; 4.weight: expected float32\[32, 9\]",
        ),
        (lambda: mlp().to(dtype="float64"), r"0.bias: expected float64\[32\], got float32\[32\]"),
    ],
)
def test_other_model_is_refused_before_anything_changes(
    three: Path, model: Callable[[], Any], message: str
) -> None:
    trainer = make_trainer(model=model())
    unchanged, rng = everything(trainer), np.random.get_state()[1].copy()
    with pytest.raises(CheckpointError, match=message):
        trainer.fit(SeekableLoader(), max_steps=4, resume=three / "step-00000003")
    with pytest.raises(CheckpointError, match=message):
        load_model(three / "step-00000003", trainer.model)
    assert_same_bits(unchanged, everything(trainer))
    assert (np.random.get_state()[1] == rng).all()


def test_other_optimizer_or_schedule_is_refused(three: Path) -> None:
    model = mlp()
    cases: list[tuple[Any, str]] = [
        (paddle.optimizer.Adam(0.1, parameters=model.parameters()), "optimizer: expected Adam, got AdamW"),
        (paddle.optimizer.AdamW(0.1, parameters=model.parameters()), "expected a constant, got LambdaDecay"),
        (
            paddle.optimizer.AdamW(
                paddle.optimizer.lr.LambdaDecay(0.1, float), parameters=model[4].parameters()
            ),
            r"it does not train \['0.bias'",
        ),
        (
            paddle.optimizer.AdamW(
                paddle.optimizer.lr.LambdaDecay(0.1, float), parameters=model.parameters(), amsgrad=True
            ),
            r"accumulators differ: \['0.bias/moment2_max'",
        ),
    ]
    for optimizer, message in cases:
        trainer = make_trainer(model=model, optimizer=optimizer)
        with pytest.raises(CheckpointError, match=message):
            trainer.fit(SeekableLoader(), max_steps=4, resume=three / "step-00000003")
        assert trainer.state.step == 0


def test_optimizer_over_foreign_parameters_is_refused_at_the_start(tmp_path: Path) -> None:
    model, other = mlp(), paddle.nn.Linear(2, 2)
    optimizer = paddle.optimizer.SGD(0.1, parameters=[*model.parameters(), *other.parameters()])
    trainer = make_trainer([Checkpoint(tmp_path)], model=model, optimizer=optimizer)
    with pytest.raises(CheckpointError, match="an optimizer over the model's parameters, got others too"):
        trainer.fit(SeekableLoader(), max_steps=1)


def test_load_model_into_a_second_model(three: Path) -> None:
    model = mlp()
    load_model(three / "step-00000003", model)
    weights = read_checkpoint(three / "step-00000003").weights
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name].numpy())


def test_buffers_and_low_precision_survive(tmp_path: Path) -> None:
    weights = {
        "scalar": paddle.to_tensor(3.5),
        "empty": paddle.zeros([0, 3]),
        "half": paddle.to_tensor([1.0, -2.5]).astype("bfloat16"),
        "mask": paddle.to_tensor([True, False]),
        "strided": paddle.arange(6).reshape([2, 3]).t(),
    }
    write_checkpoint(
        tmp_path / "step-00000001", CheckpointData(weights, {}, {}, {"rate": 0.1, "worst": float("inf")})
    )
    data = read_checkpoint(tmp_path / "step-00000001")
    for name, expected in weights.items():
        assert data.weights[name].dtype == expected.dtype
        np.testing.assert_array_equal(data.weights[name].numpy(), expected.numpy())
    assert data.state == {"rate": 0.1, "worst": float("inf")}


def test_state_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected plain JSON values, got set"):
        write_checkpoint(tmp_path / "step-00000001", CheckpointData({}, {}, {}, {"bad": {1, 2}}))
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_the_previous_checkpoint_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if "step-00000002" in str(self) and self.name == "optimizer.safetensors":
            real(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    trainer = make_trainer([Checkpoint(tmp_path, every_steps=1)])
    with pytest.raises(StorageError, match=r"cannot write .*step-00000002: No space left on device"):
        trainer.fit(SeekableLoader(), max_steps=5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    verify_checkpoint(tmp_path / "step-00000001")


def test_file_size_limit_of_the_system(three: Path) -> None:
    """A real short write, not a simulated one."""
    data = read_checkpoint(three / "step-00000003")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*step-00000004: File too large"):
            write_checkpoint(three / "step-00000004", data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in checkpoints_in(three)] == [f"step-0000000{i}" for i in (1, 2, 3)]
    assert not list(three.glob(".incomplete-*"))

"""What goes wrong gives one clear line and exit code 1, and leaves nothing half-written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paddle_infra.cli.main import main


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail; return its one line of explanation."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


def debris(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".incomplete-" in path.name]


def train_with(config_file: Path, **settings: object) -> list[object]:
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    return ["train", config_file, *(part for override in overrides for part in ("--set", override))]


def test_unknown_key(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, *train_with(config_file, training__epoch=1))
    assert "unknown key training.epoch; did you mean training.epochs?" in message


def test_missing_column(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, *train_with(config_file, data__label="intent"))
    assert "'intent'" in message
    assert "'question', 'kind'" in message
    assert not (tmp_path / "run").exists()


def test_empty_file(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    assert "empty.csv" in fails(capsys, *train_with(config_file, data__train=empty))


def test_no_such_file_or_resource(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, *train_with(config_file, data__train="trecc:x.txt"))
    assert "expected a file, a folder or one of the resources" in message
    message = fails(capsys, *train_with(config_file, data__train="trec-questions:x.txt"))
    assert "one of ['" in message
    assert "question_labels.txt" in message


def test_wrong_label_in_the_test_file(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = tmp_path / "test.csv"
    test.write_text("question,kind\nWho is it ?,HUM\nWhere is it ?,LOC\n")
    message = fails(capsys, *train_with(config_file, data__test=test))
    assert "line 3" in message
    assert "expected a label among ['ENTY', 'HUM'], got 'LOC'" in message
    assert not (tmp_path / "run").exists()


def test_corrupted_weights(
    config_file: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = shutil.copytree(encoder_dir, tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    message = fails(capsys, *train_with(config_file, model__pretrained=damaged))
    assert "expected a complete safetensors file, got a damaged one" in message


def test_nan_loss(
    config_file: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poisoned = shutil.copytree(encoder_dir, tmp_path / "poisoned")
    values = load_file(poisoned / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    values[name] = np.full_like(values[name], 3e38)  # finite, but no sum of it is
    save_file(values, poisoned / "model.safetensors")
    message = fails(capsys, *train_with(config_file, model__pretrained=poisoned))
    assert "step 1, epoch 1, batch 1: expected a finite loss, got nan" in message
    assert not (tmp_path / "run/model").exists()
    assert debris(tmp_path) == []


def test_too_long_for_the_encoder(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, *train_with(config_file, data__max_length=65))
    assert "data.max_length: expected at most the encoder's 64 positions, got 65" in message


def test_two_runs_are_not_mixed(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected checkpoints to resume from, found none" in fails(
        capsys, "train", config_file, "--resume"
    )
    assert main([str(part) for part in train_with(config_file, training__epochs=1)]) == 0
    weights = (tmp_path / "run/model/model.safetensors").read_bytes()
    message = fails(capsys, "train", config_file)
    assert "expected a new folder, it holds a finished run; replace it with --overwrite" in message
    # Bad input takes nothing away, also with --overwrite; good input takes only what a run writes.
    (tmp_path / "run/notes.txt").write_text("mine")
    fails(capsys, *train_with(config_file, data__label="intent"), "--overwrite")
    fails(capsys, *train_with(config_file, data__max_length=65), "--overwrite")
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == weights
    message = fails(capsys, *train_with(config_file, seed=5), "--resume")
    assert "expected the configuration that the run was started with" in message
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == weights
    assert (
        main([str(part) for part in train_with(config_file, training__epochs=1, seed=5)] + ["--overwrite"])
        == 0
    )
    assert (tmp_path / "run/model/model.safetensors").read_bytes() != weights
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


def test_fine_labels_need_a_colon(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, *train_with(config_file, data__fine_labels="true"))
    assert "line " in message
    assert "expected a label like COARSE:fine, got '" in message


@pytest.mark.parametrize("command", ["evaluate", "export", "report"])
def test_not_a_run(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected the folder of a run (with config.yaml), found none" in fails(capsys, command, tmp_path)


def test_not_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in fails(capsys, "verify", tmp_path)


def test_unknown_resource(capsys: pytest.CaptureFixture[str]) -> None:
    assert "minilm-l6" in fails(capsys, "resources", "fetch", "no-such-thing")

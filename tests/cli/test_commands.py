"""The commands as a user types them, on small real runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paddle_infra.cli.main import main
from paddle_infra.data import resources


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def files_below(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_train_evaluate_export_verify_report(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    assert run("train", config_file) == 0
    assert files_below(directory) == {
        "config.yaml",
        "checkpoints",
        "history.jsonl",
        "visualdl",
        "model",
        "results.json",
    }
    assert {"config.json", "model.safetensors", "tokenizer.json", "labels.json"} <= files_below(
        directory / "model"
    )
    results = json.loads((directory / "results.json").read_text())
    assert results["examples"]["train"] > 300
    assert results["labels"] == ["ENTY", "HUM"]

    capsys.readouterr()
    assert run("evaluate", directory, "--json", "--split", "validation") == 0
    scores = json.loads(capsys.readouterr().out)
    # The saved weights are the best ones by validation, and evaluation finds the score that training saw.
    assert scores["metrics"]["accuracy"] == pytest.approx(results["validation"]["accuracy"], abs=1e-12)
    assert sum(map(sum, scores["confusion"])) == scores["examples"] == results["examples"]["validation"]

    assert run("export", directory) == 0
    assert capsys.readouterr().out.count("verified, 15 cases") == 2
    assert run("verify", directory / "export/onnx") == 0
    assert "verified: largest error" in capsys.readouterr().out
    assert run("train", config_file, "--overwrite", "--set", "training.epochs=1") == 0
    assert not (directory / "export").exists()  # it was another model's


def test_verify_finds_another_model(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    assert run("train", config_file, "--set", "training.epochs=1", "--set", "export.targets=[inference]") == 0
    assert run("report", directory) == 0
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "Confusion matrix" in page
    weights = load_file(directory / "model/model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] + np.float32(0.01)
    save_file(weights, directory / "model/model.safetensors")
    capsys.readouterr()
    assert run("verify", directory / "export/inference") == 1
    assert "output 'logits'" in capsys.readouterr().err


def test_token_classification(
    tagging_config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", tagging_config_file) == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert "entity_f1" in printed
    assert "weighted without O" in printed
    assert run("export", tmp_path / "run", "--target", "onnx") == 0
    assert json.loads((tmp_path / "run/model/config.json").read_text())["type_vocab_size"] == 6


def test_fine_labels(
    config_file: Path, trec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Learns COARSE:fine, predicts, scores and exports COARSE."""
    questions = tmp_path / "questions.txt"
    questions.write_bytes(b"".join(trec_file.read_bytes().splitlines(keepends=True)[:600]))
    settings = (
        "data.format=question_labels",
        f"data.train={questions}",
        "data.fine_labels=true",
        "training.epochs=1",
    )
    overrides = [part for setting in settings for part in ("--set", setting)]
    assert run("train", config_file, *overrides) == 0
    saved = json.loads((tmp_path / "run/model/config.json").read_text())
    assert sorted(saved["label2id"]) == ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]
    assert len(saved["fine_labels"]) > 20
    capsys.readouterr()
    assert run("evaluate", tmp_path / "run", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert np.array(scores["confusion"]).shape == (6, 6)
    assert run("export", tmp_path / "run") == 0
    assert capsys.readouterr().out.count("verified") == 2


def test_summary_and_explain(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, page = tmp_path / "run", tmp_path / "why.html"
    assert run("train", config_file) == 0
    capsys.readouterr()
    assert run("summary", directory, "--batch-size", 2, "--length", 8, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert (
        values["product_flops"] == 2 * 16 * (4 * 16 * 16 + 2 * 16 * 32) + 4 * 2 * 8 * 8 * 16 + 2 * 2 * 16 * 2
    )
    assert values["not_counted"] == {}
    assert values["activation_bytes"] > 0
    assert run("summary", directory, "--depth", 0) == 0
    assert "BertForSequenceClassification" in capsys.readouterr().out
    assert run("summary", directory, "--length", 65) == 1
    assert "a length from 1 to the encoder's 64 positions, got 1 and 65" in capsys.readouterr().err
    texts = ("Who was the unbelievable <b>king</b> ?", "What colour ?")
    for method in ("integrated-gradients", "occlusion"):
        assert run("explain", directory, *texts, "--method", method, "--label", "HUM", "--output", page) == 0
        printed = capsys.readouterr().out
        assert printed.count("HUM, probability") == 2
        assert [line.split()[0] for line in printed.splitlines()[1:5]] == [
            "who",
            "was",
            "the",
            "unbelievable",
        ]
        assert "<b>" not in page.read_text(encoding="utf-8")
    assert run("explain", directory, "Who ?", "--label", "NUM") == 1
    assert "NUM" in capsys.readouterr().err


def test_doctor_and_resources(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    printed = capsys.readouterr().out
    for subject in ("processor", "compiled operators", "extra [onnx]", "resource minilm-l6"):
        assert subject in printed
    assert run("resources", "list") == 0
    listed = capsys.readouterr().out
    assert [resource.name for resource in resources.available() if resource.name not in listed] == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    assert "paddle-infra" in capsys.readouterr().out

"""Export a trained run to each target; every export is verified by the exporter before it exists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddle_infra._core.errors import ConfigError
from paddle_infra.cli.config import RunConfig
from paddle_infra.cli.run_directory import RunDirectory
from paddle_infra.cli.tasks import DYNAMIC_AXES, Classifier, inputs_of, load_model
from paddle_infra.cli.training import LABEL_FILE
from paddle_infra.data import LabelMap, PaddingCollator, Tokenizer
from paddle_infra.export import ExportReport, read_manifest, to_inference, to_onnx

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def example_inputs(
    tokenizer: Tokenizer, type_vocab_size: int, batch_size: int = 2, length: int = 16
) -> dict[str, np.ndarray]:
    """Return a small batch with real ids, all token types, and padding in its last row: to trace, verify and time."""
    encoding = tokenizer.encode("What is the capital of the largest country by area ? " * length, length)
    types = [position * type_vocab_size // length for position in range(length)]
    row = {"input_ids": encoding.input_ids, "token_type_ids": types}
    short = {name: values[: max(1, length // 2)] for name, values in row.items()}
    return inputs_of(PaddingCollator(tokenizer.pad_id)([row] * (batch_size - 1) + [short]))


def export_run(
    config: RunConfig, directory: RunDirectory, targets: Sequence[str] | None = None
) -> list[ExportReport]:
    """Export the saved model of a run; return one report per target.

    Raises:
        ExportError: a target could not be exported, or its export is not the same model; it leaves no file.
    """
    model = load_model(config, directory.model)
    tokenizer = Tokenizer.from_pretrained(directory.model)
    return [
        export_model(config, model, tokenizer, directory, target)
        for target in targets or config.export.targets
    ]


def export_model(
    config: RunConfig, model: Classifier, tokenizer: Tokenizer, directory: RunDirectory, target: str
) -> ExportReport:
    """Export one model to one target."""
    labels = LabelMap.load(directory.model / LABEL_FILE).to_list()
    files = [directory.model / name for name in (*_TOKENIZER_FILES, LABEL_FILE)]
    options: dict[str, Any] = {
        "dynamic_axes": DYNAMIC_AXES,
        "labels": labels,
        "extra_files": [path for path in files if path.is_file()],
        "metadata": {
            "task": config.task,
            "title": config.title,
            "pretrained": config.model.pretrained,
            "max_length": config.data.max_length,
            "results": directory.read_results(),
        },
        "atol": config.export.tolerance,
    }
    inputs = example_inputs(tokenizer, model.config.type_vocab_size)
    if target == "onnx":
        return to_onnx(model, directory.export(target), inputs, opset=config.export.opset, **options)
    if target == "inference":
        return to_inference(model, directory.export(target), inputs, **options)
    raise ConfigError(f"target: expected 'inference' or 'onnx', got {target!r}")


def run_of_export(path: Path) -> Path:
    """Return the folder of the run that an export belongs to.

    Raises:
        ConfigError: the folder is no export, or not inside a run.
    """
    read_manifest(path)
    run = path.resolve().parent.parent
    if not RunDirectory(run).config.is_file():
        raise ConfigError(
            f"{path}: expected an export inside the folder of its run (RUN/export/TARGET), found no run"
        )
    return run

"""Gather what a run has measured into its report page."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import yaml

from paddle_infra._core.runtime import available_cores, cpu_info
from paddle_infra._version import __version__
from paddle_infra.cli.config import RunConfig
from paddle_infra.cli.evaluation import Evaluation
from paddle_infra.cli.exporting import example_inputs
from paddle_infra.cli.run_directory import RunDirectory
from paddle_infra.cli.tasks import MAIN_METRIC
from paddle_infra.data import Tokenizer
from paddle_infra.export import ExportReport, LatencyReport, measure_latency
from paddle_infra.models import BertConfig
from paddle_infra.report import (
    Chart,
    ClassRow,
    Confusion,
    Curve,
    ExportRow,
    LatencyRow,
    Metric,
    ReportData,
    write_report,
)
from paddle_infra.train import read_history

_SHOWN_MISTAKES = 30
_LATENCY_SIZES = ((1, 16), (32, 16))  # batch size, length in sub-words


def measure_exports(directory: RunDirectory, exports: Sequence[ExportReport]) -> list[LatencyReport]:
    """Time every export at a single request and at a full batch, on one thread and on all."""
    tokenizer = Tokenizer.from_pretrained(directory.model)
    types = BertConfig.load(directory.model).type_vocab_size
    threads = sorted({1, available_cores()})
    return [
        measure_latency(export.path, example_inputs(tokenizer, types, *sizes), repeats=30, threads=count)
        for export in exports
        for sizes in _LATENCY_SIZES
        for count in threads
    ]


def write_run_report(
    config: RunConfig,
    directory: RunDirectory,
    evaluation: Evaluation,
    exports: Sequence[ExportReport],
    latency: Sequence[LatencyReport],
) -> None:
    """Write ``report.html``."""
    write_report(directory.report, report_data(config, directory, evaluation, exports, latency))


def report_data(
    config: RunConfig,
    directory: RunDirectory,
    evaluation: Evaluation,
    exports: Sequence[ExportReport],
    latency: Sequence[LatencyReport],
) -> ReportData:
    """Return the values of the page."""
    name = MAIN_METRIC[config.task]
    score = evaluation.metrics[name]
    history = read_history(directory.history)
    worst = max((export.verification.max_error for export in exports), default=None)
    proven = (
        ""
        if worst is None
        else (f" {len(exports)} exports give the same logits as the Python model to {worst:.1e} or better.")
    )
    on = f"on {evaluation.examples:,} {evaluation.split} examples"
    return ReportData(
        title=config.title or f"{config.task.replace('_', ' ').capitalize()} with {config.model.pretrained}",
        summary=f"{name.replace('_', ' ').capitalize()} {score:.4f} {on}.{proven}",
        created=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        headline=_headline(name, evaluation, on, worst),
        facts=_facts(config, directory),
        config=yaml.safe_load(directory.config.read_text(encoding="utf-8")),
        loss=_chart("Training loss", "loss", history, "loss", smooth=True),
        learning_rate=_chart("Learning rate", "learning rate", history, "lr"),
        evaluation=_validation_chart(history, name),
        confusion=Confusion(evaluation.labels, evaluation.confusion),
        per_class=[
            ClassRow(row["name"], row["precision"], row["recall"], row["f1"], row["support"])
            for row in evaluation.per_class
        ],
        misclassified=evaluation.mistakes[:_SHOWN_MISTAKES],
        misclassified_total=len(evaluation.mistakes),
        exports=[
            ExportRow(export.path.name, case.name, case.max_error, export.verification.atol, passed=True)
            for export in exports  # a case that fails raises: an export that exists has passed them all
            for case in export.verification.cases
        ],
        latency=[
            LatencyRow(
                row.engine,
                ", ".join(f"{axis} {size}" for axis, size in row.sizes.items()),
                row.threads,
                row.repeats,
                row.p50_ms,
                row.p90_ms,
                row.p99_ms,
            )
            for row in latency
        ],
    )


def _headline(name: str, evaluation: Evaluation, on: str, worst: float | None) -> list[Metric]:
    macro = next(row["f1"] for row in evaluation.per_class if row["name"] == "macro")
    rows = [
        Metric(name.replace("_", " ").capitalize(), round(evaluation.metrics[name], 4), on),
        Metric("Macro F1", round(macro, 4), "mean over the classes"),
        Metric("Mistakes", len(evaluation.mistakes), f"of {evaluation.examples:,} examples"),
    ]
    if worst is not None:
        rows.append(Metric("Largest export error", f"{worst:.1e}", "absolute, on logits, all cases"))
    return rows


def _facts(config: RunConfig, directory: RunDirectory) -> dict[str, dict[str, Any]]:
    results, cpu = directory.read_results(), cpu_info()
    packages = (
        "paddlepaddle",
        "paddlepaddle-gpu",
        "numpy",
        "tokenizers",
        "onnx",
        "onnxruntime",
        "paddle2onnx",
    )
    versions = {"paddle_infra": __version__}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    run = {
        "training": f"{results['training_seconds']:.0f} s" if "training_seconds" in results else "unknown",
        "optimizer steps": results.get("steps", "unknown"),
        "best step": results.get("best_step", "unknown"),
        "processor": f"{cpu.model}, {cpu.cores} cores",
    }
    examples = {name: f"{count:,}" for name, count in results.get("examples", {}).items()}
    examples["repeated, left out"] = f"{results.get('duplicates_left_out', 0):,}"
    return {"Run": run, "Examples": examples, "Versions": versions}


def _chart(
    title: str, axis: str, history: list[dict[str, Any]], key: str, *, smooth: bool = False
) -> Chart | None:
    rows = [row for row in history if row["kind"] == "train" and row[key] is not None]
    if not rows:
        return None
    curve = Curve(axis, [row["step"] for row in rows], [row[key] for row in rows])
    return Chart(title, "optimizer step", axis, [curve], smooth=smooth)


def _validation_chart(history: list[dict[str, Any]], name: str) -> Chart | None:
    rows = [row for row in history if row["kind"] == "eval" and row["metrics"].get(name) is not None]
    if not rows:
        return None
    curve = Curve(name, [row["step"] for row in rows], [row["metrics"][name] for row in rows])
    return Chart("Validation", "optimizer step", name, [curve])

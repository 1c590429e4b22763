"""``paddle-infra demo``: the whole path on real data, from weights to a verified export and a report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console

from paddle_infra._core.errors import ConfigError
from paddle_infra.cli.config import RunConfig, load_config
from paddle_infra.cli.evaluation import evaluate_run
from paddle_infra.cli.exporting import export_model
from paddle_infra.cli.reporting import measure_exports, write_run_report
from paddle_infra.cli.run_directory import RunDirectory
from paddle_infra.cli.sources import local_path
from paddle_infra.cli.tasks import MAIN_METRIC, load_model
from paddle_infra.cli.training import train_run
from paddle_infra.data import Tokenizer


def demo_config(overrides: list[str]) -> RunConfig:
    """Return the demo's configuration."""
    with as_file(files("paddle_infra.cli") / "demo.yaml") as path:
        return load_config(path, overrides)


def run_demo(overrides: list[str], console: Console) -> None:
    """Run every step; an interrupted demo goes on from its last checkpoint, a finished one starts anew."""
    config = demo_config(overrides)
    run_all(config, RunDirectory(Path(config.run_directory)), console)


def run_all(config: RunConfig, directory: RunDirectory, console: Console) -> None:
    """Fetch, train, evaluate, export, verify, report."""
    started = time.monotonic()
    with _step(console, 1, "weights and data"):
        sources = (config.model.pretrained, config.data.train, config.data.validation, config.data.test)
        for source in filter(None, sources):
            console.print(f"  {source}: {local_path(source)}")
    with _step(console, 2, "training"):
        resume = _can_resume(config, directory)
        train_run(config, directory, console, resume=resume, overwrite=not resume)
    with _step(console, 3, "evaluation on the held-out test split"):
        evaluation = evaluate_run(config, directory)
        directory.add_results(test=evaluation.as_dict())
        name = MAIN_METRIC[config.task]
        console.print(f"  {name} [bold]{evaluation.metrics[name]:.4f}[/] on {evaluation.examples} examples")
    model, tokenizer = load_model(config, directory.model), Tokenizer.from_pretrained(directory.model)
    exports = []
    with _step(console, 4, "export and verification, each in a fresh process"):
        for target in config.export.targets:
            report = export_model(config, model, tokenizer, directory, target)
            check = report.verification
            console.print(
                f"  {target}: verified, {len(check.cases)} cases, largest error {check.max_error:.1e} "
                f"(allowed {check.atol:.0e})"
            )
            exports.append(report)
    with _step(console, 5, "latency of the exports"):
        latency = measure_exports(directory, exports)
        for row in latency:
            sizes = ", ".join(f"{axis} {size}" for axis, size in row.sizes.items())
            console.print(f"  {row.engine}, {sizes}, {row.threads} threads: {row.p50_ms:.2f} ms")
    with _step(console, 6, "report"):
        write_run_report(config, directory, evaluation, exports, latency)
    directory.add_results(exports={report.path.name: report.verification.as_dict() for report in exports})
    _print_result(console, config, directory, time.monotonic() - started)


def _can_resume(config: RunConfig, directory: RunDirectory) -> bool:
    """Whether an interrupted run of the same configuration is there to go on with."""
    if not directory.is_started or directory.is_trained or not directory.config.is_file():
        return False
    try:
        return load_config(directory.config) == config
    except ConfigError:  # written by another version: start anew
        return False


def _print_result(console: Console, config: RunConfig, directory: RunDirectory, seconds: float) -> None:
    results, name = directory.read_results(), MAIN_METRIC[config.task]
    console.print(f"\n[bold]Done in {seconds:.0f} s[/]")
    console.print(f"  test {name}      {results['test']['metrics'][name]:.4f}")
    for target, check in results["exports"].items():
        console.print(
            f"  {target} export verified: largest error {check['max_error']:.1e} in {len(check['cases'])} cases"
        )
    for what, path in (
        ("model", directory.model),
        *((f"export {target}", directory.export(target)) for target in config.export.targets),
        ("VisualDL logs", directory.visualdl),
        ("report", directory.report),
    ):
        console.print(f"  {what}: {path}", highlight=False)


@contextmanager
def _step(console: Console, number: int, title: str) -> Iterator[None]:
    console.print(f"[bold]\\[{number}/6] {title}[/]")
    started = time.monotonic()
    yield
    console.print(f"  [dim]{time.monotonic() - started:.0f} s[/]")

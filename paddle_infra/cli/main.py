"""The command ``paddle-infra``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from paddle_infra._core.errors import PaddleInfraError
from paddle_infra._version import __version__

if TYPE_CHECKING:
    from paddle_infra.cli.config import RunConfig

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="paddle-infra", description="Train, evaluate, export, verify.")
    top.add_argument("--version", action="version", version=f"paddle-infra {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help)

    overrides: dict[str, Any] = {
        "dest": "overrides",
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "change a key of the configuration, for instance training.epochs=2; may be given again",
    }
    demo = command("demo", "Fine-tune, evaluate, export, verify and report on real data.")
    demo.add_argument("--set", **overrides)
    train = command("train", "Train what a configuration file describes.")
    train.add_argument("config", type=Path, help="YAML file")
    train.add_argument("--set", **overrides)
    how = train.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    how.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    evaluate = command("evaluate", "Score a trained run.")
    evaluate.add_argument("run", type=Path, help="folder of a run")
    evaluate.add_argument("--split", choices=("train", "validation", "test"), default="test")
    evaluate.add_argument("--json", action="store_true", help="print everything as JSON")
    export = command("export", "Export a trained run and verify the exports.")
    export.add_argument("run", type=Path, help="folder of a run")
    export.add_argument(
        "--target", choices=("inference", "onnx"), action="append", help="default: as configured"
    )
    verify = command("verify", "Verify an export against the model it was made from, in a fresh process.")
    verify.add_argument("export", type=Path, help="folder of an export: RUN/export/TARGET")
    verify.add_argument("--tolerance", type=float, help="largest absolute difference; default: as configured")
    verify.add_argument("--bisect", action="store_true", help="if it differs, name the first layer that does")
    bench = command("bench", "Time an export in every installed engine, side by side.")
    bench.add_argument(
        "export", type=Path, metavar="MODEL_DIR", help="an export, or a folder of a model's exports"
    )
    counts: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N"}
    bench.add_argument("--threads", default=[1], help="of one call; default: 1", **counts)
    bench.add_argument(
        "--batch", default=[], help="sizes of the first axis; default: the example's", **counts
    )
    bench.add_argument(
        "--length", default=[], help="of the other dynamic axes; default: the example's", **counts
    )
    bench.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    bench.add_argument("--repeats", type=int, default=50, help="timed runs; default: 50")
    bench.add_argument(
        "--tolerance", type=float, help="to which engines must agree; default: 1e-4 (bfloat16: 5e-2)"
    )
    bench.add_argument("--json", action="store_true", help="print everything as JSON")
    report = command("report", "Evaluate, time the exports, and write the report of a trained run.")
    report.add_argument("run", type=Path, help="folder of a run")
    summary = command("summary", "Show parameters, operations and kept activations of a trained run's model.")
    summary.add_argument("run", type=Path, help="folder of a run")
    summary.add_argument("--batch-size", type=int, default=1, help="default: 1")
    summary.add_argument("--length", type=int, default=64, help="sub-words of each text; default: 64")
    summary.add_argument("--depth", type=int, help="levels of layers to show; default: all")
    summary.add_argument("--json", action="store_true", help="print everything as JSON")
    explain = command("explain", "Show which words of a text spoke for its label.")
    explain.add_argument("run", type=Path, help="folder of a run that classifies texts")
    explain.add_argument("texts", nargs="+", metavar="TEXT")
    explain.add_argument(
        "--method", choices=("integrated-gradients", "occlusion"), default="integrated-gradients"
    )
    explain.add_argument("--label", help="the label to explain; default: the predicted one")
    explain.add_argument("--output", type=Path, metavar="FILE", help="write an HTML page")
    command("doctor", "Say what this environment has and what it lacks.")
    resources = command("resources", "Weights and data, pinned by hash.")
    actions = resources.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="show all resources")
    fetch = actions.add_parser("fetch", help="fetch resources into the cache")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.add_argument("--verify", action="store_true", help="check every cached byte")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 1 failed with one clear message, 130 interrupted."""
    options = parser().parse_args(arguments)
    # No wrapping: a path must stay whole, also in a narrow terminal or a file.
    console = Console(highlight=False, soft_wrap=True)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        return _COMMANDS[options.command](options, console)
    except PaddleInfraError as error:
        if options.debug:
            raise
        errors.print(f"[red]error:[/] {escape(str(error))}")
        return EXIT_ERROR
    except KeyboardInterrupt as interrupt:  # TrainingInterrupted says where the checkpoint is
        errors.print(f"[yellow]interrupted[/] {escape(str(interrupt))}")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return EXIT_ERROR


# The commands import what they need: `--help` and `doctor` must work where something is broken.


def _tune(config: RunConfig, console: Console | None = None) -> None:
    from paddle_infra._core.runtime import tune_cpu

    settings = tune_cpu(config.threads or None)
    if console is not None:
        console.print("CPU settings: " + ", ".join(f"{name}={value}" for name, value in settings.items()))


def _demo(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.cli.demo import demo_config, run_demo

    _tune(demo_config(options.overrides), console)
    run_demo(options.overrides, console)
    return 0


def _train(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.cli.config import load_config
    from paddle_infra.cli.run_directory import RunDirectory
    from paddle_infra.cli.training import train_run

    config = load_config(options.config, options.overrides)
    _tune(config, console)
    directory = RunDirectory(Path(config.run_directory))
    train_run(config, directory, console, resume=options.resume, overwrite=options.overwrite)
    console.print(f"model: {directory.model}")
    return 0


def _evaluate(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.cli.evaluation import evaluate_run
    from paddle_infra.cli.run_directory import open_run

    directory, config = open_run(options.run)
    _tune(config)
    evaluation = evaluate_run(config, directory, options.split)
    if options.json:
        print(json.dumps(evaluation.as_dict(), indent=2, ensure_ascii=False))
        return 0
    for name, value in evaluation.metrics.items():
        console.print(f"{name} {value:.4f}")
    console.print(f"{'':24} precision  recall      f1  support")
    for row in [*evaluation.per_class, *evaluation.token_table]:
        console.print(
            f"{row['name'][:24]:24} {row['precision']:9.4f} {row['recall']:7.4f} {row['f1']:7.4f} {row['support']:8d}",
            markup=False,
        )
    return 0


def _export(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.cli.exporting import export_run
    from paddle_infra.cli.run_directory import open_run

    directory, config = open_run(options.run)
    _tune(config)
    for report in export_run(config, directory, options.target):
        check = report.verification
        console.print(
            f"{report.path}: verified, {len(check.cases)} cases, largest error {check.max_error:.1e} "
            f"(allowed {check.atol:.0e})",
        )
    return 0


def _verify(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.cli.exporting import run_of_export
    from paddle_infra.cli.run_directory import open_run
    from paddle_infra.cli.tasks import load_model
    from paddle_infra.export import verify

    directory, config = open_run(run_of_export(options.export))
    _tune(config)
    atol = config.export.tolerance if options.tolerance is None else options.tolerance
    check = verify(options.export, load_model(config, directory.model), atol=atol, bisect=options.bisect)
    for case in check.cases:
        console.print(f"{case.name:42} {case.max_error:.1e}", markup=False)
    console.print(f"verified: largest error {check.max_error:.1e} (allowed {check.atol:.0e})")
    return 0


def _bench(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.cli.benching import grid_of, lines_of
    from paddle_infra.inference import benchmark

    found = benchmark(
        options.export,
        grid_of(options.export, options.batch, options.length),
        threads=options.threads,
        precision=options.precision,
        repeats=options.repeats,
        tolerance=options.tolerance,
    )
    if options.json:
        print(json.dumps(found.as_dict(), indent=2))
        return 0
    for line in lines_of(found):
        console.print(line, markup=False)
    return 0


def _report(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.cli.evaluation import evaluate_run
    from paddle_infra.cli.exporting import export_run
    from paddle_infra.cli.reporting import measure_exports, write_run_report
    from paddle_infra.cli.run_directory import open_run

    directory, config = open_run(options.run)
    _tune(config)
    exports = export_run(config, directory)
    write_run_report(
        config, directory, evaluate_run(config, directory), exports, measure_exports(directory, exports)
    )
    console.print(str(directory.report))
    return 0


def _summary(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.cli.inspecting import summarize_run
    from paddle_infra.cli.run_directory import open_run

    directory, config = open_run(options.run)
    _tune(config)
    found = summarize_run(config, directory, options.batch_size, options.length)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found.to_text(options.depth))
    return 0


def _explain(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.cli.inspecting import explain_texts
    from paddle_infra.cli.run_directory import open_run
    from paddle_infra.explain import write_explanations

    directory, config = open_run(options.run)
    _tune(config)
    explanations = explain_texts(config, directory, options.texts, method=options.method, label=options.label)
    for explanation in explanations:
        console.print(str(explanation), markup=False)
    if options.output is not None:
        write_explanations(options.output, explanations, title=config.title or "Explanations")
        console.print(str(options.output), markup=False)
    return 0


def _doctor(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.cli.doctor import print_diagnosis

    return 0 if print_diagnosis(console) else EXIT_ERROR


def _resources(options: argparse.Namespace, console: Console) -> int:
    from paddle_infra.data import resources

    if options.action == "fetch":
        for name in options.names:
            console.print(f"{name}: {resources.fetch(name, verify=options.verify)}", markup=False)
        return 0
    for resource in resources.available():
        state = "cached" if resources.is_cached(resource) else "not cached"
        console.print(
            f"{resource.name} ({resource.package}=={resource.version}, {resource.licence}): {state}",
            markup=False,
        )
        console.print(f"  {resource.description}", markup=False)
    return 0


_COMMANDS = {
    "demo": _demo,
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
    "verify": _verify,
    "bench": _bench,
    "report": _report,
    "summary": _summary,
    "explain": _explain,
    "doctor": _doctor,
    "resources": _resources,
}

if __name__ == "__main__":
    sys.exit(main())

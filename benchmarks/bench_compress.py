"""Accuracy on held-out questions, size and latency of a fine-tuned MiniLM in every compressed form.

All forms come from one model that `paddle-infra demo`'s configuration trains (`--run` takes an existing run). Accuracy
is that of the export itself, as its engine runs it, on the test split; sizes are of the files that an engine reads.
Forms take turns for the latency of one question of 16 tokens and of 32 questions of 32, on one thread. What needs
calibration or importance takes training questions.

    OMP_NUM_THREADS=1 python benchmarks/bench_compress.py --epochs 2 --distill-epochs 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from _harness import Contestant, append_rows, summarize, time_rounds
from rich.console import Console

from paddle_infra import compress, export, ops
from paddle_infra.cli.demo import demo_config
from paddle_infra.cli.exporting import example_inputs
from paddle_infra.cli.run_directory import RunDirectory
from paddle_infra.cli.sources import coarse, load_splits
from paddle_infra.cli.tasks import DYNAMIC_AXES, inputs_of, load_model, new_dataset, new_loader
from paddle_infra.cli.training import LABEL_FILE, train_run
from paddle_infra.data import LabelMap, Tokenizer
from paddle_infra.train import Distillation, Trainer, adamw, seed_everything

Batch = dict[str, Any]


class Task:
    """A trained run and its data."""

    def __init__(self, run: Path, epochs: int) -> None:
        self.config = demo_config([f"training.epochs={epochs}", f"run_directory={run}"])
        directory = RunDirectory(run)
        if not directory.is_trained:
            train_run(self.config, directory, Console())
        labels = LabelMap.load(directory.model / LABEL_FILE)
        self.tokenizer = Tokenizer.from_pretrained(directory.model)
        self.model = load_model(self.config, directory.model)
        self.model.eval()
        splits = load_splits(self.config)
        data = {
            name: new_dataset(
                self.config, coarse(self.config.data, getattr(splits, name)), self.tokenizer, labels
            )
            for name in ("train", "test")
        }
        self.test = list(new_loader(self.config, data["test"], self.tokenizer, training=False))
        self.train = new_loader(self.config, data["train"], self.tokenizer, training=True)
        self.examples = example_inputs(self.tokenizer, self.model.config.type_vocab_size)

    def calibration(self, batches: int) -> list[Batch]:
        """Return inputs of training batches as arrays."""
        return [inputs_of(batch) for _, batch in zip(range(batches), self.train, strict=False)]


def accuracy(predict: compress.gate.Predict, batches: list[Batch]) -> float:
    right = [(predict(inputs_of(batch))["logits"].argmax(-1) == batch["labels"]) for batch in batches]
    return float(np.concatenate(right).mean())


def coarse_loss(model: Any, batch: Batch) -> paddle.Tensor:
    """The cross entropy of the coarse classes, which is what is scored."""
    return paddle.nn.functional.cross_entropy(logits_of(model, batch), paddle.to_tensor(batch["labels"]))


def logits_of(model: Any, batch: Batch) -> paddle.Tensor:
    inputs = inputs_of(batch).items()
    return model(
        **{name: value if paddle.is_tensor(value) else paddle.to_tensor(value) for name, value in inputs}
    )


def distilled(task: Task, epochs: int) -> Any:
    """Every second layer of the model, trained on its logits."""
    seed_everything(0)
    student = compress.keep_layers(task.model, range(0, len(task.model.encoder.stack.layers), 2))
    student.train()
    steps = max(1, epochs * len(task.train))
    optimizer = adamw(student, 2e-4, total_steps=steps, warmup_steps=steps // 10)
    step = Distillation(task.model, logits_of, temperature=2.0, alpha=0.9)
    Trainer(student, optimizer, step).fit(task.train, max_epochs=epochs)
    student.eval()
    return student


def forms(task: Task, folder: Path, distill_epochs: int) -> dict[str, Path]:
    """Make every form; return where each is."""
    model = task.model
    made: dict[str, Path] = {}

    def add(name: str, make: Callable[[Path], Any]) -> None:
        try:
            made[name] = make(folder / name).path
        except Exception as error:  # a form that cannot be made is a result: it has no row, and says why
            print(f"{name}: {type(error).__name__}: {str(error)[:400]}")

    def paddle_of(candidate: Any) -> Callable[[Path], Any]:
        return lambda path: export.to_inference(
            candidate, path, task.examples, dynamic_axes=DYNAMIC_AXES, atol=0.05
        )

    def onnx_of(candidate: Any, atol: float) -> Callable[[Path], Any]:
        return lambda path: export.to_onnx(
            candidate, path, task.examples, dynamic_axes=DYNAMIC_AXES, atol=atol
        )

    add("paddle float32", paddle_of(model))
    add("onnx float32", onnx_of(model, 1e-3))
    add("paddle bfloat16 operators", lambda p: bfloat16(task, p, "operators"))
    with ops.implementation("reference"):
        add("paddle bfloat16 engine", lambda p: bfloat16(task, p, "engine"))
    linear = compress.quantize_linears(model, exclude=["head.*"])
    add("paddle int8 linears", paddle_of(linear))
    add("onnx int8 linears", onnx_of(linear, 1.0))
    add("paddle int4 linears", paddle_of(compress.quantize_linears(model, exclude=["head.*"], bits=4)))
    for method in ("dynamic", "static", "int4"):
        add(f"onnx {method}", lambda p, m=method: onnx_quantized(task, folder / "onnx float32", p, m))
    grouped = compress.quantize_linears(model, exclude=["head.*"], bits=4, group_size=32)
    add("paddle int4 groups of 32", paddle_of(grouped))
    batches = [batch for _, batch in zip(range(16), task.train, strict=False)]
    importance = compress.taylor_importance(model, coarse_loss, batches)
    heads = compress.prune_heads(model, compress.least_important(importance.heads, 0.25))
    add("paddle 25 % of heads cut", paddle_of(heads))
    channels = compress.prune_channels(model, compress.equally_many(importance.channels, 0.25))
    add("paddle 25 % of channels cut", paddle_of(channels))
    if distill_epochs:
        student = distilled(task, distill_epochs)
        add("paddle 3 of 6 layers distilled", paddle_of(student))
        add(
            "paddle 3 of 6 layers distilled int8",
            paddle_of(compress.quantize_linears(student, exclude=["head.*"])),
        )
    return made


def onnx_quantized(task: Task, source: Path, path: Path, method: str) -> Any:
    """The head stays: it takes the logarithm of sums of probabilities, of which some would be rounded to 0."""
    calibration = task.calibration(8) if method == "static" else None
    return compress.quantize_onnx(
        source,
        path,
        method=method,
        atol=5.0,
        calibration=calibration,
        exclude=["*SequenceClassificationHead*"],
    )


def bfloat16(task: Task, path: Path, products: str) -> Any:
    return compress.to_inference_bfloat16(
        task.model, path, task.examples, dynamic_axes=DYNAMIC_AXES, atol=5.0, products=products
    )


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("model.*"))


def latencies(made: dict[str, Path], seconds: float) -> dict[str, dict[str, Any]]:
    """Return the summary of the milliseconds of both batches, by form."""
    found: dict[str, dict[str, Any]] = {name: {} for name in made}
    rng = np.random.default_rng(0)
    predictors = {name: export.load_predictor(path) for name, path in made.items()}
    for label, batch, length in (("one", 1, 16), ("many", 32, 32)):
        ids = rng.integers(1000, 20000, (batch, length))
        inputs = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": np.ones_like(ids)}
        contestants = {name: Contestant(lambda p=p, i=inputs: p(i)) for name, p in predictors.items()}
        estimates = {}
        for name, contestant in contestants.items():
            contestant.run()
            estimates[name] = max(1e-4, seconds_of(contestant.run))
        rounds = time_rounds(contestants, estimates, seconds)
        for name in made:
            found[name][label] = summarize([times[name] for times in rounds if name in times], 1e3)
    return found


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="folder of a run; trained if it is none yet")
    parser.add_argument("--epochs", type=int, default=5, help="of training, if there is no run")
    parser.add_argument("--distill-epochs", type=int, default=5, help="of the student; 0: none")
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing for each batch size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        task = Task(arguments.run or Path(temporary) / "run", arguments.epochs)
        made = forms(task, Path(temporary) / "forms", arguments.distill_epochs)
        gate = compress.AccuracyGate(accuracy, task.test, reference=task.model, max_drop=1.0)
        scores = {name: gate.measure(path) for name, path in made.items()}
        times = latencies(made, arguments.seconds)
        rows = [
            {
                "form": name,
                "accuracy": f"{scores[name]:.4f}",
                "change_points": f"{100 * (scores[name] - gate.reference):+.2f}",
                "questions": sum(len(batch["labels"]) for batch in task.test),
                "megabytes": f"{size_of(path) / 1e6:.1f}",
                "one_ms": f"{times[name]['one']['median']:.3f}",
                "one_q80_ms": f"{times[name]['one']['q80']:.3f}",
                "many_ms": f"{times[name]['many']['median']:.2f}",
                "many_q80_ms": f"{times[name]['many']['q80']:.2f}",
                "rounds": times[name]["many"]["rounds"],
                "threads": 1,
                "epochs": arguments.epochs,
                "distill_epochs": arguments.distill_epochs,
            }
            for name, path in made.items()
        ]
    for row in rows:
        print(*row.values(), sep=" | ")
    print(append_rows("compress", rows))


if __name__ == "__main__":
    main()

"""Fine-tunes MiniLM-L6 on the TREC questions fully and with adapters: accuracy, trained share, time and memory.

    python benchmarks/bench_peft.py                          # all methods, three seeds
    python benchmarks/bench_peft.py --tune lora --rates 5e-4 1e-3 2e-3
    python benchmarks/bench_peft.py --methods full lora --seeds 0 --epochs 1 --no-record

The recipe is that of ``paddle-infra demo``: 50 fine classes are learned and six coarse ones scored, with word shapes as
token types, label smoothing, AdamW with linear decay, and the epoch with the best validation accuracy counts; full
fine-tuning has the demo's decay of the learning rate by layer. Adapters train the head and the token types (which are
new) with them. Each method has a learning rate of its own, chosen by ``--tune``: trained on four fifths of the training
questions, scored on the other fifth and the validation questions, never on the test questions.

Every run is a fresh process; methods take turns seed by seed. A step is forward, backward, clipping and AdamW; the
median over all steps of a run counts, and the peak of resident memory above what was in use before training. Rows are
appended to ``benchmarks/data/peft.csv``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import append_rows, context, peak_memory_bytes, reset_peak_memory, run_worker

ADALORA_TARGET = 6  # triplets per layer in the end


class Method(NamedTuple):
    """A way to fine-tune."""

    learning_rate: float
    config: str | None = None  # the name of a configuration in paddle_infra.peft; None: everything is trained
    settings: Any = None  # its arguments, a dict


METHODS = {
    "full": Method(5e-4),
    "lora": Method(2e-3, "LoRAConfig", {"rank": 8, "alpha": 16.0}),
    "adalora": Method(1e-2, "AdaLoRAConfig", {"rank": 9, "alpha": 18.0}),
    "ia3": Method(1e-2, "IA3Config"),
    "adapters": Method(3e-3, "BottleneckConfig", {"size": 32}),
    "prefix": Method(1e-2, "PrefixConfig", {"length": 16}),
}


def train(method: Method, seed: int, epochs: int, rate: float, *, is_tuning: bool) -> dict[str, Any]:
    """Train in this process; return what was measured."""
    import paddle

    from paddle_infra import peft
    from paddle_infra.cli.demo import demo_config
    from paddle_infra.cli.sources import coarse, load_splits, local_path
    from paddle_infra.cli.tasks import inputs_of, logits_and_labels, new_dataset, new_loader, new_model
    from paddle_infra.data import LabelMap, Tokenizer
    from paddle_infra.train import Accuracy, Callback, Evaluator, Trainer, adamw, seed_everything

    config = demo_config([f"seed={seed}", f"training.epochs={epochs}"])
    # The split does not depend on the seed of the run.
    splits = load_splits(demo_config(["seed=0"]))
    training, validation = splits.train, splits.validation
    if is_tuning:
        training = [example for index, example in enumerate(splits.train) if index % 5]
        validation = [*splits.validation, *splits.train[::5]]
    learned = LabelMap.from_examples(splits.train)
    labels = LabelMap.from_examples(coarse(config.data, splits.train))
    tokenizer = Tokenizer.from_pretrained(local_path(config.model.pretrained))

    def evaluation_loader(examples: list[Any]) -> Any:
        dataset = new_dataset(config, coarse(config.data, examples), tokenizer, labels)
        return new_loader(config, dataset, tokenizer, training=False)

    train_data = new_dataset(config, training, tokenizer, learned)
    train_loader = new_loader(config, train_data, tokenizer, training=True)
    steps = epochs * math.ceil(len(train_loader) / config.training.accumulate)
    seed_everything(seed)
    model = new_model(config, labels, learned)

    def loss(network: Any, batch: dict[str, Any]) -> Any:
        smoothing = config.training.label_smoothing
        return network.loss(**inputs_of(batch), labels=batch["labels"], label_smoothing=smoothing)

    callbacks: list[Any] = []
    if method.config is not None:
        adapter = getattr(peft, method.config)(**(method.settings or {}))
        peft.apply(model, adapter, train_also=("head", "token_type"))
    if method.config == "AdaLoRAConfig":
        loss = peft.with_orthogonality(loss, 0.1)
        callbacks.append(
            peft.RankAllocation(
                ADALORA_TARGET, initial_steps=steps // 10, final_steps=steps // 3, every_steps=10
            )
        )

    class Record(Callback):
        """Times the steps and keeps the best epoch's weights."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.best, self.weights = -1.0, {}

        def on_step_begin(self, trainer: Trainer) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, trainer: Trainer) -> None:
            self.seconds.append(time.perf_counter() - self.start)
            self.peak = peak_memory_bytes()  # of training: kept weights and evaluations come later

        def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
            print(f"epoch {trainer.state.epoch + 1}: {metrics['accuracy']:.4f}", file=sys.stderr)
            if metrics["accuracy"] > self.best:
                self.best = metrics["accuracy"]
                trained = peft.trainable_parameters(trainer.model)
                self.weights = {name: p.detach().clone() for name, p in trained.items()}

    record = Record()
    settings = config.training
    optimizer = adamw(
        model,
        rate,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay if method.config is None else None,
        max_grad_norm=settings.max_grad_norm,
        warmup_steps=int(settings.warmup_fraction * steps),
        total_steps=steps,
    )
    evaluator = Evaluator(logits_and_labels, [Accuracy(labels.to_list())])
    trainer = Trainer(model, optimizer, loss, evaluator=evaluator, callbacks=[*callbacks, record])
    reset_peak_memory()
    before = peak_memory_bytes()
    trainer.fit(train_loader, evaluation_loader(validation), max_epochs=epochs)
    counts = peft.count_parameters(model)
    found = {
        "validation_accuracy": record.best,
        "trained_parameters": counts.trainable,
        "trained_share": counts.share,
        "step_ms": statistics.median(record.seconds) * 1e3,
        "peak_mib": (record.peak - before) / 2**20,
        "steps": steps,
    }
    if is_tuning:
        return found
    parameters = dict(model.named_parameters())
    with paddle.no_grad():
        for name, value in record.weights.items():
            parameters[name].set_value(value)
    return {**found, "test_accuracy": trainer.evaluate(evaluation_loader(splits.test))["accuracy"]}


def in_fresh_process(name: str, seed: int, options: argparse.Namespace, rate: float) -> dict[str, Any]:
    """Run :func:`train` in a process of its own."""
    task = {"method": name, "seed": seed, "epochs": options.epochs, "rate": rate, "tune": bool(options.tune)}
    return run_worker(__file__, ["--worker", json.dumps(task)], options.threads)


def main() -> None:
    """Read the command line, train, print and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tune", choices=METHODS, help="choose a learning rate for this method")
    parser.add_argument("--rates", nargs="+", type=float, default=[])
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/data/peft.csv")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        task = json.loads(options.worker)
        method = METHODS[task["method"]]
        print(json.dumps(train(method, task["seed"], task["epochs"], task["rate"], is_tuning=task["tune"])))
        return
    if options.tune:
        for rate in options.rates or [METHODS[options.tune].learning_rate]:
            for seed in options.seeds:
                found = in_fresh_process(options.tune, seed, options, rate)
                print(
                    f"{options.tune}, rate {rate:g}, seed {seed}: {found['validation_accuracy']:.4f}",
                    flush=True,
                )
        return
    measured_in = context()
    for seed in options.seeds:
        for name in options.methods:
            rate = METHODS[name].learning_rate
            found = in_fresh_process(name, seed, options, rate)
            row = {"method": name, "seed": seed, "learning_rate": rate, "epochs": options.epochs}
            row |= {"threads": options.threads, **{key: round(value, 5) for key, value in found.items()}}
            print(
                f"{name}, seed {seed}: test accuracy {row['test_accuracy']:.4f}, {row['trained_share']:.2%} trained, "
                f"{row['step_ms']:.0f} ms a step, {row['peak_mib']:.0f} MiB",
                flush=True,
            )
            if not options.no_record:
                append_rows("peft", [row], measured_in)


if __name__ == "__main__":
    main()

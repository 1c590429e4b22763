"""PaddleNLP's models as they are and accelerated: inference, steps of training, masked language modelling.

    make bench-paddlenlp
    python benchmarks/bench_paddlenlp.py --quick --no-record      # in an environment with the extra [nlp]

Models with the same weights take turns in one process. A step of training is forward, backward and AdamW, with dropout
0.1. "masked-lm" is a step whose loss comes from PaddleNLP's forward, which stores the logits of the whole vocabulary,
and accelerated from ``loss``; its peak memory is measured in fresh processes. Rows are appended to
``benchmarks/data/paddlenlp.csv``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import (
    ROOT,
    Contestant,
    append_rows,
    context,
    peak_memory_bytes,
    reset_peak_memory,
    round_ratios,
    run_worker,
    summarize,
    time_rounds,
)

SCRIPT = str(ROOT / "benchmarks/bench_paddlenlp.py")
BASE = "paddlenlp"
# Widths of ernie-3.0-base-zh, and of google/bert_uncased_L-4_H-256_A-4.
MODELS = {
    "ERNIE-base": ("Ernie", 768, 12, 12, 3072, 40000),
    "BERT-mini": ("Bert", 256, 4, 4, 1024, 30522),
}
CONTESTANTS = {
    "inference": (BASE, "accelerated", "accelerated-medium"),
    "training": (BASE, "accelerated"),
    "masked-lm": (BASE, "accelerated"),
}
TASKS = {
    "inference": "ForSequenceClassification",
    "training": "ForSequenceClassification",
    "masked-lm": "ForMaskedLM",
}


class Case(NamedTuple):
    """What is measured."""

    model: str
    batch: int
    length: int
    work: str


CASES = (
    Case("BERT-mini", 1, 64, "inference"),
    Case("BERT-mini", 32, 64, "inference"),
    Case("BERT-mini", 32, 64, "training"),
    Case("BERT-mini", 32, 64, "masked-lm"),
    Case("ERNIE-base", 1, 128, "inference"),
    Case("ERNIE-base", 16, 128, "inference"),
    Case("ERNIE-base", 16, 128, "training"),
    Case("ERNIE-base", 16, 128, "masked-lm"),
)


def make_model(case: Case) -> Any:
    """Return the model with random weights."""
    import paddle
    from paddlenlp import transformers

    family, hidden, layers, heads, inner, vocabulary = MODELS[case.model]
    kind = getattr(transformers, family + TASKS[case.work])
    paddle.seed(0)
    return kind(
        kind.config_class(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
            num_labels=2,
        )
    )


def contestant(case: Case, name: str) -> Contestant:
    """Return a model as it is or accelerated; "medium": with bfloat16 products, in inference."""
    import paddle

    from paddle_infra import ops
    from paddle_infra.integrations import paddlenlp as fused_nlp

    model = make_model(case)
    model.eval() if case.work == "inference" else model.train()
    if name != BASE:
        fused_nlp.accelerate(model)
    optimizer = paddle.optimizer.AdamW(1e-5, parameters=model.parameters())
    ids = paddle.randint(5, 1000, [case.batch, case.length])
    labels = paddle.randint(0, 2, [case.batch] if case.work == "training" else [case.batch, case.length])

    def infer() -> Any:
        with paddle.no_grad():
            return model(ids)

    def step() -> None:
        if case.work == "masked-lm" and name != BASE:
            loss = fused_nlp.loss(model, ids, labels=labels)
        else:
            loss = model(ids, labels=labels)[0]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()

    def prepare() -> None:
        ops.set_matmul_precision("medium" if name.endswith("medium") else "highest")

    if case.work == "inference":
        return Contestant(infer, prepare, lambda found: found.numpy())
    return Contestant(step, prepare)


def worker(task: dict[str, Any]) -> Any:
    """In a fresh process: time all in turn, or measure the peak memory of one."""
    import paddle_infra as pi

    pi.tune_cpu(task["threads"])
    case = Case(*task["case"])
    if task["metric"] == "memory":
        entry = contestant(case, task["name"])
        entry.prepare()
        reset_peak_memory()
        before = peak_memory_bytes()
        entry.run()
        return peak_memory_bytes() - before
    entries = {name: contestant(case, name) for name in CONTESTANTS[case.work]}
    estimates, found = {}, {}
    for name, entry in entries.items():
        entry.prepare()
        found[name] = entry.results(entry.run())
        start = time.perf_counter()
        entry.run()
        estimates[name] = time.perf_counter() - start
    if case.work == "inference":
        check(found)
    return time_rounds(entries, estimates, task["seconds"])


def check(found: dict[str, Any]) -> None:
    """Hold the logits to those of PaddleNLP.

    Raises:
        RuntimeError: they differ.
    """
    for name, tolerance in (("accelerated", 1e-4), ("accelerated-medium", 0.05)):
        error = float(abs(found[name] - found[BASE]).max())
        if not error <= tolerance:
            raise RuntimeError(f"{name}: expected PaddleNLP's logits within {tolerance}, got {error:.1e}")


def measure(case: Case, threads: int, seconds: float) -> list[dict[str, Any]]:
    """Return one row for each contestant."""

    def ask(metric: str, **more: Any) -> Any:
        task = {"case": case, "threads": threads, "seconds": seconds, "metric": metric, **more}
        return run_worker(SCRIPT, ["--worker", json.dumps(task)], threads)

    rounds = ask("time")
    rows = []
    for name in dict.fromkeys(name for times in rounds for name in times):
        times = summarize([turn[name] for turn in rounds if name in turn], 1e3)
        ratios = summarize(round_ratios(rounds, BASE, name))
        row = {**case._asdict(), "contestant": name, "threads": threads}
        row |= {f"{key}_ms": times[key] for key in ("median", "q20", "q80")} | {"rounds": times["rounds"]}
        row |= {"speedup": ratios["median"], "speedup_q20": ratios["q20"], "speedup_q80": ratios["q80"]}
        row["peak_mb"] = ask("memory", name=name) / 1e6 if case.work == "masked-lm" else ""
        row["libraries"] = f"paddlenlp {importlib.metadata.version('paddlenlp')}"
        peak = f"{row['peak_mb']:8.0f} MB" if row["peak_mb"] else ""
        where = f"{case.model:10} {case.batch:3}x{case.length} {case.work:9} T{threads} {name:18}"
        print(f"{where} {row['median_ms']:9.2f} ms {row['speedup']:6.2f} times as fast {peak}", flush=True)
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small model, about a minute")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="+", default=[cores])
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(worker(options.worker)))
        return 0
    if importlib.util.find_spec("paddlenlp") is None:
        parser.error("paddlenlp is not installed: pip install 'paddle_infra[nlp]', or make bench-paddlenlp")
    measured_in = context()
    cases = [case for case in CASES if case.model == "BERT-mini" or not options.quick]
    rows = [
        row
        for case in cases
        for threads in options.threads
        for row in measure(case, threads, 3.0 if options.quick else 20.0)
    ]
    if not options.no_record:
        print(f"{len(rows)} rows appended to {append_rows('paddlenlp', rows, measured_in)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

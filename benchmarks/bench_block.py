"""Time of what an encoder does between its matrix products: add_norm after each sub-layer, embedding_norm at its start.

Fused against plain Paddle (with its strided-view kernels, the default, and without), the fused operators of
``paddle.incubate`` where they run on a CPU, and PyTorch, all after ``tune_cpu``.

    python benchmarks/bench_block.py --quick
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import (
    Contestant,
    append_rows,
    is_installed,
    round_ratios,
    run_worker,
    summarize,
    time_rounds,
)

# Operator, rows (tokens), features. Sequences of 128, the vocabulary of BERT.
QUICK = [("add_norm", 512, 384), ("add_norm", 4096, 768), ("embedding_norm", 4096, 384)]
FULL = [*QUICK, ("add_norm", 4096, 384), ("embedding_norm", 512, 384), ("embedding_norm", 4096, 768)]
DROPOUTS, PASSES = (0.0, 0.1), ("forward", "forward+backward")
LENGTH, WORDS, POSITIONS, TYPES = 128, 30522, 512, 2
EPSILON = 1e-5

Forward = Callable[[], Any]


def make_inputs(operator: str, rows: int, size: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random floats, which get gradients, and indices."""
    rng = np.random.default_rng(0)
    weights = {"weight": rng.random(size, "float32"), "bias": rng.random(size, "float32")}
    if operator == "add_norm":
        names = ("hidden", "residual")
        return {**{name: rng.standard_normal((rows, size), "float32") for name in names}, **weights}, {}
    tables = {"word": WORDS, "position": POSITIONS, "token_type": TYPES}
    floats = {name: rng.standard_normal((count, size), "float32") for name, count in tables.items()}
    shape = (rows // LENGTH, LENGTH)
    indices = {"ids": rng.integers(0, WORDS, shape), "token_type_ids": rng.integers(0, TYPES, shape)}
    return {**floats, **weights}, indices


def paddle_forwards(operator: str, t: dict[str, Any], dropout_p: float) -> dict[str, Forward]:
    """Fused, plain and Paddle's own fused form of one operator."""
    import paddle
    import paddle.incubate.nn.functional as incubate
    import paddle.nn.functional as F

    import paddle_infra as pi

    size = t["weight"].shape

    def drop(x: Any) -> Any:
        return F.dropout(x, dropout_p) if dropout_p else x

    def norm(x: Any) -> Any:
        return F.layer_norm(x, size, t["weight"], t["bias"], EPSILON)

    def embed() -> Any:
        words = F.embedding(t["ids"], t["word"]) + F.embedding(t["token_type_ids"], t["token_type"])
        return drop(norm(words + F.embedding(paddle.arange(LENGTH), t["position"])))

    options = {"epsilon": EPSILON, "dropout_p": dropout_p, "impl": "fused"}
    if operator == "embedding_norm":
        return {"fused": lambda: pi.ops.embedding_norm(**t, **options), "paddle": embed}
    hidden, residual = t["hidden"], t["residual"]
    forwards = {
        "fused": lambda: pi.ops.add_norm(**t, **options),
        "paddle": lambda: norm(residual + drop(hidden)),
    }
    if dropout_p:
        forwards["paddle-incubate"] = lambda: norm(incubate.fused_dropout_add(hidden, residual, p=dropout_p))
    else:  # it has no gradient on the CPU
        forwards["paddle-incubate"] = lambda: incubate.fused_layer_norm(
            hidden, t["weight"], t["bias"], EPSILON, begin_norm_axis=1, residual=residual
        )[0]
    return forwards


def paddle_contestants(
    operator: str, rows: int, size: int, dropout_p: float, passes: str
) -> dict[str, Contestant]:
    """Every contestant that runs in Paddle."""
    import paddle

    floats, indices = make_inputs(operator, rows, size)
    leaves = {name: paddle.to_tensor(value, stop_gradient=False) for name, value in floats.items()}
    tensors = {**leaves, **{name: paddle.to_tensor(value) for name, value in indices.items()}}
    upstream: list[Any] = []

    def one_pass(forward: Forward) -> Callable[[], Any]:
        if passes == "forward":

            def run() -> Any:
                with paddle.no_grad():
                    return forward()

            return run

        def run_both() -> Any:
            out = forward()
            if not upstream:
                upstream.append(paddle.ones_like(out))
            paddle.grad([out], list(leaves.values()), upstream)
            return out

        return run_both

    def use_stride_kernel(wanted: bool) -> Callable[[], None]:
        return lambda: paddle.set_flags({"FLAGS_use_stride_kernel": wanted})

    found = {}
    for name, forward in paddle_forwards(operator, tensors, dropout_p).items():
        if name == "paddle-incubate" and passes != "forward" and not dropout_p:
            continue
        found[name] = Contestant(one_pass(forward), use_stride_kernel(True), lambda out: out.numpy())
        if name == "paddle":
            found["paddle-no-stride"] = found[name]._replace(prepare=use_stride_kernel(False))
    return found


def torch_contestant(
    operator: str, rows: int, size: int, dropout_p: float, passes: str, threads: int
) -> Contestant:
    """The same in PyTorch."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    floats, indices = make_inputs(operator, rows, size)
    leaves = {name: torch.tensor(value).requires_grad_() for name, value in floats.items()}
    t = {**leaves, **{name: torch.tensor(value) for name, value in indices.items()}}
    upstream: list[Any] = []

    def forward() -> Any:
        def norm(x: Any) -> Any:
            return F.layer_norm(x, (size,), t["weight"], t["bias"], EPSILON)

        if operator == "add_norm":
            return norm(t["residual"] + F.dropout(t["hidden"], dropout_p, dropout_p > 0.0))
        words = F.embedding(t["ids"], t["word"]) + F.embedding(t["token_type_ids"], t["token_type"])
        out = norm(words + F.embedding(torch.arange(LENGTH), t["position"]))
        return F.dropout(out, dropout_p, dropout_p > 0.0)

    def run() -> Any:
        if passes == "forward":
            with torch.no_grad():
                return forward()
        out = forward()
        if not upstream:
            upstream.append(torch.ones_like(out))
        torch.autograd.grad(out, list(leaves.values()), upstream[0])
        return out

    return Contestant(run, results=lambda out: out.detach().numpy())


def work(task: dict[str, Any]) -> dict[str, Any]:
    """In a fresh process: time all contestants of one case; without dropout their results must agree."""
    import paddle_infra as pi

    pi.tune_cpu(task["threads"])
    case = (task["operator"], task["rows"], task["size"], task["dropout_p"], task["passes"])
    contestants = paddle_contestants(*case)
    if task["with_torch"]:
        contestants["torch"] = torch_contestant(*case, task["threads"])
    estimates, results = {}, {}
    for name, contestant in contestants.items():
        contestant.prepare()
        contestant.run()
        start = time.perf_counter()
        results[name] = contestant.results(contestant.run())
        estimates[name] = time.perf_counter() - start
        if not task["dropout_p"] and np.abs(results[name] - results["fused"]).max() > 1e-4:
            raise RuntimeError(f"{name} and fused disagree in {case}")
    rounds = time_rounds(contestants, estimates, task["seconds"])
    return {
        name: {
            "times": [times[name] for times in rounds if name in times],
            "ratios": round_ratios(rounds, name, "fused"),
        }
        for name in contestants
    }


def measure(
    cases: list[tuple[str, int, int]], threads: list[int], seconds: float
) -> Iterator[dict[str, Any]]:
    """Measure everything and print it on the way."""
    with_torch = is_installed("torch")
    for operator, rows, size in cases:
        for count in threads:
            for dropout_p in DROPOUTS:
                for passes in PASSES:
                    task = {
                        "operator": operator,
                        "rows": rows,
                        "size": size,
                        "dropout_p": dropout_p,
                        "passes": passes,
                        "threads": count,
                        "seconds": seconds,
                        "with_torch": with_torch,
                    }
                    found = run_worker(__file__, ["--worker", json.dumps(task)], count)
                    print(f"{operator} {rows} x {size}, dropout {dropout_p:g}, {passes}, {count} threads")
                    for name, values in found.items():
                        time_ms, ratio = summarize(values["times"], 1e3), summarize(values["ratios"])
                        print(
                            f"    {name:17} {time_ms['median']:9.3f} ms [{time_ms['q20']:.3f}, {time_ms['q80']:.3f}]"
                            f"  {ratio['median']:6.2f} x fused",
                            flush=True,
                        )
                        yield {
                            "operator": operator,
                            "rows": rows,
                            "features": size,
                            "dropout": dropout_p,
                            "pass": passes,
                            "contestant": name,
                            "metric": "time",
                            "unit": "ms",
                            "threads": count,
                            **{key: round(value, 4) for key, value in time_ms.items()},
                            "ratio": round(ratio["median"], 3),
                        }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few shapes, in about a minute")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)"
    )
    parser.add_argument(
        "--no-record", action="store_true", help="only print, do not append to benchmarks/data"
    )
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments.worker)))
        return 0
    cases, seconds = (QUICK, 0.5) if arguments.quick else (FULL, 10.0)
    rows = list(measure(cases, arguments.threads, seconds))
    if not arguments.no_record:
        print(f"{len(rows)} rows appended to {append_rows('block', rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Generation of an encoder-decoder: greedy and four beams, with and without a cache, beside PyTorch with a cache.

    python benchmarks/bench_generate.py --quick
    python benchmarks/bench_generate.py --threads 2

Every sequence gets all its tokens (there is no end token), so tokens per second compare. The weights are random and
the same for all; greedy contestants must give equal tokens. Rows are appended to ``benchmarks/data/generate.csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import (
    ROOT,
    Contestant,
    append_rows,
    is_installed,
    round_ratios,
    run_worker,
    summarize,
    time_rounds,
)

WORKER = str(ROOT / "benchmarks/bench_generate.py")


class Case(NamedTuple):
    """Sizes of a model, of its sources and its results."""

    hidden_size: int
    num_layers: int
    vocab_size: int
    batch_size: int
    source_len: int
    new_tokens: int


CASES = (Case(512, 6, 32000, 1, 32, 64), Case(512, 6, 32000, 16, 32, 64))
QUICK = (Case(128, 2, 2000, 4, 16, 16),)


def contestants_of(case: Case, names: list[str]) -> dict[str, Contestant]:
    """Return the contestants."""
    import numpy as np
    import paddle

    from paddle_infra.models import EncoderDecoder, EncoderDecoderConfig
    from paddle_infra.models.generation import BeamSearch, GreedySearch

    paddle.seed(0)
    config = EncoderDecoderConfig(
        vocab_size=case.vocab_size,
        hidden_size=case.hidden_size,
        num_layers=case.num_layers,
        num_encoder_layers=case.num_layers,
        num_heads=case.hidden_size // 64,
        intermediate_size=4 * case.hidden_size,
        max_positions=max(case.source_len, case.new_tokens),
    )
    model = EncoderDecoder(config)
    model.eval()
    source = np.random.default_rng(0).integers(3, case.vocab_size, (case.batch_size, case.source_len))
    ids = paddle.to_tensor(source)
    found = {}
    for name in names:
        if name == "torch-greedy":
            from benchmarks._generate_torch import TorchGreedy

            theirs = TorchGreedy(config, {key: value.numpy() for key, value in model.named_parameters()})
            found[name] = Contestant(lambda theirs=theirs: theirs.generate(source, case.new_tokens))
            continue
        options = {
            "method": BeamSearch(4) if "beam" in name else GreedySearch(),
            "use_cache": "uncached" not in name,
            "max_new_tokens": case.new_tokens,
            "end_ids": (),
        }
        found[name] = Contestant(lambda options=options: model.generate(ids, **options).tokens[:, 0])
    return found


def worker(task: dict[str, Any]) -> None:
    """Time all contestants; print JSON."""
    import numpy as np

    import paddle_infra as pi

    pi.tune_cpu(task["threads"])
    if "torch-greedy" in task["names"]:
        import torch

        torch.set_num_threads(task["threads"])
    contestants, estimates, tokens = contestants_of(Case(*task["case"]), task["names"]), {}, {}
    for name, entry in contestants.items():
        for _ in range(2):
            start = time.perf_counter()
            tokens[name] = entry.run()
            estimates[name] = time.perf_counter() - start
    for method in ("greedy", "beam4"):
        first, *others = [found for name, found in tokens.items() if method in name]
        for other in others:
            if (np.asarray(other) != np.asarray(first)).any():
                raise RuntimeError(f"the contestants disagree about {method}")
    print(json.dumps(time_rounds(contestants, estimates, task["seconds"])))


def main() -> None:
    """Measure, and append rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small model, a second each")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=120.0, help="for all contestants of a case together")
    arguments = parser.parse_args()
    names = ["greedy", "greedy-uncached", "beam4", "beam4-uncached"]
    names += ["torch-greedy"] if is_installed("torch") else []
    for case in QUICK if arguments.quick else CASES:
        task = {
            "case": case,
            "names": names,
            "threads": arguments.threads,
            "seconds": 5.0 if arguments.quick else arguments.seconds,
        }
        rounds = run_worker(WORKER, ["--worker", json.dumps(task)], arguments.threads)
        rows = []
        for name in names:
            times = summarize([turn[name] for turn in rounds if name in turn])
            ratios = summarize(round_ratios(rounds, name, "greedy"))
            tokens = case.batch_size * case.new_tokens
            row = {**case._asdict(), "contestant": name, "threads": arguments.threads}
            row |= {f"{key}_ms": 1e3 * times[key] for key in ("median", "q20", "q80")}
            row |= {"rounds": times["rounds"], "tokens_per_s": tokens / times["median"]}
            row |= {"base": "greedy", "ratio": ratios["median"]}
            rows.append(row | {"ratio_q20": ratios["q20"], "ratio_q80": ratios["q80"]})
            print(
                f"{case} {name:16} {row['tokens_per_s']:9.1f} tokens/s, {ratios['median']:.2f} times greedy"
            )
        append_rows("generate", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(json.loads(sys.argv[2]))
    else:
        main()

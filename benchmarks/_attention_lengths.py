"""Other ways to compute a padded batch of sequences of different lengths: what padding costs, and what it should.

``fused-varlen`` packs the sequences without padding. ``fused-single`` and ``torch-single`` run one sequence at a time.
``fused-dense`` is the packed work at full efficiency: a batch of full-length sequences with as many multiply-adds (its
times are scaled by what rounding to whole sequences leaves over).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks._attention_cases import Case, make_inputs, visible_pairs
from benchmarks._attention_contestants import contestant, set_mode
from benchmarks._harness import Contestant

NAMES = ("fused-varlen", "fused-single", "fused-dense", "torch-single")


def lengths_contestant(
    name: str, case: Case, data: dict[str, np.ndarray], backward: bool, threads: int
) -> Contestant:
    """Return the contestant of that name, one of :data:`NAMES`."""
    if name == "fused-varlen":
        return _packed(case, data, backward)
    if name == "fused-dense":
        return _dense(case, backward, threads)
    return _one_at_a_time(name.split("-")[0], case, data, backward, threads)


def dense_case(case: Case) -> Case:
    """Return the batch of full-length sequences that comes nearest to the work of a padded batch."""
    one = replace(case, batch=1, option="causal" if case.causal else "")
    return replace(one, batch=max(1, round(visible_pairs(case) / visible_pairs(one))))


def _dense(case: Case, backward: bool, threads: int) -> Contestant:
    dense = dense_case(case)
    found = contestant("fused", dense, make_inputs(dense), backward, threads)
    ratio = visible_pairs(case) / visible_pairs(dense)
    return found._replace(results=lambda tensors: None, work_ratio=ratio)  # other inputs: nothing to compare


def _one_at_a_time(
    base: str, case: Case, data: dict[str, np.ndarray], backward: bool, threads: int
) -> Contestant:
    parts = []
    for row, length in enumerate(data["lengths"].tolist()):
        one = replace(case, batch=1, seq_q=length, seq_k=length, option="causal" if case.causal else "")
        inputs = {key: data[key][row : row + 1, :length] for key in ("query", "key", "value", "grad")}
        parts.append(contestant(base, one, inputs, backward, threads))

    def results(found: list[list[Any]]) -> list[np.ndarray]:
        arrays = [part.results(tensors) for part, tensors in zip(parts, found, strict=True)]
        return [np.concatenate([array[0] for array in same]) for same in zip(*arrays, strict=True)]

    return Contestant(lambda: [part.run() for part in parts], parts[0].prepare, results)


def _packed(case: Case, data: dict[str, np.ndarray], backward: bool) -> Contestant:
    import paddle

    import paddle_infra as pi

    valid = np.arange(case.seq_q) < data["lengths"][:, None]
    query, key, value, grad = (paddle.to_tensor(data[k][valid]) for k in ("query", "key", "value", "grad"))
    starts = paddle.to_tensor(np.concatenate([[0], np.cumsum(data["lengths"])]).astype("int32"))
    wanted = [query, key, value]
    for tensor in wanted:
        tensor.stop_gradient = not backward

    def run() -> list[paddle.Tensor]:
        out = pi.ops.attention_varlen(query, key, value, starts, starts, causal=case.causal, impl="fused")
        return [out, *paddle.grad(out, wanted, grad_outputs=grad)] if backward else [out]

    return Contestant(run, lambda: set_mode("fused"), lambda found: [tensor.numpy() for tensor in found])

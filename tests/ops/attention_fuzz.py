"""Random shapes and options of attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.ops.attention_cases import check, make_case
from tests.ops.attention_gold import Case


def random_case(seed: int) -> Case:
    """A case in which every option is on or off by chance. Most are small, some are longer than the kernels' blocks."""
    rng = np.random.default_rng([7, seed])

    def one_of(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    def by_chance(share: float) -> bool:
        return bool(rng.random() < share)

    most = one_of(4, 12, 12, 30, 30, 90, 150)
    batch, groups, kv_heads = int(rng.integers(1, 4)), one_of(1, 1, 2, 3), one_of(1, 1, 2)
    seq_q, seq_k = (int(n) for n in rng.integers(1, most + 1, 2))
    seq_k = seq_q if by_chance(0.3) else seq_k
    heads = groups * kv_heads
    full = (batch, heads, seq_q, seq_k)

    def pattern() -> tuple[int, ...]:
        sizes = tuple(1 if by_chance(0.4) else size for size in full)
        return sizes[int(rng.integers(0, 4)) :] if by_chance(0.3) else sizes

    options: dict[str, Any] = {"causal": by_chance(0.4)}
    kind = one_of("none", "none", "bias", "mask")
    if kind != "none":
        options[kind] = pattern()
    if by_chance(0.3):
        options["window"] = tuple(None if by_chance(0.3) else int(n) for n in rng.integers(0, most + 1, 2))
    if by_chance(0.3):
        options["kv_lengths"] = rng.integers(0, seq_k + 1, batch)
    if by_chance(0.2):
        options["q_lengths"] = rng.integers(0, seq_q + 1, batch)
    if by_chance(0.2):
        options["alibi"] = one_of((heads,), (batch, heads))
    if by_chance(0.2):
        options["softcap"] = one_of(0.5, 3.0, 30.0)
    if by_chance(0.3):
        options["scale"] = one_of(-0.3, 0.0, 0.07, 1.0)
    if by_chance(0.2):
        options["dropout_p"] = one_of(0.1, 0.5, 0.9)
    head_dim = one_of(1, 3, 8, 8, 16, 17, 32, 33, 64)
    return make_case(
        batch,
        seq_q,
        seq_k,
        heads,
        kv_heads,
        head_dim,
        seed=seed,
        logits=one_of(0.1, 1.0, 1.0, 4.0),
        **options,
    )


def check_random_cases(seeds: range) -> None:
    """Compare every case with the true result, in both precisions."""
    for seed in seeds:
        try:
            check(random_case(seed), seed=seed)
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error

"""The true result of embedding_norm, and cases to compare with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from paddle_infra.ops import embedding_norm
from paddle_infra.ops._dropout import draw_seed
from tests.ops.norm_gold import assert_exact, dropout_factor, norm_gold

LEAVES = ("word", "position", "token_type", "weight", "bias")
INDICES = ("position_ids", "token_type_ids")


@dataclass
class Case:
    """Tables, weights and what comes from above as float32, indices as int64 numpy arrays."""

    ids: np.ndarray
    word: np.ndarray
    grad_out: np.ndarray
    position: np.ndarray | None = None
    token_type: np.ndarray | None = None
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    position_ids: np.ndarray | None = None
    token_type_ids: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)


def make_case(
    batch: int,
    length: int,
    size: int,
    *,
    seed: int = 0,
    words: int = 23,
    position: bool = True,
    token_type: bool = True,
    weight: bool = True,
    bias: bool = True,
    position_ids: tuple[int, ...] | None = None,
    token_type_ids: tuple[int, ...] | None = None,
    **options: Any,
) -> Case:
    """Random inputs; ``position_ids`` and ``token_type_ids`` are the shapes of random indices."""
    rng = np.random.default_rng([batch, length, size, seed])
    positions, types = length + 5, 3

    def normal(*shape: int, mean: float = 0.0) -> np.ndarray:
        return (mean + rng.standard_normal(shape)).astype("float32")

    return Case(
        rng.integers(0, words, (batch, length)),
        normal(words, size),
        normal(batch, length, size),
        normal(positions, size) if position else None,
        normal(types, size) if token_type else None,
        normal(size, mean=1.0) if weight else None,
        normal(size) if bias else None,
        None if position_ids is None else rng.integers(0, positions, position_ids),
        None if token_type_ids is None else rng.integers(0, types, token_type_ids),
        options,
    )


def check(case: Case, seed: int = 0) -> None:
    """Assert that the fused results are as exact as the plain ones."""
    true, sizes = gold(case, seed)
    assert_exact(run(case, "fused", seed), run(case, "reference", seed), true, sizes)


def gold(case: Case, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Result and gradients in float64, and their sizes."""
    o, shape = case.options, case.ids.shape
    size, tokens = case.word.shape[1], case.ids.size
    paddle.seed(seed)
    dropout_p = o.get("dropout_p", 0.0) if o.get("training", True) else 0.0
    factor = dropout_factor(draw_seed().item() if dropout_p else None, tokens, size, dropout_p)
    default = {"position": np.arange(shape[1]), "token_type": np.zeros(shape[1], int)}
    places = {"word": case.ids.reshape(-1)}
    for name, otherwise in default.items():
        if getattr(case, name) is not None:
            given = getattr(case, f"{name}_ids")
            places[name] = np.broadcast_to(otherwise if given is None else given, shape).reshape(-1)
    parts = [getattr(case, name).astype("float64")[index] for name, index in places.items()]
    x = np.sum(parts, axis=0)
    x_size = np.sum(np.abs(parts), axis=0) if len(parts) > 1 else np.zeros(x.shape)
    found = norm_gold(
        x,
        x_size,
        np.ones(size) if case.weight is None else case.weight.astype("float64"),
        np.zeros(size) if case.bias is None else case.bias.astype("float64"),
        case.grad_out.astype("float64").reshape(tokens, size) * factor,
        o.get("norm", "layer") == "rms",
        o.get("epsilon", 1e-12),
    )
    true = {
        "out": (found.out * factor).reshape(*shape, size),
        "weight": found.grad_weight,
        "bias": found.grad_bias,
    }
    sizes = {**found.sizes, "out": found.sizes["out"] * factor.max(initial=1.0)}
    for name, index in places.items():
        for to, rows in ((true, found.grad_x), (sizes, found.grad_x_size)):
            to[name] = np.zeros(getattr(case, name).shape)
            np.add.at(to[name], index, rows)
        if name == "word" and o.get("padding_idx") is not None:
            true[name][o["padding_idx"]] = 0.0
        sizes[name] = float(sizes[name].max(initial=0.0))
    return true, sizes


def run(case: Case, impl: str, seed: int = 0, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Result and gradients of one implementation in dygraph."""
    paddle.seed(seed)
    leaves = {
        name: paddle.to_tensor(getattr(case, name).astype(dtype), stop_gradient=False)
        for name in LEAVES
        if getattr(case, name) is not None
    }
    indices = {
        name: paddle.to_tensor(getattr(case, name)) for name in INDICES if getattr(case, name) is not None
    }
    out = embedding_norm(paddle.to_tensor(case.ids), **leaves, **indices, impl=impl, **case.options)
    out.backward(paddle.to_tensor(case.grad_out.astype(dtype)))
    return {"out": out.numpy(), **{name: leaf.grad.numpy() for name, leaf in leaves.items()}}


#: Every option non-default at once, for a batch of 5 sequences of 37.
EVERYTHING = {
    "position_ids": (5, 37),
    "token_type_ids": (1, 37),
    "padding_idx": 4,
    "norm": "rms",
    "epsilon": 1e-3,
    "dropout_p": 0.3,
}


def random_case(seed: int) -> Case:
    """A case in which every option is on or off by chance."""
    rng = np.random.default_rng([5, seed])

    def one_of(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    size = one_of(1, 2, 3, 5, 15, 16, 17, 33, 64, 65, int(rng.integers(1, 200)), int(rng.integers(1, 800)))
    batch, length = int(rng.integers(1, 7)), int(rng.integers(1, one_of(4, 20, 70)))
    options: dict[str, Any] = {
        "norm": one_of("layer", "rms"),
        # A row of one or two features can have almost no variance.
        "epsilon": one_of(1e-5, 1e-3) if size < 5 else one_of(1e-12, 1e-5, 1e-3),
        "words": one_of(1, 5, 50, 500),
    }
    for name in ("position", "token_type", "weight", "bias"):
        options[name] = bool(rng.random() < 0.7)
    for name in ("position", "token_type"):
        if options[name] and rng.random() < 0.5:
            options[f"{name}_ids"] = one_of((batch, length), (1, length), (length,))
    if rng.random() < 0.4:
        options["dropout_p"] = one_of(0.1, 0.5, 0.9)
    if rng.random() < 0.3:
        options["padding_idx"] = int(rng.integers(options["words"]))
    return make_case(batch, length, size, seed=seed, **options)


def check_random_cases(seeds: range) -> None:
    """Compare every case with the true result."""
    for seed in seeds:
        try:
            check(random_case(seed), seed=seed)
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error

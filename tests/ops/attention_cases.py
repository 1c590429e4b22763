"""Cases of attention, and their comparison with the true results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.tolerances import error_budget, largest_error
from paddle_infra.ops import attention_with_lse, set_matmul_precision
from paddle_infra.ops._attention_dropout import draw_seed
from tests.ops.attention_gold import Case, bfloat16, gold

PRECISIONS = ("highest", "medium")
#: Rounding errors of float32 that no reference's luck takes away, relative to the sums without cancellation: where all
#: is cancelled (one visible key has no gradient), the plain implementation may be exact by chance.
ROUNDING = 3e-7
#: In bfloat16 the largest error of a result is that of the definition with all factors rounded, within a factor of 2
#: (kernels round other, equally good factors: weights before the division by their sum), or, of a result of a few
#: terms, one rounding of 2^-9 of each of the two factors.
MEDIUM_FACTOR, MEDIUM_ROUNDING = 2.0, 2.0**-8


def make_case(
    batch: int,
    seq_q: int,
    seq_k: int,
    heads: int = 2,
    kv_heads: int | None = None,
    head_dim: int = 8,
    *,
    seed: int = 0,
    logits: float = 1.0,
    bias: Sequence[int] | None = None,
    mask: Sequence[int] | None = None,
    kv_lengths: Sequence[int] | None = None,
    q_lengths: Sequence[int] | None = None,
    alibi: Sequence[int] | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Case:
    """Random inputs whose products have a standard deviation of ``logits``; shapes of bias, mask and slopes."""
    rng = np.random.default_rng(seed)
    kv_heads = heads if kv_heads is None else kv_heads
    q_shape, k_shape = (batch, seq_q, heads, head_dim), (batch, seq_k, kv_heads, head_dim)

    def normal(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape).astype("float32")
        return bfloat16(x).astype("float32") if dtype == "bfloat16" else x.astype(dtype).astype("float32")

    case = Case(
        query=normal(*q_shape) * np.float32(logits),
        key=normal(*k_shape),
        value=normal(*k_shape),
        grad_out=normal(*q_shape),
        grad_lse=rng.standard_normal((batch, heads, seq_q)).astype("float32"),
        options=options,
        dtype=dtype,
    )
    if bias is not None:
        case.bias = rng.standard_normal(tuple(bias)).astype("float32")
    if mask is not None:
        case.bias = rng.random(tuple(mask)) < 0.7
    if kv_lengths is not None:
        case.kv_lengths = np.array(kv_lengths, "int32")
    if q_lengths is not None:
        case.q_lengths = np.array(q_lengths, "int64")
    if alibi is not None:
        case.alibi_slopes = rng.uniform(0.0, 0.5, tuple(alibi)).astype("float32")
    return case


def tensors_of(case: Case) -> tuple[dict[str, paddle.Tensor], dict[str, Any]]:
    """Tensors that get a gradient, and all keyword arguments."""
    leaves = {
        name: paddle.to_tensor(getattr(case, name)).astype(case.dtype) for name in ("query", "key", "value")
    }
    options = dict(case.options)
    for name in ("bias", "kv_lengths", "q_lengths", "alibi_slopes"):
        if getattr(case, name) is not None:
            options[name] = paddle.to_tensor(getattr(case, name))
    if case.has_bias_gradient:
        leaves["bias"] = options["bias"]
    for leaf in leaves.values():
        leaf.stop_gradient = False
    return leaves, options


def run(case: Case, impl: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Results and all gradients, in dygraph."""
    leaves, options = tensors_of(case)
    paddle.seed(seed)
    out, lse = attention_with_lse(leaves["query"], leaves["key"], leaves["value"], impl=impl, **options)
    grad_out = paddle.to_tensor(case.grad_out).astype(case.dtype)
    paddle.autograd.backward([out, lse], [grad_out, paddle.to_tensor(case.grad_lse)])
    found = {"out": out, "lse": lse, **{name: leaf.grad for name, leaf in leaves.items()}}
    return {name: tensor.astype("float32").numpy() for name, tensor in found.items()}


def drawn_seed(seed: int) -> int:
    """The seed of dropout that the first call after ``paddle.seed(seed)`` draws."""
    paddle.seed(seed)
    return draw_seed().item()


def check(
    case: Case,
    precisions: Sequence[str] = PRECISIONS,
    *,
    factor: float = 1.0,
    seed: int = 0,
) -> None:
    """Assert that the fused results are as exact as the plain ones, and in bfloat16 as exact as that can be.

    Args:
        case: What to compute.
        precisions: Of matrix products.
        factor: How many times the plain implementation's error is allowed; say why where it is not 1.
        seed: Of Paddle's generator.
    """
    dropout_seed = drawn_seed(seed) if case.options.get("dropout_p") else None
    true, plain = gold(case, seed=dropout_seed), run(case, "reference", seed)
    for precision in precisions:
        with set_matmul_precision(precision):
            fused = run(case, "fused", seed)
        assert fused.keys() == plain.keys() == true.results.keys()
        rounded = gold(case, seed=dropout_seed, rounding=bfloat16) if precision == "medium" else true
        for name, truth in true.results.items():
            # A query that sees no key has an lse of -infinity.
            is_empty = np.isneginf(truth)
            for found in (fused, plain):
                assert np.array_equal(np.isneginf(found[name]), is_empty), name
            dtype = "float32" if name in ("lse", "bias") else case.dtype
            kept = truth[~is_empty]
            budget = (
                error_budget(plain[name][~is_empty], kept, dtype, factor) + ROUNDING * true.magnitudes[name]
            )
            if precision == "medium":
                own_error = np.abs(rounded.results[name][~is_empty] - kept).max(initial=0.0)
                budget += MEDIUM_FACTOR * own_error + MEDIUM_ROUNDING * true.magnitudes[name]
            error = largest_error(fused[name][~is_empty], kept)
            assert error <= budget, f"{name}, {precision}: error {error:.3g}, allowed {budget:.3g}"


#: Every option non-default at once, for 2 batch entries, 4 heads on 2, 37 queries and 71 keys.
EVERYTHING = {
    "bias": (2, 1, 37, 71),
    "kv_lengths": (71, 40),
    "q_lengths": (30, 37),
    "alibi": (2, 4),
    "causal": True,
    "window": (33, 5),
    "softcap": 2.5,
    "scale": -0.6,
    "dropout_p": 0.3,
}


def everything(seed: int = 0, **options: Any) -> Case:
    """One case with everything non-default, and tails everywhere."""
    return make_case(2, 37, 71, 4, 2, 24, seed=seed, **{**EVERYTHING, **options})


def cases_of_targets() -> list[Case]:
    """A few cases with tails of every kind, for what is run once per instruction set."""
    return [
        make_case(1, 1, 1, 1, head_dim=1),
        make_case(2, 3, 5, 4, 2, 8, causal=True),
        make_case(1, 65, 130, 2, 1, 40, causal=True, seed=1),
        make_case(2, 70, 67, 2, 2, 17, window=(20, 3), bias=(1, 2, 70, 67), seed=2),
        make_case(1, 130, 200, 1, 1, 64, mask=(1, 1, 130, 200), seed=3),
        make_case(1, 33, 129, 2, 2, 96, kv_lengths=[100], softcap=3.0, seed=4),
        make_case(1, 5, 70, 2, 1, 256, alibi=(2,), seed=5),
        make_case(2, 20, 20, 2, 2, 32, dropout_p=0.25, bias=(20, 20), seed=6),
        make_case(1, 40, 50, 2, 1, 33, dtype="float16", causal=True, seed=7),
        make_case(1, 40, 50, 2, 1, 33, dtype="bfloat16", causal=True, seed=8),
        everything(),
    ]

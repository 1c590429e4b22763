"""Cases of attention, and their comparison with the true results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.tolerances import error_budget, largest_error
from paddle_infra.ops import attention_with_lse, set_matmul_precision
from paddle_infra.ops._dropout import draw_seed
from tests.ops.attention_gold import Case, bfloat16, gold
from tests.ops.attention_inputs import everything, make_case

PRECISIONS = ("highest", "medium")
#: Where all is cancelled (one visible key has no gradient) or results are few, the plain implementation may be exact by
#: chance: a kernel may always have one rounding error of its dtype at the worst place. For narrow dtypes the backward
#: pass starts from the rounded result, which the plain implementation does not.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
#: Medium is as exact as the definition with all factors rounded to bfloat16, within a factor of 2: kernels round other,
#: equally good factors, such as weights before the division by their sum. Where roundings are so few that this is a
#: matter of luck, half of one more.
MEDIUM_FACTOR, MEDIUM_ROUNDING = 2.0, 2.0**-9


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


def check(case: Case, precisions: Sequence[str] = PRECISIONS, seed: int = 0) -> None:
    """Assert that the fused results are as exact as the plain ones, and in bfloat16 as exact as that can be.

    Args:
        case: What to compute.
        precisions: Of matrix products.
        seed: Of Paddle's generator, for dropout.
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
            dtype = "float32" if name == "lse" else case.dtype
            kept = truth[~is_empty]
            budget = error_budget(plain[name][~is_empty], kept, dtype)
            budget += ROUNDING[dtype] * true.magnitudes[name]
            if precision == "medium":
                budget += MEDIUM_ROUNDING * true.magnitudes[name]
                budget += MEDIUM_FACTOR * largest_error(rounded.results[name][~is_empty], kept)
            error = largest_error(fused[name][~is_empty], kept)
            assert error <= budget, f"{name}, {precision}: error {error:.3g}, allowed {budget:.3g}"


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

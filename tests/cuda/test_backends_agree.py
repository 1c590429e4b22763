"""The CUDA kernels, in the emulator, and the CPU kernels, through Paddle, find the same from the same inputs.

Each may be off from the true result by a budget of its own; so from each other by the sum of both, which is taken to be
twice that of the CUDA kernels: those round more. What is not a matter of rounding is the same exactly: which elements
dropout drops, which classes come first, what is zero or not a number.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest

from paddle_infra._core.tolerances import largest_error
from paddle_infra.ops import attention_decode, attention_varlen
from tests.cuda.attention_decode_emulated import EmulatedDecode, random_decode_case
from tests.cuda.attention_emulated import check_within, pack, true_and_budgets
from tests.cuda.attention_f32_emulated import EmulatedFloat32Attention, budgets_f32
from tests.cuda.emulator import from_bits
from tests.cuda.linear_cross_entropy_emulated import check_against, in_format, random_case
from tests.cuda.linear_cross_entropy_emulated import true_and_budgets as true_and_budgets_of_head
from tests.cuda.linear_topk_emulated import random_case as random_topk_case
from tests.cuda.linear_topk_emulated import true_and_budget
from tests.cuda.test_attention_fwd import in_format as attention_in_format
from tests.cuda.test_linear_cross_entropy_cuda import OPTIONS
from tests.ops import linear_topk_cases
from tests.ops.attention_cases import drawn_seed, everything, make_case, run, tensors_of
from tests.ops.attention_gold import gold
from tests.ops.attention_inputs import random_case as random_attention_case
from tests.ops.linear_cross_entropy_cases import make_case as make_head_case
from tests.ops.linear_cross_entropy_cases import run as run_head

HALF = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
FORMATS = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
GRADIENTS = ("query", "key", "value")

ATTENTION_CASES = {
    "plain": lambda dtype: make_case(2, 70, 90, 4, 2, 64, dtype=dtype),
    "causal": lambda dtype: make_case(1, 130, 130, 2, 1, 128, dtype=dtype, causal=True),
    "dropout": lambda dtype: make_case(2, 70, 90, 4, 2, 40, dtype=dtype, causal=True, dropout_p=0.5),
    "broadcast bias": lambda dtype: make_case(2, 70, 90, 4, 2, 32, dtype=dtype, bias=(1, 4, 1, 90)),
    "mask": lambda dtype: make_case(1, 65, 70, 2, 2, 17, dtype=dtype, mask=(65, 70)),
    "no keys": lambda dtype: make_case(2, 70, 40, 2, 1, 64, dtype=dtype, causal=True, kv_lengths=[0, 30]),
    "everything": lambda dtype: attention_in_format(everything(), dtype),
}


def twice(budgets: dict[str, float]) -> dict[str, float]:
    return {name: 2 * budget for name, budget in budgets.items()}


def run_emulated(kernels, case, seed: int) -> dict[str, np.ndarray]:
    """Results and all gradients, by the names that the CPU's have."""
    if case.dtype == "float32":
        return EmulatedFloat32Attention(kernels.emulator).run(case, seed)
    found = kernels.run(case, seed) | kernels.run_both(case, seed)
    del found["stats"]
    return found


def check_attention(kernels, case, seed: int = 3) -> None:
    """Compare results and all gradients of attention."""
    drawn = drawn_seed(seed)
    on_cpu, found = run(case, "fused", seed), run_emulated(kernels, case, drawn)
    assert found.keys() == on_cpu.keys()
    if case.dtype == "float32":
        check_within(found, on_cpu, twice(budgets_f32(gold(case, seed=drawn))))
    else:
        check_within(found, on_cpu, twice(true_and_budgets(case, drawn)[1]))


@FORMATS
@pytest.mark.parametrize("name", ATTENTION_CASES)
def test_attention_and_its_gradients(attention, dtype, name):
    check_attention(attention, ATTENTION_CASES[name](dtype))


@FORMATS
def test_attention_in_random_cases(attention, dtype):
    for seed in range(300, 320):
        try:
            check_attention(attention, attention_in_format(random_attention_case(seed), dtype), seed)
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error


@FORMATS
@pytest.mark.parametrize("dropout_p", [0.1, 0.6])
def test_dropout_drops_the_same_elements(attention, dtype, dropout_p):
    """If values are rows of the identity, the output is the weights; if its gradient is, so is that of the values."""
    size = 64
    case = make_case(2, size, size, 4, 2, size, dtype=dtype, dropout_p=dropout_p)
    for array in (case.value, case.grad_out):
        array[...] = np.eye(size, dtype="float32")[:, None]
    drawn = drawn_seed(5)
    found, on_cpu = run_emulated(attention, case, drawn), run(case, "fused", 5)
    is_dropped = found["out"] == 0.0
    assert abs(is_dropped.mean() - dropout_p) < 0.02
    np.testing.assert_array_equal(is_dropped, on_cpu["out"] == 0.0)
    np.testing.assert_array_equal(is_dropped, gold(case, seed=drawn).results["out"] == 0.0)
    # A key's gradient sums two heads here: zero where both have dropped.
    np.testing.assert_array_equal(found["value"] == 0.0, on_cpu["value"] == 0.0)
    assert (found["value"] == 0.0).any()


@HALF
def test_packed_attention_and_its_gradients(attention, dtype):
    """One sequence has no queries, one no keys, one is longer than a tile."""
    lengths = [(70, 90), (0, 5), (33, 33), (5, 0), (130, 66)]
    cases = [
        make_case(1, *each, 4, 2, 40, seed=seed, dtype=dtype, causal=True)
        for seed, each in enumerate(lengths)
    ]
    for case in cases:
        case.grad_lse[...] = 0.0  # attention_varlen gives no lse
    p, arrays, whole = pack(cases)
    found = attention.differentiate(p, arrays, whole, has_grad_lse=False)
    found["out"] = from_bits(arrays["o"], dtype)
    leaves, options = tensors_of(whole)
    starts = (paddle.to_tensor(arrays[name]) for name in ("cu_seqlens_q", "cu_seqlens_k"))
    out = attention_varlen(*(leaf[0] for leaf in leaves.values()), *starts, impl="fused", **options)
    out.backward(paddle.to_tensor(whole.grad_out[0]).astype(dtype))
    on_cpu = {"out": out.unsqueeze(0), **{name: leaf.grad for name, leaf in leaves.items()}}
    budgets = [true_and_budgets(case)[1] for case in cases]
    most = {name: max(budget[name] for budget in budgets) for name in found}
    check_within(found, {name: x.astype("float32").numpy() for name, x in on_cpu.items()}, twice(most))


def check_decode(kernels: EmulatedDecode, case) -> None:
    """Compare attention to a cache."""
    leaves, options = tensors_of(case)
    with paddle.no_grad():
        on_cpu = attention_decode(*(leaves[name] for name in GRADIENTS), impl="fused", **options)
    if case.dtype == "float32":
        budgets = budgets_f32(gold(case, align_to_lengths=True))
    else:
        budgets = true_and_budgets(case, align_to_lengths=True)[1]
    found = {"out": kernels.run(case)["out"]}
    check_within(found, {"out": on_cpu.astype("float32").numpy()}, twice(budgets))


@FORMATS
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 700), (1, 3, 300)], ids=str)
def test_attention_to_a_cache(attention, dtype, shape):
    kernels = EmulatedDecode(attention.emulator)
    check_decode(kernels, make_case(*shape, 8, 2, 64, dtype=dtype, causal=True))
    options = {"kv_lengths": [shape[2] // 2] * shape[0], "softcap": 5.0, "alibi": (8,)}
    check_decode(kernels, make_case(*shape, 8, 2, 48, dtype=dtype, causal=False, **options))


@FORMATS
def test_attention_to_a_cache_in_random_cases(attention, dtype):
    kernels, count = EmulatedDecode(attention.emulator), 0
    for seed in range(100, 130):
        case = random_decode_case(seed, dtype)
        if case.q_lengths is not None:  # attention_decode has none
            continue
        check_decode(kernels, case)
        count += 1
    assert count > 20


def check_head(head, case, dtype: str) -> None:
    """Compare loss and gradients of a head."""
    case = in_format(case, dtype)
    budgets = true_and_budgets_of_head(case, dtype)[1]
    label = f"{dtype}, {case.options}"
    check_against(head.run(case, dtype), run_head(case, "fused"), twice(budgets), label)


@FORMATS
@pytest.mark.parametrize("rows", [20, 77])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cross_entropy_and_its_gradients(head, dtype, rows, options):
    check_head(head, make_head_case(rows, 50, 301, **options), dtype)


@FORMATS
@pytest.mark.parametrize(
    "shape", [(1, 1, 2), (40, 33, 9), (252, 107, 123), (5, 16, 5003), (300, 3, 2050)], ids=str
)
def test_cross_entropy_in_every_mode_of_the_cpu(head, dtype, shape):
    """Few classes, classes that fit in the cache, many."""
    check_head(head, make_head_case(*shape, label_smoothing=0.1, weight_layout="dv"), dtype)


@FORMATS
def test_cross_entropy_in_random_cases(head, dtype):
    for seed in range(200, 240):
        check_head(head, random_case(seed), dtype)


@FORMATS
def test_rows_that_do_not_count_and_rows_that_are_not_numbers_are_the_same(head, dtype):
    case = in_format(make_head_case(40, 8, 300, ignored=0.4, reduction="none"), dtype)
    counting = np.flatnonzero(case.label >= 0)
    case.hidden[counting[3], 2] = np.nan
    found, on_cpu = head.run(case, dtype), run_head(case, "fused")
    for name in ("loss", "hidden"):
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(on_cpu[name]), err_msg=name)
        np.testing.assert_array_equal(found[name] == 0.0, on_cpu[name] == 0.0, err_msg=name)
    assert np.flatnonzero(np.isnan(found["loss"])).tolist() == [counting[3]]
    assert np.flatnonzero(found["loss"] == 0.0).tolist() == np.flatnonzero(case.label < 0).tolist()


@FORMATS
def test_the_most_probable_classes_in_random_cases(topk, dtype):
    """Near ties may change places, so classes are judged by their true probabilities."""
    for seed in range(200, 240):
        case = replace(in_format(random_topk_case(seed), dtype), precision="highest")
        prob, index = topk.run(case, dtype)
        prob_of_cpu, index_of_cpu = linear_topk_cases.run(case, "fused")
        gold_of_all, _, budget = true_and_budget(case)
        assert largest_error(prob, prob_of_cpu.astype("float64")) <= 2 * budget, seed
        other = index != index_of_cpu
        of_gpu, of_cpu = (np.take_along_axis(gold_of_all, i, 1)[other] for i in (index, index_of_cpu))
        assert largest_error(of_gpu, of_cpu) <= 2 * budget, seed


@FORMATS
@pytest.mark.parametrize("layout", ["vd", "dv"])
@pytest.mark.parametrize(("rows", "k"), [(1, 1), (7, 16), (33, 5), (130, 16)])
def test_the_most_probable_classes_are_the_same_on_ties(topk, dtype, layout, rows, k):
    """Logits are small whole numbers, which every format has: most are equal to many others."""
    rng = np.random.default_rng([rows, k])
    hidden, weight = (rng.integers(-2, 3, (n, 8)).astype("float32") for n in (rows, 1000))
    bias = rng.integers(-3, 4, 1000).astype("float32")
    for is_log in (False, True):
        case = linear_topk_cases.Case(hidden, weight, bias, k, layout=layout, is_log=is_log)
        prob, index = topk.run(case, dtype)
        prob_of_cpu, index_of_cpu = linear_topk_cases.run(case, "fused")
        np.testing.assert_array_equal(index, index_of_cpu)
        np.testing.assert_allclose(prob, prob_of_cpu, rtol=1e-5, atol=1e-6)
        logits = hidden @ weight.T + bias
        best = np.take_along_axis(logits, index, 1)
        assert k == 1 or (np.diff(best, axis=1) == 0.0).any(), "no ties"

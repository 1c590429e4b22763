"""Attention's CUDA kernels in the emulator: cases as they are for the CPU, and the comparison with float64."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from paddle_infra._core.tolerances import largest_error
from tests.cuda.emulator import Emulator, aligned_copy, from_bits, to_bits, unwritten
from tests.ops.attention_gold import Case, Gold, bfloat16, gold
from tests.ops.attention_inputs import make_case

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
#: Kernels round other, equally good factors: weights before the division by their sum.
FACTOR = 2.0
I64, F32, POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class Strides(ctypes.Structure):
    """AttentionStrides."""

    _fields_ = (("batch", I64), ("sequence", I64), ("head", I64))


class Params(ctypes.Structure):
    """AttentionParams of csrc/attention/attention.h."""

    _fields_ = (
        ("dtype", ctypes.c_int),
        *((name, POINTER) for name in ("q", "k", "v")),
        *((name, Strides) for name in ("q_stride", "k_stride", "v_stride")),
        *((name, I64) for name in ("batch", "seq_q", "seq_k", "heads", "kv_heads", "head_dim")),
        *((name, POINTER) for name in ("cu_seqlens_q", "cu_seqlens_k", "q_lengths", "kv_lengths")),
        *((name, I64) for name in ("window_left", "window_right")),
        ("align_to_lengths", ctypes.c_bool),
        ("bias", POINTER),
        ("bias_stride", I64 * 4),
        ("bias_is_mask", ctypes.c_bool),
        ("alibi_slopes", POINTER),
        ("alibi_stride", I64 * 2),
        *((name, F32) for name in ("scale", "softcap", "dropout_p")),
        ("seed", POINTER),
        *((name, ctypes.c_int) for name in ("precision", "threads")),
        *((name, POINTER) for name in ("workspace", "o", "stats", "lse")),
        ("lse_stride", I64 * 2),
        *((name, POINTER) for name in ("grad_o", "grad_lse", "grad_q", "grad_k", "grad_v", "grad_bias")),
        ("grad_bias_stride", I64 * 4),
    )


def in_format(case: Case, dtype: str) -> Case:
    """Return the case with inputs that the format has."""
    case.dtype = dtype
    for name in ("query", "key", "value", "grad_out"):
        array = getattr(case, name)
        rounded = bfloat16(array) if dtype == "bfloat16" else array.astype(dtype)
        setattr(case, name, rounded.astype("float32"))
    return case


class EmulatedAttention:
    """Runs cases of tests/ops/attention_cases.py on emulated kernels."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.declare(emulator.library)

    @staticmethod
    def declare(library: ctypes.CDLL) -> None:
        """Tell ctypes what the entry points take."""
        for name in ("fwd", "bwd"):
            function = getattr(library, f"paddle_infra_attention_cuda_{name}", None)
            if function is not None:
                function.argtypes, function.restype = [ctypes.POINTER(Params), POINTER], ctypes.c_char_p
        library.paddle_infra_attention_cuda_bwd_workspace.argtypes = [ctypes.POINTER(Params)]
        library.paddle_infra_attention_cuda_bwd_workspace.restype = I64

    def run(self, case: Case, seed: int = 0, align_to_lengths: bool = False) -> dict[str, np.ndarray]:
        """Return out and lse."""
        p, arrays = make_params(case, seed, align_to_lengths)
        self.call("fwd", p, arrays)
        return {"out": from_bits(arrays["o"], case.dtype), "lse": arrays["lse"], "stats": arrays["stats"]}

    def run_both(self, case: Case, seed: int = 0, align_to_lengths: bool = False) -> dict[str, np.ndarray]:
        """Run forward and backward; return the gradients."""
        p, arrays = make_params(case, seed, align_to_lengths)
        return self.differentiate(p, arrays, case)

    def differentiate(
        self,
        p: Params,
        arrays: dict[str, np.ndarray],
        case: Case,
        has_grad_lse: bool = True,
        shifted: str | None = None,
    ) -> dict[str, np.ndarray]:
        """The same of parameters made before; ``shifted`` starts at an odd address. Counters are those of backward."""
        if shifted in arrays:
            shift(p, arrays, shifted)
        self.call("fwd", p, arrays)
        add_gradients(p, arrays, case, has_grad_lse)
        if shifted is not None:
            shift(p, arrays, shifted)
        size = self.emulator.library.paddle_infra_attention_cuda_bwd_workspace(ctypes.byref(p))
        arrays["workspace"] = unwritten((size // 4,), "float32")
        p.workspace = arrays["workspace"].ctypes.data
        self.emulator.take_counters()
        self.call("bwd", p, arrays)
        found = {name: from_bits(arrays[f"grad_{name[0]}"], case.dtype) for name in ("query", "key", "value")}
        return {**found, "bias": arrays["grad_bias"]} if case.has_bias_gradient else found

    def call(self, name: str, p: Params, arrays: dict[str, np.ndarray]) -> None:
        """Run an entry point, which may use these arrays and nothing else."""
        self.emulator.launch(getattr(self.emulator.library, f"paddle_infra_attention_cuda_{name}"), p, arrays)


def make_params(
    case: Case, seed: int, align_to_lengths: bool = False
) -> tuple[Params, dict[str, np.ndarray]]:
    """Return the parameters, and the arrays that they point to; keys that do not exist are NaN."""
    o = case.options
    batch, seq_q, heads, dim = case.query.shape
    seq_k, kv_heads = case.key.shape[1:3]
    a: dict[str, Any] = {name: to_bits(getattr(case, long), case.dtype)
                         for name, long in (("q", "query"), ("k", "key"), ("v", "value"))}  # fmt: skip
    if case.kv_lengths is not None:
        for b, length in enumerate(case.kv_lengths):
            a["k"][b, length:] = a["v"][b, length:] = 0xFFFF
    a |= {"o": unwritten(case.query.shape, "uint16"), "lse": unwritten((batch, heads, seq_q), "float32"),
          "stats": unwritten((batch, heads, seq_q, 2), "float32"),
          "seed": aligned_copy(np.array([seed], "int64"))}  # fmt: skip
    for name in ("kv_lengths", "q_lengths"):
        if getattr(case, name) is not None:
            a[name] = aligned_copy(getattr(case, name).astype("int32"))
    left, right = o.get("window") or (None, None)
    if o.get("causal", False):
        right = 0 if right is None else min(right, 0)
    scale = o.get("scale")
    p = Params(dtype=DTYPES[case.dtype], batch=batch, seq_q=seq_q, seq_k=seq_k, heads=heads, kv_heads=kv_heads,
               head_dim=dim, window_left=-1 if left is None else left, window_right=-1 if right is None else right,
               scale=dim**-0.5 if scale is None else scale, softcap=o.get("softcap", 0.0),
               dropout_p=o.get("dropout_p", 0.0), align_to_lengths=align_to_lengths, threads=1)  # fmt: skip
    p.q_stride = Strides(seq_q * heads * dim, heads * dim, dim)
    p.k_stride = p.v_stride = Strides(seq_k * kv_heads * dim, kv_heads * dim, dim)
    p.lse_stride = (I64 * 2)(heads * seq_q, seq_q)
    if case.bias is not None:
        shape = (1,) * (4 - case.bias.ndim) + case.bias.shape
        strides = [0 if size == 1 else int(np.prod(shape[axis + 1 :])) for axis, size in enumerate(shape)]
        a["bias"] = aligned_copy(case.bias.astype("uint8") if case.bias.dtype == bool else case.bias)
        p.bias_stride, p.bias_is_mask = (I64 * 4)(*strides), case.bias.dtype == bool
        p.grad_bias_stride = (I64 * 4)(*strides)
    if case.alibi_slopes is not None:
        a["alibi_slopes"] = aligned_copy(case.alibi_slopes)
        p.alibi_stride = (I64 * 2)(heads if case.alibi_slopes.ndim == 2 else 0, 1)
    for name, array in a.items():
        setattr(p, name, array.ctypes.data)
    return p, a


def shift(p: Params, arrays: dict[str, np.ndarray], name: str) -> None:
    """Let an array start where nothing more than one of its numbers can be copied at a time."""
    arrays[name] = aligned_copy(arrays[name], offset=arrays[name].itemsize)
    setattr(p, name, arrays[name].ctypes.data)


def add_gradients(p: Params, a: dict[str, np.ndarray], case: Case, has_grad_lse: bool) -> None:
    """Add what the backward pass reads and writes to the parameters."""
    new = {"grad_o": to_bits(case.grad_out, case.dtype)}
    if has_grad_lse:
        new["grad_lse"] = aligned_copy(case.grad_lse)
    for name, like in (("grad_q", case.query), ("grad_k", case.key), ("grad_v", case.value)):
        new[name] = unwritten(like.shape, "uint16")
    if case.has_bias_gradient:
        new["grad_bias"] = unwritten(case.bias.shape, "float32")
    for name, array in new.items():
        setattr(p, name, array.ctypes.data)
    a |= new


def pack(cases: Sequence[Case]) -> tuple[Params, dict[str, np.ndarray], Case]:
    """Put cases of one batch entry each one after another; return also a case with all rows."""
    joined = {
        name: np.concatenate([getattr(case, name) for case in cases], axis=2 if name == "grad_lse" else 1)
        for name in ("query", "key", "value", "grad_out", "grad_lse")
    }
    whole = replace(cases[0], **joined)
    p, arrays = make_params(whole, 0, False)
    for name, long in (("q", "query"), ("k", "key")):
        lengths = [getattr(case, long).shape[1] for case in cases]
        arrays[f"cu_seqlens_{name}"] = aligned_copy(np.cumsum([0, *lengths]).astype("int32"))
        setattr(p, f"cu_seqlens_{name}", arrays[f"cu_seqlens_{name}"].ctypes.data)
        setattr(p, f"seq_{name}", max(lengths))
    p.batch = len(cases)
    for stride in (p.q_stride, p.k_stride, p.v_stride):
        stride.batch = 1 << 50  # not used
    p.lse_stride[0] = 1 << 50
    return p, arrays, whole


def true_and_budgets(
    case: Case, seed: int = 0, align_to_lengths: bool = False
) -> tuple[Gold, dict[str, float]]:
    """Return what is true, and how far off each result may be.

    That is as far as the definition with factors and results rounded to the format is.
    """
    rounding = bfloat16 if case.dtype == "bfloat16" else lambda x: x.astype("float16").astype("float64")
    true = gold(case, seed=seed, align_to_lengths=align_to_lengths)
    rounded = gold(case, seed=seed, align_to_lengths=align_to_lengths, rounding=rounding)
    budgets = {}
    for name, truth in true.results.items():
        is_there = ~np.isneginf(truth)
        # Of the result, and of the forward result that the backward pass starts from.
        own = 2.0**-22 if name == "lse" else ROUNDING[case.dtype]
        budgets[name] = FACTOR * largest_error(rounded.results[name][is_there], truth[is_there])
        budgets[name] += own * true.magnitudes[name]
    return true, budgets


def check_within(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], budgets: dict[str, float]
) -> None:
    """Assert that results are as near to others as the budgets say, and -infinity in the same places."""
    for name, values in found.items():
        is_empty = np.isneginf(expected[name])
        assert np.array_equal(np.isneginf(values), is_empty), name
        error = largest_error(values[~is_empty], expected[name][~is_empty])
        assert error <= budgets[name], f"{name}: error {error:.3g}, allowed {budgets[name]:.3g}"


def check_forward(
    kernels: EmulatedAttention, case: Case, seed: int = 0, align_to_lengths: bool = False
) -> None:
    """Assert that the result is as exact as the definition with factors and result rounded to the format."""
    found = kernels.run(case, seed, align_to_lengths)
    true, budgets = true_and_budgets(case, seed, align_to_lengths)
    check_within({name: found[name] for name in ("out", "lse")}, true.results, budgets)


def check_backward(
    kernels: EmulatedAttention, case: Case, seed: int = 0, align_to_lengths: bool = False
) -> None:
    """The same of all gradients: the case's numbers have to be numbers that its format has."""
    found = kernels.run_both(case, seed, align_to_lengths)
    true, budgets = true_and_budgets(case, seed, align_to_lengths)
    assert set(found) == set(true.results) - {"out", "lse"}
    check_within(found, true.results, budgets)


def check_addresses(kernels: EmulatedAttention) -> None:
    """Assert that it changes nothing where an array starts."""
    case = make_case(1, 35, 40, 2, 1, 32, dtype="bfloat16")
    expected = kernels.run_both(case)
    for name in ("q", "k", "v", "o", "grad_o", "grad_q", "grad_k", "grad_v"):
        found = kernels.differentiate(*make_params(case, 0), case, shifted=name)
        for result, value in expected.items():
            assert np.array_equal(found[result], value), f"{name} is shifted: gradient of {result}"


def check_bias_sums(kernels: EmulatedAttention, bias: Sequence[int]) -> None:
    """Assert that the gradient of a broadcast bias is the sum of what it is without: to float32's rounding.

    Comparison with the definition has to allow for 16-bit rounding of every score, which is more than a few are worth.
    """
    sizes = (2, 4, 130, 130)
    case = make_case(2, 130, 130, 4, 2, 32, dtype="bfloat16", bias=bias, causal=True, kv_lengths=[130, 77])
    found = kernels.run_both(case)["bias"]
    whole = replace(case, bias=np.ascontiguousarray(np.broadcast_to(case.bias, sizes)))
    each = kernels.run_both(whole)["bias"].astype("float64")
    axes = tuple(axis for axis in range(4) if bias[axis] == 1)
    budget = 2.0**-20 * np.abs(each).sum(axes).max()
    error = largest_error(found, each.sum(axes, keepdims=True))
    assert error <= budget, f"gradient of bias: error {error:.3g}, allowed {budget:.3g}"

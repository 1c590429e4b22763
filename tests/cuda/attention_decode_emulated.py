"""Kernels of attention to a cache in the emulator: random cases, and the comparison with float64."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tests.cuda.attention_emulated import (
    I64,
    POINTER,
    Params,
    check_within,
    make_params,
    shift,
    true_and_budgets,
)
from tests.cuda.attention_f32_emulated import check_results, make_params_f32
from tests.cuda.emulator import Emulator, aligned_copy, from_bits
from tests.ops.attention_gold import Case, gold
from tests.ops.attention_inputs import make_case


class EmulatedDecode:
    """Runs cases of tests/ops/attention_cases.py, without dropout, on emulated kernels."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.function = emulator.library.paddle_infra_attention_decode_cuda
        self.function.argtypes, self.function.restype = [ctypes.POINTER(Params), POINTER], ctypes.c_char_p
        self.workspace_bytes = emulator.library.paddle_infra_attention_decode_cuda_workspace
        self.workspace_bytes.argtypes, self.workspace_bytes.restype = [ctypes.POINTER(Params)], I64

    def run(
        self, case: Case, align_to_lengths: bool = True, shifted: str | None = None
    ) -> dict[str, np.ndarray]:
        """Return out and lse; ``shifted`` starts at an odd address."""
        make = make_params_f32 if case.dtype == "float32" else make_params
        p, arrays = make(case, 0, align_to_lengths)
        p.stats = None
        del arrays["stats"]
        if shifted is not None:
            shift(p, arrays, shifted)
        workspace = aligned_copy(np.full(self.workspace_bytes(ctypes.byref(p)), 0xFF, "uint8"))
        p.workspace = workspace.ctypes.data if workspace.size else None
        self.emulator.launch(self.function, p, arrays | ({"workspace": workspace} if workspace.size else {}))
        out = arrays["o"] if case.dtype == "float32" else from_bits(arrays["o"], case.dtype)
        return {"out": out, "lse": arrays["lse"]}


def check_decode(kernels: EmulatedDecode, case: Case, align_to_lengths: bool = True) -> None:
    """Assert that the result is as exact as the definition with factors and result rounded to the format."""
    found = kernels.run(case, align_to_lengths)
    if case.dtype == "float32":
        check_results(found, gold(case, align_to_lengths=align_to_lengths))
    else:
        true, budgets = true_and_budgets(case, align_to_lengths=align_to_lengths)
        check_within(found, true.results, budgets)


def check_decode_addresses(kernels: EmulatedDecode, dtype: str) -> None:
    """Assert that it changes nothing where an array starts."""
    case = make_case(1, 3, 600, 2, 1, 32, dtype=dtype)
    expected = kernels.run(case)
    for name in ("q", "k", "v", "o"):
        found = kernels.run(case, shifted=name)
        for result, value in expected.items():
            assert np.array_equal(found[result], value), f"{name} is shifted: {result}"


def random_decode_case(seed: int, dtype: str) -> Case:
    """Up to 16 queries, up to 48 that share a key-value head; one split of keys or several; options by chance."""
    rng = np.random.default_rng([11, seed])

    def one_of(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    def by_chance(share: float) -> bool:
        return bool(rng.random() < share)

    batch, groups, kv_heads = int(rng.integers(1, 3)), one_of(1, 2, 3), one_of(1, 2)
    seq_q, seq_k = one_of(1, 1, 2, 5, 16), int(rng.integers(1, one_of(20, 100, 600, 900)))
    heads = groups * kv_heads
    options: dict[str, Any] = {"causal": by_chance(0.7)}
    kind = one_of("none", "none", "bias", "mask")
    if kind != "none":
        options[kind] = tuple(1 if by_chance(0.4) else size for size in (batch, heads, seq_q, seq_k))
    if by_chance(0.3):
        options["window"] = tuple(None if by_chance(0.3) else int(n) for n in rng.integers(0, seq_k + 1, 2))
    if by_chance(0.7):
        options["kv_lengths"] = rng.integers(0, seq_k + 1, batch)
    if by_chance(0.1):
        options["q_lengths"] = rng.integers(0, seq_q + 1, batch)
    if by_chance(0.2):
        options["alibi"] = one_of((heads,), (batch, heads))
    if by_chance(0.2):
        options["softcap"] = one_of(0.5, 3.0, 30.0)
    if by_chance(0.3):
        options["scale"] = one_of(-0.3, 0.0, 0.07, 1.0)
    head_dim = one_of(1, 3, 8, 17, 32, 64, 72, 128)
    return make_case(batch, seq_q, seq_k, heads, kv_heads, head_dim, seed=seed, dtype=dtype, **options)

"""Attention's float32 CUDA kernels in the emulator: forward and all gradients, and the comparison with float64."""

from __future__ import annotations

import ctypes

import numpy as np

from tests.cuda.attention_emulated import I64, POINTER, Params, Strides, check_within, make_params, shift
from tests.cuda.emulator import Emulator, aligned_copy, unwritten
from tests.ops.attention_gold import Case, Gold, gold
from tests.ops.attention_inputs import make_case

#: Rounding errors at the worst place; see Gold.magnitudes.
ROUNDINGS = 4
ROUNDING = 2.0**-24
GRADIENTS = {"query": "grad_q", "key": "grad_k", "value": "grad_v", "bias": "grad_bias"}


class EmulatedFloat32Attention:
    """Runs cases of tests/ops/attention_cases.py on emulated kernels."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        library = emulator.library
        for name in ("fwd", "bwd"):
            function = getattr(library, f"paddle_infra_attention_f32_cuda_{name}")
            function.argtypes, function.restype = [ctypes.POINTER(Params), POINTER], ctypes.c_char_p
        self.forward = library.paddle_infra_attention_f32_cuda_fwd
        self.backward = library.paddle_infra_attention_f32_cuda_bwd
        self.workspace_bytes = library.paddle_infra_attention_f32_cuda_bwd_workspace
        self.workspace_bytes.argtypes, self.workspace_bytes.restype = [ctypes.POINTER(Params)], I64

    def call(self, p: Params, arrays: dict[str, np.ndarray], backward: bool = True) -> None:
        """Run forward, and backward if wanted, on these parameters and nothing but these arrays."""
        workspace = aligned_copy(np.full(max(self.workspace_bytes(ctypes.byref(p)), 1), 0xFF, "uint8"))
        p.workspace = workspace.ctypes.data
        for function in (self.forward, self.backward)[: 1 + backward]:
            self.emulator.launch(function, p, {**arrays, "workspace": workspace})

    def run(
        self,
        case: Case,
        seed: int = 0,
        align_to_lengths: bool = False,
        *,
        pad: int = 0,
        backward: bool = True,
        grad_lse: bool = True,
        shifted: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Return out, lse and the gradients, by the names of the true ones; ``shifted`` starts at an odd address."""
        p, arrays = make_params_f32(case, seed, align_to_lengths, pad, grad_lse)
        if shifted is not None:
            shift(p, arrays, shifted)
        self.call(p, arrays, backward)
        dim = case.query.shape[3]
        found = {"out": arrays["o"][..., :dim], "lse": arrays["lse"]}
        if backward:
            wanted = list(GRADIENTS.items())[: 4 if case.has_bias_gradient else 3]
            found |= {name: arrays[short] for name, short in wanted}
            found |= {name: found[name][..., :dim] for name in ("query", "key", "value")}
        return found

    def run_packed(self, case: Case, seed: int = 0) -> list[dict[str, np.ndarray]]:
        """Run a padded batch without its padding, and return the results of each sequence."""

        def rows_of(array: np.ndarray, lengths: np.ndarray, axis: int = 1) -> np.ndarray:
            kept = [array[b : b + 1].take(range(length), axis) for b, length in enumerate(lengths)]
            return np.concatenate(kept, axis)

        of_q, of_k = case.q_lengths, case.kv_lengths
        whole = Case(rows_of(case.query, of_q), rows_of(case.key, of_k), rows_of(case.value, of_k),
                     rows_of(case.grad_out, of_q), rows_of(case.grad_lse, of_q, 2), options=case.options)  # fmt: skip
        p, arrays = make_params_f32(whole, seed)
        ends = {}
        for side, lengths in (("q", of_q), ("k", of_k)):
            ends[side] = aligned_copy(np.cumsum([0, *lengths], dtype="int32"))
            setattr(p, f"cu_seqlens_{side}", ends[side].ctypes.data)
            setattr(p, f"seq_{side}", int(lengths.max()))
        p.batch = len(of_q)
        self.call(p, arrays | {f"cu_seqlens_{side}": end for side, end in ends.items()})
        found = []
        for b in range(len(of_q)):
            q, k = (slice(*ends[side][b : b + 2]) for side in ("q", "k"))
            found.append({"out": arrays["o"][:, q], "lse": arrays["lse"][:, :, q], "query": arrays["grad_q"][:, q],
                          "key": arrays["grad_k"][:, k], "value": arrays["grad_v"][:, k]})  # fmt: skip
        return found


def padded(array: np.ndarray, pad: int) -> np.ndarray:
    """Rows that are ``pad`` longer than they should be; what follows them is NaN."""
    wide = np.full((*array.shape[:-1], array.shape[-1] + pad), np.nan, "float32")
    wide[..., : array.shape[-1]] = array
    return aligned_copy(wide)


def make_params_f32(
    case: Case, seed: int, align_to_lengths: bool = False, pad: int = 0, grad_lse: bool = True
) -> tuple[Params, dict[str, np.ndarray]]:
    """As make_params, for float32 and with gradients; rows are ``pad`` numbers apart."""
    p, a = make_params(case, seed, align_to_lengths)
    batch, seq_q, heads, dim = case.query.shape
    seq_k, kv_heads = case.key.shape[1:3]
    for name, long in (("q", "query"), ("k", "key"), ("v", "value"), ("grad_o", "grad_out")):
        a[name] = padded(getattr(case, long), pad)
    if case.kv_lengths is not None:
        for b, length in enumerate(case.kv_lengths):
            a["k"][b, length:] = a["v"][b, length:] = np.nan
    if case.q_lengths is not None:
        for b, length in enumerate(case.q_lengths):
            a["q"][b, length:] = a["grad_o"][b, length:] = np.nan
    a["o"], a["grad_q"] = (unwritten((batch, seq_q, heads, dim + pad), "float32") for _ in range(2))
    a["grad_k"], a["grad_v"] = (unwritten((batch, seq_k, kv_heads, dim + pad), "float32") for _ in range(2))
    if grad_lse:
        a["grad_lse"] = aligned_copy(case.grad_lse)
    if case.has_bias_gradient:
        a["grad_bias"] = unwritten(case.bias.shape, "float32")
    wide = dim + pad
    p.q_stride = Strides(seq_q * heads * wide, heads * wide, wide)
    p.k_stride = p.v_stride = Strides(seq_k * kv_heads * wide, kv_heads * wide, wide)
    for name, array in a.items():
        setattr(p, name, array.ctypes.data)
    return p, a


def budgets_f32(true: Gold) -> dict[str, float]:
    """How far off each result may be: a few rounding errors of float32."""
    return {name: ROUNDINGS * ROUNDING * magnitude for name, magnitude in true.magnitudes.items()}


def check_results(found: dict[str, np.ndarray], true: Gold) -> None:
    """Assert that results are wrong by a few rounding errors of float32 at most."""
    assert set(found) <= set(true.results)
    check_within(found, true.results, budgets_f32(true))


def check_f32(
    kernels: EmulatedFloat32Attention, case: Case, seed: int = 0, align_to_lengths: bool = False, pad: int = 0
) -> None:
    """Compare results and all gradients with the true ones."""
    found = kernels.run(case, seed, align_to_lengths, pad=pad)
    true = gold(case, seed=seed, align_to_lengths=align_to_lengths)
    assert found.keys() == true.results.keys()
    check_results(found, true)


def check_f32_addresses(kernels: EmulatedFloat32Attention) -> None:
    """Assert that it changes nothing where an array starts."""
    case = make_case(1, 35, 40, 2, 1, 32)
    expected = kernels.run(case)
    for name in ("q", "k", "v", "o", "grad_o", "grad_q", "grad_k", "grad_v"):
        found = kernels.run(case, shifted=name)
        for result, value in expected.items():
            assert np.array_equal(found[result], value), f"{name} is shifted: {result}"

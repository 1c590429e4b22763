"""The CUDA kernels of linear_topk in the emulator: cases as they are for the CPU, compared with float64."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np

from paddle_infra._core.tolerances import ALLOWANCE, error_budget, largest_error
from tests.cuda.attention_emulated import DTYPES
from tests.cuda.emulator import Emulator, aligned_copy, to_bits
from tests.cuda.linear_cross_entropy_emulated import FLOAT, INT, POINTER, Output, rounded, shifted_copy
from tests.ops.linear_topk_cases import Case, make_case, run, true_result

MOST_K = 16


class Params(ctypes.Structure):
    """LinearTopkParams of csrc/linear_topk/linear_topk.h."""

    _fields_ = (
        *((name, POINTER) for name in ("hidden", "weight", "bias")),
        *((name, INT) for name in ("rows", "hidden_size", "classes", "k")),
        ("weight_is_dv", ctypes.c_bool),
        ("softcap", FLOAT),
        ("is_log", ctypes.c_bool),
        *((name, ctypes.c_int) for name in ("precision", "threads")),
        *((name, POINTER) for name in ("workspace", "prob", "index")),
        ("dtype", ctypes.c_int),
    )


class EmulatedTopk:
    """Runs cases of tests/ops/linear_topk_cases.py on emulated kernels."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        library = emulator.library
        library.paddle_infra_linear_topk_cuda.argtypes = [ctypes.POINTER(Params), POINTER]
        library.paddle_infra_linear_topk_cuda.restype = ctypes.c_char_p
        library.paddle_infra_linear_topk_cuda_workspace.restype = INT

    def run(self, case: Case, dtype: str, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities and classes; hidden and weight begin ``shift`` bytes behind a multiple of 64."""
        (rows, features), classes = case.hidden.shape, len(case.weight)
        weight = case.weight if case.layout == "vd" else np.ascontiguousarray(case.weight.T)
        arrays: dict[str, Any] = {"hidden": case.hidden, "weight": weight}
        for name, array in arrays.items():
            arrays[name] = shifted_copy(array if dtype == "float32" else to_bits(array, dtype), shift)
        if case.bias is not None:
            arrays["bias"] = aligned_copy(case.bias)
        prob, index = Output((rows, case.k)), Output((rows, case.k), "int64")
        p = Params(rows=rows, hidden_size=features, classes=classes, k=case.k, weight_is_dv=case.layout == "dv",
                   softcap=case.softcap, is_log=case.is_log, threads=1, dtype=DTYPES[dtype])  # fmt: skip
        workspace = Output(
            (self.emulator.library.paddle_infra_linear_topk_cuda_workspace(ctypes.byref(p)),), "uint8"
        )
        arrays |= {"prob": prob.array, "index": index.array, "workspace": workspace.array}
        for name, array in arrays.items():
            setattr(p, name, array.ctypes.data)
        self.emulator.launch(self.emulator.library.paddle_infra_linear_topk_cuda, p, arrays)
        workspace.value()
        return prob.value(), index.value()


def in_format(case: Case, dtype: str) -> Case:
    """The case with the numbers that the format has."""
    if dtype == "float32":
        return case
    return replace(case, hidden=rounded(case.hidden, dtype), weight=rounded(case.weight, dtype))


def true_and_budget(case: Case) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the true results of all classes and of the best ones, and how far off a result may be."""
    gold, largest = true_result(case)
    best = -np.sort(-gold, axis=1)[:, : case.k]
    budget = error_budget(run(case, "reference")[0], best, "float32")
    # A logit's error, from float32 sums in the order of tensor cores, is one of its logarithm or a share of its
    # probability.
    of_logits = ALLOWANCE["float32"] * max(largest, 1.0)
    return gold, best, budget + (of_logits if case.is_log else of_logits * np.abs(best).max())


def check(kernels: EmulatedTopk, case: Case, dtype: str, shift: int = 0) -> None:
    """Compare with float64, as tests/ops/linear_topk_cases.py does."""
    case = replace(in_format(case, dtype), precision="highest")
    gold, best, budget = true_and_budget(case)
    prob, index = kernels.run(case, dtype, shift)
    label = f"{case.name}, {dtype}"
    assert ((index >= 0) & (index < gold.shape[1])).all(), label
    assert all(len(set(row)) == case.k for row in index), label
    assert (np.diff(prob, axis=1) <= 0.0).all(), label
    assert largest_error(prob, best) <= budget, label
    # Near ties may change places, so classes are judged by their true probabilities.
    assert largest_error(np.take_along_axis(gold, index, 1), best) <= 2 * budget, label


def random_case(seed: int) -> Case:
    """Sizes around those of tiles, every option on or off by chance."""
    rng = np.random.default_rng([5, seed])

    def one_of(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    classes = one_of(1, 2, 15, 16, 17, 77, 127, 128, 129, 257, 600, 1025)
    return make_case(
        one_of(1, 2, 7, 31, 32, 33, 127, 128, 131, 260),
        one_of(1, 3, 16, 33, 64, 72),
        classes,
        min(classes, one_of(1, 2, 4, 5, 8, 13, 16)),
        has_bias=one_of(True, False),
        scale=one_of(0.01, 1.0, 1.0, 10.0),
        seed=seed,
        softcap=one_of(0.0, 0.0, 0.5, 5.0),
        layout=one_of("vd", "dv"),
        is_log=one_of(True, False),
    )

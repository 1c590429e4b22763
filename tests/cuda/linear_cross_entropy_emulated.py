"""The CUDA kernels of linear_cross_entropy in the emulator: cases as they are for the CPU, compared with float64."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np

from paddle_infra._core.tolerances import error_budget, largest_error
from tests.cuda.attention_emulated import DTYPES, ROUNDING
from tests.cuda.emulator import Emulator, aligned_copy, from_bits, to_bits
from tests.ops.head_cases import Case, row_scales
from tests.ops.linear_cross_entropy_cases import HEAD, gold, make_case, run

GUARD = 4096  # bytes around every array that a kernel writes
POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
REDUCTIONS = ("none", "sum", "mean")


class Params(ctypes.Structure):
    """LinearCrossEntropyParams of csrc/linear_cross_entropy/linear_cross_entropy.h."""

    _fields_ = (
        *(
            (name, POINTER)
            for name in ("hidden", "weight", "bias", "label", "target", "class_weight", "token_weight")
        ),
        *((name, INT) for name in ("rows", "hidden_size", "classes")),
        *((name, INT) for name in ("weight_class_stride", "weight_feature_stride", "ignore_index")),
        *((name, FLOAT) for name in ("label_smoothing", "z_loss", "softcap", "focal_gamma")),
        *((name, ctypes.c_int) for name in ("reduction", "kind", "precision")),
        *((name, POINTER) for name in ("stats", "loss", "grad_loss")),
        *((name, POINTER) for name in ("grad_hidden", "grad_weight", "grad_bias")),
        ("threads", ctypes.c_int),
        ("workspace", POINTER),
        ("dtype", ctypes.c_int),
    )


class Output:
    """An array to be written: full of NaN before, between guards that must not change.

    It begins ``shift`` bytes behind a multiple of 64.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str = "float32", shift: int = 0) -> None:
        self.shape, self.dtype, self.begin = shape, dtype, GUARD + shift
        self.size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.bytes = aligned_copy(
            np.full(self.begin + self.size + GUARD, 0xFF, "uint8")
        )  # NaN in every format

    @property
    def array(self) -> np.ndarray:
        """What a kernel may write."""
        return self.bytes[self.begin : self.begin + self.size].view(self.dtype).reshape(self.shape)

    def value(self) -> np.ndarray:
        """Return the array, if nothing was written beside it."""
        assert (self.bytes[: self.begin] == 0xFF).all(), "written before the array"
        assert (self.bytes[self.begin + self.size :] == 0xFF).all(), "written behind the array"
        return self.array


def shifted_copy(array: np.ndarray, shift: int) -> np.ndarray:
    """Copy an array to an address ``shift`` bytes behind a multiple of 64."""
    lead = np.zeros(shift // array.itemsize, array.dtype)
    return aligned_copy(np.concatenate([lead, array.ravel()]))[len(lead) :].reshape(array.shape)


class EmulatedHead:
    """Runs cases of tests/ops/linear_cross_entropy_cases.py on emulated kernels."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        library = emulator.library
        for name in ("fwd", "bwd"):
            function = getattr(library, f"paddle_infra_linear_cross_entropy_cuda_{name}")
            function.argtypes, function.restype = [ctypes.POINTER(Params), POINTER], ctypes.c_char_p
        library.paddle_infra_linear_cross_entropy_cuda_workspace.restype = INT

    def workspace(self, p: Params) -> int:
        """Bytes of scratch memory."""
        return self.emulator.library.paddle_infra_linear_cross_entropy_cuda_workspace(ctypes.byref(p))

    def run(
        self,
        case: Case,
        dtype: str = "float32",
        above: np.ndarray | None = None,
        counts: dict | None = None,
        shift: int = 0,
    ) -> dict[str, np.ndarray]:
        """Loss and gradients of its sum, or of its product with ``above``; what each pass counted to ``counts``.

        Hidden, weight and their gradients begin ``shift`` bytes behind a multiple of 64.
        """
        inputs, outputs, p = make_params(case, dtype, above, shift)
        for name in ("fwd", "bwd"):
            workspace = Output((self.workspace(p),), "uint8")
            p.workspace = workspace.array.ctypes.data
            self.emulator.take_counters()
            arrays = inputs | {field_of(key): output.array for key, output in outputs.items()}
            function = getattr(self.emulator.library, f"paddle_infra_linear_cross_entropy_cuda_{name}")
            self.emulator.launch(function, p, arrays | {"workspace": workspace.array})
            workspace.value()
            if counts is not None:
                counts[name] = self.emulator.take_counters()
        found = {name: output.value() for name, output in outputs.items() if name != "stats"}
        if dtype != "float32":
            for name in ("hidden", "weight"):
                found[name] = from_bits(found[name], dtype)
        if case.options.get("weight_layout") == "dv":
            found["weight"] = found["weight"].T
        return found


def field_of(output: str) -> str:
    """The field of the parameters that points to an output: gradients have the names of their inputs here."""
    return output if output in ("loss", "stats") else f"grad_{output}"


def make_params(
    case: Case, dtype: str, above: np.ndarray | None, shift: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, Output], Params]:
    """Return the inputs, the outputs, and the parameters that point to both."""
    o = case.options
    (rows, features), classes = case.hidden.shape, len(case.weight)
    is_dv = o.get("weight_layout", "vd") == "dv"
    reduction = REDUCTIONS.index(o.get("reduction", "mean"))
    weight = np.ascontiguousarray(case.weight.T) if is_dv else case.weight
    loss_shape = (rows,) if reduction == 0 else ()

    def in_format(array: np.ndarray) -> np.ndarray:
        return shifted_copy(array if dtype == "float32" else to_bits(array, dtype), shift)

    above = np.ones(loss_shape) if above is None else above
    inputs: dict[str, Any] = {
        "hidden": in_format(case.hidden),
        "weight": in_format(weight),
        "label": aligned_copy(case.label.astype("int64")),
        "grad_loss": aligned_copy(np.asarray(above, "float32")),
    }
    for name in ("bias", "class_weight", "token_weight"):
        if getattr(case, name) is not None:
            inputs[name] = aligned_copy(getattr(case, name))
    kind = "float32" if dtype == "float32" else "uint16"
    outputs = {"loss": Output(loss_shape), "hidden": Output((rows, features), kind, shift),
               "weight": Output(weight.shape, kind, shift), "stats": Output((rows, 5))}  # fmt: skip
    if case.bias is not None:
        outputs["bias"] = Output((classes,))
    p = Params(rows=rows, hidden_size=features, classes=classes, weight_class_stride=1 if is_dv else features,
               weight_feature_stride=classes if is_dv else 1, ignore_index=o.get("ignore_index", -100),
               reduction=reduction, threads=1, dtype=DTYPES[dtype])  # fmt: skip
    for name in ("label_smoothing", "z_loss", "softcap"):
        setattr(p, name, o.get(name, 0.0))
    for name, array in inputs.items():
        setattr(p, name, array.ctypes.data)
    for name, output in outputs.items():
        setattr(p, field_of(name), output.array.ctypes.data)
    return inputs, outputs, p


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return the numbers of the format that are nearest."""
    return from_bits(to_bits(np.asarray(array, "float32"), dtype), dtype)


def in_format(case: Case, dtype: str) -> Case:
    """The case with the numbers that the format has."""
    if dtype == "float32":
        return case
    return replace(case, hidden=rounded(case.hidden, dtype), weight=rounded(case.weight, dtype))


def rounded_gold(case: Case, dtype: str) -> dict[str, np.ndarray]:
    """The gradients of hidden and weight if those of logits, and the results, are rounded to the format."""
    h, w = case.hidden.astype("float64"), case.weight.astype("float64")
    z = h @ w.T + (0.0 if case.bias is None else case.bias.astype("float64"))
    cap = case.options.get("softcap", 0.0)
    z = cap * np.tanh(z / cap) if cap else z
    dz = HEAD.losses(case, z)[1] * (1 - (z / cap) ** 2 if cap else 1.0)
    valid, _, _, scale = row_scales(case)
    token = np.ones(len(h)) if case.token_weight is None else case.token_weight.astype("float64")
    counted = valid & (token != 0)
    common = (scale[counted] / token[counted])[0] if counted.any() else 1.0  # what all rows have in common
    if common:
        dz = rounded(dz / common, dtype).astype("float64") * common
    return {"hidden": rounded(dz @ w, dtype), "weight": rounded(dz.T @ h, dtype)}


def true_and_budgets(
    case: Case, dtype: str, factor: float = 1.0
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return what is true, and how far off each result may be.

    float32: as far as plain Paddle is (``factor`` times). 16 bits: as far as the definition is with logit gradients and
    results rounded to the format. Loss and gradient of the bias are then still float32 results of products with float32
    sums, as those of plain Paddle in float32: they may be twice as far off, because tensor cores and fast exponentials
    round in other places.
    """
    truth, plain = gold(case), run(case, "reference")
    if dtype == "float32":
        return truth, {name: error_budget(plain[name], truth[name], "float32", factor) for name in plain}
    through, budgets = rounded_gold(case, dtype), {}
    _, label, weights, scale = row_scales(case)
    for name in plain:
        largest = np.abs(truth[name]).max(initial=0.0)
        budget = error_budget(plain[name], truth[name], "float32", 2.0) + 1e-6 * largest
        if name in through:
            budget += 2 * largest_error(through[name], truth[name]) + ROUNDING[dtype] * largest
        if name == "bias":  # terms of this size may cancel: a probability and the target
            budget += 4e-7 * np.abs(scale * weights[label]).max(initial=0.0)
        budgets[name] = budget
    return truth, budgets


def check_half(head: EmulatedHead, case: Case, dtype: str, shift: int = 0) -> None:
    """Compare loss and gradients with the true ones; ``shift`` moves arrays away from aligned addresses."""
    case = in_format(case, dtype)
    check_against(
        head.run(case, dtype, shift=shift), *true_and_budgets(case, dtype), f"{dtype}, {case.options}"
    )


def check_float(head: EmulatedHead, case: Case, factor: float = 1.0) -> None:
    """The same in float32."""
    check_against(head.run(case), *true_and_budgets(case, "float32", factor), str(case.options))


def check_against(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], budgets: dict[str, float], label: str
) -> None:
    """Assert that all results are as near to others as the budgets say."""
    assert found.keys() == budgets.keys()
    for name, budget in budgets.items():
        error = largest_error(found[name], expected[name])
        assert error <= budget, f"{name}: error {error:.3g}, allowed {budget:.3g}, {label}"


def random_case(seed: int, most: tuple[int, int, int] = (80, 70, 500)) -> Case:
    """Every option is on or off by chance."""
    rng = np.random.default_rng([21, seed])
    rows, features, classes = (int(x) for x in rng.integers(1, most))
    options = {
        "scale": float(rng.choice([0.1, 1.0, 10.0])),
        "bias": bool(rng.integers(2)),
        "ignored": float(rng.choice([0.0, 0.3, 0.9])),
        "class_weight": bool(rng.integers(2)),
        "token_weight": bool(rng.integers(2)),
        "label_smoothing": float(rng.choice([0.0, 0.1])),
        "z_loss": float(rng.choice([0.0, 1e-3])),
        "softcap": float(rng.choice([0.0, 2.0, 30.0])),
        "reduction": str(rng.choice(["mean", "sum", "none"])),
        "weight_layout": str(rng.choice(["vd", "dv"])),
    }
    return make_case(rows, features, classes, seed=seed, **options)

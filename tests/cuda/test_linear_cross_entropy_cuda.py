"""The CUDA kernels of linear_cross_entropy, run on the CPU: g++ compiles the .cu file, threads run one after another.

That is the same computation, because no thread reads what another one of its launch writes (tested here too). It does
not show what nvcc and a GPU make of it. And: which tensors Python would give to the kernels.
"""

from __future__ import annotations

import ctypes
import importlib
import subprocess
from pathlib import Path
from types import MappingProxyType

import numpy as np
import paddle
import pytest

from paddle_infra._core import extension
from paddle_infra._core.extension import ExtensionStatus
from paddle_infra._core.tolerances import error_budget, largest_error
from paddle_infra.ops import explain_dispatch
from tests.ops.linear_cross_entropy_cases import EVERYTHING, Case, gold, make_case, run

CSRC = Path(__file__).parents[2] / "csrc"
GUARD = 4096  # bytes around every array that a kernel writes
POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


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
    )


class Output:
    """An array to be written: full of NaN before, between guards that must not change."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.size = shape, 4 * int(np.prod(shape))
        self.bytes = np.full(self.size + 2 * GUARD, 0xFF, "uint8")  # as float32 and float64: NaN

    @property
    def pointer(self) -> int:
        # numpy aligns large arrays to 16 bytes at least, and GUARD keeps that; a workspace wants 64.
        return self.bytes.ctypes.data + GUARD

    def value(self) -> np.ndarray:
        assert (self.bytes[:GUARD] == 0xFF).all(), "written before the array"
        assert (self.bytes[GUARD + self.size :] == 0xFF).all(), "written behind the array"
        return self.bytes[GUARD : GUARD + self.size].view("float32").reshape(self.shape)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("cuda") / "host.so"
    source = CSRC / "linear_cross_entropy/linear_cross_entropy.cu"
    flags = ["-x", "c++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{CSRC}"]
    subprocess.run(["g++", *flags, str(source), "-o", str(path)], check=True)
    loaded = ctypes.CDLL(str(path))
    for name in ("fwd", "bwd"):
        function = getattr(loaded, f"paddle_infra_linear_cross_entropy_cuda_{name}")
        function.argtypes, function.restype = [ctypes.POINTER(Params), POINTER], ctypes.c_char_p
    loaded.paddle_infra_linear_cross_entropy_cuda_workspace.restype = INT
    loaded.paddle_infra_host_check_reverse.argtypes = [ctypes.c_bool]
    return loaded


def pointer(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


def run_host(library, case: Case, grad_loss: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Loss and gradients, as ``run`` of linear_cross_entropy_cases."""
    o = case.options
    rows, features = case.hidden.shape
    classes = len(case.weight)
    is_dv = o.get("weight_layout", "vd") == "dv"
    reduction = ("none", "sum", "mean").index(o.get("reduction", "mean"))
    weight = np.ascontiguousarray(case.weight.T) if is_dv else case.weight
    label = case.label.astype("int64")
    loss_shape = (rows,) if reduction == 0 else ()
    above = np.ones(loss_shape, "float32") if grad_loss is None else grad_loss.astype("float32")
    outputs = {"loss": Output(loss_shape), "hidden": Output((rows, features)), "weight": Output(weight.shape)}
    if case.bias is not None:
        outputs["bias"] = Output((classes,))
    stats = Output((rows, 5))
    p = Params(
        *map(pointer, (case.hidden, weight, case.bias, label, None, case.class_weight, case.token_weight)),
        *(rows, features, classes, *((1, classes) if is_dv else (features, 1)), o.get("ignore_index", -100)),
        *(o.get(name, 0.0) for name in ("label_smoothing", "z_loss", "softcap", "focal_gamma")),
        *(reduction, 0, 0, stats.pointer, outputs["loss"].pointer, pointer(above)),
        *(outputs[name].pointer if name in outputs else None for name in ("hidden", "weight", "bias")),
    )
    size = library.paddle_infra_linear_cross_entropy_cuda_workspace(ctypes.byref(p))
    for name in ("fwd", "bwd"):
        workspace = Output((size // 4,))
        p.workspace = workspace.pointer
        assert (
            getattr(library, f"paddle_infra_linear_cross_entropy_cuda_{name}")(ctypes.byref(p), None) is None
        )
        workspace.value()
        stats.value()
    result = {name: output.value() for name, output in outputs.items()}
    if is_dv:
        result["weight"] = result["weight"].T
    return result


def check_host(library, case: Case, factor: float = 1.0) -> None:
    """Assert that it is as exact as plain Paddle in float32 (``factor`` times its error), and near the CPU kernel."""
    truth, plain, cpu, cuda = gold(case), run(case, "reference"), run(case, "fused"), run_host(library, case)
    assert cuda.keys() == plain.keys()
    for name, value in cuda.items():
        budget = error_budget(plain[name], truth[name], "float32", factor)
        error = largest_error(value, truth[name])
        assert error <= budget, f"{name}: error {error:.3g}, allowed {budget:.3g}, options {case.options}"
        assert largest_error(value, cpu[name].astype("float64")) <= 2 * budget, name


SHAPES = [
    (1, 1, 1),
    (1, 1, 2),
    (3, 7, 5),
    (33, 384, 10),
    (65, 49, 257),
    (64, 48, 512),
    (252, 507, 123),
    (5, 16, 30011),
    (300, 3, 8209),  # three chunks of rows: 128, 128, 44
    (2101, 2, 1009),  # three chunks: 1039, 1039, 23
]
OPTIONS = [
    {"bias": False},
    {"ignored": 0.3, "ignore_index": 2},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0},
    {"class_weight": True},
    {"class_weight": True, "label_smoothing": 0.2},
    {"token_weight": True},
    {"z_loss": 1e-2},
    {"softcap": 3.0},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight_layout": "dv"},
    {**EVERYTHING, "bias": False, "weight_layout": "vd", "reduction": "mean"},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("everything", [False, True])
def test_shapes(library, shape, everything):
    check_host(library, make_case(*shape, **(EVERYTHING if everything else {})))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(library, options):
    check_host(library, make_case(77, 50, 301, **options))


def test_random_combinations(library):
    rng = np.random.default_rng(21)
    for seed in range(60):
        rows, features, classes = (int(x) for x in rng.integers(1, (80, 70, 500)))
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
        check_host(library, make_case(rows, features, classes, seed=seed, **options))


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_large_logits(library, scale):
    # Rounding the logits dominates both errors: either may happen to be the larger one.
    check_host(library, make_case(97, 64, 311, scale=scale, label_smoothing=0.1), factor=2.0)


def test_softmax_of_near_ties_at_1e4_keeps_relative_accuracy(library):
    weight = np.array([[10000.0], [10000.5], [9999.0]], "float32")
    case = Case(np.ones((1, 1), "float32"), weight, np.array([0]), options={"reduction": "sum"})
    np.testing.assert_allclose(run_host(library, case)["weight"], gold(case)["weight"], rtol=2e-7)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_nothing_to_average_is_zero(library, reduction):
    no_rows, ignored, weightless = (
        make_case(rows, 3, 5, ignored=ignored, token_weight=True, reduction=reduction)
        for rows, ignored in ((0, 0.0), (7, 1.0), (7, 0.0))
    )
    weightless.token_weight[:] = 0.0
    for case in (no_rows, ignored, weightless):
        for name, value in run_host(library, case).items():
            assert not value.any(), name


def test_nan_is_not_hidden_and_an_infinite_bias_removes_a_class(library):
    case = make_case(4, 3, 300, reduction="none")
    case.bias[5:] = -np.inf
    few = Case(case.hidden, case.weight[:5], case.label % 5, case.bias[:5], options=case.options)
    case.label %= 5
    masked, small = run_host(library, case), run_host(library, few)
    np.testing.assert_allclose(masked["loss"], small["loss"], rtol=1e-6)
    np.testing.assert_allclose(masked["hidden"], small["hidden"], atol=1e-6)
    assert not masked["weight"][5:].any()
    case.hidden[2, 1] = np.nan
    assert np.isnan(run_host(library, case)["loss"]).tolist() == [False, False, True, False]


def test_gradient_scales_with_what_comes_from_above(library):
    case = make_case(4, 3, 5, reduction="none")
    above = np.array([1.0, -2.0, 0.0, 3.0])
    scaled, plain = run_host(library, case, above)["hidden"], run_host(library, case)["hidden"]
    np.testing.assert_allclose(scaled, plain * above[:, None], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(300, 3, 8209), (130, 40, 507)], ids=str)
def test_the_order_of_threads_does_not_matter(library, shape):
    for options in (EVERYTHING, {"reduction": "mean"}):
        case = make_case(*shape, **options)
        forward = run_host(library, case)
        library.paddle_infra_host_check_reverse(True)
        try:
            backward = run_host(library, case)
        finally:
            library.paddle_infra_host_check_reverse(False)
        for name, value in forward.items():
            assert value.tobytes() == backward[name].tobytes(), name


def test_scratch_memory_does_not_grow_with_rows_times_classes(library):
    def size(rows: int, classes: int) -> int:
        p = Params(rows=rows, hidden_size=64, classes=classes)
        return library.paddle_infra_linear_cross_entropy_cuda_workspace(ctypes.byref(p))

    assert size(100_000, 50_000) - size(200, 50_000) == 8 * (100_000 - 200)
    assert size(8192, 50_000) < 0.02 * 4 * 8192 * 50_000


@pytest.mark.parametrize(
    ("device", "has_cuda", "reason"),
    [
        ("cpu", False, None),
        ("gpu", True, None),
        ("gpu", False, "the library was compiled without CUDA: rebuild it with nvcc and PADDLE_INFRA_CUDA=1"),
        ("xpu:0", True, "there are compiled kernels for cpu and gpu only, hidden is on xpu:0"),
    ],
)
def test_the_device_and_the_build_decide_whether_fused_takes_tensors(monkeypatch, device, has_cuda, reason):
    status = ExtensionStatus(True, extension.LIBRARY, (), MappingProxyType({"cuda": has_cuda}))
    monkeypatch.setattr(extension, "load", lambda: status)
    module = importlib.import_module("paddle_infra.ops._head_operator")
    monkeypatch.setattr(module, "device_of", lambda tensor: device)
    inputs = paddle.randn([2, 3]), paddle.randn([4, 3]), paddle.to_tensor([0, 3])
    dispatch = explain_dispatch("linear_cross_entropy", *inputs)
    assert dispatch.chosen == ("fused" if reason is None else "reference")
    assert reason is None or reason in str(dispatch)

"""The CUDA kernels of linear_cross_entropy in the emulator: values, options, what they count.

And: which tensors Python would give to the kernels.
"""

from __future__ import annotations

import ctypes
import importlib
from types import MappingProxyType

import numpy as np
import paddle
import pytest

from paddle_infra._core import extension
from paddle_infra._core.extension import ExtensionStatus
from paddle_infra.ops import explain_dispatch
from tests.cuda.attention_emulated import DTYPES
from tests.cuda.linear_cross_entropy_counts import SHAPES as COUNTED
from tests.cuda.linear_cross_entropy_counts import check_float_counts, check_half_counts
from tests.cuda.linear_cross_entropy_emulated import Params, check_float, check_half, in_format, random_case
from tests.ops.linear_cross_entropy_cases import EVERYTHING, Case, gold, make_case

HALF = ("bfloat16", "float16")
FORMATS = pytest.mark.parametrize("dtype", HALF)


@pytest.fixture(autouse=True)
def _threads_in_their_order(head):
    head.emulator.configure(0)


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
def test_shapes(head, shape, everything):
    check_float(head, make_case(*shape, **(EVERYTHING if everything else {})))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(head, options):
    check_float(head, make_case(77, 50, 301, **options))


def test_random_combinations(head):
    for seed in range(60):
        head.emulator.configure(seed)
        check_float(head, random_case(seed))


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_large_logits(head, scale):
    # Rounding the logits dominates both errors: either may happen to be the larger one.
    check_float(head, make_case(97, 64, 311, scale=scale, label_smoothing=0.1), factor=2.0)


def test_softmax_of_near_ties_at_1e4_keeps_relative_accuracy(head):
    weight = np.array([[10000.0], [10000.5], [9999.0]], "float32")
    case = Case(np.ones((1, 1), "float32"), weight, np.array([0]), options={"reduction": "sum"})
    np.testing.assert_allclose(head.run(case)["weight"], gold(case)["weight"], rtol=2e-7)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_nothing_to_average_is_zero(head, reduction):
    no_rows, ignored, weightless = (
        make_case(rows, 3, 5, ignored=ignored, token_weight=True, reduction=reduction)
        for rows, ignored in ((0, 0.0), (7, 1.0), (7, 0.0))
    )
    weightless.token_weight[:] = 0.0
    for case in (no_rows, ignored, weightless):
        for name, value in head.run(case).items():
            assert not value.any(), name


def test_nan_is_not_hidden_and_an_infinite_bias_removes_a_class(head):
    case = make_case(4, 3, 300, reduction="none")
    case.bias[5:] = -np.inf
    few = Case(case.hidden, case.weight[:5], case.label % 5, case.bias[:5], options=case.options)
    case.label %= 5
    masked, small = head.run(case), head.run(few)
    np.testing.assert_allclose(masked["loss"], small["loss"], rtol=1e-6)
    np.testing.assert_allclose(masked["hidden"], small["hidden"], atol=1e-6)
    assert not masked["weight"][5:].any()
    case.hidden[2, 1] = np.nan
    assert np.isnan(head.run(case)["loss"]).tolist() == [False, False, True, False]


def test_gradient_scales_with_what_comes_from_above(head):
    case = make_case(4, 3, 5, reduction="none")
    above = np.array([1.0, -2.0, 0.0, 3.0])
    scaled, plain = head.run(case, above=above)["hidden"], head.run(case)["hidden"]
    np.testing.assert_allclose(scaled, plain * above[:, None], rtol=1e-6, atol=1e-8)


def test_scratch_memory_does_not_grow_with_rows_times_classes(head):
    def size(rows: int, classes: int, dtype: str) -> int:
        return head.workspace(
            Params(rows=rows, hidden_size=64, classes=classes, weight_class_stride=64,
                   weight_feature_stride=1, dtype=DTYPES[dtype])
        )  # fmt: skip

    assert size(100_000, 50_000, "float32") - size(200, 50_000, "float32") == 8 * (100_000 - 200)
    assert size(8192, 50_000, "float32") < 0.02 * 4 * 8192 * 50_000
    # 16 MB of gradients of logits, and three times the weight: sums over chunks, parts of products.
    for dtype in HALF:
        assert size(100_000, 50_000, dtype) <= (16 << 20) + 3 * 4 * 64 * 50_000 + 64 * 100_000
        assert size(8192, 50_000, dtype) < 0.1 * 2 * 8192 * 50_000


HALF_SHAPES = [
    *((1, 1, 1), (1, 1, 2), (3, 7, 5), (31, 64, 128), (32, 40, 129), (33, 384, 10), (65, 49, 257)),
    *((127, 72, 127), (128, 64, 256), (129, 65, 130), (252, 507, 123), (5, 16, 5003), (300, 3, 2050)),
]


@FORMATS
@pytest.mark.parametrize("shape", HALF_SHAPES, ids=str)
@pytest.mark.parametrize("everything", [False, True])
def test_half_shapes(head, dtype, shape, everything):
    check_half(head, make_case(*shape, **(EVERYTHING if everything else {})), dtype)


@FORMATS
@pytest.mark.parametrize("rows", [20, 77])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_half_options(head, dtype, rows, options):
    check_half(head, make_case(rows, 50, 301, **options), dtype)


@pytest.mark.parametrize(("dtype", "layout"), [("bfloat16", "vd"), ("float16", "dv")])
def test_half_chunks_of_rows(head, dtype, layout):
    """128 rows of 65,600 classes are 16 MB: two chunks, whose shares of the weight's gradient are added up."""
    check_half(head, make_case(130, 8, 65_600, label_smoothing=0.1, weight_layout=layout), dtype)


@pytest.mark.parametrize("first", range(0, 120, 40))
def test_half_random_combinations(head, first):
    """Threads and blocks run in another order in each case."""
    for seed in range(first, first + 40):
        head.emulator.configure(seed)
        check_half(head, random_case(seed, (150, 150, 500)), HALF[seed % 2])


@FORMATS
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_half_large_logits(head, dtype, scale):
    check_half(head, make_case(97, 64, 311, scale=scale, label_smoothing=0.1), dtype)


def test_half_near_ties_at_1e4_keep_relative_accuracy(head):
    weight = np.array([[9984.0], [9984.0], [9920.0]], "float32")
    bias = np.array([0.0, 0.5, 65.0], "float32")
    case = Case(np.ones((1, 1), "float32"), weight, np.array([0]), bias, options={"reduction": "sum"})
    np.testing.assert_allclose(head.run(case, "bfloat16")["bias"], gold(case)["bias"], rtol=1e-6)


@FORMATS
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_half_nothing_to_average_is_zero(head, dtype, reduction):
    for rows, ignored in ((0, 0.0), (7, 1.0), (50, 1.0), (50, 0.0)):
        case = make_case(rows, 9, 5, ignored=ignored, token_weight=True, reduction=reduction)
        if not ignored:
            case.token_weight[:] = 0.0
        for name, value in head.run(case, dtype).items():
            assert not value.any(), name


@FORMATS
def test_half_nan_is_not_hidden_and_an_infinite_bias_removes_a_class(head, dtype):
    case = in_format(make_case(40, 8, 300, reduction="none"), dtype)
    case.bias[5:] = -np.inf
    case.label %= 5
    few = Case(case.hidden, case.weight[:5], case.label, case.bias[:5], options=case.options)
    masked, small = head.run(case, dtype), head.run(few, dtype)
    np.testing.assert_allclose(masked["loss"], small["loss"], rtol=1e-6)
    np.testing.assert_array_equal(masked["hidden"], small["hidden"])
    assert not masked["weight"][5:].any()
    case.hidden[2, 1] = np.nan
    assert np.flatnonzero(np.isnan(head.run(case, dtype)["loss"])).tolist() == [2]


@pytest.mark.parametrize("label", [-1, 300, 2**40])
def test_half_a_label_that_is_no_class_gives_nan_for_its_row_only(head, label):
    case = make_case(40, 8, 300, reduction="none")
    case.label[3] = label
    found = head.run(case, "bfloat16")
    assert np.flatnonzero(np.isnan(found["loss"])).tolist() == [3]
    assert np.flatnonzero(np.isnan(found["hidden"]).any(axis=1)).tolist() == [3]


def test_half_gradients_of_many_rows_do_not_vanish_in_float16(head):
    """A logit's gradient of the mean is far below 6e-8 here, the least number of the format."""
    case = make_case(2000, 16, 500, scale=0.1, weight_layout="vd")
    case.hidden *= 64.0
    case.weight /= 64.0
    check_half(head, case, "float16")
    few = [c for c in range(500) if not (case.label == c).any()][:1]
    assert few, "a class without a label"
    assert head.run(case, "float16")["weight"][few].any()


@FORMATS
def test_half_gradient_scales_with_what_comes_from_above(head, dtype):
    case = make_case(4, 8, 5, reduction="none")
    above = np.array([1.0, -2.0, 0.0, 4.0])
    scaled, plain = head.run(case, dtype, above)["hidden"], head.run(case, dtype)["hidden"]
    np.testing.assert_array_equal(scaled, plain * above[:, None])


@pytest.mark.parametrize("dtype", ["float32", *HALF])
@pytest.mark.parametrize("shape", [(20, 40, 1025), (130, 40, 507)], ids=str)
def test_results_do_not_depend_on_the_order_of_threads(head, dtype, shape):
    for options in (EVERYTHING, {"reduction": "mean"}):
        case, results = make_case(*shape, **options), []
        for seed in range(4):
            head.emulator.configure(seed)
            results.append(head.run(case, dtype))
        for other in results[1:]:
            for name, value in results[0].items():
                assert value.tobytes() == other[name].tobytes(), name


@FORMATS
@pytest.mark.parametrize("layout", ["vd", "dv"])
@pytest.mark.parametrize("shape", COUNTED, ids=str)
def test_half_counts_are_those_of_theory(head, dtype, layout, shape):
    check_half_counts(head, dtype, layout, shape)


def test_float_counts_are_those_of_theory(head):
    check_float_counts(head)


@FORMATS
@pytest.mark.parametrize("layout", ["vd", "dv"])
@pytest.mark.parametrize("rows", [20, 77])
def test_half_arrays_may_begin_anywhere(head, dtype, layout, rows):
    """Lengths of rows are multiples of 16 bytes, addresses are not."""
    check_half(head, make_case(rows, 72, 304, weight_layout=layout), dtype, shift=2)


def test_errors_say_what_is_expected(head):
    p = Params(rows=1, hidden_size=1, classes=1, kind=1, dtype=DTYPES["bfloat16"])
    for name in ("fwd", "bwd"):
        function = getattr(head.emulator.library, f"paddle_infra_linear_cross_entropy_cuda_{name}")
        assert function(ctypes.byref(p), None) == b"kind: expected cross entropy on a GPU"


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

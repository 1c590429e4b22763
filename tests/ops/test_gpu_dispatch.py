"""Where tensors are on a GPU: which operators have kernels there, and what the others and their messages do.

No GPU is needed: tensors in CPU memory say that they are on one. So nothing may run; calls of compiled operators are
caught.
"""

from __future__ import annotations

import re
from types import MappingProxyType

import paddle
import pytest

from paddle_infra import ops
from paddle_infra._core import extension
from paddle_infra._core.errors import UnsupportedError
from paddle_infra._core.extension import ExtensionStatus
from paddle_infra.ops import _head_operator, _select, explain_dispatch

REBUILD = "hidden is on a GPU, but the library was compiled without CUDA: rebuild it with nvcc"
HEADS = ("linear_cross_entropy", "linear_topk", "linear_topk_log_prob")
WITH_KERNELS = {*HEADS, "attention", "attention_with_lse", "attention_decode", "attention_varlen"}
HALF = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


class Gpu:
    """A place of Paddle's, as far as operators look at it."""

    def is_cpu_place(self) -> bool:
        """No."""
        return False

    def is_gpu_place(self) -> bool:
        """Yes."""
        return True


@pytest.fixture
def on_gpu(monkeypatch):
    """Call it with whether the library was compiled with CUDA; returns the calls of compiled operators."""

    def pretend(has_cuda: bool) -> list[tuple]:
        calls: list[tuple] = []

        def refuse(*arguments):
            calls.append(arguments)
            raise ValueError("not in CPU memory")  # as the compiled operators do

        status = ExtensionStatus(True, extension.LIBRARY, (), MappingProxyType({"cuda": has_cuda}))
        monkeypatch.setattr(extension, "load", lambda: status)
        monkeypatch.setattr(paddle.Tensor, "place", property(lambda tensor: Gpu()))
        monkeypatch.setattr(paddle._C_ops, "_run_custom_op", refuse)
        return calls

    return pretend


def ones(*shape: int, dtype: str = "float32") -> paddle.Tensor:
    return paddle.ones(shape).astype(dtype)


def arguments_of(operator: str, dtype: str = "float32") -> tuple:
    x, head = ones(1, 2, 1, 4, dtype=dtype), (ones(2, 3, dtype=dtype), ones(4, 3, dtype=dtype))
    label, starts = paddle.to_tensor([0, 3]), paddle.to_tensor([0, 2], "int32")
    return {
        "add_norm": (x, x),
        "add_norm_with_sum": (x, x),
        "attention": (x, x, x),
        "attention_with_lse": (x, x, x),
        "attention_decode": (x, x, x),
        "attention_varlen": (x[0], x[0], x[0], starts, starts),
        "embedding_norm": (paddle.to_tensor([[0, 3]]), ones(4, 3, dtype=dtype)),
        "linear": (head[0], ones(3, 4, dtype=dtype)),
        "linear_binary_cross_entropy": (*head, ones(2, 4)),
        "linear_cross_entropy": (*head, label),
        "linear_focal": (*head, label),
        "linear_int8": (ones(2, 3), ones(3, 4, dtype="int8"), ones(4)),
        "linear_topk": (*head, 2),
        "linear_topk_log_prob": (*head, 2),
    }[operator]


@pytest.mark.parametrize("operator", sorted(set(_select.OPERATORS) - WITH_KERNELS))
@pytest.mark.parametrize("has_cuda", [False, True])
def test_operators_without_a_cuda_kernel_run_in_plain_paddle_and_say_why(on_gpu, operator, has_cuda):
    arguments = arguments_of(operator)
    on_gpu(has_cuda)
    dispatch = explain_dispatch(operator, *arguments)
    assert dispatch.chosen == "reference"
    assert re.search(
        r"fused cannot: there (is a|are) compiled kernels? for cpu only.* is on gpu", str(dispatch)
    )
    with pytest.raises(
        UnsupportedError, match=rf"{operator}: no implementation runs\n  fused cannot: .* on gpu"
    ):
        getattr(ops, operator)(*arguments, impl="fused")


@pytest.mark.parametrize("operator", sorted(WITH_KERNELS))
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_operators_with_one_take_it_if_the_library_has_it(on_gpu, operator, dtype):
    arguments = arguments_of(operator, dtype)
    on_gpu(has_cuda=True)
    assert str(explain_dispatch(operator, *arguments)) == f"{operator}: fused runs"
    on_gpu(has_cuda=False)
    dispatch = explain_dispatch(operator, *arguments)
    assert dispatch.chosen == "reference"
    assert "is on a GPU, but the library was compiled without CUDA" in str(dispatch)


@pytest.mark.parametrize("operator", HEADS)
def test_float64_runs_in_plain_paddle(on_gpu, operator):
    arguments = arguments_of(operator, "float64")
    on_gpu(has_cuda=True)
    dispatch = explain_dispatch(operator, *arguments)
    assert dispatch.chosen == "reference"
    reason = "the compiled kernel for GPUs takes float32, float16, bfloat16, hidden is float64"
    assert reason in str(dispatch)
    with pytest.raises(UnsupportedError, match=reason):
        getattr(ops, operator)(*arguments, impl="fused")


@pytest.mark.parametrize("operator", HEADS)
def test_fused_without_cuda_says_how_to_get_it(on_gpu, operator):
    arguments = arguments_of(operator, "bfloat16")
    calls = on_gpu(has_cuda=False)
    with pytest.raises(UnsupportedError, match=REBUILD):
        getattr(ops, operator)(*arguments, impl="fused")
    assert not calls


@pytest.mark.parametrize("operator", ["linear_topk", "linear_topk_log_prob"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_finds_up_to_16_classes(on_gpu, operator, dtype):
    hidden, weight = ones(2, 3, dtype=dtype), ones(20, 3, dtype=dtype)
    on_gpu(has_cuda=True)
    assert explain_dispatch(operator, hidden, weight, 16).chosen == "fused"
    reason = "the compiled kernel finds up to 16 classes on a GPU, k is 17"
    dispatch = explain_dispatch(operator, hidden, weight, 17)
    assert dispatch.chosen == "reference"
    assert f"fused cannot: {reason}" in str(dispatch)
    with pytest.raises(UnsupportedError, match=reason):
        getattr(ops, operator)(hidden, weight, 17, impl="fused")


@HALF
def test_what_the_operator_of_cross_entropy_gets(on_gpu, dtype):
    """Hidden and weight as they are, the rest in float32; no gradients in the forward pass."""
    hidden, weight, bias = (ones(*shape, dtype=dtype) for shape in ((2, 3), (4, 3), (4,)))
    for tensor in (hidden, weight, bias):
        tensor.stop_gradient = False
    weights = {"class_weight": ones(4, dtype=dtype), "token_weight": ones(2, dtype=dtype)}
    label = paddle.to_tensor([0, 3])
    calls = on_gpu(has_cuda=True)
    with pytest.raises(ValueError, match="not in CPU memory"):
        ops.linear_cross_entropy(hidden, weight, label, bias=bias, **weights)
    (name, *tensors), attributes = calls[0][:7], calls[0][7:]
    assert name == "paddle_infra_linear_cross_entropy_bias"
    assert tensors[0] is hidden
    assert tensors[1] is weight
    found = [str(tensor.dtype).removeprefix("paddle.") for tensor in tensors]
    assert found == [dtype, dtype, "float32", "int64", "float32", "float32"]
    assert attributes[-3:] == (False, True, True)
    tensors[2].sum().backward()  # the way back to the bias itself
    assert bias.grad.dtype == bias.dtype


@HALF
def test_what_the_operator_of_top_k_gets(on_gpu, dtype):
    hidden, weight, bias = (ones(*shape, dtype=dtype) for shape in ((2, 3), (4, 3), (4,)))
    calls = on_gpu(has_cuda=True)
    with pytest.raises(ValueError, match="not in CPU memory"):
        ops.linear_topk(hidden, weight, 2, bias=bias)
    name, *tensors = calls[0][:4]
    assert name == "paddle_infra_linear_topk"
    assert [str(tensor.dtype).removeprefix("paddle.") for tensor in tensors] == [dtype, dtype, "float32"]


def call_compiled(
    name: str, hidden: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None
) -> None:
    """Call a compiled operator itself, without the checks before it."""
    if name == "linear_topk":
        attributes = (2, 0.0, False, False, 0)
        paddle._C_ops._run_custom_op("paddle_infra_linear_topk", hidden, weight, bias, *attributes)
    else:
        label, options = paddle.to_tensor([0, 3]), {"reduction": "mean", "weight_layout": "vd"}
        _head_operator.run("cross_entropy", hidden, weight, bias, label, None, None, **options)


@HALF
@pytest.mark.parametrize("name", ["linear_cross_entropy", "linear_topk"])
def test_the_compiled_operators_refuse_16_bit_numbers_in_cpu_memory(name, dtype):
    message = f"{name}: hidden: expected float32 in CPU memory, got {dtype}"
    with pytest.raises(ValueError, match=re.escape(message)):
        call_compiled(name, ones(2, 3, dtype=dtype), ones(4, 3, dtype=dtype), None)


@pytest.mark.parametrize("name", ["linear_cross_entropy", "linear_topk"])
@pytest.mark.parametrize(
    ("position", "message"),
    [
        (0, "hidden: expected float32 in CPU memory, got float64"),
        (1, "weight: expected float32, got float64"),
        (2, "bias: expected float32, got float64"),
    ],
)
def test_the_compiled_operators_say_what_they_expect_and_what_they_got(name, position, message):
    tensors = [ones(2, 3), ones(4, 3), ones(4)]
    tensors[position] = tensors[position].astype("float64")
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        call_compiled(name, *tensors)

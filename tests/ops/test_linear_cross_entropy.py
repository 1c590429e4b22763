from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.ops import explain_dispatch, linear_cross_entropy

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])


def inputs(rows=4, features=3, classes=5):
    paddle.seed(1)
    tensors = paddle.randn([rows, features]), paddle.randn([classes, features]), paddle.arange(rows) % classes
    for tensor in tensors[:2]:
        tensor.stop_gradient = False
    return tensors


@IMPLS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_shapes_and_dtype_of_the_result(impl, reduction):
    hidden, weight, label = paddle.randn([2, 3, 4]), paddle.randn([5, 4]), paddle.zeros([2, 3], "int64")
    loss = linear_cross_entropy(hidden, weight, label, reduction=reduction, impl=impl)
    assert loss.shape == ([2, 3] if reduction == "none" else [])
    assert loss.dtype == paddle.float32


@IMPLS
def test_a_single_row_without_leading_axes(impl):
    _, weight, _ = inputs()
    loss = linear_cross_entropy(paddle.randn([3]), weight, paddle.to_tensor(2), reduction="none", impl=impl)
    assert loss.shape == []


@IMPLS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows(impl, reduction):
    _, weight, _ = inputs()
    bias = paddle.zeros([5])
    bias.stop_gradient = False
    empty = paddle.zeros([2, 0, 3])
    empty.stop_gradient = False
    label = paddle.zeros([2, 0], "int64")
    loss = linear_cross_entropy(empty, weight, label, bias=bias, reduction=reduction, impl=impl)
    assert loss.shape == ([2, 0] if reduction == "none" else [])
    assert float(loss.sum()) == 0.0
    loss.sum().backward()
    assert empty.grad.shape == [2, 0, 3]
    assert not weight.grad.numpy().any()
    assert not bias.grad.numpy().any()


@IMPLS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_ignored(impl, reduction):
    hidden, weight, label = inputs()
    loss = linear_cross_entropy(hidden, weight, label * 0 - 100, reduction=reduction, impl=impl).sum()
    loss.backward()
    assert float(loss) == 0.0
    assert not hidden.grad.numpy().any()
    assert not weight.grad.numpy().any()


@IMPLS
def test_ignored_rows_get_no_gradient_in_whole_and_partial_blocks(impl):
    hidden, weight, _ = inputs(rows=130)
    label = np.zeros(130, "int64")
    label[30:100] = -100
    linear_cross_entropy(hidden, weight, paddle.to_tensor(label), impl=impl).backward()
    gradient = hidden.grad.numpy()
    assert not gradient[30:100].any()
    assert gradient[:30].all()
    assert gradient[100:].all()


@IMPLS
def test_int32_labels_and_low_precision_weights_are_converted(impl):
    hidden, weight, label = inputs()
    token_weight = paddle.rand([4])
    plain = linear_cross_entropy(hidden, weight, label, token_weight=token_weight, impl=impl)
    converted = linear_cross_entropy(
        hidden, weight, label.astype("int32"), token_weight=token_weight.astype("float64"), impl=impl
    )
    assert float(plain) == float(converted)


@IMPLS
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_partial_stop_gradient(impl, frozen):
    hidden, weight, label = inputs()
    bias = paddle.zeros([5])
    bias.stop_gradient = False
    tensors = [hidden, weight, bias]
    linear_cross_entropy(hidden, weight, label, bias=bias, impl=impl).backward()
    expected = [tensor.grad.numpy() for tensor in tensors]
    for tensor in tensors:
        tensor.clear_gradient(False)
    tensors[frozen].stop_gradient = True
    linear_cross_entropy(hidden, weight, label, bias=bias, impl=impl).backward()
    for i, tensor in enumerate(tensors):
        if i == frozen:
            assert tensor.grad is None
        else:
            np.testing.assert_array_equal(tensor.grad.numpy(), expected[i])


@IMPLS
def test_weights_of_classes_and_tokens_get_no_gradient(impl):
    hidden, weight, label = inputs()
    class_weight, token_weight = paddle.rand([5]), paddle.rand([4])
    class_weight.stop_gradient = token_weight.stop_gradient = False
    linear_cross_entropy(
        hidden, weight, label, class_weight=class_weight, token_weight=token_weight, impl=impl
    ).backward()
    assert class_weight.grad is None
    assert token_weight.grad is None
    assert hidden.grad is not None


@IMPLS
def test_gradient_scales_with_what_comes_from_above(impl):
    hidden, weight, label = inputs()
    loss = linear_cross_entropy(hidden, weight, label, reduction="none", impl=impl)
    above = paddle.to_tensor([1.0, -2.0, 0.0, 3.0])
    (first,) = paddle.grad((loss * above).sum(), [hidden], retain_graph=True)
    (ones,) = paddle.grad(loss.sum(), [hidden])
    np.testing.assert_allclose(first.numpy(), ones.numpy() * above.numpy()[:, None], rtol=1e-5, atol=1e-7)


@IMPLS
def test_nan_is_not_hidden(impl):
    hidden, weight, label = inputs()
    broken = hidden.detach().clone()
    broken[2, 1] = float("nan")
    losses = linear_cross_entropy(broken, weight, label, reduction="none", impl=impl).numpy()
    assert np.isnan(losses).tolist() == [False, False, True, False]
    assert np.isnan(float(linear_cross_entropy(broken, weight, label, impl=impl)))


@IMPLS
def test_infinite_bias_removes_a_class(impl):
    hidden, weight, label = inputs(classes=300)
    bias = np.zeros(300, "float32")
    bias[5:] = -np.inf
    masked = linear_cross_entropy(hidden, weight, label, bias=paddle.to_tensor(bias), impl=impl)
    masked.backward()
    few = linear_cross_entropy(hidden, weight[:5], label, impl=impl)
    assert float(masked) == pytest.approx(float(few), rel=1e-6)
    assert np.isfinite(weight.grad.numpy()).all()
    assert np.abs(weight.grad.numpy()[5:]).max() < 1e-37  # Paddle's own exp(-inf) is a denormal, not 0


@IMPLS
@pytest.mark.parametrize(
    ("label", "where"),
    [([[0, 1], [5, 0]], r"label\[1, 0\] is 5"), ([[0, -1], [9, 0]], r"label\[0, 1\] is -1")],
)
def test_label_out_of_range_names_the_row(impl, label, where):
    hidden, weight = paddle.randn([2, 2, 3]), paddle.randn([5, 3])
    expected = where + r"; expected ignore_index \(-100\) or a class in \[0, 5\)"
    with pytest.raises(InvalidInputError, match=expected):
        linear_cross_entropy(hidden, weight, paddle.to_tensor(label), impl=impl)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weight": [5, 4]},
            r"weight: expected shape \[5, 3\] \(\[V, D\], weight_layout='vd'\), got \[5, 4\]",
        ),
        ({"weight_layout": "dv"}, r"weight: expected shape \[3, 3\] .*'dv'.*got \[5, 3\]"),
        ({"weight": [5]}, r"weight: expected two dimensions, none of them 0, got \[5\]"),
        ({"weight": [0, 3]}, r"weight: expected two dimensions, none of them 0, got \[0, 3\]"),
        ({"hidden": [4, 0]}, r"hidden: expected shape \[..., D\] with D at least 1, got \[4, 0\]"),
        ({"label": [4, 1]}, r"label: expected shape \[4\] .*got \[4, 1\]"),
        ({"bias": [4]}, r"bias: expected shape \[5\] .*got \[4\]"),
        ({"class_weight": [1, 5]}, r"class_weight: expected shape \[5\] .*got \[1, 5\]"),
        ({"token_weight": [5]}, r"token_weight: expected shape \[4\] .*got \[5\]"),
        ({"reduction": "average"}, r"reduction: expected one of 'none', 'sum', 'mean', got 'average'"),
        ({"weight_layout": "oi"}, r"weight_layout: expected one of 'vd', 'dv', got 'oi'"),
        ({"label_smoothing": 1.5}, r"label_smoothing: expected a finite number in \[0, 1\], got 1.5"),
        ({"z_loss": -1.0}, r"z_loss: expected a finite number in \[0, inf\], got -1.0"),
        ({"softcap": float("nan")}, r"softcap: expected a finite number in \[0, inf\], got nan"),
        ({"impl": "fast"}, r"impl: expected one of 'auto', 'fused', 'reference', got 'fast'"),
    ],
)
def test_invalid_values(change, message):
    hidden, weight, label = inputs()
    arguments = {"hidden": hidden, "weight": weight, "label": label}
    for name, value in change.items():
        is_shape = isinstance(value, list)
        arguments[name] = (
            paddle.zeros(value, "int64" if name == "label" else "float32") if is_shape else value
        )
    with pytest.raises(InvalidInputError, match=message):
        linear_cross_entropy(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden", np.zeros((4, 3)), "hidden: expected a paddle.Tensor, got ndarray"),
        ("hidden", paddle.zeros([4, 3], "int64"), "hidden: expected dtype float32 or float64 .*, got int64"),
        ("weight", paddle.zeros([5, 3], "float64"), "weight: expected dtype float32, got float64"),
        ("bias", paddle.zeros([5], "float64"), "bias: expected dtype float32, got float64"),
        ("label", paddle.zeros([4]), "label: expected dtype int64 or int32, got float32"),
        ("class_weight", paddle.zeros([5], "int32"), "class_weight: expected dtype .*, got int32"),
        ("ignore_index", 1.0, "ignore_index: expected an int, got float"),
        ("softcap", paddle.ones([]), "softcap: expected a Python number, got Tensor"),
    ],
)
def test_invalid_types(name, value, message):
    hidden, weight, label = inputs()
    with pytest.raises(InvalidDtypeError, match=message):
        linear_cross_entropy(**{"hidden": hidden, "weight": weight, "label": label, name: value})


def test_fused_refuses_float64_and_says_why():
    hidden, weight, label = inputs()
    hidden, weight = hidden.astype("float64"), weight.astype("float64")
    with pytest.raises(UnsupportedError, match="the compiled kernel computes in float32, hidden is float64"):
        linear_cross_entropy(hidden, weight, label, impl="fused")
    assert explain_dispatch("linear_cross_entropy", hidden, weight, label).chosen == "reference"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_both_refuse_low_precision_on_the_cpu(dtype):
    hidden, weight, label = inputs()
    hidden, weight = hidden.astype(dtype), weight.astype(dtype)
    with pytest.raises(
        UnsupportedError, match=f"(?s)fused cannot.*reference cannot.*no {dtype} matrix product"
    ):
        linear_cross_entropy(hidden, weight, label)

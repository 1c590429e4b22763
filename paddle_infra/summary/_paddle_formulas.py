"""What Paddle's own operators cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from paddle_infra.summary.operations import Cost, Formula, Operation, product

# One floating-point operation for each element of the result. A transcendental function counts as one.
_ELEMENTWISE = """
    abs acos acosh add asin asinh atan atan2 atanh bce_loss ceil celu clip cos cosh cumlogsumexp cumprod
    cumsum digamma divide elementwise_pow elu erf erfinv exp expm1 floor floor_divide fmax fmin gelu
    hardshrink hardsigmoid hardswish hardtanh huber_loss kldiv_loss leaky_relu lerp lgamma log log10
    log1p log2 log_loss logit logsigmoid masked_fill maximum minimum mish multiply pow prelu reciprocal
    relu relu6 remainder round rsqrt scale selu sigmoid sigmoid_cross_entropy_with_logits sign silu sin
    sinh softplus softshrink softsign sqrt square stanh subtract swish tan tanh tanh_shrink
    thresholded_relu trunc
"""
# One for each element of what is reduced.
_REDUCTIONS = (
    "amax amin frobenius_norm logsumexp max mean mean_all min p_norm prod segment_pool squared_l2_norm sum"
)
# They move, compare, look up, make or draw numbers: no floating-point arithmetic.
_FREE = """
    all any arange argmax argmin argsort as_strided assign assign_ assign_out_ assign_value bernoulli
    bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
    broadcast_tensors cast channel_shuffle concat contiguous data diag diag_embed diagonal embedding
    empty empty_like equal equal_all expand expand_as eye fetch flatten flip full full_
    full_batch_size_like full_int_array full_like full_with_tensor gather gather_nd gaussian
    greater_equal greater_than increment index_put index_sample index_select is_empty isfinite isinf
    isnan kthvalue less_equal less_than linspace logical_and logical_not logical_or logical_xor
    masked_select memcpy meshgrid mode multinomial nonzero not_equal numel one_hot pad pad3d
    pixel_shuffle pixel_unshuffle put_along_axis randint randperm repeat_interleave
    repeat_interleave_with_tensor_index reshape reverse roll scatter scatter_nd_add searchsorted
    sequence_mask set_value set_value_ set_value_with_tensor set_value_with_tensor_ shape shape64
    share_data_ shuffle_channel slice split split_with_num squeeze stack strided_slice take_along_axis
    tensor_unfold tile topk transpose tril tril_indices triu triu_indices truncated_gaussian_random
    unbind unfold uniform unique unique_consecutive unsqueeze unstack view_dtype view_shape view_slice
    where where_
"""
SOFTMAX = 5  # largest, subtract, exp, sum, divide
NORM = 7  # mean, subtract, square, mean, times 1/σ, times weight, plus bias


def _elementwise(operation: Operation) -> Cost:
    return Cost(other=operation.outputs[0].size)


def _reduction(operation: Operation) -> Cost:
    return Cost(other=operation.inputs[0].size)


def free(operation: Operation) -> Cost:
    """Nothing, whatever the sizes."""
    return Cost()


def _per_input(count: int) -> Formula:
    return lambda operation: Cost(other=count * operation.inputs[0].size)


def _matmul(operation: Operation) -> Cost:
    left = operation.inputs[0].shape
    is_transposed = bool(operation.attributes.get("transpose_x")) and len(left) > 1
    inner = left[-2] if is_transposed else left[-1]
    return product(operation, 2 * operation.outputs[0].size * inner)


def _addmm(operation: Operation) -> Cost:
    size, inner = operation.outputs[0].size, operation.inputs[1].shape[-1]
    wanted = sum(value.needs_gradient for value in operation.inputs[1:3])
    return Cost(2 * size * inner, 2 * size, wanted * 2 * size * inner)


def _dot(operation: Operation) -> Cost:
    return product(operation, 2 * operation.inputs[0].size)


def _convolution(operation: Operation) -> Cost:
    kernel = operation.inputs[1].shape  # [out, in / groups, *sizes]
    return product(operation, 2 * operation.outputs[0].size * math.prod(kernel[1:]))


def _transposed_convolution(operation: Operation) -> Cost:
    kernel = operation.inputs[1].shape  # [in, out / groups, *sizes]
    return product(operation, 2 * operation.inputs[0].size * math.prod(kernel[1:]))


def _einsum(operation: Operation) -> Cost | None:
    equation = str(operation.attributes["equation"]).replace(" ", "")
    terms, shapes = equation.split("->")[0].split(","), [value.shape for value in operation.inputs]
    if "." in equation or len(terms) != 2 or len(shapes) != 2:
        return None
    sizes = {
        letter: size
        for term, shape in zip(terms, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return product(operation, 2 * math.prod(sizes.values()))


def _recurrent(operation: Operation) -> Cost:
    attributes = operation.attributes
    gates = {"LSTM": 4, "GRU": 3}.get(attributes["mode"], 1)
    steps, batch, width = operation.inputs[0].shape
    hidden, directions = attributes["hidden_size"], 2 if attributes["is_bidirec"] else 1
    products = 0
    for _ in range(attributes["num_layers"]):
        products += 2 * steps * batch * directions * gates * hidden * (width + hidden)
        width = directions * hidden
    # Of every gate: two biases and a non-linear function; LSTM and GRU then mix states with 5.
    mixing = 3 * gates + (5 if gates > 1 else 0)
    other = steps * batch * directions * hidden * mixing * attributes["num_layers"]
    is_wanted = any(value.needs_gradient for value in operation.inputs)
    return Cost(products, other, 2 * products if is_wanted else 0)


def attention(operation: Operation) -> Cost:
    """Two products forward, five backward, and a softmax, over every pair of a query and a key."""
    query, key = operation.inputs[0].shape, operation.inputs[1].shape  # [batch, length, heads, width]
    scores = query[0] * query[2] * query[1] * key[1]
    products = 4 * scores * query[3]
    is_wanted = any(value.needs_gradient for value in operation.inputs[:3])
    # Backward: the scores again, and a product for each of dV, dP, dQ, dK.
    return Cost(products, SOFTMAX * scores, products * 5 // 2 if is_wanted else 0)


def _batch_norm(operation: Operation) -> Cost:
    attributes = operation.attributes
    is_fixed = attributes.get("is_test") or attributes.get("use_global_stats")
    return Cost(other=(2 if is_fixed else NORM) * operation.inputs[0].size)  # fixed: one scale, one shift


def _dropout(operation: Operation) -> Cost:
    return Cost(other=0 if operation.attributes.get("is_test") else operation.outputs[0].size)


def _pool(operation: Operation) -> Cost | None:
    # Every element of a window is added or compared. Adaptive and global windows cover each input about once.
    attributes = operation.attributes
    if attributes.get("adaptive") or attributes.get("global_pooling"):
        return Cost(other=operation.inputs[0].size)
    window = attributes.get("kernel_size") or attributes.get("values_1")
    if window is None:
        return None
    return Cost(other=operation.outputs[0].size * math.prod(window))


def _formulas() -> dict[str, Formula]:
    table: dict[str, Formula] = dict.fromkeys(_FREE.split(), free)
    table |= dict.fromkeys(_ELEMENTWISE.split(), _elementwise)
    table |= dict.fromkeys(_REDUCTIONS.split(), _reduction)
    table |= dict.fromkeys(("matmul", "bmm", "mv"), _matmul)
    table |= dict.fromkeys(("conv2d", "conv3d", "depthwise_conv2d"), _convolution)
    transposed = (
        "conv2d_transpose",
        "conv2d_transpose_bias",
        "conv3d_transpose",
        "depthwise_conv2d_transpose",
    )
    table |= dict.fromkeys(transposed, _transposed_convolution)
    table |= dict.fromkeys(("softmax", "log_softmax"), _per_input(SOFTMAX))
    table |= dict.fromkeys(("cross_entropy_with_softmax",), _per_input(SOFTMAX + 1))
    table |= dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), _per_input(NORM))
    table |= dict.fromkeys(("batch_norm", "batch_norm_"), _batch_norm)
    table |= dict.fromkeys(("pool2d", "pool3d", "max_pool2d_with_index", "max_pool3d_with_index"), _pool)
    table |= {"addmm": _addmm, "dot": _dot, "einsum": _einsum, "rnn": _recurrent, "flash_attn": attention}
    table |= {"dropout": _dropout, "rms_norm": _per_input(4), "swiglu": _per_input(2)}
    return {f"pd_op.{name}": formula for name, formula in table.items()}


FORMULAS: Mapping[str, Formula] = MappingProxyType(_formulas())

"""Under no_grad an operator's result knows nothing of its inputs: they may be freed."""

from __future__ import annotations

import paddle
import pytest

from paddle_infra import ops


def wanted(*shape):
    tensor = paddle.randn(shape)
    tensor.stop_gradient = False
    return tensor


CALLS = {
    "attention": lambda: ops.attention(*(wanted(1, 4, 2, 8) for _ in range(3))),
    "attention_with_window": lambda: ops.attention(*(wanted(1, 4, 2, 8) for _ in range(3)), window=(1, 1)),
    "linear": lambda: ops.linear(wanted(2, 3), wanted(3, 4), wanted(4), activation="gelu"),
    "add_norm": lambda: ops.add_norm(wanted(2, 3), wanted(2, 3), wanted(3), wanted(3)),
    "embedding_norm": lambda: ops.embedding_norm(paddle.to_tensor([[0, 1]]), wanted(4, 3)),
    "linear_cross_entropy": lambda: ops.linear_cross_entropy(
        wanted(2, 3), wanted(4, 3), paddle.to_tensor([0, 3])
    ),
}


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_recorded(name, impl):
    with ops.implementation(impl):
        assert not CALLS[name]().stop_gradient
        with paddle.no_grad():
            result = CALLS[name]()
    assert result.stop_gradient
    assert result.grad_fn is None

"""The plain implementations, pinned by results computed by hand (or by exact fractions), not by another program."""

from __future__ import annotations

import math

import paddle
import pytest

from paddle_infra.ops import linear_cross_entropy

# Two features, two classes: logits are (0, ln 3) for the first row and (ln 2, 0) for the second,
# so p = (1/4, 3/4) and (2/3, 1/3).
HIDDEN = [[1.0, 0.0], [0.0, 1.0]]
WEIGHT = [[0.0, math.log(2.0)], [math.log(3.0), 0.0]]
L34, L14, L23, L13 = -math.log(3 / 4), -math.log(1 / 4), -math.log(2 / 3), -math.log(1 / 3)
LSE = (math.log(4.0), math.log(3.0))


def loss(label, **options):
    options = {k: paddle.to_tensor(v, "float64") if isinstance(v, list) else v for k, v in options.items()}
    hidden, weight = paddle.to_tensor(HIDDEN, "float64"), paddle.to_tensor(WEIGHT, "float64")
    return linear_cross_entropy(hidden, weight, paddle.to_tensor(label), impl="reference", **options).numpy()


@pytest.mark.parametrize(
    ("label", "options", "expected"),
    [
        ([1, 0], {}, (L34 + L23) / 2),
        ([1, 0], {"reduction": "sum"}, L34 + L23),
        ([1, 0], {"reduction": "none"}, [L34, L23]),
        ([1, -100], {}, L34),
        ([1, -100], {"reduction": "none"}, [L34, 0.0]),
        ([1, 0], {"ignore_index": 0}, L34),
        ([-100, -100], {}, 0.0),
        ([1, 0], {"bias": [math.log(3.0), 0.0], "reduction": "none"}, [math.log(2.0), -math.log(6 / 7)]),
        ([1, 0], {"class_weight": [2.0, 3.0]}, (3 * L34 + 2 * L23) / 5),
        ([1, 0], {"token_weight": [0.5, 2.0]}, (0.5 * L34 + 2 * L23) / 2.5),
        ([1, 0], {"token_weight": [0.5, 2.0], "reduction": "sum"}, 0.5 * L34 + 2 * L23),
        ([1, 0], {"token_weight": [0.0, 0.0]}, 0.0),
        ([1, 0], {"class_weight": [2.0, 3.0], "token_weight": [0.5, 2.0]}, (1.5 * L34 + 4 * L23) / 5.5),
        (
            [1, 0],
            {"label_smoothing": 0.2, "reduction": "none"},
            [0.8 * L34 + 0.1 * (L34 + L14), 0.8 * L23 + 0.1 * (L23 + L13)],
        ),
        (
            [1, 0],
            {"label_smoothing": 0.2, "class_weight": [2.0, 3.0], "reduction": "none"},
            [0.8 * 3 * L34 + 0.1 * (3 * L34 + 2 * L14), 0.8 * 2 * L23 + 0.1 * (2 * L23 + 3 * L13)],
        ),
        ([1, 0], {"z_loss": 0.5, "reduction": "none"}, [L34 + LSE[0] ** 2 / 2, L23 + LSE[1] ** 2 / 2]),
        (
            [1, -100],
            {"softcap": 2.0},
            math.log(1 + math.exp(2 * math.tanh(math.log(3.0) / 2))) - 2 * math.tanh(math.log(3.0) / 2),
        ),
    ],
)
def test_by_hand(label, options, expected):
    assert loss(label, **options) == pytest.approx(expected, rel=1e-14, abs=1e-15)


def test_gradient_by_hand():
    hidden = paddle.to_tensor(HIDDEN, "float64", stop_gradient=False)
    weight = paddle.to_tensor(WEIGHT, "float64", stop_gradient=False)
    value = linear_cross_entropy(hidden, weight, paddle.to_tensor([1, -100]), impl="reference")
    value.backward()  # gradient of the first row's logits: (1/4, -1/4)
    assert hidden.grad.numpy() == pytest.approx(
        paddle.to_tensor([[-math.log(3.0) / 4, math.log(2.0) / 4], [0.0, 0.0]], "float64").numpy(), abs=1e-15
    )
    assert weight.grad.numpy() == pytest.approx(paddle.to_tensor([[0.25, 0], [-0.25, 0]]).numpy(), abs=1e-15)

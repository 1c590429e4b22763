"""Floating-point operations: against formulas by hand, against PyTorch's counter, and nothing silently zero."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_infra import ops
from paddle_infra.models import BertConfig, BertForSequenceClassification
from paddle_infra.nn import Linear
from paddle_infra.summary import Cost, Operation, Summary, product, summary
from paddle_infra.summary._fused_formulas import FORMULAS as FUSED

BATCH, LENGTH, HIDDEN, LAYERS, INNER = 3, 11, 16, 2, 24


class Run(nn.Layer):
    """Any function as a model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def of(function: Callable[..., Any], *shapes: list[int], needs_gradient: bool = True) -> Summary:
    inputs = [paddle.rand(shape) for shape in shapes]
    for tensor in inputs:
        tensor.stop_gradient = not needs_gradient
    found = summary(Run(function), inputs)
    assert not found.failure
    return found


def small_bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=40, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=INNER,
            max_position_embeddings=20, labels=("no", "yes"),
        )
    )  # fmt: skip


def test_linear_layers() -> None:
    model = nn.Sequential(nn.Linear(5, 7), Linear(7, 3, "gelu"))
    found = summary(model, paddle.rand([2, 4, 5]))
    assert found["0"].cost == Cost(
        2 * 8 * 5 * 7, 8 * 7, 2 * 8 * 5 * 7
    )  # the input needs no gradient, the weight does
    assert found["1"].cost == Cost(2 * 8 * 7 * 3, 2 * 8 * 3, 2 * 2 * 8 * 7 * 3)
    assert found.product_flops == 2 * 8 * (5 * 7 + 7 * 3)
    assert found.not_counted == {}


def test_swiglu_is_half_as_wide_as_its_product() -> None:
    found = of(lambda x, w: ops.linear(x, w, activation="swiglu"), [6, 4], [4, 10])
    assert found.product_flops == 2 * 6 * 4 * 10


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_attention(heads: tuple[int, int]) -> None:
    found = of(ops.attention, [2, 5, heads[0], 8], [2, 7, heads[1], 8], [2, 7, heads[1], 8])
    scores = 2 * heads[0] * 5 * 7
    assert found.product_flops == 2 * (2 * scores * 8)
    assert found.flops == found.product_flops + 5 * scores
    assert found.backward_flops_estimate == 5 * (2 * scores * 8)


def test_paddles_attention_is_the_same_work() -> None:
    function = paddle.nn.functional.scaled_dot_product_attention
    found = of(lambda q, k, v: function(q, k, v), *[[2, 5, 4, 8]] * 3)
    assert found.product_flops == 4 * 2 * 4 * 5 * 5 * 8


def test_packed_attention_is_listed_as_not_counted() -> None:
    starts = paddle.to_tensor([0, 3, 9], dtype="int32")
    found = of(lambda q: ops.attention_varlen(q, q, q, starts, starts), [9, 2, 8])
    assert found.not_counted == {"custom_op.paddle_infra_attention": 1}
    assert "NOT COUNTED, no formula or sizes unknown: custom_op.paddle_infra_attention (1)" in str(found)


@pytest.mark.parametrize(("mode", "gates"), [("LSTM", 4), ("GRU", 3), ("SimpleRNN", 1)])
@pytest.mark.parametrize("direction", ["forward", "bidirect"])
def test_recurrent(mode: str, gates: int, direction: str) -> None:
    model = getattr(nn, mode)(6, 8, num_layers=2, direction=direction)
    found = summary(model, paddle.rand([BATCH, LENGTH, 6]))
    directions = 1 if direction == "forward" else 2
    per_step = directions * gates * 8 * ((6 + 8) + (directions * 8 + 8))
    assert found.product_flops == 2 * BATCH * LENGTH * per_step
    assert found.backward_flops_estimate == 2 * found.product_flops


def test_heads() -> None:
    labels = paddle.zeros([6], dtype="int64")
    loss = of(lambda h, w: ops.linear_cross_entropy(h, w, labels), [6, 4], [9, 4])
    assert loss.product_flops == 2 * 6 * 4 * 9
    assert loss.backward_flops_estimate == 2 * loss.product_flops
    topk = of(lambda h, w: ops.linear_topk(h, w, 2)[0], [6, 4], [9, 4], needs_gradient=False)
    assert topk.product_flops == 2 * 6 * 4 * 9


def test_bert_is_two_operations_for_every_weight_and_token_and_attention() -> None:
    model = small_bert()
    ids = paddle.randint(1, 40, [BATCH, LENGTH])
    found = summary(model, {"input_ids": ids, "attention_mask": paddle.ones_like(ids)})
    matrices = LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
    attention = LAYERS * 4 * BATCH * LENGTH * LENGTH * HIDDEN
    head = 2 * BATCH * HIDDEN * 2
    assert found.product_flops == 2 * matrices * BATCH * LENGTH + attention + head
    assert found.not_counted == {}
    assert found["encoder.stack"].cost is not None
    assert found["encoder.stack"].cost.products == found.product_flops - head
    # The reference is made of other operators, with the same products.
    with ops.implementation("reference"):
        plain = summary(model, {"input_ids": ids, "attention_mask": paddle.ones_like(ids)})
    assert plain.product_flops == found.product_flops
    assert plain.not_counted == {}
    assert found.flops is not None
    assert plain.flops == pytest.approx(found.flops, rel=0.1)


def test_norms_count_what_they_say() -> None:
    norm = of(lambda x: ops.add_norm(x, x, paddle.ones([4]), paddle.zeros([4])), [3, 4])
    assert norm.flops == 12 * 8
    assert of(nn.LayerNorm(4), [3, 4]).flops == 12 * 7


def test_elementwise_and_reductions() -> None:
    found = of(lambda x: paddle.tanh(x * x).sum(axis=0), [3, 4])
    assert found.flops == 12 + 12 + 12
    assert found.backward_flops_estimate == 0


def test_pooling_counts_its_windows() -> None:
    assert of(nn.MaxPool2D(2), [1, 3, 8, 8]).flops == 3 * 16 * 4
    assert of(nn.AvgPool2D(3, stride=1), [1, 3, 8, 8]).flops == 3 * 36 * 9


def test_frozen_factors_need_no_product_in_the_backward_pass() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.stop_gradient = True
    found = summary(model, paddle.rand([3, 4]))
    one = 2 * 3 * 4 * 4
    assert found.product_flops == 2 * one
    assert found.backward_flops_estimate == 2 * one  # first: its weight; second: what comes from the first


def test_an_operator_without_a_formula_is_listed_and_may_be_given_one() -> None:
    model = Run(lambda x: paddle.linalg.inv(x) + 1.0)
    found = summary(model, paddle.eye(4))
    assert found.not_counted == {"pd_op.inverse": 1}
    assert "pd_op.inverse (1)" in found.to_markdown()
    assert found.flops == 16

    def cubic(operation: Operation) -> Cost:
        return product(operation, 2 * operation.inputs[0].shape[-1] ** 3)

    given = summary(model, paddle.eye(4), formulas={"pd_op.inverse": cubic})
    assert given.not_counted == {}
    assert given.product_flops == 128


def test_what_depends_on_values_is_listed() -> None:
    class Branches(nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            if x.sum() > 0:  # noqa: SIM108 - what is tested
                y = paddle.matmul(x, x)
            else:
                y = x
            return y

    found = summary(Branches(), paddle.ones([4, 4]))
    assert found.not_counted == {"pd_op.if": 1}


def test_a_loop_is_listed() -> None:
    class Loop(nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            count = paddle.zeros([], "int32")
            while count < 3:
                x = paddle.matmul(x, x)
                count = count + 1
            return x

    assert summary(Loop(), paddle.ones([4, 4])).not_counted == {"pd_op.while": 1}


def test_sizes_that_are_in_the_data_are_listed_where_they_matter() -> None:
    found = summary(Run(lambda x: x[x > 0.5] * 2.0), paddle.ones([4, 4]))
    assert found.not_counted == {"pd_op.scale": 1}  # selecting is free, whatever the size


def test_the_forward_pass_of_a_pylayer_is_counted() -> None:
    class Square(paddle.autograd.PyLayer):
        @staticmethod
        def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
            y = paddle.tanh(x)
            ctx.save_for_backward(y)
            return paddle.matmul(y, y)

        @staticmethod
        def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
            return gradient

    class Model(nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return Square.apply(x)

    x = paddle.ones([4, 4])
    x.stop_gradient = False
    found = summary(Model(), x)
    assert found.product_flops == 2 * 4**3
    assert found.flops == 2 * 4**3 + 16
    assert found.not_counted == {}
    assert found.activation_bytes == 64


def test_a_model_that_cannot_be_captured_says_why() -> None:
    def function(x: paddle.Tensor) -> paddle.Tensor:
        return paddle.to_tensor(np.tanh(x.numpy()))

    found = summary(Run(function), paddle.ones([2, 2]))
    assert found.flops is None
    assert found.failure
    assert "FLOPs unknown: Paddle could not capture the model" in str(found)
    assert found.to_dict()["flops"] is None
    assert found[""].output_shapes == ((2, 2),)
    assert paddle.in_dynamic_mode()
    assert of(lambda x: x + 1.0, [2]).flops == 2  # the next one is none the worse


def test_every_compiled_operator_has_a_formula() -> None:
    sources = (Path(__file__).parents[2] / "csrc").glob("*/*_op.cc")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    names = set(re.findall(r"(?:PD_BUILD_OP|PI_FORWARD)\((paddle_infra_\w+)", text))
    assert len(names) > 15
    assert {f"custom_op.{name}" for name in names} == set(FUSED)


class TestAgainstTorch:
    """``FlopCounterMode`` counts matrix products and convolutions."""

    @staticmethod
    def count(model: Any, *shapes: list[int]) -> tuple[int, int]:
        """Return its counts of the forward and the backward pass."""
        torch = pytest.importorskip("torch")
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            result = model(*(torch.rand(shape) for shape in shapes))
            forward = counter.get_total_flops()
            result.sum().backward()
        return forward, counter.get_total_flops() - forward

    @pytest.mark.parametrize(
        ("mine", "theirs", "shape"),
        [
            (lambda p: p.Linear(5, 7), lambda t: t.Linear(5, 7), [2, 3, 5]),
            (lambda p: p.Conv2D(4, 6, 3, 2, 1), lambda t: t.Conv2d(4, 6, 3, 2, 1), [2, 4, 9, 9]),
            (lambda p: p.Conv2D(4, 8, 3, groups=2), lambda t: t.Conv2d(4, 8, 3, groups=2), [2, 4, 9, 9]),
            (lambda p: p.Conv2D(4, 8, 3, groups=4), lambda t: t.Conv2d(4, 8, 3, groups=4), [2, 4, 9, 9]),
            (lambda p: p.Conv1D(4, 6, 5), lambda t: t.Conv1d(4, 6, 5), [2, 4, 9]),
            (lambda p: p.Conv3D(2, 3, 2), lambda t: t.Conv3d(2, 3, 2), [1, 2, 5, 5, 5]),
            (lambda p: p.Conv2DTranspose(4, 6, 3, stride=2), lambda t: t.ConvTranspose2d(4, 6, 3, 2), [2, 4, 5, 5]),
        ],
        ids=["linear", "conv", "groups", "depthwise", "conv1d", "conv3d", "transposed"],
    )  # fmt: skip
    def test_layers(self, mine: Any, theirs: Any, shape: list[int]) -> None:
        torch = pytest.importorskip("torch")
        forward, backward = self.count(theirs(torch.nn), shape)
        found = summary(mine(nn), paddle.rand(shape))
        assert found.product_flops == forward
        if "groups" not in str(mine(nn)):  # there PyTorch's count of the weight's gradient forgets the groups
            assert found.backward_flops_estimate == backward
        assert found.not_counted == {}

    def test_einsum(self) -> None:
        torch = pytest.importorskip("torch")
        forward, _ = self.count(
            lambda x, y: torch.einsum("bij,bjk->bik", x.requires_grad_(), y), [2, 3, 4], [2, 4, 5]
        )
        found = of(lambda x, y: paddle.einsum("bij,bjk->bik", x, y), [2, 3, 4], [2, 4, 5])
        assert found.product_flops == forward

    def test_an_encoder(self) -> None:
        torch = pytest.importorskip("torch")

        class Block(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.projections = torch.nn.ModuleList(torch.nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
                self.inner, self.outer = torch.nn.Linear(HIDDEN, INNER), torch.nn.Linear(INNER, HIDDEN)

            def forward(self, x: Any) -> Any:
                query, key, value = (
                    project(x).unflatten(2, (2, -1)).transpose(1, 2) for project in self.projections[:3]
                )
                attended = torch.softmax(query @ key.transpose(2, 3), -1) @ value
                x = x + self.projections[3](attended.transpose(1, 2).flatten(2))
                return x + self.outer(torch.nn.functional.gelu(self.inner(x)))

        forward, backward = self.count(
            torch.nn.Sequential(*(Block() for _ in range(LAYERS))), [BATCH, LENGTH, HIDDEN]
        )
        stack = small_bert().encoder.stack
        found = summary(stack, paddle.rand([BATCH, LENGTH, HIDDEN]))
        assert found.product_flops == forward
        # Fused attention multiplies its scores again in the backward pass; PyTorch keeps them here.
        again = LAYERS * 2 * BATCH * LENGTH * LENGTH * HIDDEN
        assert found.backward_flops_estimate == backward + again

    @pytest.mark.filterwarnings("ignore:When training, we now always track:UserWarning")
    def test_resnet18_counts_as_many_as_published(self) -> None:
        found = summary(paddle.vision.models.resnet18(), paddle.rand([1, 3, 224, 224]))
        assert found.product_flops == pytest.approx(2 * 1.814e9, rel=1e-3)  # 1.8 billion multiply-adds
        assert found.parameters - found["bn1"].parameters > 11e6
        assert found.not_counted == {}

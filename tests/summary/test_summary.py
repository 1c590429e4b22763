"""Parameters, kept activations, what is left unchanged, and the table."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.base import core

from paddle_infra import ops
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.models import BertConfig, BertForSequenceClassification
from paddle_infra.summary import summary
from paddle_infra.summary._measure import Bytes
from paddle_infra.summary.result import scaled


def small_bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=20, labels=("no", "yes"),
        )
    )  # fmt: skip


class Tied(nn.Layer):
    """Embedding and output share a matrix; one layer runs twice; one never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.middle = nn.Linear(4, 4)
        self.output = nn.Linear(10, 4)
        self.output.weight = self.embedding.weight
        self.unused = nn.Linear(3, 3)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        hidden = self.middle(self.middle(self.embedding(ids)))
        return paddle.matmul(hidden, self.output.weight, transpose_y=True)


def test_parameters_equal_what_numpy_counts() -> None:
    model = small_bert()
    model.encoder.embeddings.word.weight.stop_gradient = True
    found = summary(model, paddle.randint(1, 50, [2, 5]))
    arrays = {name: np.asarray(p) for name, p in model.named_parameters()}
    assert found.parameters == sum(array.size for array in arrays.values())
    assert found.trainable == found.parameters - 50 * 32
    layer = "encoder.stack.layers.1"
    assert found[layer].parameters == sum(
        a.size for name, a in arrays.items() if name.startswith(layer + ".")
    )
    assert found[layer].own_parameters == 0
    assert found[layer + ".output"].own_parameters == 64 * 32 + 32


def test_shared_parameters_count_once_and_layers_by_their_calls() -> None:
    found = summary(Tied(), paddle.to_tensor([[1, 2, 3]]))
    assert found.parameters == 40 + 20 + 4 + 12
    assert found["embedding"].shared == found["output"].shared == 40
    assert found[""].shared == found["middle"].shared == 0
    assert found["middle"].calls == 2
    assert found["middle"].cost is not None
    assert found["middle"].cost.products == 2 * (2 * 3 * 4 * 4)
    assert found["unused"].calls == 0
    assert found["unused"].cost is None
    assert found["unused"].activation_bytes is None
    assert found[""].cost is not None
    assert found[""].cost.products == 2 * (2 * 3 * 4 * 4) + 2 * 3 * 4 * 10  # the last outside any sub-layer
    assert found[""].output_shapes == ((1, 3, 10),)
    assert "* has parameters that other layers have too" in str(found)


def growth(model: nn.Layer, inputs: list[Any]) -> tuple[int, int]:
    """Return by how much the memory that Paddle counts grows in a forward pass, and how much of it is results."""
    gc.collect()
    before = core.host_memory_stat_current_value("Allocated", 0)
    outputs = model(*inputs)
    gc.collect()
    grown = core.host_memory_stat_current_value("Allocated", 0) - before
    return grown, sum(tensor.size * tensor.element_size() for tensor in paddle.utils.flatten(outputs))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(50, 80), nn.ReLU(), nn.Linear(80, 60), nn.GELU(), nn.Dropout(0.1)), [64, 50]),
        (lambda: paddle.vision.models.resnet18(), [2, 3, 64, 64]),
        (lambda: nn.LSTM(32, 64, num_layers=2, direction="bidirect"), [8, 20, 32]),
        (small_bert, [8, 20]),
    ],
    ids=["perceptron", "resnet18", "lstm", "bert"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:When training, we now always track:UserWarning")
@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_kept_bytes_are_what_memory_grows_by(
    make: Callable[[], nn.Layer], shape: list[int], implementation: Any
) -> None:
    model = make()
    inputs = [paddle.randint(1, 50, shape) if len(shape) == 2 and make is small_bert else paddle.rand(shape)]
    with ops.implementation(implementation):
        model(*inputs)
        kept, (grown, results) = summary(model, inputs).activation_bytes, growth(model, inputs)
    # Results that the backward pass does not need are not kept, but the caller holds them.
    assert kept <= grown <= kept + results, (kept, grown, results)


def test_frozen_and_evaluated_models_keep_less() -> None:
    model, ids = small_bert(), paddle.randint(1, 50, [4, 10])
    training = summary(model, ids).activation_bytes
    model.eval()
    evaluation = summary(model, ids).activation_bytes
    for parameter in model.parameters():
        parameter.stop_gradient = True
    frozen = summary(model, ids)
    assert 0 < evaluation <= training
    assert frozen.activation_bytes == 0
    assert frozen.backward_flops_estimate == 0
    assert frozen.flops


def test_kept_bytes_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    found = summary(model, paddle.rand([3, 4]))
    # The first keeps only the input; tanh its result, which is also what the last one keeps.
    assert [found[name].activation_bytes for name in "012"] == [0, 3 * 6 * 4, 0]


def test_recomputed_layers_keep_only_their_input() -> None:
    from paddle.distributed.fleet.utils import recompute

    class Recomputed(nn.Layer):
        def __init__(self, *, is_recomputed: bool) -> None:
            super().__init__()
            self.first, self.is_recomputed = nn.Linear(4, 4), is_recomputed
            self.rest = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 4))

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            x = self.first(x)
            return recompute(self.rest, x) if self.is_recomputed else self.rest(x)

    x = paddle.rand([32, 4])
    whole, less = (summary(Recomputed(is_recomputed=flag), x) for flag in (False, True))
    assert whole.activation_bytes == 32 * 4 * 4 + 32 * 64 * 4
    assert less.activation_bytes == 32 * 4 * 4
    assert less.product_flops == whole.product_flops


def test_bytes_that_overlap_count_once() -> None:
    known = Bytes()
    assert known.add(100, 200) == 100
    assert known.add(150, 250) == 50
    assert known.add(100, 250) == 0
    assert known.add(300, 310) == 10
    assert known.add(0, 1000) == 1000 - 150 - 10
    assert known.add(5, 900) == 0


@pytest.mark.filterwarnings("ignore:When training, we now always track:UserWarning")
def test_the_model_is_left_as_it_was() -> None:
    class Changing(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1D(4)
            self.frozen = nn.Dropout(0.5)
            self.linear = nn.Linear(4, 4)
            self.register_buffer("count", paddle.zeros([1]))

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            self.count = self.count + 1.0  # another tensor
            return self.frozen(self.linear(self.norm(x))) * paddle.rand([4])

    model = Changing()
    model.frozen.eval()
    model.linear(paddle.ones([1, 4])).sum().backward()
    x = paddle.rand([8, 4])
    x.stop_gradient = False

    def state() -> dict[str, Any]:
        values = {name: np.array(value) for name, value in model.state_dict().items()}
        values |= {
            f"gradient of {n}": np.array(p.grad) for n, p in model.named_parameters() if p.grad is not None
        }
        return values

    paddle.seed(5)
    before, modes = state(), [layer.training for layer in model.sublayers()]
    hooks = [(len(layer._forward_pre_hooks), len(layer._forward_post_hooks)) for layer in model.sublayers()]
    expected_draws = (
        paddle.get_rng_state()[0].current_seed(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )
    first_random = None
    paddle.seed(5)
    first_random = paddle.rand([3]).numpy()
    paddle.seed(5)
    summary(model, x, time_repeats=2)
    np.testing.assert_array_equal(paddle.rand([3]).numpy(), first_random)
    assert random.getstate() == expected_draws[1]
    assert np.random.get_state()[1].tolist() == expected_draws[2]
    after = state()
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert [layer.training for layer in model.sublayers()] == modes
    assert hooks == [(len(a._forward_pre_hooks), len(a._forward_post_hooks)) for a in model.sublayers()]
    assert x.grad is None
    assert paddle.in_dynamic_mode()
    assert paddle.is_grad_enabled()


def test_an_error_of_the_model_leaves_no_hooks() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="mul"):
        summary(model, paddle.ones([2, 3]))
    assert not model[0]._forward_pre_hooks
    assert not model[0]._forward_post_hooks


def test_inputs_may_be_arrays_nested_and_named() -> None:
    class Nested(nn.Layer):
        def forward(self, x: Any, states: Any, *, scale: float) -> Any:
            return {"sum": x + states[0]["a"], "more": [states[1] * scale]}

    array = np.ones([2, 3], np.float32)
    found = summary(Nested(), {"x": array, "states": [{"a": array}, array], "scale": 2.0})
    assert found[""].output_shapes == ((2, 3), (2, 3))
    assert found.flops == 12
    assert summary(nn.Linear(3, 1), array).product_flops == 2 * 2 * 3


def test_times_only_when_asked() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert summary(model, paddle.ones([2, 4]))[""].seconds is None
    timed = summary(model, paddle.ones([2, 4]), time_repeats=3)
    whole, parts = timed[""].seconds, [timed["0"].seconds, timed["1"].seconds]
    assert whole is not None
    assert all(part is not None and 0 < part < whole for part in parts)
    assert " ms" in str(timed).splitlines()[0]


def test_table_and_plain_values() -> None:
    found = summary(small_bert(), paddle.randint(1, 50, [2, 5]))
    lines = found.to_text(depth=1).splitlines()
    assert lines[0].split() == ["layer", "class", "output", "parameters", "FLOPs", "kept"]
    assert [line.split()[0] for line in lines[2:5]] == ["(model)", "encoder", "head"]
    assert f"parameters {found.parameters:,}, of them trainable {found.trainable:,}" in lines[6]
    assert len(found.to_text().splitlines()) > 30
    table = found.to_markdown(depth=0).splitlines()
    assert table[0].count("|") == table[1].count("|") == table[2].count("|") == 7
    values = json.loads(json.dumps(found.to_dict()))
    assert values["flops"] == found.flops
    assert values["layers"][0]["cost"]["products"] == found.product_flops
    assert [row["name"] for row in values["layers"]] == [row.name for row in found.rows]
    with pytest.raises(InvalidInputError, match="depth: expected 0 or more, got -1"):
        found.to_text(-1)
    with pytest.raises(KeyError, match="nowhere"):
        found["nowhere"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12345, "12.3 kB"), (999_999, "1 MB"), (10**19, "1e+04 PB")],
)  # fmt: skip
def test_scaled(value: int, text: str) -> None:
    assert scaled(value, "B") == text


def test_wrong_arguments() -> None:
    with pytest.raises(InvalidDtypeError, match=r"model: expected a paddle\.nn\.Layer, got function"):
        summary(lambda x: x, paddle.ones([1]))  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="time_repeats: expected 0 or more, got -1"):
        summary(nn.Linear(1, 1), paddle.ones([1, 1]), time_repeats=-1)
    with pytest.raises(UnsupportedError, match=r"got 'a model' after paddle\.jit\.to_static"):
        summary(paddle.jit.to_static(nn.Linear(1, 1)), paddle.ones([1, 1]))

"""Adapters are applied, switched, disabled and deleted; everything else stays as it is."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest

from paddle_infra import peft
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.nn import Linear, TransformerEncoderLayer
from tests.peft.tiny import HEAD, METHODS, adapted, also, batch, gradients, logits, model, randomize

LAYER = "encoder.stack.layers.0"
PARAMETERS = {  # of the first adapted layer
    "lora": ("down", "up"),
    "lora-stabilized": ("down", "up"),
    "lora-embedding": ("down", "up"),
    "adalora": ("left", "diagonal", "right"),
    "bottleneck": ("down", "down_bias", "up", "up_bias"),
    "pfeiffer": ("down", "down_bias", "up", "up_bias"),
    "prefix": ("keys", "values"),
    "prefix-perceptron": ("embedding", "inner.weight", "inner.bias", "outer.weight", "outer.bias"),
    "prompt": ("states",),
    "ia3": ("factors",),
}
LAYERS = {
    "lora": 12,
    "lora-stabilized": 4,
    "lora-embedding": 4,
    "adalora": 12,
    "bottleneck": 4,
    "pfeiffer": 2,
    "prefix": 2,
    "prefix-perceptron": 2,
    "prompt": 1,
    "ia3": 6,
}


@pytest.mark.parametrize("method", METHODS)
def test_names_are_those_of_the_model_and_the_adapters(method: str) -> None:
    made, plain = model(), model()
    applied = peft.apply(made, METHODS[method], name="task", train_also=also(method))
    assert len(applied.layers) == LAYERS[method]
    names = [name for name, _ in made.named_parameters()]
    assert [name for name in names if ".adapters." not in name] == [n for n, _ in plain.named_parameters()]
    first = min(applied.layers, key=lambda layer: names.index(next(n for n in names if n.startswith(layer))))
    own = [name for name in names if name.startswith(f"{first}.adapters.")]
    assert own == [f"{first}.adapters.task.{name}" for name in PARAMETERS[method]]
    assert applied.train_also == (("head.classifier.weight", "head.classifier.bias") if also(method) else ())


@pytest.mark.parametrize("method", METHODS)
def test_a_training_step_changes_adapter_and_head_only(method: str) -> None:
    made = adapted(method)
    made.train()
    before = {name: value.numpy().copy() for name, value in made.state_dict().items()}
    optimizer = paddle.optimizer.SGD(0.5, parameters=made.parameters())
    made.loss(**batch(), labels=paddle.to_tensor([0, 1, 2])).backward()
    optimizer.step()
    changed = {name for name, value in made.state_dict().items() if (value.numpy() != before[name]).any()}
    expected = {name for name in before if ".adapters." in name and not name.endswith(".kept")}
    expected |= set(peft.adapters(made)["default"].train_also)
    assert changed == expected
    assert set(peft.trainable_parameters(made)) == expected


@pytest.mark.parametrize(
    "method", ["lora", "lora-stabilized", "lora-embedding", "adalora", "bottleneck", "ia3"]
)
def test_a_new_adapter_changes_nothing_at_first(method: str) -> None:
    made = model()
    before = logits(made)
    peft.apply(made, METHODS[method])
    np.testing.assert_allclose(logits(made), before, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_disabled_and_deleted_it_is_the_old_model_to_the_last_bit(method: str) -> None:
    made, plain = adapted(method), model()
    old, new = logits(plain), logits(made)
    assert np.abs(new - old).max() > 1e-3
    with peft.disabled(made):
        assert peft.active_adapter(made) is None
        assert np.array_equal(logits(made), old)
        assert not peft.trainable_parameters(made)
    assert np.array_equal(logits(made), new)
    peft.delete_adapter(made, "default")
    assert np.array_equal(logits(made), old)
    assert not peft.adapters(made)
    assert [type(layer) for layer in made.sublayers()] == [type(layer) for layer in plain.sublayers()]
    assert list(made.state_dict()) == list(plain.state_dict())
    assert not any(parameter.stop_gradient for parameter in made.parameters())


def test_several_adapters_with_heads_of_their_own() -> None:
    made = model()
    outputs = {None: logits(made)}
    for index, method in enumerate(METHODS):
        name = method.replace("-", "_")
        peft.apply(made, METHODS[method], name=name, train_also=also(method))
        randomize(made, index)
        outputs[name] = logits(made)
    assert list(peft.adapters(made)) == [name for name in outputs if name]
    for name in [*outputs, *reversed(outputs)]:
        peft.set_adapter(made, name)
        assert np.array_equal(logits(made), outputs[name])
    peft.set_adapter(made, "prompt")
    for name in list(peft.adapters(made)):
        if name != "prompt":
            peft.delete_adapter(made, name)
    assert np.array_equal(logits(made), outputs["prompt"])
    peft.delete_adapter(made, "prompt")
    assert np.array_equal(logits(made), outputs[None])
    assert np.array_equal(made.head.classifier.weight.numpy(), model().head.classifier.weight.numpy())


def test_counts() -> None:
    made = model()
    total = sum(int(p.size) for p in made.parameters())
    assert peft.count_parameters(made) == peft.ParameterCounts(total, total)
    peft.apply_lora(made, rank=3, layers=("query", "intermediate"), train_also=HEAD)
    own = 2 * 3 * (16 + 16 + 16 + 24)
    counts = peft.count_parameters(made)
    assert counts == peft.ParameterCounts(own + 16 * 3 + 3, total + own)
    assert counts.share == counts.trainable / counts.total
    assert str(counts) == f"{own + 51} of {total + own:,} parameters are trained ({counts.share:.2%})"


def test_patterns() -> None:
    made = model()
    assert peft.apply_lora(made, layers=rf"{LAYER}\..*ey", name="a").layers == (f"{LAYER}.attention.key",)
    assert peft.apply_lora(made, layers=["attention.output"], name="b").layers == tuple(
        f"encoder.stack.layers.{i}.attention.output" for i in (0, 1)
    )
    assert peft.apply(made, peft.BottleneckConfig(layers=peft.PFEIFFER), name="c").layers == tuple(
        f"encoder.stack.layers.{i}.output" for i in (0, 1)
    )


def test_a_copy_of_the_model_is_independent() -> None:
    made = adapted("lora")
    twin = copy.deepcopy(made)
    before = logits(twin)
    randomize(made)
    assert np.array_equal(logits(twin), before)
    peft.delete_adapter(twin, "default")
    assert np.array_equal(logits(twin), logits(model()))
    assert "default" in peft.adapters(made)


def test_a_subclass_that_calls_the_linear_layer_is_adapted() -> None:
    paddle.seed(0)
    layer = TransformerEncoderLayer(16, 4, 24, "geglu")
    layer.eval()
    x = paddle.randn([2, 5, 16])
    peft.apply_lora(layer, layers=("intermediate",))
    randomize(layer)
    with paddle.no_grad():
        z = paddle.nn.functional.linear(x, layer.intermediate.weight, layer.intermediate.bias)
        gate, value = z.chunk(2, axis=-1)
        expected = paddle.nn.functional.gelu(gate) * value
        np.testing.assert_allclose(layer.intermediate(x).numpy(), expected.numpy(), atol=1e-5)
    peft.delete_adapter(layer, "default")
    assert type(layer.intermediate).__name__ == "_GatedGelu"


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu", "silu", "swiglu"])
def test_the_activation_comes_after_the_sum(activation: str) -> None:
    paddle.seed(0)
    layers = paddle.nn.Sequential(("only", Linear(6, 8, activation)))
    layers.eval()
    x = paddle.randn([5, 6])
    peft.apply_lora(layers, layers=["only"], rank=2)
    randomize(layers)
    plain = Linear(6, 8, activation)
    plain.weight.set_value(layers.only.weight)
    plain.bias.set_value(layers.only.bias)
    np.testing.assert_allclose(layers(x).numpy(), plain(x).numpy(), atol=1e-5)


def test_a_weight_that_others_read_is_the_one_in_effect() -> None:
    made = model()
    peft.apply_lora(made, layers=("classifier",))
    randomize(made)
    got = gradients(made)
    assert all(np.abs(value).max() > 1e-3 for value in got.values())
    loss = float(made.loss(**batch(), labels=paddle.to_tensor([0, 1, 2])))
    expected = paddle.nn.functional.cross_entropy(made(**batch()), paddle.to_tensor([0, 1, 2]))
    np.testing.assert_allclose(loss, float(expected), rtol=1e-5)


def test_a_bottleneck_has_no_weight_to_read() -> None:
    made = model()
    peft.apply(made, peft.BottleneckConfig(layers=("classifier",)))
    repr(made)  # which shows shapes
    with pytest.raises(UnsupportedError, match="expected an adapter that a weight can express"):
        made.loss(**batch(), labels=paddle.to_tensor([0, 1, 2]))


def test_refusals() -> None:
    made = model()
    before = list(made.state_dict())
    with pytest.raises(
        InvalidInputError, match=r"layers: expected a pattern of layers of Linear or Embedding, got"
    ):
        peft.apply_lora(made, layers=("query", "qkv"))
    with pytest.raises(InvalidInputError, match=r"got 'stack', which matches none of"):
        peft.apply_lora(made, layers="stack")
    with pytest.raises(InvalidInputError, match=r"layers of MultiHeadAttention, got 'query'"):
        peft.apply(made, peft.PrefixConfig(layers=("query",)))
    with pytest.raises(InvalidInputError, match=r"expected a regular expression, got '\(': missing"):
        peft.apply_lora(made, layers="(")
    with pytest.raises(InvalidDtypeError, match=r"expected a regular expression or a list of names, got 3"):
        peft.apply_lora(made, layers=3)
    with pytest.raises(
        InvalidInputError, match=r"train_also: expected names of layers or parameters, got 'hed'"
    ):
        peft.apply_lora(made, train_also=("hed",))
    with pytest.raises(InvalidDtypeError, match=r"train_also: expected a list of names, got 'head'"):
        peft.apply_lora(made, train_also="head")
    with pytest.raises(InvalidDtypeError, match=r"config: expected an AdapterConfig, got dict"):
        peft.apply(made, {"rank": 8})
    with pytest.raises(InvalidInputError, match=r"name: expected letters, digits and underscores, got 'a.b'"):
        peft.apply_lora(made, name="a.b")
    with pytest.raises(
        InvalidInputError, match=r"input_layers: expected other layers than in layers, got \['enc"
    ):
        peft.apply(made, peft.IA3Config(layers=("output",)))
    with pytest.raises(InvalidInputError, match=r"expected a model that peft.apply was called with"):
        peft.set_adapter(made, "default")
    assert list(made.state_dict()) == before
    assert not any(parameter.stop_gradient for parameter in made.parameters())
    peft.apply_lora(made)
    with pytest.raises(
        InvalidInputError, match=r"name: expected a new name, got 'default'; there are \['default'\]"
    ):
        peft.apply_lora(made)
    with pytest.raises(InvalidInputError, match=r"expected one of the adapters \['default'\], got 'other'"):
        peft.set_adapter(made, "other")


def test_a_part_and_the_whole_cannot_both_have_adapters() -> None:
    made = model()
    peft.apply_lora(made.encoder, layers=("query",))
    with pytest.raises(
        InvalidInputError, match=r"query: expected a layer without adapters, got one that peft.apply"
    ):
        peft.apply_lora(made, layers=("key", "query"))
    assert not peft.adapters(made)
    assert peft.apply_lora(made, layers=("key",)).layers


def test_statistics_are_not_trained() -> None:
    layers = paddle.nn.Sequential(("norm", paddle.nn.BatchNorm1D(4)), ("last", paddle.nn.Linear(4, 2)))
    applied = peft.apply_lora(layers, layers=["last"], train_also=["norm"])
    assert applied.train_also == ("norm.weight", "norm.bias")
    peft.delete_adapter(layers, "default")
    assert [name for name, p in layers.named_parameters() if p.stop_gradient] == [
        "norm._mean",
        "norm._variance",
    ]


def test_another_dtype_runs_in_plain_paddle() -> None:
    layers = paddle.nn.Sequential(("only", Linear(4, 6, "gelu"))).to(dtype="float64")
    peft.apply_lora(layers, layers=["only"], rank=2)
    layers.only.adapters["default"].up.set_value(np.ones([2, 6]))
    x = paddle.randn([3, 4]).astype("float64")
    got = layers(x)
    assert got.dtype == paddle.float64
    peft.merge(layers)
    np.testing.assert_allclose(layers(x).numpy(), got.numpy(), rtol=1e-10)


def test_layers_with_a_forward_of_their_own_are_refused() -> None:
    class Odd(paddle.nn.Linear):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return paddle.matmul(x, self.weight)

    layers = paddle.nn.Sequential(("odd", Odd(4, 4)), ("even", paddle.nn.Linear(4, 4)))
    with pytest.raises(
        UnsupportedError, match=r"odd: expected a layer with the forward of Linear, got .*Odd"
    ):
        peft.apply_lora(layers, layers=".*")
    assert "adapters" not in layers.even._sub_layers
    assert peft.apply_lora(layers, layers=["even"]).layers == ("even",)


def test_prompts_need_a_bias_without_queries() -> None:
    made = adapted("prompt")
    with pytest.raises(
        UnsupportedError, match=r"bias: expected one that is the same for every query .* \[1, 1, 5, 5\]"
    ):
        made.encoder.stack(paddle.randn([2, 5, 16]), paddle.zeros([1, 1, 5, 5]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: peft.LoRAConfig(rank=0), "rank: expected a positive integer, got 0"),
        (lambda: peft.LoRAConfig(dropout=1.5), "dropout: expected a finite number"),
        (lambda: peft.AdaLoRAConfig(rank=True), "rank: expected a positive integer, got True"),
        (lambda: peft.BottleneckConfig(activation="tanh"), "activation: expected one of"),
        (lambda: peft.PrefixConfig(length=-1), "length: expected a positive integer, got -1"),
        (lambda: peft.PrefixConfig(inner_size=0), "inner_size: expected a positive integer, got 0"),
        (lambda: peft.PromptConfig(length=0), "length: expected a positive integer, got 0"),
    ],
)
def test_bad_settings(make, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()

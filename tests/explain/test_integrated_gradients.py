from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_infra import ops
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from paddle_infra.explain import integrated_gradients, token_baseline
from tests.explain.models import (
    CLS,
    MASK,
    PAD,
    SEP,
    Curved,
    LinearTable,
    sentences,
    small_bert,
    small_tagger,
)

LAYER = "encoder.embeddings"
POINT = np.array([[1.5, -2.0, 3.0], [0.5, 1.0, -1.0]], np.float32)


def masked(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    ids = token_baseline(inputs["input_ids"], MASK, keep=(PAD, CLS, SEP))
    return {"input_ids": np.where(inputs["attention_mask"] == 1, ids, inputs["input_ids"])}


def test_a_polynomial_by_hand() -> None:
    found = integrated_gradients(Curved(), {"x": POINT}, {"x": 0.0}, steps=2)
    x, y = POINT[:, 0].astype(np.float64), POINT[:, 1]
    expected = np.stack([x**3 + x * y, x * y, 0 * x], axis=1)  # 2xy is shared equally
    np.testing.assert_allclose(found.values["x"], expected, rtol=1e-6)
    np.testing.assert_allclose(found.delta, 0.0, atol=1e-6)
    np.testing.assert_allclose(found.score - found.baseline_score, x**3 + 2 * x * y, rtol=1e-6)
    assert found.target.tolist() == [0, 0]
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-found.score)), rtol=1e-6)


def test_a_linear_model_gets_its_weights_whatever_the_steps() -> None:
    model = LinearTable()
    inputs = {"numbers": POINT, "category": np.array([2, 1])}
    baselines = {"numbers": np.array([0.5, 0.0, 1.0], np.float32), "category": 0}
    weight, table = model.linear.weight.numpy(), model.category.weight.numpy()
    for steps, rule in ((1, "gauss_legendre"), (5, "gauss_legendre"), (2, "trapezoid"), (9, "trapezoid")):
        found = integrated_gradients(
            model, inputs, baselines, layers=["category"], target=[1, 0], steps=steps, rule=rule
        )  # type: ignore[arg-type]
        column = weight[:, found.target].T
        np.testing.assert_allclose(
            found.values["numbers"], (POINT - baselines["numbers"]) * column, atol=1e-6
        )
        change = table[[2, 1]] - table[0]
        np.testing.assert_allclose(
            found.values["category"].sum(axis=1), change[[0, 1], found.target], atol=1e-6
        )
        assert np.abs(found.delta).max() < 1e-6


@pytest.mark.parametrize("score", ["logit", "log_probability", "probability"])
@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_completeness_of_a_text_classifier(score: Any, implementation: Any, pooling: str) -> None:
    model, inputs = small_bert(pooling=pooling), sentences()
    with ops.implementation(implementation):
        found = integrated_gradients(model, inputs, masked(inputs), layers=[LAYER], score=score, steps=64)
    change = found.score - found.baseline_score
    assert found.values[LAYER].shape == (2, 8, 16)
    assert np.abs(change).min() > 0.01
    np.testing.assert_allclose(found.total, change, atol=2e-4, rtol=2e-3)
    model.eval()
    logits = model(**{name: paddle.to_tensor(value) for name, value in inputs.items()})
    probabilities = nn.functional.softmax(logits).numpy()
    np.testing.assert_allclose(found.probability, probabilities.max(axis=1), rtol=1e-5)
    assert found.target.tolist() == probabilities.argmax(axis=1).tolist()


def test_the_error_falls_with_the_steps() -> None:
    model, inputs = small_bert(), sentences()
    error = [
        np.abs(integrated_gradients(model, inputs, masked(inputs), layers=[LAYER], steps=n, rule=rule).delta).max()
        for rule, n in (("trapezoid", 4), ("trapezoid", 64), ("gauss_legendre", 32))
    ]  # fmt: skip
    assert error[1] < error[0] / 20
    assert error[2] < error[1]


def test_padding_and_special_tokens_get_zero_and_padding_changes_nothing() -> None:
    model, short = small_bert(), sentences()
    first = integrated_gradients(model, short, masked(short), layers=[LAYER]).values[LAYER].sum(axis=2)
    special = np.isin(short["input_ids"], [PAD, CLS, SEP])
    assert (first[special] == 0.0).all()
    assert (first[~special] != 0.0).all()
    for padding in (1, 7):
        long = sentences(padding)
        found = integrated_gradients(model, long, masked(long), layers=[LAYER]).values[LAYER].sum(axis=2)
        np.testing.assert_allclose(found[:, :8], first, atol=1e-6)
        assert (found[:, 8:] == 0.0).all()


def test_a_token_that_the_model_does_not_read_gets_zero() -> None:
    class FirstOnly(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.output = nn.Embedding(40, 6), nn.Linear(6, 2)

        def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
            return self.output(paddle.tanh(self.embedding(ids)[:, 0]))

    ids = np.array([[5, 6, 7]])
    found = integrated_gradients(FirstOnly(), {"ids": ids}, {"ids": 0}, layers=["embedding"])
    sums = found.values["embedding"].sum(axis=2)[0]
    assert sums[0] != 0.0  # sensitivity: one place differs and the score with it
    assert sums[1:].tolist() == [0.0, 0.0]


def test_one_token_of_a_tagger() -> None:
    model, inputs = small_tagger(), sentences()
    found = integrated_gradients(
        model, inputs, masked(inputs), layers=[LAYER], position=[2, 4], target=[0, 2], steps=64
    )
    np.testing.assert_allclose(found.total, found.score - found.baseline_score, atol=2e-4, rtol=2e-3)
    model.eval()
    logits = model(**{name: paddle.to_tensor(value) for name, value in inputs.items()}).numpy()
    np.testing.assert_allclose(found.score, [logits[0, 2, 0], logits[1, 4, 2]], rtol=1e-5)


def test_results_do_not_depend_on_the_batch_size() -> None:
    model, inputs = small_bert(), sentences()
    whole, parts = (
        integrated_gradients(model, inputs, masked(inputs), layers=[LAYER], steps=10, batch_size=size)
        for size in (64, 3)
    )
    np.testing.assert_allclose(whole.values[LAYER], parts.values[LAYER], atol=1e-6)


def test_never_more_points_at_once_than_asked() -> None:
    class Counting(Curved):
        largest = 0

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            self.largest = max(self.largest, x.shape[0])
            return super().forward(x)

    model = Counting()
    integrated_gradients(model, {"x": np.tile(POINT, (5, 1))}, {"x": 0.0}, steps=7, batch_size=4)
    assert model.largest == 4


def test_missing_numbers_take_the_baseline_and_get_zero() -> None:
    point = POINT.copy()
    point[0, 1] = np.nan
    found = integrated_gradients(Curved(), {"x": point}, {"x": np.array([0.0, 0.25, 0.0], np.float32)})
    assert found.values["x"][0, 1] == 0.0
    np.testing.assert_allclose(found.score[0], 1.5**3 + 2 * 1.5 * 0.25, rtol=1e-6)
    np.testing.assert_allclose(found.delta, 0.0, atol=1e-6)


def test_a_layer_may_read_missing_numbers_itself() -> None:
    class Numbers(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.reader, self.output = Reader(), nn.Linear(6, 2)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.output(paddle.tanh(self.reader(x)))

    class Reader(nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            is_missing = paddle.isnan(x)
            return paddle.concat(
                [paddle.where(is_missing, paddle.zeros_like(x), x), is_missing.astype(x.dtype)], axis=1
            )

    point = np.array([[np.nan, 1.0, 2.0]], np.float32)
    found = integrated_gradients(Numbers(), {"x": point}, {"x": 0.0}, layers=["reader"], direct=())
    assert set(found.values) == {"reader"}
    assert found.values["reader"][0, 3] != 0.0  # that it is missing
    np.testing.assert_allclose(found.delta, 0.0, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_models_in_evaluation_mode(kind: str) -> None:
    class Recurrent(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(40, 5)
            self.cells = getattr(nn, kind)(5, 6, num_layers=2, dropout=0.5)
            self.output = nn.Linear(6, 2)

        def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
            return self.output(self.cells(self.embedding(ids))[0][:, -1])

    model = Recurrent()
    model.cells.eval()
    frozen = model.cells.parameters()[0]
    frozen.stop_gradient = True
    ids = np.array([[5, 6, 7, 8]])
    first, again = (
        integrated_gradients(model, {"ids": ids}, {"ids": 0}, layers=["embedding"]) for _ in range(2)
    )
    np.testing.assert_array_equal(first.values["embedding"], again.values["embedding"])  # no dropout
    np.testing.assert_allclose(first.delta, 0.0, atol=1e-5)
    assert model.training
    assert not model.cells.training
    assert model.cells.dropout == 0.5
    assert frozen.stop_gradient
    assert not model.cells.parameters()[1].stop_gradient
    assert model.cells.parameters()[1].grad is None


def test_the_model_is_left_as_it_was() -> None:
    model, inputs = small_bert(), sentences()
    model.encoder.stack.layers[0].eval()
    modes = [layer.training for layer in model.sublayers(include_self=True)]
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    paddle.seed(9)
    expected = paddle.rand([2]).numpy()
    paddle.seed(9)
    first = integrated_gradients(model, inputs, masked(inputs), layers=[LAYER])
    np.testing.assert_array_equal(paddle.rand([2]).numpy(), expected)
    assert [layer.training for layer in model.sublayers(include_self=True)] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.encoder.embeddings._forward_post_hooks
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name])
    second = integrated_gradients(model, inputs, masked(inputs), layers=[LAYER])
    np.testing.assert_array_equal(first.values[LAYER], second.values[LAYER])


def test_it_works_inside_no_grad() -> None:
    with paddle.no_grad():
        found = integrated_gradients(Curved(), {"x": POINT}, {"x": 0.0})
    assert np.abs(found.total).min() > 0


class TestErrors:
    def test_layers(self) -> None:
        model, inputs = small_bert(), sentences()
        with pytest.raises(
            InvalidInputError, match=r"layers: expected names of layers, such as \['encoder.emb.*got 'x'"
        ):
            integrated_gradients(model, inputs, masked(inputs), layers=["x"])
        with pytest.raises(
            InvalidInputError, match=r"'encoder\.embeddings\.word' ran 0 times: name the layer around it"
        ):
            integrated_gradients(model, inputs, masked(inputs), layers=["encoder.embeddings.word"])
        with pytest.raises(InvalidInputError, match="expected a layer or a floating input with a baseline"):
            integrated_gradients(model, inputs, masked(inputs))
        assert not model.encoder.embeddings.word._forward_post_hooks

    def test_targets(self) -> None:
        model, inputs = small_bert(), sentences()
        options: dict[str, Any] = {"layers": [LAYER]}
        with pytest.raises(InvalidInputError, match=r"target: expected at least 0 and below 3, got \[0, 3\]"):
            integrated_gradients(model, inputs, masked(inputs), target=[0, 3], **options)
        with pytest.raises(InvalidInputError, match=r"target: expected an integer or 2 of them, got 1\.5"):
            integrated_gradients(model, inputs, masked(inputs), target=1.5, **options)
        with pytest.raises(InvalidInputError, match="position: expected None for outputs of shape"):
            integrated_gradients(model, inputs, masked(inputs), position=1, **options)
        with pytest.raises(InvalidInputError, match="position: expected a token for outputs of shape"):
            integrated_gradients(small_tagger(), inputs, masked(inputs), **options)

    def test_inputs(self) -> None:
        with pytest.raises(
            InvalidDtypeError, match="inputs: expected a mapping from argument names to arrays"
        ):
            integrated_gradients(Curved(), POINT, {"x": 0.0})
        with pytest.raises(InvalidInputError, match="inputs: expected arrays of one batch size"):
            integrated_gradients(Curved(), {"x": POINT, "y": POINT[:1]}, {"x": 0.0})
        with pytest.raises(InvalidInputError, match=r"baselines: expected names among \['x'\], got \['y'\]"):
            integrated_gradients(Curved(), {"x": POINT}, {"y": 0.0})
        with pytest.raises(
            InvalidInputError, match=r"baselines\['x'\]: expected a shape that broadcasts to \[2, 3\]"
        ):
            integrated_gradients(Curved(), {"x": POINT}, {"x": np.zeros(2)})
        with pytest.raises(InvalidInputError, match="direct: expected floating inputs with a baseline"):
            integrated_gradients(Curved(), {"x": POINT}, {"x": 0.0}, direct=["z"])

    def test_a_layer_named_as_an_input(self) -> None:
        class Clash(nn.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.x = nn.Linear(3, 2)

            def forward(self, x: paddle.Tensor) -> paddle.Tensor:
                return self.x(x)

        with pytest.raises(InvalidInputError, match=r"layers: expected other names than .* got \['x'\]"):
            integrated_gradients(Clash(), {"x": POINT}, {"x": 0.0}, layers=["x"])

    def test_numbers(self) -> None:
        for options, message in (
            ({"steps": 0}, "steps: expected a positive integer, got 0"),
            ({"steps": 1, "rule": "trapezoid"}, "steps: expected at least 2 for the trapezoid rule"),
            ({"rule": "simpson"}, "rule: expected one of 'gauss_legendre', 'trapezoid'"),
            ({"score": "loss"}, "score: expected one of 'logit', 'log_probability', 'probability'"),
            ({"batch_size": 0}, "batch_size: expected a positive integer"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                integrated_gradients(Curved(), {"x": POINT}, {"x": 0.0}, **options)  # type: ignore[arg-type]

    def test_models(self) -> None:
        class Pair(nn.Layer):
            def forward(self, x: paddle.Tensor) -> Any:
                return x, x

        with pytest.raises(
            InvalidDtypeError, match="model: expected one that returns a tensor of scores, got tuple"
        ):
            integrated_gradients(Pair(), {"x": POINT}, {"x": 0.0})
        with pytest.raises(InvalidDtypeError, match=r"model: expected a paddle\.nn\.Layer, got function"):
            integrated_gradients(lambda x: x, {"x": POINT}, {"x": 0.0})  # type: ignore[arg-type]
        with pytest.raises(InvalidDtypeError, match="input_ids: expected integers, got float64"):
            token_baseline([[1.0]], 0)

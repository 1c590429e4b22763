"""Adapters in the Trainer: exact resume, averages, recomputation, rounded products, programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra import peft
from paddle_infra.models import BertForSequenceClassification
from paddle_infra.ops import set_matmul_precision
from paddle_infra.train import (
    EMA,
    Accuracy,
    Checkpoint,
    Evaluator,
    Trainer,
    adamw,
    load_model,
    recompute_layers,
    seed_everything,
)
from tests.peft.tiny import METHODS, adapted, also, batch, gradients, logits, model, randomize
from tests.train.problem import assert_same_bits, tensors


class Batches:
    """Six batches; the label is about the length."""

    def __len__(self) -> int:
        return 6

    def __iter__(self):
        generator = np.random.default_rng(0)
        for _ in range(6):
            ids = generator.integers(1, 50, (8, 6))
            mask = (np.arange(6) < generator.integers(1, 7, (8, 1))).astype("int64")
            yield {"input_ids": ids, "attention_mask": mask, "labels": (mask.sum(1) - 1) // 2}


def inputs(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("input_ids", "attention_mask")}


def training_step(network: Any, values: dict[str, Any]) -> paddle.Tensor:
    return network.loss(**inputs(values), labels=values["labels"])


def evaluation_step(network: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {"logits": network(**inputs(values)), "labels": values["labels"]}


def trainer(method: str, *callbacks: Any, seed: int = 0, rate: float = 5e-3) -> Trainer:
    seed_everything(seed)
    network = BertForSequenceClassification(model().config)
    peft.apply(network, METHODS[method], train_also=also(method))
    evaluator = Evaluator(evaluation_step, [Accuracy(["a", "b", "c"])])
    optimizer = adamw(network, rate, schedule="constant")
    return Trainer(network, optimizer, training_step, evaluator=evaluator, callbacks=callbacks)


@pytest.mark.parametrize("method", ["lora", "bottleneck", "prefix-perceptron", "prompt", "ia3"])
def test_a_resumed_run_is_the_same_run(method: str, tmp_path: Path) -> None:
    whole = trainer(method)
    whole.fit(Batches(), max_steps=8)
    first = trainer(method, Checkpoint(tmp_path, every_steps=2))
    first.fit(Batches(), max_steps=4)
    # The frozen weights are the checkpoint's, too.
    second = trainer(method, Checkpoint(tmp_path, every_steps=2), seed=3)
    second.fit(Batches(), max_steps=8, resume="latest")
    assert_same_bits(tensors(whole), tensors(second))
    trained = peft.trainable_parameters(whole.model)
    assert {name.rsplit("/", 1)[0] for name in tensors(whole) if name.startswith("optimizer/")} == {
        f"optimizer/{name}" for name in trained
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(method: str) -> None:
    run = trainer(method, rate=2e-2)
    before = run.evaluate(Batches())["accuracy"]
    run.fit(Batches(), max_epochs=15)
    assert before < 0.4
    assert run.evaluate(Batches())["accuracy"] > 0.7


def test_an_average_is_of_the_adapter_only(tmp_path: Path) -> None:
    average = EMA(0.5)
    run = trainer("lora", average, Checkpoint(tmp_path))
    run.fit(Batches(), Batches(), max_epochs=1)
    trained = peft.trainable_parameters(run.model)
    assert set(average.state_tensors()) == set(trained)
    run.model.eval()
    plain = logits(run.model)
    with average.exchanged(run.model):
        averaged = logits(run.model)
        peft.merge(run.model)
        np.testing.assert_allclose(logits(run.model), averaged, atol=1e-5)
        peft.unmerge(run.model)
    assert np.abs(averaged - plain).max() > 1e-6
    assert np.array_equal(logits(run.model), plain)
    other = trainer("lora", seed=4)
    other.model.eval()
    load_model(next(iter(sorted(tmp_path.glob("step-*")))), other.model, average="EMA")
    assert np.array_equal(logits(other.model), averaged)


@pytest.mark.parametrize("method", METHODS)
def test_recomputed_layers_have_the_same_gradients(method: str) -> None:
    found = []
    for names in ([], ["encoder.stack.layers.*"]):
        made = adapted(method)
        recompute_layers(made, names)
        made.train()
        seed_everything(3)
        found.append(gradients(made))
    assert_same_bits(*found)


def test_recomputed_dropout_of_lora_is_the_same() -> None:
    found = []
    for names in ([], ["encoder.stack.layers.*"]):
        made = model()
        peft.apply_lora(made, dropout=0.3)
        randomize(made)
        recompute_layers(made, names)
        made.train()
        seed_everything(3)
        found.append(gradients(made))
    assert_same_bits(*found)


@pytest.mark.parametrize("method", METHODS)
def test_rounded_products(method: str) -> None:
    """Weights that are kept rounded are the layers' own, before and after a step."""
    made = adapted(method)
    with set_matmul_precision("medium"):
        rounded = logits(made)
        assert np.array_equal(logits(made), rounded)
    np.testing.assert_allclose(rounded, logits(made), atol=0.1)
    made.train()
    optimizer = paddle.optimizer.SGD(0.1, parameters=made.parameters())
    with set_matmul_precision("medium"):
        made.loss(**batch(), labels=paddle.to_tensor([0, 1, 2])).backward()
        optimizer.step()
        made.eval()
        after = logits(made)
        for layer in made.sublayers():
            if hasattr(layer, "_kept"):
                layer._kept = None
        assert np.array_equal(logits(made), after)
    assert (after != rounded).any()


def specs() -> list[Any]:
    first, second = (
        paddle.static.InputSpec([None, None], "int64", name) for name in ("input_ids", "attention_mask")
    )
    return [first, None, second]


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_program_takes_any_sizes(method: str, tmp_path: Path) -> None:
    made = adapted(method)
    expected = {padding: logits(made, padding) for padding in (0, 5)}
    one = {name: value[1:2, :4] for name, value in batch().items()}
    with paddle.no_grad():
        single = made(**one).numpy()
    paddle.jit.save(made, str(tmp_path / "model"), input_spec=specs())
    loaded = paddle.jit.load(str(tmp_path / "model"))
    with paddle.no_grad():
        for padding, value in expected.items():
            np.testing.assert_allclose(loaded(*batch(padding).values()).numpy(), value, atol=2e-6)
        np.testing.assert_allclose(loaded(*one.values()).numpy(), single, atol=2e-6)


@pytest.mark.parametrize("method", ["lora", "adalora", "prefix", "prompt", "ia3"])
def test_a_captured_program_trains_alike(method: str) -> None:
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    found = []
    for is_captured in (False, True):
        made = adapted(method, **rates)
        made.train()
        forward = paddle.jit.to_static(made.forward, full_graph=True) if is_captured else made.forward
        values = batch()
        loss = paddle.nn.functional.cross_entropy(
            forward(values["input_ids"], None, values["attention_mask"]), paddle.to_tensor([0, 1, 2])
        )
        loss.backward()
        found.append({name: p._grad_ivar().numpy() for name, p in peft.trainable_parameters(made).items()})
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, atol=2e-6, err_msg=name)

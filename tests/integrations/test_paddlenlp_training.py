"""Accelerated models in training: dropout, graphs, our Trainer with their tokenizers, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra import train
from paddle_infra.integrations import paddlenlp as fused_nlp
from paddle_infra.train.checkpoints.optimizer_state import optimizer_tensors
from tests.integrations.nlp_models import assert_close, ids, make, outputs_and_gradients, tensors
from tests.integrations.nlp_texts import SENTENCES, Batches, tokenizer

DROPOUT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}


@pytest.mark.parametrize("name", ["BertModel", "ErnieModel"])
def test_dropout_has_the_same_distribution(name: str) -> None:
    draws = 1000
    model = make(name, num_hidden_layers=1, **DROPOUT)
    inputs = tensors(input_ids=ids())

    def moments() -> tuple[np.ndarray, np.ndarray]:
        paddle.seed(1)
        with paddle.no_grad():
            samples = np.stack([model(**inputs)[0].numpy() for _ in range(draws)])
        return samples.mean(0), samples.var(0)

    mean, variance = moments()
    fused_nlp.accelerate(model)
    fused_mean, fused_variance = moments()
    # Of 864 numbers the largest deviation of a mean is expected at 3.3 standard errors; without dropout on the
    # attention, or with another probability, it is far above.
    deviation = np.abs(fused_mean - mean) / np.sqrt((variance + fused_variance) / draws)
    assert deviation.max() < 5
    np.testing.assert_allclose(fused_variance.mean(), variance.mean(), rtol=0.02)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "ErnieForTokenClassification"])
def test_dropout_repeats_with_the_seed(name: str) -> None:
    model = make(name, **DROPOUT)
    fused_nlp.accelerate(model)
    inputs = tensors(input_ids=ids())
    runs = []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        runs.append(outputs_and_gradients(model, **inputs))
    (first, first_gradients), (again, again_gradients), (other, _) = runs
    np.testing.assert_array_equal(first[0], again[0])
    for key, gradient in first_gradients.items():
        np.testing.assert_array_equal(gradient, again_gradients[key])
    assert np.abs(first[0] - other[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "full_graph"),
    [
        ("BertForSequenceClassification", True),
        ("ErnieForTokenClassification", True),
        ("BertForSequenceClassification", False),
    ],
)
def test_training_as_a_static_graph(name: str, full_graph: bool) -> None:
    model = make(name)
    fused_nlp.accelerate(model)
    inputs = tensors(input_ids=ids())
    expected = outputs_and_gradients(model, **inputs)
    static = paddle.jit.to_static(model, full_graph=full_graph)
    assert_close(outputs_and_gradients(static, **inputs), expected)


def step(model: Any, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
    return fused_nlp.loss(model, mean_over="valid", **batch)


def make_trainer(
    name: str, callbacks: tuple[train.Callback, ...] = (), *, is_accelerated: bool = True, **settings: Any
) -> train.Trainer:
    train.seed_everything(0)
    model = make(name, num_labels=2, **settings)
    if is_accelerated:
        fused_nlp.accelerate(model)
    optimizer = train.adamw(model, 1e-3, weight_decay=0.01, warmup_steps=2, total_steps=10)
    plain = lambda model, batch: model(**batch)[0]  # noqa: E731
    return train.Trainer(model, optimizer, step if is_accelerated else plain, callbacks=callbacks)


def weights(trainer: train.Trainer) -> dict[str, np.ndarray]:
    found = {name: value.numpy() for name, value in trainer.model.state_dict().items()}
    optimizer = optimizer_tensors(trainer.model, trainer.optimizer)
    return found | {f"optimizer/{name}": value.numpy() for name, value in optimizer.items()}


@pytest.mark.parametrize("kind", ["Bert", "Ernie"])
def test_our_trainer_with_their_tokenizer(kind: str, tmp_path: Path) -> None:
    batches = Batches(tokenizer(f"{kind}Tokenizer", tmp_path))
    batch = next(iter(batches))
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    losses: dict[bool, list[float]] = {}

    class Losses(train.Callback):
        def on_step_end(self, trainer: train.Trainer) -> None:
            losses[is_accelerated].append(trainer.state.loss)

    for is_accelerated in (True, False):
        losses[is_accelerated] = []
        trainer = make_trainer(f"{kind}ForSequenceClassification", (Losses(),), is_accelerated=is_accelerated)
        trainer.fit(batches, max_steps=10)
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-3)
    assert losses[True][-1] < losses[True][0]


def test_their_trainer(tmp_path: Path) -> None:
    from paddlenlp.data import DataCollatorWithPadding
    from paddlenlp.trainer import Trainer, TrainingArguments

    tokenize = tokenizer("ErnieTokenizer", tmp_path)
    samples = [{**tokenize(text), "labels": label} for text, label in SENTENCES]
    trained = []
    for is_accelerated in (True, False):
        model = make("ErnieForSequenceClassification", num_labels=2)
        if is_accelerated:
            fused_nlp.accelerate(model)
        before = model.classifier.weight.numpy()
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "theirs"),
            max_steps=4,
            per_device_train_batch_size=4,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            device="cpu",
        )
        collate = DataCollatorWithPadding(tokenize)
        Trainer(model=model, args=arguments, train_dataset=samples, data_collator=collate).train()
        trained.append(model.classifier.weight.numpy())
        assert np.abs(trained[-1] - before).max() > 1e-5
    np.testing.assert_allclose(trained[0], trained[1], rtol=0, atol=1e-5)


def test_resume_is_exact(tmp_path: Path) -> None:
    """With dropout; and the checkpoint of an accelerated model fits one that is not."""
    batches = Batches(tokenizer("ErnieTokenizer", tmp_path))
    name = "ErnieForSequenceClassification"
    whole = make_trainer(name, **DROPOUT)
    whole.fit(batches, max_steps=10)
    half = make_trainer(name, (train.Checkpoint(tmp_path / "checkpoints", every_steps=3),), **DROPOUT)
    half.fit(batches, max_steps=6)
    resumed = make_trainer(name, (train.Checkpoint(tmp_path / "checkpoints", every_steps=3),), **DROPOUT)
    paddle.seed(99)
    resumed.fit(batches, max_steps=10, resume="latest")
    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    newest = train.newest_intact(tmp_path / "checkpoints")
    assert newest is not None
    plain, twin = make(name, num_labels=2), make(name, num_labels=2)
    fused_nlp.accelerate(twin)
    before = plain.classifier.weight.numpy()
    for model in (plain, twin):
        train.load_model(newest, model)
    assert np.abs(plain.classifier.weight.numpy() - before).max() > 0
    for key, value in plain.state_dict().items():
        np.testing.assert_array_equal(twin.state_dict()[key].numpy(), value.numpy(), err_msg=key)

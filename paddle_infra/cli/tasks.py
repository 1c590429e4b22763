"""What differs between the tasks: the model, the samples, the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.errors import ConfigError
from paddle_infra.cli.config import RunConfig
from paddle_infra.cli.sources import Example, local_path
from paddle_infra.data import (
    WORD_SHAPES,
    LabelMap,
    LengthBucketSampler,
    Loader,
    PaddingCollator,
    SequenceClassificationDataset,
    TokenClassificationDataset,
    Tokenizer,
    word_shape,
)
from paddle_infra.models import BertForSequenceClassification, BertForTokenClassification
from paddle_infra.train import F1, Accuracy, ConfusionMatrix, EntityF1, Evaluator, TokenTable

INPUTS = ("input_ids", "token_type_ids", "attention_mask")
DYNAMIC_AXES = {name: {0: "batch", 1: "length"} for name in INPUTS}

Classifier = BertForSequenceClassification | BertForTokenClassification
ClassificationDataset = SequenceClassificationDataset | TokenClassificationDataset

# The metric that picks the best checkpoint and heads the report.
MAIN_METRIC = {"sequence_classification": "accuracy", "token_classification": "entity_f1"}


_MODELS: dict[str, type[BertForSequenceClassification] | type[BertForTokenClassification]] = {
    "sequence_classification": BertForSequenceClassification,
    "token_classification": BertForTokenClassification,
}
_DATASETS = {
    "sequence_classification": SequenceClassificationDataset,
    "token_classification": TokenClassificationDataset,
}


def new_model(config: RunConfig, labels: LabelMap, learned: LabelMap) -> Classifier:
    """Return the pretrained encoder with a new head that predicts ``labels``, the configured rates in force.

    ``learned`` are the labels of the training examples: ``labels`` again, or fine ones.

    Raises:
        ConfigError: sequences may be longer than the encoder's positions.
    """
    changes: dict[str, Any] = {"type_vocab_size": len(WORD_SHAPES)} if config.data.word_shapes else {}
    if learned != labels:
        changes["fine_labels"] = tuple(learned.to_list())
    model = _MODELS[config.task].from_pretrained(
        local_path(config.model.pretrained),
        labels=tuple(labels.to_list()),
        pooling=config.model.pooling,
        hidden_dropout_prob=config.model.dropout,
        attention_probs_dropout_prob=config.model.attention_dropout,
        **changes,
    )
    if config.data.max_length > model.config.max_position_embeddings:
        raise ConfigError(
            f"data.max_length: expected at most the encoder's {model.config.max_position_embeddings} positions, "
            f"got {config.data.max_length}"
        )
    return model


def load_model(config: RunConfig, directory: Path) -> Classifier:
    """Return the fine-tuned model that a run has saved."""
    return _MODELS[config.task].from_pretrained(directory)


def new_dataset(
    config: RunConfig, examples: Sequence[Example], tokenizer: Tokenizer, labels: LabelMap
) -> ClassificationDataset:
    """Tokenize examples for the task."""
    cls: Any = _DATASETS[config.task]
    word_type = word_shape if config.data.word_shapes else None
    return cls(examples, tokenizer, labels, max_length=config.data.max_length, word_type=word_type)


def new_sampler(config: RunConfig, dataset: ClassificationDataset, *, training: bool) -> LengthBucketSampler:
    """Return batches of similar lengths: shuffled for training, in a fixed order for evaluation."""
    settings = config.training
    size = settings.batch_size if training else settings.evaluation_batch_size
    return LengthBucketSampler(dataset.lengths, size, shuffle=training, seed=config.seed)


def new_loader(
    config: RunConfig, dataset: ClassificationDataset, tokenizer: Tokenizer, *, training: bool
) -> Loader:
    """Return a loader over the batches of :func:`new_sampler`."""
    return Loader(dataset, new_sampler(config, dataset, training=training), PaddingCollator(tokenizer.pad_id))


def inputs_of(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a batch that the model takes for inference."""
    return {name: batch[name] for name in INPUTS}


def logits_and_labels(model: paddle.nn.Layer, batch: dict[str, Any]) -> dict[str, Any]:
    """Evaluation step: what every metric here asks for."""
    return {"logits": model(**inputs_of(batch)), "labels": batch["labels"]}


@dataclass
class Predictions:
    """A metric that keeps the predicted classes, batch by batch, to show examples of what went wrong."""

    classes: list[np.ndarray] = field(default_factory=list)  # int32, shaped as the labels
    confidences: list[np.ndarray] = field(default_factory=list)  # float32, the predicted class's probability

    def update(self, *, logits: Any = None, **_: Any) -> None:
        """Keep the likeliest class and its probability: two small numbers per item."""
        logits = np.asarray(logits)
        self.classes.append(logits.argmax(-1).astype(np.int32))
        top = logits.max(-1, keepdims=True)
        self.confidences.append((1.0 / np.exp(logits - top).sum(-1)).astype(np.float32))

    def compute(self) -> dict[str, float]:
        """Return nothing: this is a record, not a score."""
        return {}

    def state(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return everything."""
        return self.classes, self.confidences

    def add_state(self, state: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
        """Append another process's."""
        self.classes, self.confidences = self.classes + state[0], self.confidences + state[1]

    def reset(self) -> None:
        """Forget everything."""
        self.classes, self.confidences = [], []


@dataclass
class TaskMetrics:
    """The metrics of a task, by role."""

    evaluator: Evaluator
    confusion: ConfusionMatrix
    per_class: F1 | EntityF1
    predictions: Predictions
    tokens: TokenTable | None = None


def new_metrics(task: str, labels: LabelMap) -> TaskMetrics:
    """Return fresh metrics."""
    names, predictions = labels.to_list(), Predictions()
    if task == "token_classification":
        entity, tokens = EntityF1(names), TokenTable(names)
        evaluator = Evaluator(logits_and_labels, [entity, tokens, predictions])
        return TaskMetrics(evaluator, tokens, entity, predictions, tokens)
    accuracy, f1 = Accuracy(names), F1(names)
    return TaskMetrics(Evaluator(logits_and_labels, [accuracy, f1, predictions]), accuracy, f1, predictions)

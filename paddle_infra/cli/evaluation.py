"""Score a trained run on one of its splits, and keep what a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.modes import evaluation_mode
from paddle_infra.cli.config import RunConfig
from paddle_infra.cli.run_directory import RunDirectory
from paddle_infra.cli.sources import Example, coarse, load_splits
from paddle_infra.cli.tasks import (
    Classifier,
    Predictions,
    load_model,
    new_dataset,
    new_loader,
    new_metrics,
    new_sampler,
)
from paddle_infra.cli.training import LABEL_FILE
from paddle_infra.data import IGNORED_LABEL, LabelMap, TextExample, Tokenizer
from paddle_infra.ops import set_matmul_precision
from paddle_infra.report import Misclassified
from paddle_infra.train import SingleDevice


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a split, as plain values."""

    split: str
    metrics: dict[str, float]
    per_class: list[dict[str, Any]]  # name, precision, recall, f1, support; then the averages
    token_table: list[dict[str, Any]]  # token classification: per tag, then averages with and without O
    labels: list[str]
    confusion: list[list[int]]  # rows are labels, columns predictions
    mistakes: list[Misclassified]  # a tagged sentence has no single confidence
    examples: int

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, without the examples' texts."""
        values = asdict(self)
        del values["mistakes"]
        return values


def evaluate_run(config: RunConfig, directory: RunDirectory, split: str = "test") -> Evaluation:
    """Evaluate the saved model of a run on ``train``, ``validation`` or ``test``."""
    examples = coarse(config.data, getattr(load_splits(config), split))
    labels = LabelMap.load(directory.model / LABEL_FILE)
    tokenizer = Tokenizer.from_pretrained(directory.model)
    return evaluate_model(config, load_model(config, directory.model), examples, tokenizer, labels, split)


def evaluate_model(
    config: RunConfig,
    model: Classifier,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    labels: LabelMap,
    split: str,
) -> Evaluation:
    """Evaluate a model on labelled examples."""
    dataset = new_dataset(config, examples, tokenizer, labels)
    loader = new_loader(config, dataset, tokenizer, training=False)
    metrics, device = new_metrics(config.task, labels), SingleDevice()
    gold = []
    precision = set_matmul_precision(config.training.matmul_precision)
    with precision, evaluation_mode(model), paddle.no_grad():
        for batch in loader:
            metrics.evaluator.update(model, device.to_device(batch))
            gold.append(batch["labels"])
    order = [index for batch in new_sampler(config, dataset, training=False).batches(0) for index in batch]
    rows = [asdict(row) for row in [*metrics.per_class.table(), *metrics.per_class.averages()]]
    tokens = [] if metrics.tokens is None else [asdict(row) for row in metrics.tokens.table()]
    if metrics.tokens is not None:
        for suffix, with_outside in (("", True), (" without O", False)):
            averages = metrics.tokens.averages(with_outside=with_outside)
            tokens += [{**asdict(row), "name": row.name + suffix} for row in averages]
    return Evaluation(
        split=split,
        metrics=metrics.evaluator.compute(),
        per_class=rows,
        token_table=tokens,
        labels=labels.to_list(),
        confusion=metrics.confusion.matrix.tolist(),
        mistakes=_mistakes(examples, order, gold, metrics.predictions, labels),
        examples=len(examples),
    )


def _mistakes(
    examples: Sequence[Example],
    order: Sequence[int],
    gold: Sequence[np.ndarray],
    predictions: Predictions,
    labels: LabelMap,
) -> list[Misclassified]:
    """Return every example with a wrong prediction, in the order of the file."""
    wrong = {}
    batches = zip(gold, predictions.classes, predictions.confidences, strict=True)
    rows = (row for batch in batches for row in zip(*batch, strict=True))
    for index, (expected, got, confidence) in zip(order, rows, strict=True):
        example = examples[index]
        if isinstance(example, TextExample):
            if expected != got:
                names = labels.name_of(int(expected)), labels.name_of(int(got))
                wrong[index] = Misclassified(example.text, *names, float(confidence))
            continue
        counts = expected != IGNORED_LABEL
        if (expected[counts] != got[counts]).any():
            right, found = (_spans(example.tokens, tags[counts], labels) for tags in (expected, got))
            wrong[index] = Misclassified(" ".join(example.tokens), right, found)
    return [wrong[index] for index in sorted(wrong)]


def _spans(tokens: Sequence[str], tags: np.ndarray, labels: LabelMap) -> str:
    """Return the tagged words, ``word/TAG``, without those outside."""
    named = zip(tokens, (labels.name_of(int(tag)) for tag in tags), strict=False)  # cut-off words have no tag
    return " ".join(f"{token}/{tag}" for token, tag in named if tag != "O") or "no entity"

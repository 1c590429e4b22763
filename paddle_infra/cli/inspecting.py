"""Look into a trained run: what its model holds and computes, and why it gives a text its label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from paddle_infra._core.errors import ConfigError
from paddle_infra.cli.config import RunConfig
from paddle_infra.cli.run_directory import RunDirectory
from paddle_infra.cli.tasks import inputs_of, load_model, new_dataset
from paddle_infra.cli.training import LABEL_FILE
from paddle_infra.data import LabelMap, PaddingCollator, TextExample, Tokenizer
from paddle_infra.explain import Explanation, integrated_gradients, occlusion, token_explanations
from paddle_infra.summary import Summary, summary

MethodName = Literal["integrated-gradients", "occlusion"]
_EMBEDDINGS = "encoder.embeddings"


def summarize_run(config: RunConfig, directory: RunDirectory, batch_size: int, length: int) -> Summary:
    """Summarize the saved model in training mode, on a batch without padding."""
    model = load_model(config, directory.model)
    if not 1 <= length <= model.config.max_position_embeddings or batch_size < 1:
        raise ConfigError(
            f"expected a batch of at least 1 and a length from 1 to the encoder's "
            f"{model.config.max_position_embeddings} positions, got {batch_size} and {length}"
        )
    model.train()
    ids = np.zeros((batch_size, length), np.int64)
    return summary(model, {"input_ids": ids, "token_type_ids": ids, "attention_mask": np.ones_like(ids)})


def explain_texts(
    config: RunConfig,
    directory: RunDirectory,
    texts: Sequence[str],
    *,
    method: MethodName = "integrated-gradients",
    label: str | None = None,
) -> list[Explanation]:
    """Attribute the label of every text, or the probability of another one, to its words.

    Words are replaced by padding; special tokens stay.

    Raises:
        ConfigError: the run labels single words.
        InvalidInputError: there is no such label.
    """
    if config.task != "sequence_classification":
        raise ConfigError(f"expected a run that classifies whole texts, got one for {config.task}")
    labels = LabelMap.load(directory.model / LABEL_FILE)
    tokenizer = Tokenizer.from_pretrained(directory.model)
    dataset = new_dataset(
        config, [TextExample(text, None, line) for line, text in enumerate(texts, 1)], tokenizer, labels
    )
    inputs = inputs_of(PaddingCollator(tokenizer.pad_id)([dataset[index] for index in range(len(texts))]))
    word_ids = [_word_ids(config, tokenizer, text) for text in texts]
    groups = np.full(inputs["input_ids"].shape, -1, np.int64)
    for row, numbers in enumerate(word_ids):
        groups[row, : len(numbers)] = [-1 if number is None else number for number in numbers]
    baselines = {"input_ids": np.where(groups < 0, inputs["input_ids"], tokenizer.pad_id)}
    model = load_model(config, directory.model)
    target = None if label is None else labels.id_of(label)
    if method == "occlusion":
        name = "input_ids"
        found = occlusion(model, inputs, baselines, target=target, groups={name: groups})
    else:
        name = _EMBEDDINGS
        found = integrated_gradients(model, inputs, baselines, layers=[name], target=target)
    tokens = [
        [str(number) for number in ids[: len(numbers)]]
        for ids, numbers in zip(inputs["input_ids"], word_ids, strict=True)
    ]
    explanations = token_explanations(found, name, tokens, labels=labels.to_list())
    return [
        explanation.grouped(numbers, _words(tokenizer, ids, numbers))
        for explanation, ids, numbers in zip(explanations, inputs["input_ids"], word_ids, strict=True)
    ]


def _word_ids(config: RunConfig, tokenizer: Tokenizer, text: str) -> list[int | None]:
    length = config.data.max_length
    words = text.split()
    encoding = (
        tokenizer.encode_words(words, length) if config.data.word_shapes else tokenizer.encode(text, length)
    )
    return encoding.word_ids


def _words(tokenizer: Tokenizer, ids: np.ndarray, word_ids: list[int | None]) -> list[str]:
    count = max((number for number in word_ids if number is not None), default=-1) + 1
    pieces: list[list[int]] = [[] for _ in range(count)]
    for piece, number in zip(ids.tolist(), word_ids, strict=False):  # behind them is padding
        if number is not None:
            pieces[number].append(piece)
    return [tokenizer.decode(piece) for piece in pieces]

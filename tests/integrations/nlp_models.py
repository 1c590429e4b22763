"""Small PaddleNLP models with random weights, inputs for them, and what they compute in float64.

Importing this skips the importing test file where PaddleNLP is not installed.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import paddle
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own, of pydantic and setuptools
    pytest.importorskip("paddlenlp", reason="needs the extra [nlp] (make test-paddlenlp has it)")
    from paddlenlp import transformers

VOCABULARY, CLASSES, HIDDEN = 60, 3, 32
LENGTHS = (9, 6, 4)
CLASSIFIERS = (
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForMaskedLM",
    "ErnieForSequenceClassification",
    "ErnieForTokenClassification",
    "ErnieForMaskedLM",
    "RobertaForSequenceClassification",
    "RobertaForTokenClassification",
    "RobertaForMaskedLM",
    "ElectraForSequenceClassification",
    "ElectraForTokenClassification",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "TinyBertForSequenceClassification",
)
ENCODERS = ("BertModel", "DistilBertModel", "ElectraModel", "ErnieModel", "RobertaModel", "TinyBertModel")


def make(name: str, **changes: Any) -> Any:
    """A model of two layers without dropout, in training mode; its weights are large enough to matter."""
    kind = getattr(transformers, name)
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "embedding_size": 16,  # ELECTRA's
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 80,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
        "num_labels": CLASSES,
        "initializer_range": 0.2,
    }
    if not name.startswith("Electra"):
        del settings["embedding_size"]
    paddle.seed(0)
    model = kind(kind.config_class(**{**settings, **changes}))
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):  # zeros hide what is added
            parameter.set_value(paddle.normal(shape=parameter.shape) * 0.2)
    model.train()
    return model


def ids(seed: int = 0) -> np.ndarray:
    """Token ids ``[3, 9]``, padded with 0 to the right."""
    found = np.random.default_rng(seed).integers(1, VOCABULARY, (len(LENGTHS), max(LENGTHS)))
    for row, length in enumerate(LENGTHS):
        found[row, length:] = 0
    return found


def masks() -> dict[str, np.ndarray | None]:
    """Every form of mask that BERT, ERNIE and RoBERTa take; None: from the padding of the ids."""
    keep = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    additive = np.where(keep, 0.0, -1e4).astype("float32")[:, None, None]
    causal = np.where(np.tri(max(LENGTHS), dtype=bool), 0.0, -1e4).astype("float32")
    return {
        "none": None,
        "int64": keep.astype("int64"),
        "float": keep.astype("float32"),
        "bool": keep,
        "additive": additive,
        "additive-causal": additive + causal,
        "bool-4d": keep[:, None, None],
        "int-4d": keep.astype("int64")[:, None, None],
    }


def tensors(**arrays: np.ndarray | None) -> dict[str, paddle.Tensor]:
    """The arrays that are there, as tensors."""
    return {name: paddle.to_tensor(array) for name, array in arrays.items() if array is not None}


def outputs_and_gradients(
    model: Any, **inputs: paddle.Tensor
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """All outputs, and the gradients of a sum of them with fixed random weights."""
    model.clear_gradients()
    result = model(**inputs)
    outputs = list(result) if isinstance(result, tuple | list) else [result]
    generator = np.random.default_rng(7)
    weights = [generator.normal(size=output.shape) for output in outputs]
    products = zip(outputs, weights, strict=True)
    sum((output * paddle.to_tensor(weight, output.dtype)).sum() for output, weight in products).backward()
    return [output.numpy() for output in outputs], gradients_of(model)


def gradients_of(model: Any) -> dict[str, np.ndarray]:
    """All gradients there are, by the names of their parameters."""
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


def in_float64(model: Any, **inputs: paddle.Tensor) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """What an unaccelerated model computes in float64."""
    gold = copy.deepcopy(model).to(dtype="float64")
    paddle.set_default_dtype("float64")
    try:
        return outputs_and_gradients(gold, **inputs)
    finally:
        paddle.set_default_dtype("float32")


def assert_close(
    found: tuple[list[np.ndarray], dict[str, np.ndarray]],
    gold: tuple[list[np.ndarray], dict[str, np.ndarray]],
) -> None:
    """Within 1e-5 of the largest number of each tensor; gradients that are 0 but for rounding, of all gradients."""
    (outputs, gradients), (gold_outputs, gold_gradients) = found, gold
    assert len(outputs) == len(gold_outputs)
    assert gradients.keys() == gold_gradients.keys()
    for output, expected in zip(outputs, gold_outputs, strict=True):
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    floor = 1e-6 * max(np.abs(gradient).max() for gradient in gold_gradients.values())
    for name, expected in gold_gradients.items():
        tolerance = 1e-5 * np.abs(expected).max() + floor
        np.testing.assert_allclose(gradients[name], expected, rtol=0, atol=tolerance, err_msg=name)

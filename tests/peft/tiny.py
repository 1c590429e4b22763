"""A small BERT classifier, a batch for it, and one configuration of every method."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from paddle_infra import peft
from paddle_infra.models import BertConfig, BertForSequenceClassification

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=24,
    labels=("a", "b", "c"),
)
HEAD = ("head",)
METHODS = {
    "lora": peft.LoRAConfig(rank=3),
    "lora-stabilized": peft.LoRAConfig(rank=4, rank_stabilized=True, layers=("query", "intermediate")),
    "lora-embedding": peft.LoRAConfig(rank=2, layers=("word", "value", "classifier")),
    "adalora": peft.AdaLoRAConfig(rank=4),
    "bottleneck": peft.BottleneckConfig(size=5),
    "pfeiffer": peft.BottleneckConfig(size=5, activation="relu", layers=peft.PFEIFFER),
    "prefix": peft.PrefixConfig(length=3),
    "prefix-perceptron": peft.PrefixConfig(length=3, inner_size=7),
    "prompt": peft.PromptConfig(length=3),
    "ia3": peft.IA3Config(),
}
MERGEABLE = ("lora", "lora-stabilized", "lora-embedding", "adalora", "ia3")


def also(method: str) -> tuple[str, ...]:
    """What is trained beside the adapter: the head, unless it is adapted."""
    return () if method == "lora-embedding" else HEAD


def model(seed: int = 0, **changes: Any) -> BertForSequenceClassification:
    """A fresh model in evaluation mode."""
    paddle.seed(seed)
    made = BertForSequenceClassification(BertConfig(**{**CONFIG.__dict__, **changes}))
    made.eval()
    return made


def randomize(layer: paddle.nn.Layer, seed: int = 1) -> None:
    """Move everything that is trained away from where it started."""
    generator = np.random.default_rng(seed)
    for parameter in peft.trainable_parameters(layer).values():
        noise = generator.normal(0.0, 0.2, parameter.shape).astype("float32")
        parameter.set_value(parameter + paddle.to_tensor(noise))


def adapted(method: str, *, seed: int = 0, **changes: Any) -> BertForSequenceClassification:
    """A model with an adapter that does something."""
    made = model(seed, **changes)
    peft.apply(made, METHODS[method], train_also=also(method))
    randomize(made)
    return made


def batch(padding: int = 0) -> dict[str, paddle.Tensor]:
    """Three sequences of different lengths, followed by ``padding`` positions of garbage."""
    generator = np.random.default_rng(0)
    ids = np.pad(generator.integers(1, 50, (3, 7)), ((0, 0), (0, padding)), constant_values=49)
    lengths = np.array([[7], [4], [2]])
    mask = (np.arange(7 + padding) < lengths).astype("int64")
    return {"input_ids": paddle.to_tensor(ids), "attention_mask": paddle.to_tensor(mask)}


def logits(layer: paddle.nn.Layer, padding: int = 0) -> np.ndarray:
    with paddle.no_grad():
        return layer(**batch(padding)).numpy()


def gradients(layer: paddle.nn.Layer, padding: int = 0) -> dict[str, np.ndarray]:
    """Gradients of the loss by parameter, of those that are trained."""
    layer.clear_gradients()
    layer.loss(**batch(padding), labels=paddle.to_tensor([0, 1, 2])).backward()
    return {name: p._grad_ivar().numpy() for name, p in peft.trainable_parameters(layer).items()}

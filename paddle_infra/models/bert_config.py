"""Configuration of BERT-family encoders, in the words of the field's ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from paddle_infra._core.errors import WeightError
from paddle_infra.models.config import ModelConfig

POOLINGS = ("cls", "mean", "pooler")
_Config = TypeVar("_Config", bound="BertConfig")


@dataclass(frozen=True)
class BertConfig(ModelConfig):
    """Sizes and rates of a BERT encoder; the defaults are BERT-base's.

    ``pooling`` says how a sequence classifier reduces the sequence: ``"cls"`` (first token), ``"mean"`` (real tokens)
    or ``"pooler"`` (first token through a tanh layer, as in the original). ``labels`` are the class names of a
    fine-tuned model, in order of their ids. ``fine_labels``, if any, are what the model learns instead: names that
    begin with one of ``labels`` and a colon, as in ``LOC:city``.
    """

    model_type = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int = 0
    pooling: str = "mean"
    labels: tuple[str, ...] = ()
    fine_labels: tuple[str, ...] = ()

    @property
    def label_groups(self) -> tuple[int, ...] | None:
        """The index in ``labels`` of each of ``fine_labels``; None if there are none."""
        if not self.fine_labels:
            return None
        return tuple(self.labels.index(name.partition(":")[0]) for name in self.fine_labels)

    def __post_init__(self) -> None:
        if self.fine_labels and {name.partition(":")[0] for name in self.fine_labels} != set(self.labels):
            raise WeightError(
                f"fine_labels: expected names that begin with each of {list(self.labels)} and a colon, "
                f"got {list(self.fine_labels)}"
            )
        if self.pooling not in POOLINGS:
            raise WeightError(f"pooling must be one of {POOLINGS}, got {self.pooling!r}")

    @classmethod
    def from_dict(cls: type[_Config], values: Mapping[str, Any], where: str = "configuration") -> _Config:
        """Return the configuration that the content of a ``config.json`` describes.

        Raises:
            WeightError: it describes another kind of model, or a value cannot be used.
        """
        positions = values.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise WeightError(f"{where}: expected position_embedding_type 'absolute', got {positions!r}")
        names = values.get("id2label") or {}
        labels = [names[key] for key in sorted(names, key=int)]
        return super().from_dict({**values, "labels": labels}, where)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a ``config.json``."""
        values = super().to_dict()
        labels = values.pop("labels")
        return values | {
            "id2label": {str(index): name for index, name in enumerate(labels)},
            "label2id": {name: index for index, name in enumerate(labels)},
            "position_embedding_type": "absolute",
        }

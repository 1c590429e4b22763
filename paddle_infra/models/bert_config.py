"""Configuration of BERT-family encoders, in the words of the field's ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from paddle_infra._core.errors import WeightError
from paddle_infra.models.config import CONFIG_FILE, ModelConfig, read_json_object
from paddle_infra.models.families import FAMILIES, Family
from paddle_infra.models.paddle_checkpoint import LEGACY_CONFIG_FILE, modern_config

POOLINGS = ("cls", "mean", "pooler")
# What configurations call the activations that TransformerEncoder knows.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_new": "gelu_new",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# What there is only one of here.
_REFUSED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pool_act": "tanh",  # of PaddleNLP
}
_Config = TypeVar("_Config", bound="BertConfig")


@dataclass(frozen=True)
class BertConfig(ModelConfig):
    """Sizes and rates of an encoder; the defaults are BERT-base's.

    ``model_type`` is the family: ``"bert"`` (also MiniLM and multilingual E5), ``"distilbert"``, ``"ernie"``,
    ``"roberta"`` or ``"xlm-roberta"``. ``pooling`` says how a sequence is reduced to one vector: ``"cls"`` (first
    token), ``"mean"`` (real tokens) or ``"pooler"`` (first token through a dense layer, as in the originals); a
    configuration that others wrote for a sequence classifier means ``"pooler"``. ``labels`` are the class names of a
    fine-tuned model, in order of their ids. ``fine_labels``, if any, are what the model learns instead: names that
    begin with one of ``labels`` and a colon, as in ``LOC:city``. ``use_task_id`` adds ERNIE 3.0's embeddings of tasks,
    of which ``task_id`` is the default. ``classifier_dropout`` is the rate before a classifier (None:
    ``hidden_dropout_prob``). Without ``has_pooler`` a :class:`BertModel` has no pooler.
    """

    model_type: str = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    task_type_vocab_size: int = 3
    use_task_id: bool = False
    task_id: int = 0
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int = 0
    tie_word_embeddings: bool = True
    has_pooler: bool = True
    pooling: str = "mean"
    labels: tuple[str, ...] = ()
    fine_labels: tuple[str, ...] = ()

    @property
    def family(self) -> Family:
        """What sets the family ``model_type`` apart."""
        return FAMILIES[self.model_type]

    @property
    def activation(self) -> str:
        """The activation's name in :class:`paddle_infra.nn.TransformerEncoder`."""
        return _ACTIVATIONS[self.hidden_act]

    @property
    def head_dropout(self) -> float:
        """Dropout probability before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

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
        if self.model_type not in FAMILIES:
            raise WeightError(f"model_type must be one of {tuple(FAMILIES)}, got {self.model_type!r}")
        if self.hidden_act not in _ACTIVATIONS:
            raise WeightError(f"hidden_act must be one of {tuple(_ACTIVATIONS)}, got {self.hidden_act!r}")
        if self.use_task_id and not 0 <= self.task_id < self.task_type_vocab_size:
            raise WeightError(f"task_id must be in [0, {self.task_type_vocab_size}), got {self.task_id}")

    @classmethod
    def model_types(cls) -> tuple[str, ...]:
        """Return the families."""
        return tuple(FAMILIES)

    @classmethod
    def load(cls: type[_Config], directory: str | Path) -> _Config:
        """Read ``config.json``, or ``model_config.json`` of PaddleNLP before 2.5.

        Raises:
            WeightError: as for :meth:`ModelConfig.load`.
        """
        folder = Path(directory)
        legacy = folder / LEGACY_CONFIG_FILE
        if legacy.is_file() and not (folder / CONFIG_FILE).exists():
            return cls.from_dict(modern_config(read_json_object(legacy), str(legacy)), str(legacy))
        return super().load(folder)

    @classmethod
    def from_dict(cls: type[_Config], values: Mapping[str, Any], where: str = "configuration") -> _Config:
        """Return the configuration that the content of a ``config.json`` describes.

        Raises:
            WeightError: it describes another kind of model, or a value cannot be used.
        """
        for name, wanted in _REFUSED.items():
            if (found := values.get(name, wanted)) != wanted:
                raise WeightError(f"{where}: expected {name} {wanted!r}, got {found!r}")
        family = FAMILIES.get(values.get("model_type", "bert"))
        if family is not None:  # if it is, the base says so
            # A field that others left empty has its default.
            known = {ours: values[theirs] for ours, theirs in family.config_names.items() if theirs in values}
            present = {name: value for name, value in {**values, **known}.items() if value is not None}
            values = {**family.defaults, **present}
        architectures = values.get("architectures") or [""]
        if architectures[0].endswith("ForSequenceClassification"):
            values = {"pooling": "pooler", **values}
        return super().from_dict({**values, "labels": _labels(values, architectures[0])}, where)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a ``config.json``, in the words of the family."""
        values = super().to_dict()
        labels = values.pop("labels")
        for ours, theirs in self.family.config_names.items():
            values[theirs] = values.pop(ours)
        if self.model_type == "distilbert":
            values["seq_classif_dropout"] = self.head_dropout  # it has no other default
        if labels:  # without any the field reads "two labels", not "none"
            values["id2label"] = {str(index): name for index, name in enumerate(labels)}
            values["label2id"] = {name: index for index, name in enumerate(labels)}
        return values | {"position_embedding_type": "absolute"}


def _labels(values: Mapping[str, Any], architecture: str) -> list[str]:
    """Return class names; the field leaves them out if there are two without names."""
    if names := values.get("id2label"):
        return [names[key] for key in sorted(names, key=int)]
    is_classifier = architecture.endswith(("ForSequenceClassification", "ForTokenClassification"))
    count = values.get("num_labels", values.get("num_classes", 2)) if is_classifier else 0
    return [f"LABEL_{index}" for index in range(count)]

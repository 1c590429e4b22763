"""Configuration of BERT-family encoders, in the words of the field's ``config.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_infra._core.atomic import write_json
from paddle_infra._core.errors import WeightError

POOLINGS = ("cls", "mean", "pooler")


@dataclass(frozen=True)
class BertConfig:
    """Sizes and rates of a BERT encoder; the defaults are BERT-base's.

    ``pooling`` says how a sequence classifier reduces the sequence: ``"cls"`` (first token), ``"mean"`` (real tokens)
    or ``"pooler"`` (first token through a tanh layer, as in the original). ``labels`` are the class names of a
    fine-tuned model, in order of their ids. ``fine_labels``, if any, are what the model learns instead: names that
    begin with one of ``labels`` and a colon, as in ``LOC:city``.
    """

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
    def load(cls, directory: str | Path) -> BertConfig:
        """Read ``config.json``; keys that this encoder does not use are ignored.

        Raises:
            WeightError: the file is missing or not JSON, or it describes another kind of model.
        """
        path = Path(directory) / "config.json"
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise WeightError(f"{path}: expected a model configuration, but there is no such file") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise WeightError(f"{path}: expected JSON, got {error}") from error
        if raw.get("model_type", "bert") != "bert":
            raise WeightError(f"{path}: expected model_type 'bert', got {raw['model_type']!r}")
        if raw.get("position_embedding_type", "absolute") != "absolute":
            raise WeightError(
                f"{path}: expected position_embedding_type 'absolute', got {raw['position_embedding_type']!r}"
            )
        names = {field.name for field in dataclasses.fields(cls)} - {"labels", "fine_labels"}
        known = {name: raw[name] for name in names if name in raw}
        id2label = raw.get("id2label") or {}
        labels = tuple(id2label[key] for key in sorted(id2label, key=int))
        return cls(**known, labels=labels, fine_labels=tuple(raw.get("fine_labels", ())))

    def save(self, directory: str | Path, architecture: str) -> None:
        """Write ``config.json``, atomically."""
        values = dataclasses.asdict(self)
        labels = values.pop("labels")
        values["id2label"] = {str(index): name for index, name in enumerate(labels)}
        values["label2id"] = {name: index for index, name in enumerate(labels)}
        values |= {
            "model_type": "bert",
            "architectures": [architecture],
            "position_embedding_type": "absolute",
        }
        write_json(Path(directory) / "config.json", values)

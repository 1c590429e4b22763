"""What every method's configuration has, and how layers are chosen by name."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from paddle import nn

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError

LayerPattern: TypeAlias = str | Sequence[str]
"""Which layers: a regular expression of the whole structured name, or a list of names or of their last parts."""

ATTENTION_AND_MLP = ("query", "key", "value", "output", "intermediate")
"""All linear layers of this package's Transformer layers."""

MLP_OUTPUT = r"(.*\.)?(?<!attention\.)output"
"""The second linear layer of the perceptrons in this package's Transformer layers."""

Plan: TypeAlias = dict[str, Callable[[], nn.Layer]]
"""For each layer to adapt, by structured name, what makes its adapter."""


@dataclass(frozen=True)
class AdapterConfig(ABC):
    """Base of the methods' configurations: plain values that JSON can hold."""

    kind: ClassVar[str]

    @abstractmethod
    def plan(self, model: nn.Layer) -> Plan:
        """Say which layers of ``model`` are adapted and how; nothing is changed.

        Raises:
            InvalidInputError: a pattern matches no layer that this method can adapt.
            UnsupportedError: a matching layer cannot be adapted.
        """

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AdapterConfig:
        """Make one of what :meth:`to_json` returned.

        Raises:
            InvalidInputError: a field is unknown or has an unsuitable value.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise InvalidInputError(f"{cls.__name__}: expected fields among {names}, got {unknown}")
        return cls(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        )


def check_pattern(name: str, pattern: object) -> None:
    """Raise unless ``pattern`` is a regular expression or a list of names.

    Raises:
        InvalidDtypeError: it is something else.
        InvalidInputError: it is empty, or no regular expression.
    """
    if not isinstance(pattern, str) and not (
        isinstance(pattern, (list, tuple)) and all(isinstance(item, str) for item in pattern)
    ):
        raise InvalidDtypeError(f"{name}: expected a regular expression or a list of names, got {pattern!r}")
    if not pattern or (not isinstance(pattern, str) and "" in pattern):
        raise InvalidInputError(f"{name}: expected a regular expression or a list of names, got {pattern!r}")
    if isinstance(pattern, str):
        try:
            re.compile(pattern)
        except re.error as error:
            raise InvalidInputError(
                f"{name}: expected a regular expression, got {pattern!r}: {error}"
            ) from error


def matches(name: str, pattern: LayerPattern) -> bool:
    """Whether a structured layer name fits."""
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return any(name == item or name.endswith(f".{item}") for item in pattern)


def match_layers(
    model: nn.Layer, pattern: LayerPattern, kinds: tuple[type, ...], argument: str
) -> dict[str, nn.Layer]:
    """Return the layers of the given classes whose structured names fit, in the model's order.

    Raises:
        InvalidInputError: the pattern, or one of its names, matches no such layer.
    """
    check_pattern(argument, pattern)
    candidates = {name: layer for name, layer in model.named_sublayers() if isinstance(layer, kinds)}
    # Adapters are layers too, but they are not adapted themselves.
    candidates = {name: layer for name, layer in candidates.items() if ".adapters." not in f".{name}."}
    for item in [pattern] if isinstance(pattern, str) else [[item] for item in pattern]:
        if not any(matches(name, item) for name in candidates):
            raise InvalidInputError(
                f"{argument}: expected a pattern of layers of {' or '.join(kind.__name__ for kind in kinds)}, got "
                f"{item if isinstance(item, str) else item[0]!r}, which matches none of {list(candidates)}"
            )
    return {name: layer for name, layer in candidates.items() if matches(name, pattern)}

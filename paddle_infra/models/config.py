"""Configurations of models: frozen dataclasses that are read from and written to ``config.json``."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from paddle_infra._core.atomic import write_json
from paddle_infra._core.errors import WeightError

CONFIG_FILE = "config.json"
_Config = TypeVar("_Config", bound="ModelConfig")


class ModelConfig:
    """Base of model configurations.

    A subclass is a frozen dataclass whose fields all have defaults and hold JSON values (numbers, strings, bools,
    None), tuples of them, or another such configuration, and which says its ``model_type``:

    .. code-block:: python

        @dataclass(frozen=True)
        class TaggerConfig(ModelConfig):
            model_type = "tagger"
            vocab_size: int = 1000
            labels: tuple[str, ...] = ()

    One class that reads several model types makes ``model_type`` a field and overrides :meth:`model_types`.
    """

    model_type = ""

    @classmethod
    def model_types(cls) -> tuple[str, ...]:
        """Return the values of ``model_type`` that :meth:`load` takes."""
        return (cls.model_type,)

    @classmethod
    def load(cls: type[_Config], directory: str | Path) -> _Config:
        """Read ``config.json``; keys that are not fields are ignored, fields that are absent get their defaults.

        Raises:
            WeightError: the file is missing or not a JSON object, it describes another kind of model, or a value has
                another type than its field.
        """
        path = Path(directory) / CONFIG_FILE
        return cls.from_dict(read_json_object(path), str(path))

    @classmethod
    def from_dict(cls: type[_Config], values: Mapping[str, Any], where: str = "configuration") -> _Config:
        """Return the configuration that the content of a ``config.json`` describes; ``where`` is named in errors.

        Raises:
            WeightError: as for :meth:`load`.
        """
        found = values.get("model_type", cls.model_type)
        if found not in cls.model_types():
            expected = " or ".join(map(repr, cls.model_types()))
            raise WeightError(f"{where}: expected model_type {expected}, got {found!r}")
        hints = typing.get_type_hints(cls)
        names = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
        return cls(
            **{
                name: _value(values[name], hints[name], f"{where}: {name}")
                for name in names
                if name in values
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a ``config.json``: the fields and ``model_type``."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        nested = {
            name: value.to_dict() if isinstance(value, ModelConfig) else value
            for name, value in values.items()
        }
        return nested | {"model_type": self.model_type}

    def save(self, directory: str | Path, architecture: str | None = None) -> None:
        """Write ``config.json``, atomically; ``architecture`` is the name of the model's class."""
        values = self.to_dict()
        if architecture is not None:
            values["architectures"] = [architecture]
        write_json(Path(directory) / CONFIG_FILE, values)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        WeightError: there is no such file, or it holds something else.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightError(f"{path}: expected a model configuration, but there is no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(raw, dict):
        raise WeightError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    return raw


def _value(raw: Any, hint: Any, where: str) -> Any:
    """Return a JSON value as what a field's annotation asks for: tuples for lists, configurations for objects."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, ModelConfig) and isinstance(raw, Mapping):
        return hint.from_dict(raw, where)
    if origin in (typing.Union, types.UnionType):
        if raw is None and type(None) in arguments:
            return None
        others = [argument for argument in arguments if argument is not type(None)]
        hint = others[0] if len(others) == 1 else Any
        return _value(raw, hint, where)
    if origin is tuple or hint is tuple:
        if not isinstance(raw, list):
            raise WeightError(f"{where}: expected a list, got {raw!r}")
        items = arguments[:1] * len(raw) if arguments[1:] == (...,) else arguments
        if arguments and len(items) != len(raw):
            raise WeightError(f"{where}: expected {len(items)} values, got {raw!r}")
        return tuple(
            _value(item, kind, where) for item, kind in zip(raw, items or [Any] * len(raw), strict=True)
        )
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if hint in (bool, int, float, str) and (
        not isinstance(raw, hint) or (isinstance(raw, bool) and hint is not bool)
    ):
        raise WeightError(f"{where}: expected {hint.__name__}, got {raw!r}")
    return raw

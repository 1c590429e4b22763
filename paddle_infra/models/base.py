"""Models that are loaded from a directory and saved into one."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from paddle import nn

from paddle_infra._core.atomic import atomic_file
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.models.checkpoint import Checkpoint, open_weights
from paddle_infra.models.config import ModelConfig
from paddle_infra.models.pretrained import LoadReport, load_weights, save_weights

_Model = TypeVar("_Model", bound="PretrainedModel")


class PretrainedModel(nn.Layer):
    """Base of models with ``config.json`` and ``model.safetensors``.

    What is stored are the parameters and the persistable buffers (for instance BatchNorm's statistics), by default
    under their own names and in Paddle's layout. A subclass sets ``config_class`` and is made from its configuration
    alone: ``Tagger(config)``. For files in the field's names it overrides :meth:`checkpoint_names` and
    :meth:`is_transposed`. The first four attributes are the class's.

    Attributes:
        config_class: the :class:`ModelConfig` of this model.
        new_parts: beginnings of names that a file may lack, for instance ``("classifier.",)``: these keep their
            initial values.
        ignores_unexpected: whether names in a file that the model has not are only reported, not an error.
        passed_through: files (of a tokenizer) that are read beside the weights, and written where there are none.
        config: what the model was made from.
        load_report: what :meth:`from_pretrained` loaded; None for a new model.
    """

    config_class: ClassVar[type[ModelConfig]]
    new_parts: ClassVar[tuple[str, ...]] = ()
    ignores_unexpected: ClassVar[bool] = False
    passed_through: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any) -> None:  # a subclass says which configuration
        super().__init__()
        self.config = config
        self.load_report: LoadReport | None = None
        self._passed: dict[str, bytes] = {}

    @classmethod
    def from_pretrained(cls: type[_Model], directory: str | Path, **changes: Any) -> _Model:
        """Build the model that ``config.json`` in ``directory`` describes and load its weights.

        Args:
            directory: a folder as :meth:`save_pretrained` writes it; the weights may be in several files, listed in
                ``model.safetensors.index.json``.
            changes: fields of the configuration to override, for instance ``labels`` or ``hidden_dropout_prob``.

        Returns:
            The model, in training mode; its ``load_report`` tells what was loaded, missing and not used.

        Raises:
            InvalidInputError: ``changes`` names a field that the configuration does not have.
            WeightError: a file is missing or damaged or does not fit the model.
        """
        config = cls.config_class.load(directory)
        fields = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
        if unknown := sorted(set(changes) - fields):
            raise InvalidInputError(
                f"expected fields of {type(config).__name__} ({', '.join(sorted(fields))}), got {unknown}"
            )
        model = cls(dataclasses.replace(config, **changes))  # type: ignore[type-var]
        model.load_report = load_weights(model, directory, optional=model.optional_names())
        beside = (Path(directory) / name for name in cls.passed_through)
        model._passed = {path.name: path.read_bytes() for path in beside if path.is_file()}
        return model

    def save_pretrained(self, directory: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``directory``, each atomically.

        The tokenizer's files that lay beside the loaded weights are written too, unless ``directory`` has some.

        Raises:
            StorageError: a file cannot be written.
        """
        folder = Path(directory)
        save_weights(self, folder)
        self.config.save(folder, self.architecture())
        if not any((folder / name).exists() for name in self.passed_through):
            for name, content in self._passed.items():
                with atomic_file(folder / name) as temporary:
                    temporary.write_bytes(content)

    def architecture(self) -> str:
        """Return what ``architectures`` in ``config.json`` shall say."""
        return type(self).__name__

    def checkpoint_names(self, name: str) -> tuple[str, ...]:
        """Return the names in files of one of our parameters: the first is written, any is read.

        Raises:
            KeyError: there is none.
        """
        return (name,)

    def optional_names(self) -> tuple[str, ...]:
        """Return the beginnings of names that a file may lack."""
        return self.new_parts

    def is_ignored(self, name: str) -> bool:
        """Whether a name in a file that the model has not holds nothing that was learned, or a copy."""
        return False

    def is_transposed(self, name: str) -> bool:
        """Whether our parameter is the transpose of the file's, as for Linear weights from PyTorch."""
        return False

    def adapted(self, name: str, value: np.ndarray, shape: list[int]) -> np.ndarray:
        """Return a value that was read, in our layout, made to fit; what still does not fit is an error."""
        return value

    def open_checkpoint(self, directory: str | Path) -> AbstractContextManager[Checkpoint]:
        """Open the weights in ``directory``."""
        return open_weights(Path(directory))

"""What is given to a model's ``forward``: arrays as tensors, and tensors taken out of nested lists and back in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import paddle


def as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named arguments: a mapping is named ones, a list or tuple positional ones."""
    if isinstance(inputs, Mapping):
        return (), {str(name): map_tensors(_to_tensor, value) for name, value in inputs.items()}
    values = inputs if isinstance(inputs, list | tuple) else (inputs,)
    return tuple(map_tensors(_to_tensor, value) for value in values), {}


def _to_tensor(value: Any) -> Any:
    return paddle.to_tensor(value) if isinstance(value, np.ndarray | np.generic) else value


def map_tensors(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to everything in nested lists, tuples and mappings."""
    if isinstance(value, Mapping):
        return {name: map_tensors(function, item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(function, item) for item in value)
    return function(value)


def tensors_in(value: Any) -> list[paddle.Tensor]:
    """Return the tensors in nested lists, tuples and mappings, in order."""
    found: list[paddle.Tensor] = []
    map_tensors(lambda item: found.append(item) if isinstance(item, paddle.Tensor) else None, value)
    return found

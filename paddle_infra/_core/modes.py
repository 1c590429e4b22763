"""Evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Put every sub-layer of a ``paddle.nn.Layer`` in evaluation mode, and afterwards, even on error, in its own again.

    Layers may be in different modes: a frozen part of a model often stays in evaluation mode while the rest trains.
    """
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        yield
    finally:
        for layer, is_training in modes:
            layer.training = is_training

"""Follow which layer of a model runs, with hooks that are gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paddle


@contextmanager
def watched(
    model: paddle.nn.Layer,
    *,
    entered: Callable[[str], None],
    left: Callable[[str, str, Any], None],
) -> Iterator[None]:
    """Call back whenever a layer starts and ends.

    Args:
        model: the model; its own name is ``""``.
        entered: called with the structured name of the layer that starts.
        left: called with the name of the layer that ends, of the one in which it ran, and its outputs.
    """
    running: list[str] = []
    handles = []

    def before(name: str) -> Callable[..., None]:
        def hook(layer: Any, inputs: Any) -> None:
            running.append(name)
            entered(name)

        return hook

    def after(layer: Any, inputs: Any, outputs: Any) -> None:
        name = running.pop()
        left(name, running[-1] if running else "", outputs)

    try:
        for name, layer in model.named_sublayers(include_self=True):
            handles.append(layer.register_forward_pre_hook(before(name)))
            handles.append(layer.register_forward_post_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Keeps a model's ``config`` true to its sizes, or stops ``save_pretrained`` where it cannot tell them."""

from __future__ import annotations

import dataclasses
from typing import Any

from paddle_infra import nn
from paddle_infra._core.errors import UnsupportedError
from paddle_infra.compress.sublayers import Layer

_FIELDS = ("num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_size")


def update_config(model: Layer) -> None:
    """Make ``model.config`` say how many layers, and how wide perceptrons, the model's one encoder has now.

    Only a frozen dataclass with the fields of :class:`paddle_infra.models.BertConfig` is changed; other models are
    left alone. Where heads were cut out or layers are unequal, no configuration fits, and ``save_pretrained`` of this
    very model raises from then on.
    """
    config = getattr(model, "config", None)
    stacks = [x for x in model.sublayers(include_self=True) if isinstance(x, nn.TransformerEncoder)]
    if (
        not dataclasses.is_dataclass(config)
        or len(stacks) != 1
        or not all(hasattr(config, f) for f in _FIELDS)
    ):
        return
    layers = list(stacks[0].layers)
    widths = {layer.output.weight.shape[0] for layer in layers}
    heads = {layer.attention.num_heads for layer in layers}
    changes: dict[str, Any] = {"num_hidden_layers": len(layers)}
    if len(widths) == 1:
        changes["intermediate_size"] = next(iter(widths))
    model.__dict__.pop("save_pretrained", None)
    model.config = dataclasses.replace(config, **changes)  # type: ignore[type-var]
    if len(widths) > 1 or heads != {config.num_attention_heads}:  # type: ignore[union-attr]
        model.save_pretrained = _Refusal(
            "config.json cannot say that heads were cut out, nor that layers have different sizes"
        )


class _Refusal:
    """Stands in the place of ``save_pretrained``; a class, so that a copied model has it too."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, *_: Any, **__: Any) -> None:
        """Refuse.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"save_pretrained: expected a model that its configuration describes, but {self.reason}: keep it with "
            "paddle_infra.compress.save_compressed"
        )

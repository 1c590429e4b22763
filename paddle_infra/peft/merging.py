"""Adapters in the model's own weights: no cost at inference, and no trace in an export."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.peft.applying import delete_adapter, find, forget, state_of
from paddle_infra.peft.hosts import detach


def merge(model: nn.Layer) -> None:
    """Put the active adapter into the weights of its layers, until :func:`unmerge`.

    A copy of the old weights is kept, so that unmerging is exact. While merged, the adapter cannot train or be
    switched.

    Raises:
        InvalidInputError: no adapter is active, or it is merged already.
        UnsupportedError: its method has no such weights (all but LoRA, AdaLoRA and IA³); nothing is changed.
    """
    state = state_of(model, unmerged=True)
    adapter = find(state, None)
    layers = dict(model.named_sublayers())
    kinds = {type(layers[name].adapters[adapter.name]) for name in adapter.layers}
    if not all(kind.is_mergeable for kind in kinds):
        raise UnsupportedError(
            f"merge: expected an adapter of LoRA, AdaLoRA or IA³, got {adapter.name!r} of {adapter.config.kind!r}, "
            "which no weight can express: export the model with it"
        )
    owners: dict[int, str] = {}
    for name in adapter.layers:
        other = owners.setdefault(id(layers[name]._parameters["weight"]), name)
        if other != name:
            raise UnsupportedError(
                f"merge: expected layers with weights of their own, got one of {other} and {name}"
            )
    with paddle.no_grad():
        for name in adapter.layers:
            layer = layers[name]
            weights = _weights(layer)
            # All in effect before any is set.
            effective = {key: getattr(layer, key).clone() for key in weights}
            for key, parameter in weights.items():
                state.originals[f"{name}.{key}"] = parameter.detach().clone()
                _set(layer, parameter, effective[key])
            layer.is_merged = True
    state.is_merged = True


def unmerge(model: nn.Layer) -> None:
    """Give the layers their own weights back, bit for bit.

    Raises:
        InvalidInputError: no adapter is merged.
    """
    state = state_of(model)
    if not state.is_merged:
        raise InvalidInputError("unmerge: expected a merged adapter, got none")
    layers = dict(model.named_sublayers())
    with paddle.no_grad():
        for name in find(state, None).layers:
            layer = layers[name]
            for key, parameter in _weights(layer).items():
                _set(layer, parameter, state.originals[f"{name}.{key}"])
            layer.is_merged = False
    state.is_merged, state.originals = False, {}


def merge_and_remove(model: nn.Layer) -> None:
    """Put the active adapter into the weights for good: a plain model is left, with its values of ``train_also``.

    Other adapters are deleted. Parameters get gradients again as before the first :func:`apply`.

    Raises:
        InvalidInputError: no adapter is active.
        UnsupportedError: as in :func:`merge`; nothing is changed.
    """
    state = state_of(model)
    if not state.is_merged:
        merge(model)
    active = find(state, None)
    layers = dict(model.named_sublayers())
    state.is_merged = False  # what is in the weights is the model's own now
    for name in state.adapters.keys() - {active.name}:
        delete_adapter(model, name)
    for name in active.layers:
        detach(layers[name], active.name)
    forget(model)


def _weights(layer: Any) -> dict[str, Tensor]:
    found = {key: layer._parameters.get(key) for key in ("weight", "bias")}
    return {key: parameter for key, parameter in found.items() if parameter is not None}


def _set(layer: Any, parameter: Tensor, value: Tensor) -> None:
    parameter.set_value(value)
    if hasattr(layer, "_kept"):
        layer._kept = None  # a rounded copy of the old weight, whose few changed numbers might not be noticed

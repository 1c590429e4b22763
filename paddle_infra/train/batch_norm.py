"""BatchNorm's running statistics for weights that no training step has used, such as averages of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import paddle
from paddle.nn.layer.norm import BatchNorm, _BatchNormBase

from paddle_infra._core.errors import InvalidInputError
from paddle_infra._core.modes import evaluation_mode
from paddle_infra.train.rng import preserved_rng


def refresh_batch_norm(
    model: paddle.nn.Layer, batches: Iterable[Any], forward: Callable[[paddle.nn.Layer, Any], Any]
) -> None:
    """Replace the running mean and variance of every BatchNorm layer by the means of those of ``batches``.

    Each batch counts the same: use batches of one size. All other layers are in evaluation mode meanwhile, so that
    dropout does nothing; modes, momenta and random generators are as before afterwards, also on error. Frozen layers
    (``use_global_stats``) keep what they have.

    Args:
        model: the layer.
        batches: training batches, as tensors.
        forward: ``forward(model, batch)`` runs the model; what it returns is ignored.

    Raises:
        InvalidInputError: there is no batch, or the model has no BatchNorm layer.
    """
    layers = batch_norms(model)
    if not layers:
        raise InvalidInputError("refresh_batch_norm: expected a model with BatchNorm layers, got none")
    momenta = [layer._momentum for layer in layers.values()]
    count = 0
    with evaluation_mode(model), paddle.no_grad(), preserved_rng():
        try:
            for layer in layers.values():
                layer.training = True
            for batch in batches:
                for layer in layers.values():  # the share of what is already there
                    layer._momentum = count / (count + 1)
                forward(model, batch)
                count += 1
        finally:
            for layer, momentum in zip(layers.values(), momenta, strict=True):
                layer._momentum = momentum
    if count == 0:
        raise InvalidInputError("refresh_batch_norm: expected at least one batch, got none")


def batch_norms(model: paddle.nn.Layer) -> dict[str, Any]:
    """Return the layers with running statistics by structured name."""
    return {
        name: layer
        for name, layer in model.named_sublayers(include_self=True)
        if isinstance(layer, (_BatchNormBase, BatchNorm)) and not layer._use_global_stats
    }


def statistics_names(model: paddle.nn.Layer) -> set[str]:
    """Return the structured names of the running statistics that training changes."""
    return {f"{name}.{part}".lstrip(".") for name in batch_norms(model) for part in ("_mean", "_variance")}

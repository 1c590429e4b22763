"""Evaluation mode in which gradients can be taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle.nn.layer.rnn import RNNBase

from paddle_infra._core.modes import evaluation_mode


@contextmanager
def differentiable_evaluation_mode(model: paddle.nn.Layer) -> Iterator[list[paddle.Tensor]]:
    """Put the model in evaluation mode, and afterwards every layer in its own again.

    Paddle 3.3 has gradients of recurrent layers on a CPU only in training mode, and only with those of their weights.
    They stay in training mode, with their dropout at 0, which gives the same numbers.

    Yields:
        The tensors whose gradients must be asked for too: the weights of recurrent layers.
    """
    recurrent = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, RNNBase)]
    rates = [layer.dropout for layer in recurrent]
    weights = list({id(weight): weight for layer in recurrent for weight in layer.parameters()}.values())
    frozen = [weight.stop_gradient for weight in weights]
    with evaluation_mode(model):
        try:
            for layer in recurrent:
                layer.training, layer.dropout = True, 0.0
            for weight in weights:
                weight.stop_gradient = False
            yield weights
        finally:
            for layer, rate in zip(recurrent, rates, strict=True):
                layer.dropout = rate
            for weight, is_frozen in zip(weights, frozen, strict=True):
                weight.stop_gradient = is_frozen

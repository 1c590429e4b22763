"""How much heads and channels of Transformer layers matter: what to prune first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from paddle_infra import nn
from paddle_infra._core.checks import check_number
from paddle_infra._core.errors import InvalidInputError
from paddle_infra._core.modes import evaluation_mode
from paddle_infra.compress.sublayers import Layer, check_model

Scores = dict[str, np.ndarray]
"""Importance by the name of a layer: float64, one number per head or channel."""


@dataclass(frozen=True)
class Importance:
    """What :func:`taylor_importance` measured.

    Attributes:
        heads: by the name of a :class:`paddle_infra.nn.MultiHeadAttention`.
        channels: by the name of a :class:`paddle_infra.nn.TransformerEncoderLayer`.
    """

    heads: Scores
    channels: Scores


def taylor_importance(
    model: Layer,
    loss: Callable[[Layer, Any], paddle.Tensor],
    batches: Iterable[Any],
    *,
    normalize: bool = True,
) -> Importance:
    r"""Measure by how much the loss would change, to first order, without a head or a channel.

    For the output :math:`A_h(x)` of a head and sample :math:`x`,
    :math:`I_h = \mathrm{mean}_x |A_h(x)^\top \partial L / \partial A_h(x)|`; for a channel between the linear layers of
    a perceptron likewise. The model runs in evaluation mode; its weights, gradients and mode stay as they are.

    Args:
        model: a Layer that holds Transformer layers of :mod:`paddle_infra.nn`.
        loss: ``loss(model, batch)``, the mean over the samples of a batch.
        batches: from the training data; some hundred samples are enough.
        normalize: divide the heads' numbers of each layer by their Euclidean norm, as the reference does.

    Raises:
        InvalidInputError: there is no such layer or no batch, or the loss does not depend on one of them.

    References:
        Michel et al., "Are sixteen heads really better than one?", arXiv:1905.10650, section 4.1; first order,
        arXiv:1611.06440.
    """
    check_model(model)
    layers = dict(model.named_sublayers())
    attentions = {name: layer for name, layer in layers.items() if isinstance(layer, nn.MultiHeadAttention)}
    encoders = {
        name: layer for name, layer in layers.items() if isinstance(layer, nn.TransformerEncoderLayer)
    }
    if not attentions:
        raise InvalidInputError("model: expected a paddle_infra.nn.MultiHeadAttention in it, found none")
    sums: dict[str, np.ndarray] = {}
    samples = 0
    with evaluation_mode(model), ExitStack() as stack:
        inputs: dict[str, paddle.Tensor] = {}
        layer: Any
        for name, layer in {**attentions, **encoders}.items():
            stack.callback(layer.output.register_forward_pre_hook(_keeper(inputs, name)).remove)
        for batch in batches:
            inputs.clear()
            value = loss(model, batch)
            if missing := sorted({*attentions, *encoders} - set(inputs)):
                raise InvalidInputError(
                    f"loss: expected one that runs every Transformer layer, not run: {missing}"
                )
            gradients = paddle.grad(value, list(inputs.values()), allow_unused=True)
            for (name, given), gradient in zip(inputs.items(), gradients, strict=True):
                if gradient is None:
                    raise InvalidInputError(f"loss: expected one that depends on {name}, it does not")
                part = (given * gradient).sum(axis=list(range(1, given.ndim - 1))).numpy().astype(np.float64)
                if name in attentions:
                    part = part.reshape([len(part), attentions[name].num_heads, -1]).sum(-1)
                # Of a mean loss each sample has a share: times their number, it is the sample's own gradient.
                sums[name] = sums.get(name, 0.0) + np.abs(part).sum(0) * len(part)
            samples += len(part)
    if not samples:
        raise InvalidInputError("batches: expected at least one, got none")
    heads = {name: sums[name] / samples for name in attentions}
    if normalize:
        heads = {name: score / max(float(np.linalg.norm(score)), 1e-300) for name, score in heads.items()}
    return Importance(heads, {name: sums[name] / samples for name in encoders})


def magnitude_importance(model: Layer) -> Scores:
    r"""Return :math:`\lVert W_1[:, j] \rVert \cdot \lVert W_2[j, :] \rVert` for every channel of every perceptron.

    With a gate, :math:`W_1` has two columns for a channel, which count together. Names are those of
    :class:`paddle_infra.nn.TransformerEncoderLayer` layers. Needs no data.

    Raises:
        InvalidInputError: there is no such layer.
    """
    check_model(model)
    found = {n: x for n, x in model.named_sublayers() if isinstance(x, nn.TransformerEncoderLayer)}
    if not found:
        raise InvalidInputError("model: expected a paddle_infra.nn.TransformerEncoderLayer in it, found none")
    scores = {}
    for name, layer in found.items():
        first = layer.intermediate.weight.numpy().astype(np.float64)
        second = layer.output.weight.numpy().astype(np.float64)
        columns = first.reshape([len(first), -1, len(second)])  # a gate's halves one after the other
        scores[name] = np.sqrt((columns**2).sum((0, 1))) * np.linalg.norm(second, axis=1)
    return scores


def least_important(
    scores: Mapping[str, np.ndarray], fraction: float, *, keep: int = 1
) -> dict[str, list[int]]:
    """Return the ``fraction`` of all heads or channels with the smallest scores, by layer.

    Scores are compared across layers; every layer keeps at least its ``keep`` best. Of equal scores, the first go
    first.

    Args:
        scores: as :func:`taylor_importance` and :func:`magnitude_importance` return them.
        fraction: of all, from 0 to below 1; rounded down to a whole number.
        keep: how many a layer keeps at least.

    Raises:
        InvalidInputError: an argument is out of range, or a score is not finite.
    """
    check_number("fraction", fraction, 0.0, 1.0)
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise InvalidInputError(f"scores[{name!r}]: expected finite numbers, got a NaN or an infinity")
    ranked = sorted(
        (float(value), index, name) for name, score in scores.items() for index, value in enumerate(score)
    )
    chosen: dict[str, list[int]] = {name: [] for name in scores}
    left = int(fraction * len(ranked) + 1e-9)
    for _, index, name in ranked:
        if left and len(scores[name]) - len(chosen[name]) > keep:
            chosen[name].append(index)
            left -= 1
    return {name: sorted(indices) for name, indices in chosen.items() if indices}


def equally_many(scores: Mapping[str, np.ndarray], fraction: float) -> dict[str, list[int]]:
    """Return, for every layer by itself, its ``fraction`` with the smallest scores: all layers keep one size.

    Such a model's sizes can be told in a ``config.json`` (see :func:`prune_channels`). Arguments and errors as
    :func:`least_important`.
    """
    return {
        name: pruned[name]
        for name, score in scores.items()
        if (pruned := least_important({name: score}, fraction))
    }


def _keeper(inputs: dict[str, paddle.Tensor], name: str) -> Callable[[Any, tuple[paddle.Tensor]], Any]:
    def keep(layer: Any, given: tuple[paddle.Tensor]) -> paddle.Tensor:
        """Note a layer's input, so that its gradient can be asked for."""
        inputs[name] = given[0] if not given[0].stop_gradient else given[0].detach()
        inputs[name].stop_gradient = False
        return inputs[name]

    return keep

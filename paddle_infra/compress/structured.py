"""Structured pruning: heads, channels and layers are cut out, and the model is smaller and faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import paddle

from paddle_infra import nn
from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.compress.config import update_config
from paddle_infra.compress.sublayers import Layer, layer_named, set_parameter, target_of


def prune_heads(model: Layer, heads: Mapping[str, Sequence[int]], *, in_place: bool = False) -> Layer:
    """Cut heads out of attention layers.

    The result is what the model would give if the output of these heads were zero. Queries, keys and values have
    fewer columns, the output projection fewer rows; biases too.

    A head's width stays, so ``config.json`` cannot tell such a model's sizes, and ``save_pretrained`` refuses from
    then on: :func:`save_compressed` keeps it.

    Args:
        model: holds :class:`paddle_infra.nn.MultiHeadAttention` layers.
        heads: heads to cut out by the layers' names, as :func:`least_important` returns them.
        in_place: change ``model`` itself instead of a copy.

    Raises:
        InvalidInputError: no such layer or head, a head twice, or all heads of a layer.
        UnsupportedError: the layer shares keys and values between heads, or has ALiBi or a prefix, or is quantized.
    """
    target = target_of(model, in_place=in_place)
    layers = {name: layer_named(target, name, nn.MultiHeadAttention, "heads") for name in heads}
    kept = {name: _kept(f"heads[{name!r}]", heads[name], layer.num_heads) for name, layer in layers.items()}
    for name, layer in layers.items():
        _check_linears(name, layer, ("query", "key", "value", "output"))
        if (
            layer.num_kv_heads != layer.num_heads
            or layer.alibi_slopes is not None
            or layer.prefix is not None
        ):
            raise UnsupportedError(
                f"{name}: expected as many heads of keys as of queries, no ALiBi and no prefix, got num_heads="
                f"{layer.num_heads}, num_kv_heads={layer.num_kv_heads}, ALiBi {layer.alibi_slopes is not None}, "
                f"prefix {layer.prefix is not None}"
            )
    for name, layer in layers.items():
        columns = np.concatenate([np.arange(layer.head_dim) + head * layer.head_dim for head in kept[name]])
        for part in (layer.query, layer.key, layer.value):
            _keep(part, columns, axis=1)
        _keep(layer.output, columns, axis=0)
        layer.num_heads = layer.num_kv_heads = len(kept[name])
    update_config(target)
    return target


def prune_channels(model: Layer, channels: Mapping[str, Sequence[int]], *, in_place: bool = False) -> Layer:
    """Cut channels out of the perceptrons of encoder layers: columns of the first linear layer, rows of the second.

    The result is what the model would give if these channels were zero. A gated activation loses both columns of a
    channel. If all layers of a model with a ``config`` keep equally many, its ``intermediate_size`` says so and
    ``save_pretrained`` works; otherwise that refuses, and :func:`save_compressed` keeps the model.

    Args:
        model: holds :class:`paddle_infra.nn.TransformerEncoderLayer` layers.
        channels: channels to cut out by the layers' names.
        in_place: change ``model`` itself instead of a copy.

    Raises:
        InvalidInputError: no such layer or channel, a channel twice, or all channels of a layer.
        UnsupportedError: the layer is quantized.
    """
    target = target_of(model, in_place=in_place)
    layers = {name: layer_named(target, name, nn.TransformerEncoderLayer, "channels") for name in channels}
    for name, layer in layers.items():
        _check_linears(name, layer, ("intermediate", "output"))
    kept = {
        name: _kept(f"channels[{name!r}]", channels[name], layer.output.weight.shape[0])
        for name, layer in layers.items()
    }
    for name, layer in layers.items():
        width, columns = layer.output.weight.shape[0], layer.intermediate.weight.shape[1]
        # A gate's columns come first, its values' after them.
        both = np.concatenate([kept[name] + start for start in range(0, columns, width)])
        _keep(layer.intermediate, both, axis=1)
        _keep(layer.output, kept[name], axis=0)
    update_config(target)
    return target


def keep_layers(
    model: Layer, indices: Sequence[int], *, stack: str | None = None, in_place: bool = False
) -> Layer:
    """Keep only these layers of a Transformer stack, in this order.

    This makes a student too: ``keep_layers(teacher, range(0, 12, 2))`` is a copy with the weights of every second
    layer, to be trained with :class:`paddle_infra.train.Distillation` (arXiv:1910.01108, section 2). A model with a
    ``config`` gets ``num_hidden_layers``, and ``save_pretrained`` works.

    Args:
        model: holds a :class:`paddle_infra.nn.TransformerEncoder`.
        indices: rising numbers of layers; negative ones count from the end.
        stack: name of the encoder; needed if there are several.
        in_place: change ``model`` itself instead of a copy.

    Raises:
        InvalidInputError: no layer, no such layer, or numbers that do not rise.
    """
    target = target_of(model, in_place=in_place)
    encoder = _stack(target, stack)
    count = len(encoder.layers)
    wanted = [index + count if index < 0 else index for index in indices]
    if not wanted or wanted != sorted(set(wanted)) or not 0 <= wanted[0] <= wanted[-1] < count:
        raise InvalidInputError(
            f"indices: expected rising numbers of the {count} layers, got {list(indices)}"
        )
    encoder.layers = paddle.nn.LayerList([encoder.layers[index] for index in wanted])
    update_config(target)
    return target


def _stack(model: Layer, name: str | None) -> Layer:
    if name is not None:
        return layer_named(model, name, nn.TransformerEncoder, "stack")
    found = {
        n: x for n, x in model.named_sublayers(include_self=True) if isinstance(x, nn.TransformerEncoder)
    }
    if len(found) != 1:
        raise InvalidInputError(f"stack: expected one TransformerEncoder, or its name, found {sorted(found)}")
    return next(iter(found.values()))


def _kept(argument: str, pruned: Sequence[int], count: int) -> np.ndarray:
    """Return what is left of ``count`` without the pruned."""
    indices = list(pruned)
    is_valid = all(
        isinstance(i, (int, np.integer)) and not isinstance(i, bool) and 0 <= i < count for i in indices
    )
    if not is_valid or len(set(indices)) != len(indices) or len(indices) >= count:
        raise InvalidInputError(
            f"{argument}: expected distinct numbers from 0 to {count - 1}, at least one of them left out, got {indices}"
        )
    return np.setdiff1d(np.arange(count), indices)


def _check_linears(name: str, layer: Layer, parts: Sequence[str]) -> None:
    for part in parts:
        if not isinstance(getattr(layer, part), paddle.nn.Linear):
            raise UnsupportedError(
                f"{name}.{part}: expected a Linear layer, got {type(getattr(layer, part)).__name__}: prune first, then "
                "quantize"
            )


def _keep(linear: Layer, indices: np.ndarray, *, axis: int) -> None:
    """Keep these columns (axis 1) or rows (axis 0) of a linear layer."""
    chosen = paddle.to_tensor(indices.astype(np.int64))
    with paddle.no_grad():
        set_parameter(linear, "weight", paddle.index_select(linear.weight, chosen, axis=axis))
        if axis == 1 and linear.bias is not None:
            set_parameter(linear, "bias", paddle.index_select(linear.bias, chosen))

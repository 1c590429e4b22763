"""Weight-only quantization of linear layers, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import paddle

from paddle_infra import nn
from paddle_infra._core.checks import check_positive, dtype_name
from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.compress.quantized_linear import Int4Linear, Int8Linear, int4_codes, int8_codes, spread
from paddle_infra.compress.sublayers import Layer, chosen, replace_layers, target_of
from paddle_infra.nn.mlp import activated_linear

QuantizedLinear = (Int8Linear, Int4Linear)
_GATED_GELU = type(activated_linear(1, 1, "geglu"))


def quantize_linears(
    model: Layer,
    *,
    names: str | Sequence[str] = "*",
    exclude: Sequence[str] = (),
    bits: Literal[8, 4] = 8,
    group_size: int | None = None,
    in_place: bool = False,
) -> Layer:
    """Round the weights of ``paddle.nn.Linear`` and :class:`paddle_infra.nn.Linear` layers, for inference.

    ========  ==============  ==================================================================================
    ``bits``  ``group_size``  result
    ========  ==============  ==================================================================================
    8         None            :class:`Int8Linear`, a scale per output channel. Inputs are rounded to int8 too, each
                              row by itself while it runs: a quarter of the memory, faster
    4         None            the same layer with 15 values per channel: a quarter of the memory (an eighth in
                              files of :func:`save_compressed`), as fast as 8
    4         a number        :class:`Int4Linear`: a scale per group and output, inputs as they are. Smaller files
                              only; memory and time are those of float32
    ========  ==============  ==================================================================================

    The result runs in dygraph, under ``to_static`` and in both exporters. It can be trained no more.

    Args:
        model: in any mode; the result has the same.
        names: pattern of the layers' names (``*``, ``?``), or several.
        exclude: patterns to leave out, for instance ``["head.*"]``.
        bits: 8 or 4.
        group_size: see above.
        in_place: change ``model`` itself. Otherwise a copy is changed, and ``model`` stays as it was.

    Returns:
        The changed model.

    Raises:
        InvalidInputError: an argument cannot be used, a pattern fits no linear layer, or a weight is not finite.
        UnsupportedError: a layer is not float32, has hooks, or is of another class derived from Linear.
    """
    if bits not in (8, 4) or isinstance(bits, bool):
        raise InvalidInputError(f"bits: expected 8 or 4, got {bits!r}")
    if group_size is not None:
        check_positive("group_size", group_size)
        if bits == 8:
            raise InvalidInputError(f"group_size: expected None with 8 bits, got {group_size}")
    target = target_of(model, in_place=in_place)
    linears = chosen(
        target, lambda layer: isinstance(layer, paddle.nn.Linear), names, exclude, "linear layers"
    )
    activations = {name: _activation(name, layer) for name, layer in linears.items()}
    replace_layers(
        target,
        {
            id(layer): _quantized(layer, activations[name], bits, group_size)
            for name, layer in linears.items()
        },
    )
    return target


def dequantize_linears(model: Layer, *, in_place: bool = False) -> Layer:
    """Put linear layers of float32 weights in the place of quantized ones: what was rounded stays rounded.

    For the weights as they were before, keep the model that :func:`quantize_linears` copied. A plain
    ``paddle.nn.Linear`` and ``paddle_infra.nn.Linear`` without an activation both become the latter.

    Raises:
        InvalidInputError: there is no quantized layer.
    """
    target = target_of(model, in_place=in_place)
    found = chosen(target, lambda layer: isinstance(layer, QuantizedLinear), "*", (), "quantized layers")
    replace_layers(target, {id(layer): _dequantized(layer) for layer in found.values()})
    return target


def _activation(name: str, layer: Layer) -> str:
    """Return the activation of a layer that can be quantized, or raise."""
    if dtype_name(layer.weight) != "float32":
        raise UnsupportedError(f"{name}: expected a float32 weight, got {dtype_name(layer.weight)}")
    if layer._forward_pre_hooks or layer._forward_post_hooks:
        raise UnsupportedError(
            f"{name}: expected a layer without hooks, which would be lost, got one with hooks"
        )
    if type(layer) is _GATED_GELU:
        return "geglu"
    if type(layer) is nn.Linear:
        return layer.activation
    if type(layer) is paddle.nn.Linear:
        return "none"
    raise UnsupportedError(
        f"{name}: expected paddle.nn.Linear or paddle_infra.nn.Linear, got {type(layer).__name__}: exclude it"
    )


def _quantized(layer: Layer, activation: str, bits: int, group_size: int | None) -> Layer:
    if group_size is None:
        new: Layer = Int8Linear(*int8_codes(layer.weight, bits), layer.bias, activation, bits=bits)
    else:
        codes, scale = int4_codes(layer.weight, group_size)
        weight = codes.astype("float32") * spread(scale, group_size, codes.shape[0])
        new = Int4Linear(weight, scale, layer.bias, activation, group_size=group_size)
    new.training = layer.training
    return new


def _dequantized(layer: Layer) -> Layer:
    weight = layer.weight
    rows, columns = weight.shape
    bias = None if layer.bias is not None else False
    if layer.activation == "geglu":
        new: Layer = activated_linear(rows, columns // 2, "geglu", use_bias=layer.bias is not None)
    else:
        new = nn.Linear(rows, columns, layer.activation, bias_attr=bias)
    new.weight.set_value(weight)
    if layer.bias is not None:
        new.bias.set_value(layer.bias)
    new.training = layer.training
    return new

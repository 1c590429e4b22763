"""Convolution, pooling, resizing."""

from __future__ import annotations

from typing import Any

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.operators.shape import integer_vector
from paddle_infra.export.lowering.program import Operator, Value
from paddle_infra.export.lowering.registry import lowers

_CHANNELS_LAST = ("NHWC", "NLC", "NDHWC")


def _require_channels_first(graph: Graph, operator: Operator) -> None:
    if operator.attributes.get("data_format", "NCHW") in _CHANNELS_LAST:
        graph.refuse(operator, "channels that come last")


def _padding(operator: Operator, spatial: int) -> dict[str, Any]:
    """Return ONNX's attributes for Paddle's padding."""
    algorithm = operator.attributes.get("padding_algorithm", "EXPLICIT")
    if algorithm == "SAME":
        return {"auto_pad": "SAME_UPPER"}
    if algorithm == "VALID":
        return {"pads": [0] * 2 * spatial}
    amounts = [int(n) for n in operator.attributes["paddings"]]
    if len(amounts) == spatial:
        return {"pads": amounts * 2}
    return {"pads": amounts[::2] + amounts[1::2]}


@lowers("pd_op.conv2d", "pd_op.conv3d", "pd_op.depthwise_conv2d")
def convolution(graph: Graph, operator: Operator) -> str:
    """A convolution."""
    _require_channels_first(graph, operator)
    value, weight = operator.input(0), operator.input(1)
    attributes = operator.attributes
    return str(
        graph.add(
            "Conv",
            [graph.name(value), graph.name(weight)],
            strides=list(attributes["strides"]),
            dilations=list(attributes["dilations"]),
            group=int(attributes["groups"]),
            **_padding(operator, value.rank - 2),
        )
    )


@lowers("pd_op.conv2d_transpose", "pd_op.depthwise_conv2d_transpose", "pd_op.conv3d_transpose")
def transposed_convolution(graph: Graph, operator: Operator) -> str:
    """The gradient of a convolution, as a layer."""
    _require_channels_first(graph, operator)
    value, weight = operator.input(0), operator.input(1)
    attributes = operator.attributes
    size = operator.inputs[2] if len(operator.inputs) > 2 else None
    known = None if size is None else graph.known(size)
    if (known is not None and known.size) or (size is not None and known is None):
        graph.refuse(operator, "an output_size")
    return str(
        graph.add(
            "ConvTranspose",
            [graph.name(value), graph.name(weight)],
            strides=list(attributes["strides"]),
            dilations=list(attributes["dilations"]),
            group=int(attributes["groups"]),
            output_padding=list(attributes["output_padding"]) or None,
            **_padding(operator, value.rank - 2),
        )
    )


@lowers("pd_op.max_pool2d_with_index", "pd_op.max_pool3d_with_index")
def pool_with_index(graph: Graph, operator: Operator) -> list[str | None]:
    """The largest element of windows; where they were is not written."""
    return [pool(graph, operator), None]


@lowers("pd_op.pool2d", "pd_op.pool3d")
def pool(graph: Graph, operator: Operator) -> str:
    """The largest or mean element of windows; adaptive pooling to one element, or in equal windows."""
    _require_channels_first(graph, operator)
    value, attributes = operator.input(0), operator.attributes
    sizes = attributes.get("kernel_size")
    if sizes is None:
        sizes = graph.expect_known(operator, operator.input(1), "the window").reshape(-1)
    sizes = [int(n) for n in sizes]
    is_max = attributes.get("pooling_type", "max") == "max"
    name, spatial = graph.name(value), value.rank - 2
    axes = list(range(2, value.rank))
    if attributes["global_pooling"] or (attributes["adaptive"] and all(n == 1 for n in sizes)):
        return graph.reduce("ReduceMax" if is_max else "ReduceMean", name, axes, True)
    strides = list(attributes["strides"])
    padding = _padding(operator, spatial)
    if attributes["adaptive"]:
        if None in value.shape[2:] or any(
            int(n or 0) % k for n, k in zip(value.shape[2:], sizes, strict=True)
        ):
            graph.refuse(
                operator,
                f"adaptive pooling of {list(value.shape[2:])} to {sizes}, which needs unequal windows",
            )
        sizes = strides = [int(n or 0) // k for n, k in zip(value.shape[2:], sizes, strict=True)]
        padding = {"pads": [0] * 2 * spatial}
    options: dict[str, Any] = {
        "kernel_shape": sizes,
        "strides": strides,
        "ceil_mode": int(attributes["ceil_mode"]),
    }
    if is_max:
        return str(graph.add("MaxPool", [name], **options, **padding))
    counts = int(not attributes["exclusive"])
    return str(graph.add("AveragePool", [name], count_include_pad=counts, **options, **padding))


@lowers("pd_op.nearest_interp", "pd_op.bilinear_interp", "pd_op.bicubic_interp", "pd_op.linear_interp")
def resize(graph: Graph, operator: Operator) -> str:
    """Another size of images."""
    _require_channels_first(graph, operator)
    value, attributes = operator.input(0), operator.attributes
    name, spatial = graph.name(value), value.rank - 2
    mode = {"nearest": "nearest", "bilinear": "linear", "linear": "linear", "bicubic": "cubic"}[
        attributes["interp_method"]
    ]
    corners = bool(attributes["align_corners"])
    if corners:
        coordinates = "align_corners"
    elif mode == "nearest" or (mode == "linear" and attributes["align_mode"] == 1):
        coordinates = "asymmetric"
    else:
        coordinates = "half_pixel"
    options: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "cubic":
        options["cubic_coeff_a"] = -0.75
    if mode == "nearest":
        options["nearest_mode"] = "round_prefer_floor" if corners else "floor"
    sizes = _resize_target(graph, operator, name, spatial)
    if sizes is not None:
        return str(graph.add("Resize", [name, "", "", sizes], **options))
    scales = [float(n) for n in attributes["scale"]]
    scales = [1.0, 1.0, *(scales * spatial if len(scales) == 1 else scales)]
    return str(graph.add("Resize", [name, "", graph.constant(np.asarray(scales, np.float32))], **options))


def _resize_target(graph: Graph, operator: Operator, name: str, spatial: int) -> str | None:
    """Return the output's sizes, or None if it is scaled."""
    attributes = operator.attributes
    explicit, listed = operator.inputs[1], operator.inputs[2]
    if operator.inputs[3] is not None:
        graph.refuse(operator, "a scale that is computed at run time")
    front = graph.slice(graph.shape(name), [0], [0], [2])
    target: Value | None = listed if listed is not None else explicit
    if target is not None:
        return str(graph.add("Concat", [front, integer_vector(graph, target)], axis=0))
    if attributes["scale"]:
        return None
    sizes = [int(attributes[key]) for key in ("out_d", "out_h", "out_w")[-spatial:]]
    return str(graph.add("Concat", [front, graph.integers(sizes)], axis=0))

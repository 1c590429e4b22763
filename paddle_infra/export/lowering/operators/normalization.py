"""Norms."""

from __future__ import annotations

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import Operator, Value
from paddle_infra.export.lowering.registry import lowers


def layer_norm_of(
    graph: Graph,
    name: str,
    like: Value,
    weight: str | None,
    bias: str | None,
    epsilon: float,
    size: int | None,
) -> str:
    """Return the LayerNorm over the last axis: ONNX's own from opset 17 on, else in the form that engines fuse.

    ``size`` is that of the last axis; needed where there is no weight.
    """
    if graph.opset >= 17:
        scale = weight or graph.constant(np.ones(int(size or 0), like.dtype))
        inputs = [name, scale] + ([] if bias is None else [bias])
        return str(graph.add("LayerNormalization", inputs, axis=-1, epsilon=epsilon))
    centred = graph.add("Sub", [name, graph.reduce("ReduceMean", name, [like.rank - 1], True)])
    square = graph.add("Pow", [centred, graph.like(like, 2.0)])
    variance = graph.reduce("ReduceMean", square, [like.rank - 1], True)
    result = graph.add(
        "Div", [centred, graph.add("Sqrt", [graph.add("Add", [variance, graph.like(like, epsilon)])])]
    )
    if weight is not None:
        result = graph.add("Mul", [result, weight])
    return str(result if bias is None else graph.add("Add", [result, bias]))


def rms_norm_of(graph: Graph, name: str, like: Value, weight: str, bias: str | None, epsilon: float) -> str:
    """Return the RMSNorm over the last axis: ONNX's own from opset 23 on."""
    if graph.opset >= 23:
        result = graph.add("RMSNormalization", [name, weight], axis=-1, epsilon=epsilon)
    else:
        square = graph.add("Mul", [name, name])
        mean = graph.reduce("ReduceMean", square, [like.rank - 1], True)
        root = graph.add("Sqrt", [graph.add("Add", [mean, graph.like(like, epsilon)])])
        result = graph.add("Mul", [graph.add("Div", [name, root]), weight])
    return str(result if bias is None else graph.add("Add", [result, bias]))


@lowers("pd_op.layer_norm")
def layer_norm(graph: Graph, operator: Operator) -> list[str | None]:
    """LayerNorm over the last axes; weight and bias are flat in the program."""
    value = operator.input(0)
    begin = int(operator.attributes["begin_norm_axis"])
    shape = value.shape[begin:]
    if None in shape:
        graph.refuse(operator, "a norm over an axis of any size")
    sizes = [int(size or 0) for size in shape]
    parameters: list[str | None] = []
    for item in operator.inputs[1:3]:
        if item is None:
            parameters.append(None)
        elif len(sizes) == 1:
            parameters.append(graph.name(item))
        else:
            parameters.append(str(graph.add("Reshape", [graph.name(item), graph.integers(sizes)])))
    weight, bias = parameters
    epsilon = float(operator.attributes["epsilon"])
    name = graph.name(value)
    if len(sizes) == 1:
        return [layer_norm_of(graph, name, value, weight, bias, epsilon, sizes[0])]
    if graph.opset >= 17:
        scale = weight or graph.constant(np.ones(sizes, value.dtype))
        inputs = [name, scale] + ([] if bias is None else [bias])
        return [str(graph.add("LayerNormalization", inputs, axis=begin, epsilon=epsilon))]
    axes = list(range(begin, value.rank))
    centred = graph.add("Sub", [name, graph.reduce("ReduceMean", name, axes, True)])
    variance = graph.reduce("ReduceMean", graph.add("Mul", [centred, centred]), axes, True)
    result = graph.add(
        "Div", [centred, graph.add("Sqrt", [graph.add("Add", [variance, graph.like(value, epsilon)])])]
    )
    for kind, parameter in (("Mul", weight), ("Add", bias)):
        result = result if parameter is None else graph.add(kind, [result, parameter])
    return [str(result)]


@lowers("pd_op.batch_norm", "pd_op.batch_norm_")
def batch_norm(graph: Graph, operator: Operator) -> list[str | None]:
    """With the running statistics."""
    value, mean, variance = (operator.input(index) for index in range(3))
    weight, bias = operator.inputs[3], operator.inputs[4]
    is_last = operator.attributes["data_format"] in ("NHWC", "NLC", "NDHWC") and value.rank > 2
    channels = value.shape[-1 if is_last else 1]
    names = [
        graph.constant(np.full(int(channels or 0), number, mean.dtype)) if item is None else graph.name(item)
        for item, number in ((weight, 1.0), (bias, 0.0))
    ]
    name = graph.name(value)
    forward = [0, value.rank - 1, *range(1, value.rank - 1)]
    if is_last:
        name = str(graph.add("Transpose", [name], perm=forward))
    inputs = [name, *names, graph.name(mean), graph.name(variance)]
    result = str(graph.add("BatchNormalization", inputs, epsilon=float(operator.attributes["epsilon"])))
    if is_last:
        result = str(graph.add("Transpose", [result], perm=[0, *range(2, value.rank), 1]))
    return [result]


@lowers("pd_op.instance_norm")
def instance_norm(graph: Graph, operator: Operator) -> list[str | None]:
    """Every channel of every sample by itself."""
    value = operator.input(0)
    channels = int(value.shape[1] or 0)
    names = [
        graph.constant(np.full(channels, number, value.dtype)) if item is None else graph.name(item)
        for item, number in zip(operator.inputs[1:3], (1.0, 0.0), strict=True)
    ]
    epsilon = float(operator.attributes["epsilon"])
    return [str(graph.add("InstanceNormalization", [graph.name(value), *names], epsilon=epsilon))]


@lowers("pd_op.group_norm")
def group_norm(graph: Graph, operator: Operator) -> list[str | None]:
    """Groups of channels: as one long channel each, then weight and bias."""
    value = operator.input(0)
    if operator.attributes["data_format"] not in ("NCHW", "NCL", "NCDHW"):
        graph.refuse(operator, "channels that come last")
    groups, epsilon = int(operator.attributes["groups"]), float(operator.attributes["epsilon"])
    name = graph.name(value)
    long = graph.add("Reshape", [name, graph.integers([0, groups, -1])])
    ones, zeros = (graph.constant(np.full(groups, n, value.dtype)) for n in (1.0, 0.0))
    normed = graph.add("InstanceNormalization", [long, ones, zeros], epsilon=epsilon)
    result = graph.add("Reshape", [normed, graph.shape(name)])
    for kind, item in zip(("Mul", "Add"), operator.inputs[1:3], strict=True):
        if item is not None:
            shaped = graph.unsqueeze(graph.name(item), list(range(1, value.rank - 1)))
            result = graph.add(kind, [result, shaped])
    return [str(result)]

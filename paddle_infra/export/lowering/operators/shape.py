"""Operators that move elements and leave them as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import Operator, Value
from paddle_infra.export.lowering.registry import lowers


@lowers("pd_op.shape", "pd_op.shape64")
def shape(graph: Graph, operator: Operator) -> str:
    """The sizes of all axes."""
    value, output = operator.input(0), operator.output()
    if None not in value.shape:
        graph.make_known(output, np.asarray(value.shape, output.dtype))
        return graph.constant(np.asarray(value.shape, output.dtype))
    name = graph.shape(graph.name(value))
    return name if output.dtype == np.int64 else graph.cast(name, output.dtype)


@lowers("pd_op.numel")
def numel(graph: Graph, operator: Operator) -> str:
    """The number of elements."""
    return str(graph.add("Size", [graph.name(operator.input(0))]))


@lowers("pd_op.reshape", "pd_op.reshape_")
def reshape(graph: Graph, operator: Operator) -> list[str | None]:
    """Another shape: 0 keeps an axis, -1 is what remains. It may be a list of tensors."""
    sizes = integer_vector(graph, operator.input(1))
    return [str(graph.add("Reshape", [graph.name(operator.input(0)), sizes])), None]


def integer_vector(graph: Graph, value: Value) -> str:
    """Return the name of an int64 vector, which the program may hold as a list of scalars."""
    if graph.is_list(value):
        parts = []
        for name in graph.names(value):
            parts.append(str(graph.add("Reshape", [graph.cast(name, np.int64), graph.integers([1])])))
        return str(graph.add("Concat", parts, axis=0))
    known = graph.known(value)
    if known is not None:
        return graph.integers([int(size) for size in known.reshape(-1)])
    name = graph.name(value)
    return name if value.dtype == np.int64 else graph.cast(name, np.int64)


@lowers("pd_op.flatten", "pd_op.flatten_")
def flatten(graph: Graph, operator: Operator) -> list[str | None]:
    """Several neighbouring axes become one."""
    value = operator.input(0)
    name = graph.name(value)
    if not value.rank:
        return [str(graph.add("Reshape", [name, graph.integers([1])])), None]
    start, stop = (operator.attributes[key] % value.rank for key in ("start_axis", "stop_axis"))
    if start == stop:
        return [name, None]
    after = value.shape[stop + 1 :]
    if None not in after:  # 0 keeps what is in front
        sizes = graph.integers([0] * start + [-1] + [int(size) for size in after if size is not None])
        return [str(graph.add("Reshape", [name, sizes])), None]
    whole = graph.shape(name)
    parts = [graph.slice(whole, [0], [0], [start])] if start else []
    parts += [graph.integers([-1]), graph.slice(whole, [0], [stop + 1], [value.rank])]
    return [str(graph.add("Reshape", [name, graph.add("Concat", parts, axis=0)])), None]


@lowers("pd_op.transpose", "pd_op.transpose_")
def transpose(graph: Graph, operator: Operator) -> str:
    """Another order of the axes."""
    return str(
        graph.add("Transpose", [graph.name(operator.input(0))], perm=list(operator.attributes["perm"]))
    )


@lowers("pd_op.unsqueeze", "pd_op.unsqueeze_")
def unsqueeze(graph: Graph, operator: Operator) -> list[str | None]:
    """New axes of size 1, one after the other."""
    value = operator.input(0)
    axes = graph.expect_known(operator, operator.input(1), "axes").reshape(-1)
    rank = value.rank
    places: list[int] = []
    for axis in axes:
        rank += 1
        place = int(axis) % rank
        places = [old + (old >= place) for old in places] + [place]
    return [graph.unsqueeze(graph.name(value), sorted(places)), None]


@lowers("pd_op.squeeze", "pd_op.squeeze_")
def squeeze(graph: Graph, operator: Operator) -> list[str | None]:
    """Without the axes of size 1 among those named; none named: without any."""
    value = operator.input(0)
    axes = graph.expect_known(operator, operator.input(1), "axes").reshape(-1)
    chosen = [int(axis) % value.rank for axis in axes] or list(range(value.rank))
    all_go = operator.output().rank == value.rank - len(
        chosen
    )  # also those whose size the program does not know
    ones = [axis for axis in chosen if all_go or value.shape[axis] == 1]
    return [graph.squeeze(graph.name(value), ones) if ones else graph.name(value), None]


@lowers("pd_op.concat")
def concat(graph: Graph, operator: Operator) -> str:
    """Tensors side by side."""
    axis = graph.expect_known(operator, operator.input(1), "the axis")
    return str(graph.add("Concat", graph.names(operator.input(0)), axis=int(axis.reshape([]))))


@lowers("pd_op.stack")
def stack(graph: Graph, operator: Operator) -> str:
    """Tensors along a new axis."""
    rank = operator.output().rank
    axis = operator.attributes["axis"] % rank
    parts = [graph.unsqueeze(name, [axis]) for name in graph.names(operator.input(0))]
    return str(graph.add("Concat", parts, axis=axis))


@lowers("pd_op.unstack", "pd_op.unbind")
def unstack(graph: Graph, operator: Operator) -> None:
    """The slices along an axis."""
    value, axis = operator.input(0), operator.attributes["axis"] % operator.input(0).rank
    count = operator.attributes.get("num", value.shape[axis])
    names = graph.split(graph.name(value), axis, [1] * int(count))
    graph.bind_list(operator.output(), [graph.squeeze(name, [axis]) for name in names])


@lowers("pd_op.split")
def split(graph: Graph, operator: Operator) -> None:
    """Parts of given sizes, one of which may be -1."""
    value = operator.input(0)
    sizes = [int(n) for n in graph.expect_known(operator, operator.input(1), "the sizes").reshape(-1)]
    axis = int(graph.expect_known(operator, operator.input(2), "the axis").reshape([])) % value.rank
    if -1 in sizes:
        whole = value.shape[axis]
        if whole is None:
            graph.refuse(operator, "a size of -1 on an axis of any size")
        sizes[sizes.index(-1)] = int(whole or 0) - sum(sizes) - 1
    graph.bind_list(operator.output(), graph.split(graph.name(value), axis, sizes))


@lowers("pd_op.split_with_num")
def split_with_num(graph: Graph, operator: Operator) -> None:
    """So many equal parts."""
    value, count = operator.input(0), int(operator.attributes["num"])
    axis = int(graph.expect_known(operator, operator.input(1), "the axis").reshape([])) % value.rank
    whole = value.shape[axis]
    if whole is None:
        graph.refuse(operator, "an axis of any size in equal parts")
    graph.bind_list(
        operator.output(), graph.split(graph.name(value), axis, [int(whole or 0) // count] * count)
    )


@lowers("pd_op.expand")
def expand(graph: Graph, operator: Operator) -> str:
    """Repeated along axes of size 1 and new ones in front; -1 keeps an axis."""
    value = operator.input(0)
    name = graph.name(value)
    known = None if graph.is_list(operator.input(1)) else graph.known(operator.input(1))
    if known is not None:
        return str(graph.add("Expand", [name, graph.integers([max(int(size), 1) for size in known])]))
    sizes = integer_vector(graph, operator.input(1))
    return str(graph.add("Expand", [name, graph.add("Max", [sizes, graph.integers([1])])]))


@lowers("pd_op.expand_as")
def expand_as(graph: Graph, operator: Operator) -> str:
    """Repeated to another tensor's shape, which the program may know."""
    other = operator.inputs[1]
    sizes = operator.attributes.get("target_shape", [])
    target = graph.integers(sizes) if other is None else graph.shape(graph.name(other))
    return str(graph.add("Expand", [graph.name(operator.input(0)), target]))


@lowers("pd_op.broadcast_tensors")
def broadcast_tensors(graph: Graph, operator: Operator) -> None:
    """All tensors in the shape that they have together."""
    names = graph.names(operator.input(0))
    together = graph.shape(names[0])
    for name in names[1:]:
        # Expanding a tensor of ones of the first shape by the second gives the shape of both.
        ones = graph.add("Expand", [graph.constant(np.ones(1, np.float32)), together])
        together = graph.shape(str(graph.add("Expand", [ones, graph.shape(name)])))
    graph.bind_list(operator.output(), [str(graph.add("Expand", [name, together])) for name in names])


@lowers("pd_op.tile")
def tile(graph: Graph, operator: Operator) -> str:
    """Repeated so often along each axis."""
    value, repeats = operator.input(0), operator.input(1)
    counts = [int(count) for count in graph.expect_known(operator, repeats, "how often").reshape(-1)]
    name = graph.name(value)
    if len(counts) > value.rank:
        name = graph.unsqueeze(name, list(range(len(counts) - value.rank)))
    counts = [1] * (value.rank - len(counts)) + counts
    return str(graph.add("Tile", [name, graph.integers(counts)]))


@lowers("pd_op.flip", "pd_op.reverse")
def flip(graph: Graph, operator: Operator) -> str:
    """Backwards along axes."""
    value = operator.input(0)
    axes = [int(axis) % value.rank for axis in operator.attributes["axis"]]
    low = np.iinfo(np.int64).min
    return graph.slice(graph.name(value), axes, [-1] * len(axes), [int(low)] * len(axes), [-1] * len(axes))


@lowers("pd_op.pad3d", "pd_op.pad")
def pad(graph: Graph, operator: Operator) -> str:
    """More elements at the ends of axes."""
    value = operator.input(0)
    if operator.name == "pd_op.pad":
        pairs = list(operator.attributes["paddings"])
        number = float(graph.expect_known(operator, operator.input(1), "the padding number").reshape([]))
        before, after, mode = pairs[::2], pairs[1::2], "constant"
    else:
        amounts = [int(n) for n in graph.expect_known(operator, operator.input(1), "the amounts").reshape(-1)]
        number = float(operator.attributes["pad_value"])
        mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[
            operator.attributes["mode"]
        ]
        spatial = [amounts[index : index + 2] for index in range(0, 6, 2)][::-1]  # depth, height, width
        is_last = operator.attributes["data_format"] == "NDHWC"
        ordered: Sequence[Sequence[int]] = (
            [[0, 0], *spatial, [0, 0]] if is_last else [[0, 0], [0, 0], *spatial]
        )
        before, after = [pair[0] for pair in ordered], [pair[1] for pair in ordered]
    if mode == "wrap" and graph.opset < 19:
        graph.refuse(operator, "circular padding before opset 19")
    inputs = [graph.name(value), graph.integers([*before, *after])]
    return str(
        graph.add("Pad", inputs + ([graph.like(value, number)] if mode == "constant" else []), mode=mode)
    )


@lowers("pd_op.tril", "pd_op.triu")
def triangle(graph: Graph, operator: Operator) -> str:
    """The lower or upper triangle of each matrix."""
    if graph.opset < 14:
        graph.refuse(operator, "triangles, which ONNX has from opset 14 on")
    diagonal = graph.constant(np.asarray(operator.attributes["diagonal"], np.int64))
    upper = int(operator.name == "pd_op.triu")
    value = operator.input(0)
    if value.dtype != np.bool_:
        return str(graph.add("Trilu", [graph.name(value), diagonal], upper=upper))
    return graph.cast(
        graph.add("Trilu", [graph.cast(graph.name(value), np.float32), diagonal], upper=upper), np.bool_
    )

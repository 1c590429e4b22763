"""Faults for finished ONNX exports: each kind at every place of a graph where it changes what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from paddle_infra._core.errors import (
    AxisMismatch,
    DtypeMismatch,
    NameMismatch,
    ValueMismatch,
    VerificationError,
)

Sites = Iterator[tuple[str, Callable[[], None]]]


@dataclass(frozen=True)
class Fault:
    """How to plant it, in a graph that is only its own, and the error that must follow."""

    name: str
    plant: Callable[[onnx.ModelProto], None]
    error: type[VerificationError]


def faults_of(model: onnx.ModelProto, without_effect: set[str]) -> list[Fault]:
    """All faults that fit a graph; constants named in ``without_effect``, and those that mask, are left alone."""
    found = []
    for kind, error in _KINDS.items():
        for place, (name, _) in enumerate(kind(model, without_effect)):

            def plant(graph: onnx.ModelProto, kind: Callable[..., Sites] = kind, place: int = place) -> None:
                list(kind(graph, without_effect))[place][1]()

            found.append(Fault(f"{kind.__name__[1:].replace('_', ' ')}: {name}", plant, error))
    return found


def _numbers(
    model: onnx.ModelProto, rank: int | None = None
) -> Iterator[tuple[onnx.TensorProto, np.ndarray]]:
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and (rank is None or array.ndim == rank):
            yield tensor, array


def _replace(tensor: onnx.TensorProto, array: np.ndarray) -> Callable[[], None]:
    return lambda: tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def _wrap(model: onnx.ModelProto, name: str, *nodes: onnx.NodeProto) -> Callable[[], None]:
    """Let the model's nodes write ``before`` in place of ``name``, and ``nodes`` make ``name`` of it."""

    def plant() -> None:
        for node in model.graph.node:
            for index, output in enumerate(node.output):
                if output == name:
                    node.output[index] = "before"
        model.graph.node.extend(nodes)

    return plant


def _constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    model.graph.initializer.append(numpy_helper.from_array(value, name))


def _read_instead(model: onnx.ModelProto, name: str, other: str) -> None:
    for node in model.graph.node:
        for index, read in enumerate(node.input):
            if read == name:
                node.input[index] = other


def _swapped_inputs(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    names = [value.name for value in model.graph.input]

    def plant() -> None:
        _read_instead(model, names[0], "?")
        _read_instead(model, names[1], names[0])
        _read_instead(model, "?", names[1])

    if len(names) == 2:
        yield " and ".join(names), plant


def _inputs_in_another_order(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    def plant() -> None:
        values = list(model.graph.input)[::-1]
        del model.graph.input[:]
        model.graph.input.extend(values)

    if len(model.graph.input) == 2:
        yield "reversed", plant


def _swapped_outputs(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    def plant() -> None:
        names = [value.name for value in model.graph.output]
        for node in model.graph.node:
            for index, name in enumerate(node.output):
                if name in names:
                    node.output[index] = names[1 - names.index(name)]

    if len(model.graph.output) == 2:
        yield "both", plant


def _renamed_input(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for value in model.graph.input:

        def plant(value: onnx.ValueInfoProto = value) -> None:
            _read_instead(model, value.name, "renamed")
            value.name = "renamed"

        yield value.name, plant


def _renamed_output(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    value = model.graph.output[0]

    def plant() -> None:
        model.graph.node.append(helper.make_node("Identity", [value.name], ["renamed"]))
        value.name = "renamed"

    yield value.name, plant


def _wrong_epsilon(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                yield node.name, lambda attribute=attribute: setattr(attribute, "f", 0.1)


def _dropped_mask(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    def plant() -> None:
        _read_instead(model, "attention_mask", "all_ones")
        _constant(model, "nought", np.array(0, "int64"))
        _constant(model, "one", np.array(1, "int64"))
        nodes = [
            helper.make_node("Mul", ["attention_mask", "nought"], ["noughts"]),
            helper.make_node("Add", ["noughts", "one"], ["all_ones"]),
        ]
        for node in reversed(nodes):
            model.graph.node.insert(0, node)

    if any(value.name == "attention_mask" for value in model.graph.input):
        yield "attention_mask", plant


def _halves_of_the_precision(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    name = model.graph.output[0].name
    yield (
        name,
        _wrap(
            model,
            name,
            helper.make_node("Cast", ["before"], ["half"], to=onnx.TensorProto.FLOAT16),
            helper.make_node("Cast", ["half"], [name], to=onnx.TensorProto.FLOAT),
        ),
    )


def _rounded_to_integers(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    name = model.graph.output[0].name
    yield (
        name,
        _wrap(
            model,
            name,
            helper.make_node("Cast", ["before"], ["whole"], to=onnx.TensorProto.INT32),
            helper.make_node("Cast", ["whole"], [name], to=onnx.TensorProto.FLOAT),
        ),
    )


def _transposed_weight(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for tensor, array in _numbers(model):
        if array.ndim >= 2:
            flipped = np.ascontiguousarray(np.swapaxes(array, -1, -2))
            if not np.array_equal(flipped.reshape(array.shape), array):
                yield tensor.name, _replace(tensor, flipped.reshape(array.shape))


def _frozen_axis(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for value in model.graph.input:
        for index, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.dim_param:
                yield (
                    f"{value.name}, axis {index}",
                    lambda dimension=dimension: setattr(dimension, "dim_value", 3),
                )


def _cut_axis(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    value = model.graph.output[0]
    for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
        if dimension.dim_param:

            def plant(axis: int = axis) -> None:
                for name, number in (("start", 0), ("end", 3), ("axis", axis)):
                    _constant(model, name, np.array([number], "int64"))
                cut = helper.make_node("Slice", ["before", "start", "end", "axis"], [value.name])
                _wrap(model, value.name, cut)()

            yield f"{value.name}, axis {axis}", plant


def _changed_constant(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for tensor, array in _numbers(model):
        if array.ndim and tensor.name not in without_effect and np.abs(array).max() < 1e3:
            other = array.copy()
            other[..., 0] += 0.05
            yield tensor.name, _replace(tensor, other)


def _scaled_constant(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for tensor, array in _numbers(model, rank=0):
        if array not in (0, 1) and abs(array) < 1e3:
            yield f"{tensor.name} = {array}", _replace(tensor, np.asarray(array * np.float32(1.2)))


def _missing_bias(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for tensor, array in _numbers(model, rank=1):
        if array.any() and tensor.name not in without_effect and np.abs(array).max() < 1e3:
            yield tensor.name, _replace(tensor, np.zeros_like(array))


def _off_by_one_row(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    """Positions and identifiers that are one too high."""
    for tensor, array in _numbers(model, rank=2):
        if len(array) >= 50:
            yield tensor.name, _replace(tensor, np.roll(array, -1, 0))


def _wrong_axis_of_softmax(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for node in model.graph.node:
        if node.op_type == "Softmax":
            yield node.name, lambda node=node: setattr(node.attribute[0], "i", 0)


def _wrong_function(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    others = {"Relu": "Abs", "Erf": "Tanh", "Tanh": "Sigmoid", "ReduceMean": "ReduceMax"}
    for node in model.graph.node:
        if node.op_type in others:
            yield node.name, lambda node=node: setattr(node, "op_type", others[node.op_type])


def _missing_residual(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    constants = {tensor.name for tensor in model.graph.initializer}
    normed = {node.input[0] for node in model.graph.node if node.op_type == "LayerNormalization"}
    for node in model.graph.node:
        if node.op_type == "Add" and node.output[0] in normed and not constants & set(node.input):

            def plant(node: onnx.NodeProto = node) -> None:
                node.op_type = "Identity"
                del node.input[1:]

            yield node.name, plant


def _clipped_gates(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for node in model.graph.node:
        if node.op_type == "LSTM":
            yield node.name, lambda node=node: node.attribute.append(helper.make_attribute("clip", 0.05))


def _changed_dtype_of_input(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for value in model.graph.input:
        kind = value.type.tensor_type
        narrow = {
            onnx.TensorProto.INT64: onnx.TensorProto.INT32,
            onnx.TensorProto.FLOAT: onnx.TensorProto.DOUBLE,
        }

        def plant(name: str = value.name, kind: object = kind, narrow: dict[int, int] = narrow) -> None:
            wide = kind.elem_type
            _read_instead(model, name, "as_before")
            model.graph.node.insert(0, helper.make_node("Cast", [name], ["as_before"], to=wide))
            kind.elem_type = narrow[wide]

        yield value.name, plant


def _changed_dtype_of_output(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    value = model.graph.output[0]
    for kind in (onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):

        def plant(kind: int = kind) -> None:
            value.type.tensor_type.elem_type = kind
            _wrap(model, value.name, helper.make_node("Cast", ["before"], [value.name], to=kind))()

        yield onnx.TensorProto.DataType.Name(kind), plant


def _reordered_labels(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    value = model.graph.output[0]

    def plant() -> None:
        count = value.type.tensor_type.shape.dim[-1].dim_value
        _constant(model, "order", np.roll(np.arange(count), 1))
        _wrap(model, value.name, helper.make_node("Gather", ["before", "order"], [value.name], axis=-1))()

    yield value.name, plant


def _not_a_number(model: onnx.ModelProto, without_effect: set[str]) -> Sites:
    for tensor, array in list(_numbers(model, rank=2))[:1]:
        other = array.copy()
        other[len(other) // 2] = np.nan
        yield tensor.name, _replace(tensor, other)


_KINDS: dict[Callable[[onnx.ModelProto, set[str]], Sites], type[VerificationError]] = {
    _swapped_inputs: ValueMismatch,
    _inputs_in_another_order: NameMismatch,
    _swapped_outputs: ValueMismatch,
    _renamed_input: NameMismatch,
    _renamed_output: NameMismatch,
    _wrong_epsilon: ValueMismatch,
    _dropped_mask: ValueMismatch,
    _halves_of_the_precision: ValueMismatch,
    _rounded_to_integers: ValueMismatch,
    _transposed_weight: ValueMismatch,
    _frozen_axis: AxisMismatch,
    _cut_axis: AxisMismatch,
    _changed_constant: ValueMismatch,
    _scaled_constant: ValueMismatch,
    _missing_bias: ValueMismatch,
    _off_by_one_row: ValueMismatch,
    _wrong_axis_of_softmax: ValueMismatch,
    _wrong_function: ValueMismatch,
    _missing_residual: ValueMismatch,
    _clipped_gates: ValueMismatch,
    _changed_dtype_of_input: DtypeMismatch,
    _changed_dtype_of_output: DtypeMismatch,
    _reordered_labels: ValueMismatch,
    _not_a_number: ValueMismatch,
}

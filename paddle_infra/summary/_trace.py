"""The operators that a model runs, from the program that Paddle captures: names, shapes, and the layer of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import paddle

from paddle_infra.summary._hooks import watched
from paddle_infra.summary._inputs import map_tensors
from paddle_infra.summary.operations import Operation, Value


class NotCapturedError(Exception):
    """Paddle cannot make a program of a model."""


def operations_of(
    model: paddle.nn.Layer, arguments: tuple[Any, ...], named: dict[str, Any]
) -> list[Operation]:
    """Capture the model once for these inputs and return its operators; nothing is computed.

    Raises:
        NotCapturedError: Paddle cannot capture the model; says why.
    """
    specs: list[paddle.static.InputSpec] = []

    def to_spec(value: Any) -> Any:
        if not isinstance(value, paddle.Tensor):
            return value
        specs.append(
            paddle.static.InputSpec(list(value.shape), value.dtype, stop_gradient=value.stop_gradient)
        )
        return _Place(len(specs) - 1)

    places = map_tensors(to_spec, (arguments, named))

    def call(tensors: Any) -> Any:
        positional, keywords = map_tensors(
            lambda item: tensors[item.index] if isinstance(item, _Place) else item, places
        )
        return model(*positional, **keywords)

    # Where the innermost running layer changes, and to which, in operators after the parameters.
    changes: list[tuple[int, str]] = []

    def note(name: str) -> None:
        operators = paddle.static.default_main_program().global_block().ops
        changes.append((len(operators) - _first_after_parameters(operators), name))

    with watched(model, entered=lambda name: note(name), left=lambda name, outer, outputs: note(outer)):
        try:
            captured = paddle.jit.to_static(call, full_graph=True).get_concrete_program(specs)[0]
        except Exception as error:  # Paddle, and the model as Paddle rewrites it, raise of every kind
            lines = str(error).strip().splitlines()
            raise NotCapturedError(f"{type(error).__name__}: {lines[-1].strip() if lines else ''}") from error
    operators = captured.main_program.global_block().ops
    operators = operators[_first_after_parameters(operators) :]
    found: list[Operation] = []
    layer, upcoming = "", iter([*changes, (len(operators) + 1, "")])
    start, following = next(upcoming)
    for index, operator in enumerate(operators):
        while start <= index:
            layer = following
            start, following = next(upcoming)
        found += _operations(operator, layer)
    return found


def _operations(operator: Any, layer: str) -> Iterator[Operation]:
    if operator.name() == "pd_op.pylayer":  # its forward pass runs, whatever the values
        for inner in next(iter(operator.blocks())).ops:
            yield from _operations(inner, layer)
    # The other dialects hold parameters, lists of tensors made and taken apart, and the ends of blocks.
    elif operator.name().split(".")[0] not in ("builtin", "cf"):
        yield _operation(operator, layer)


class _Place:
    """Stands for a tensor among the arguments."""

    def __init__(self, index: int) -> None:
        self.index = index


def _first_after_parameters(operators: list[Any]) -> int:
    # Paddle puts a parameter in front when it is first used: positions from the front do not stay.
    for index, operator in enumerate(operators):
        if operator.name() != "builtin.parameter":
            return index
    return len(operators)


def _operation(operator: Any, layer: str) -> Operation:
    attributes = {name: value for name, value in operator.attrs().items() if name != "op_callstack"}
    inputs: list[Value] = []
    for operand in operator.operands_source():
        if not operand.initialized():
            continue
        source = operand.get_defining_op()
        source_name = "" if source is None else source.name()
        if operand.is_dense_tensor_type():
            if source_name == "pd_op.full_int_array":
                attributes[f"values_{len(inputs)}"] = source.attrs()["value"]
            inputs.append(_value(operand))
        elif source_name == "builtin.combine":
            inputs += [_value(item) for item in source.operands_source() if item.is_dense_tensor_type()]
    outputs = tuple(_value(result) for result in operator.results() if result.is_dense_tensor_type())
    return Operation(operator.name(), tuple(inputs), outputs, attributes, layer)


def _value(value: Any) -> Value:
    return Value(tuple(value.shape), str(value.dtype).rsplit(".", 1)[-1], not value.stop_gradient)

"""A saved PIR program as plain objects: operators, what they read and what they write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.errors import ExportError

NUMPY_DTYPES: Mapping[str, type] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FLOAT16": np.float16,
    "FLOAT32": np.float32,
    "FLOAT64": np.float64,
}


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the program, or a list of tensors.

    Attributes:
        key: unique within the program.
        shape: None is an axis of any size; of a list ().
        dtype: of the elements; None of a list, and where NumPy has none (bfloat16).
    """

    key: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any] | None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)


@dataclass(frozen=True, eq=False)
class Block:
    """The body of a branch or loop, or the whole program."""

    arguments: tuple[Value, ...]
    operators: tuple[Operator, ...]


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator.

    Attributes:
        name: with its dialect: ``pd_op.add``, ``custom_op.paddle_infra_linear``.
        inputs: in order; None where an optional one is absent.
        outputs: in order; None where an optional one is absent.
        attributes: by name.
        input_names: of ``inputs``, where Paddle has names.
        blocks: the bodies of control flow.
        layer: where in the model it comes from.
    """

    name: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    input_names: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    layer: str = ""

    def input(self, index: int) -> Value:
        """Return an input that must be there.

        Raises:
            ExportError: it is not.
        """
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise ExportError(f"{self.name}: expected input {index}, got none")
        return value

    def output(self, index: int = 0) -> Value:
        """Return an output that must be there."""
        value = self.outputs[index]
        if value is None:
            raise ExportError(f"{self.name}: expected output {index}, got none")
        return value


@dataclass(frozen=True, eq=False)
class LoadedProgram:
    """The operators in order, and the arrays of parameters and buffers by the key of their value."""

    operators: tuple[Operator, ...]
    arrays: dict[str, np.ndarray]
    array_names: dict[str, str]


def load_program(prefix: Path) -> LoadedProgram:
    """Load ``prefix.json`` and ``prefix.pdiparams``.

    Raises:
        ExportError: Paddle cannot load them, or a parameter has no value.
    """
    try:
        layer = paddle.jit.load(str(prefix))
        block = layer.program().global_block()
    except Exception as error:
        raise ExportError(f"{prefix}.json: Paddle cannot load the program: {error}") from error
    stored = {tensor.name: tensor for tensor in (*layer.parameters(), *layer.buffers())}
    operators, arrays, names = [], {}, {}
    reader = _Reader()
    for raw in block.ops:
        operator = reader.operator(raw)
        if operator.name != "builtin.parameter":
            operators.append(operator)
            continue
        name = operator.attributes["parameter_name"]
        if name not in stored:
            raise ExportError(
                f"{prefix}.pdiparams: expected a value of {name!r}, found {sorted(stored)[:5]}, …"
            )
        key = operator.output().key
        arrays[key], names[key] = stored[name].numpy(), name
    return LoadedProgram(tuple(operators), arrays, names)


class _Reader:
    """Turns PIR's objects into ours; a value that is met again is the same object."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}

    def operator(self, raw: Any) -> Operator:
        attributes = dict(raw.attrs())
        named = raw.name().startswith(("pd_op.", "custom_op.")) and not raw.blocks()
        return Operator(
            raw.name(),
            tuple(self._value(value) for value in raw.operands_source()),
            tuple(self._value(value) for value in raw.results()),
            attributes,
            tuple(raw.get_input_names()) if named else (),
            tuple(
                Block(
                    tuple(filter(None, map(self._value, block.args()))), tuple(map(self.operator, block.ops))
                )
                for block in raw.blocks()
            ),
            str(attributes.get("struct_name", "")).strip("/"),
        )

    def _value(self, raw: Any) -> Value | None:
        if not raw.initialized():
            return None
        if raw.id not in self._values:
            key = f"value_{len(self._values)}"
            if raw.is_dense_tensor_type():
                dtype = NUMPY_DTYPES.get(raw.dtype.name)
                shape = tuple(None if size < 0 else int(size) for size in raw.shape)
                self._values[raw.id] = Value(key, shape, None if dtype is None else np.dtype(dtype))
            else:
                self._values[raw.id] = Value(key, (), None)
        return self._values[raw.id]

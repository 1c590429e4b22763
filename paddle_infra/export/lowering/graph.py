"""The ONNX graph under construction: nodes, constants, and what the program's values are called in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from paddle_infra._core.errors import ExportError, UnsupportedError
from paddle_infra._core.extras import require
from paddle_infra.export.lowering.program import LoadedProgram, Operator, Value

Array = np.ndarray


class Graph:
    """Nodes in order, with unique names.

    Args:
        program: its arrays become initializers as they are used.
        opset: the ONNX operator set to write for.
        attention: ``"decomposed"``, ``"standard"`` (ONNX ``Attention``, opset 23) or ``"contrib"`` (ONNX Runtime's).

    Attributes:
        opset: as given.
        attention: as given.
        nodes: so far.
        initializers: by name.
        domains: operator sets besides ONNX's own, by domain.
    """

    def __init__(self, program: LoadedProgram, opset: int, attention: str = "decomposed") -> None:
        self.opset, self.attention = opset, attention
        self.nodes: list[Any] = []
        self.initializers: dict[str, Array] = {}
        self.domains: dict[str, int] = {}
        self._program = program
        self._onnx = require("onnx", extra="onnx", purpose="exporting to ONNX")
        self._names: dict[str, str] = {}
        self._lists: dict[str, tuple[str, ...]] = {}
        self._constants: dict[str, Array] = {}
        self._by_content: dict[tuple[Any, ...], str] = {}
        self._counts: dict[str, int] = {}
        self._layer = ""

    # Values of the program.

    def name(self, value: Value) -> str:
        """Return the ONNX name of a tensor of the program.

        Raises:
            ExportError: nothing has made it.
        """
        if value.key in self._names:
            return self._names[value.key]
        known = self.known(value)
        if known is None:
            raise ExportError(f"{value.key}: the program reads a value that no operator has made")
        name = self._program.array_names.get(value.key)
        self._names[value.key] = found = (
            self.constant(known) if name is None else self._parameter(name, known)
        )
        return found

    def bind(self, value: Value, name: str) -> None:
        """Say what a tensor of the program is called."""
        self._names[value.key] = name

    def bind_list(self, value: Value, names: Sequence[str]) -> None:
        """Say what the tensors of a list are called."""
        self._lists[value.key] = tuple(names)

    def names(self, value: Value) -> tuple[str, ...]:
        """Return the ONNX names of a list of tensors.

        Raises:
            ExportError: nothing has made it.
        """
        if value.key not in self._lists:
            raise ExportError(f"{value.key}: the program reads a list that no operator has made")
        return self._lists[value.key]

    def is_list(self, value: Value) -> bool:
        """Whether the value is a list of tensors."""
        return value.key in self._lists

    def make_known(self, value: Value, array: Array) -> None:
        """Say that a tensor is a constant; it enters the graph if something reads it by name."""
        self._constants[value.key] = array

    def known(self, value: Value | None) -> Array | None:
        """Return a tensor's numbers if they are known now, else None."""
        if value is None:
            return None
        found = self._constants.get(value.key)
        return self._program.arrays.get(value.key) if found is None else found

    def expect_known(self, operator: Operator, value: Value, what: str) -> Array:
        """Return the numbers of a tensor that ONNX, or this lowering, needs as a constant.

        Raises:
            UnsupportedError: they are computed at run time.
        """
        found = self.known(value)
        if found is None:
            raise UnsupportedError(
                f"{operator.name}: expected {what} known at export, got one that is computed at run time"
            )
        return found

    # Nodes.

    def begin(self, operator: Operator) -> None:
        """Name the nodes that follow after an operator of the program."""
        self._layer = operator.layer

    def add(
        self,
        kind: str,
        inputs: Sequence[str],
        *,
        outputs: int = 1,
        domain: str = "",
        graphs: Mapping[str, Any] | None = None,
        **attributes: Any,
    ) -> Any:
        """Add a node and return the name of its output, or a tuple of names if ``outputs`` is more than 1.

        ``inputs`` are names, ``""`` for an optional one that is left out. Attributes that are None are left out.
        """
        names = [self.fresh(kind) for _ in range(outputs)]
        present = {key: value for key, value in attributes.items() if value is not None} | dict(graphs or {})
        node = self._onnx.helper.make_node(
            kind,
            list(inputs),
            names,
            name="/".join(filter(None, (self._layer, names[0]))),
            domain=domain,
            **present,
        )
        if domain:
            self.domains.setdefault(domain, 1)
        self.nodes.append(node)
        return names[0] if outputs == 1 else tuple(names)

    def fresh(self, prefix: str) -> str:
        """Return a name that no tensor of the graph has."""
        count = self._counts[prefix] = self._counts.get(prefix, -1) + 1
        return f"{prefix}_{count}"

    def constant(self, array: Array | Sequence[Any] | float | int, dtype: Any = None) -> str:
        """Return the name of a constant; equal ones are one."""
        value = np.asarray(array, dtype)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._by_content:
            name = self.fresh("constant")
            self._by_content[key], self.initializers[name] = name, value
        return self._by_content[key]

    def integers(self, values: Sequence[int]) -> str:
        """Return the name of a constant int64 vector."""
        return self.constant(np.asarray(values, np.int64))

    def like(self, value: Value, number: float) -> str:
        """Return the name of a constant scalar of a tensor's dtype."""
        return self.constant(np.asarray(number, value.dtype))

    def cast(self, name: str, dtype: Any) -> str:
        """Return ``name`` as ``dtype``."""
        return str(self.add("Cast", [name], to=self.onnx_dtype(dtype)))

    def onnx_dtype(self, dtype: Any) -> int:
        """Return ONNX's number of a NumPy dtype."""
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def shape(self, name: str) -> str:
        """Return the shape of a tensor, int64."""
        return str(self.add("Shape", [name]))

    def size(self, name: str, axis: int) -> str:
        """Return the size of one axis, int64 ``[1]``."""
        return str(self.add("Gather", [self.shape(name), self.integers([axis])], axis=0))

    def squeeze(self, name: str, axes: Sequence[int]) -> str:
        """Remove axes of size 1."""
        return str(self.add("Squeeze", [name, self.integers(axes)]))

    def unsqueeze(self, name: str, axes: Sequence[int]) -> str:
        """Insert axes of size 1, at these places of the result."""
        return str(self.add("Unsqueeze", [name, self.integers(axes)]))

    def slice(
        self,
        name: str,
        axes: Sequence[int],
        starts: Sequence[int],
        ends: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> str:
        """Cut out a range with constant bounds."""
        inputs = [name, self.integers(starts), self.integers(ends), self.integers(axes)]
        return str(self.add("Slice", inputs + ([] if steps is None else [self.integers(steps)])))

    def _parameter(self, name: str, array: Array) -> str:
        self.initializers.setdefault(name, array)
        return name

    # Pieces that several lowerings need.

    def refuse(self, operator: Operator, what: str) -> NoReturn:
        """Raise an UnsupportedError that names the operator and where it stands."""
        where = f" in {operator.layer}" if operator.layer else ""
        raise UnsupportedError(
            f"{operator.name}{where}: there is no lowering to ONNX opset {self.opset} for {what}"
        )

    def split(self, name: str, axis: int, sizes: Sequence[int]) -> list[str]:
        """Cut a tensor into parts of constant sizes."""
        if len(sizes) == 1:
            return [name]
        return list(self.add("Split", [name, self.integers(sizes)], outputs=len(sizes), axis=axis))

    def halves(self, name: str, axis: int) -> tuple[str, str]:
        """Cut a tensor into two equal parts."""
        count = 2 if self.opset >= 18 else None  # before, equal parts are what no sizes mean
        first, second = self.add("Split", [name], outputs=2, axis=axis, num_outputs=count)
        return str(first), str(second)

    def transposed(self, name: str, array: Array) -> str:
        """Return the name of a constant with its last two axes exchanged; it is stored that way."""
        flipped = f"{name}.transposed"
        self.initializers.setdefault(flipped, np.ascontiguousarray(np.swapaxes(array, -1, -2)))
        return flipped

    def reduce(self, kind: str, name: str, axes: Sequence[int], keeps: bool) -> str:
        """Reduce along ``axes``, all if there is none: an attribute in older operator sets, then an input."""
        if not axes:
            return str(self.add(kind, [name], keepdims=int(keeps)))
        if kind == "ReduceSum" or self.opset >= 18:
            return str(self.add(kind, [name, self.integers(axes)], keepdims=int(keeps)))
        return str(self.add(kind, [name], axes=list(axes), keepdims=int(keeps)))

    def add_output(self, name: str, wanted: str) -> None:
        """Give a tensor the name of an output of the graph."""
        self.nodes.append(self._onnx.helper.make_node("Identity", [name], [wanted], name=f"output/{wanted}"))

    # The finished graph.

    def live_nodes(self, outputs: Sequence[str]) -> list[Any]:
        """Return the nodes that the outputs depend on, in order; the others go."""
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= set(_read(node))
        self.nodes = kept[::-1]
        return self.nodes

    def live_initializers(self) -> list[Any]:
        """Return the constants that some node reads, as tensors."""
        needed = {name for node in self.nodes for name in _read(node)}
        return [
            self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
            for name, array in self.initializers.items()
            if name in needed
        ]


def _read(node: Any) -> set[str]:
    """Return what a node reads, its branches and loops too."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= _read(inner)
        names |= {output.name for output in attribute.g.output}
    return names

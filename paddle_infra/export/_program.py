"""A saved PIR program as plain JSON: what it reads, what it returns, which operators it holds.

Paddle saves a program as JSON in which an operator is ``{"#": "<dialect>.<name>", "A": attributes, "I":
operands, "O": results}``; dialect 1 is ``pd_op`` and dialect 3 holds custom operators. ``data`` operators
are the inputs, ``fetch`` operators the outputs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from paddle_infra._core.errors import ExportError, NameMismatch
from paddle_infra.export.spec import TensorInfo

_DTYPES = {
    "t_f16": "float16",
    "t_bf16": "bfloat16",
    "t_f32": "float32",
    "t_f64": "float64",
    "t_bool": "bool",
    "t_i8": "int8",
    "t_ui8": "uint8",
    "t_i16": "int16",
    "t_i32": "int32",
    "t_i64": "int64",
    "t_c64": "complex64",
    "t_c128": "complex128",
}
_DIALECT_NAMES = {"0": "builtin", "1": "pd_op", "2": "cf", "3": "custom_op"}


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object below ``value`` that carries a ``#`` tag, outermost first."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if "#" in item:
                yield item
            stack.extend(reversed(list(item.values())))
        elif isinstance(item, list):
            stack.extend(reversed(item))


def _is_operator(node: dict[str, Any]) -> bool:
    return "O" in node and "." in node["#"]


def _attribute(operator: dict[str, Any], name: str) -> Any:
    return next(item["AT"]["D"] for item in operator["A"] if item["N"] == name)


def _copies(operator: dict[str, Any], values: set[int]) -> bool:
    """Whether an operator copies one of the values."""
    return operator["#"] in ("1.assign", "1.share_data_") and operator["I"][0]["%"] in values


def _describe(name: str, value: dict[str, Any]) -> TensorInfo:
    """Read a value's type ``{"#": "0.t_dtensor", "D": [dtype, dims, …]}``; a negative size is any size."""
    dtype, dims = value["TT"]["D"][:2]
    tag = dtype["#"].split(".", 1)[1]
    return TensorInfo(name, _DTYPES.get(tag, tag), tuple(None if size < 0 else size for size in dims))


class Program:
    """The JSON program in ``path``.

    Raises:
        ExportError: the file is not a complete PIR program.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._root = json.loads(self.path.read_text(encoding="utf-8"))
            self._tree = self._root["program"]
        except (ValueError, KeyError, TypeError) as error:
            raise ExportError(
                f"{self.path}: expected a PIR program in JSON, got an unreadable one: {error!r}"
            ) from error
        self._operators = [node for node in _nodes(self._tree) if _is_operator(node)]

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The ``data`` operators, in the order in which the program takes them."""
        return tuple(_describe(_attribute(op, "name"), op["O"][0]) for op in self._named("1.data"))

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The ``fetch`` operators, in the order in which the program returns them."""
        return tuple(_describe(_attribute(op, "name"), op["O"][0]) for op in self._fetches())

    @property
    def operators(self) -> list[str]:
        """Sorted distinct operator names with their dialect, for instance ``pd_op.embedding``."""
        names = set()
        for operator in self._operators:
            dialect, name = operator["#"].split(".", 1)
            names.add(f"{_DIALECT_NAMES.get(dialect, dialect)}.{name}")
        return sorted(names)

    @property
    def custom_operators(self) -> list[str]:
        """Names of the operators that only a registered operator library can run."""
        return [name.split(".", 1)[1] for name in self.operators if name.startswith("custom_op.")]

    @property
    def parameters(self) -> tuple[TensorInfo, ...]:
        """The parameters and buffers that the program reads from its parameter file."""
        found = (node for node in _nodes(self._tree) if node["#"] == "p" and isinstance(node.get("O"), dict))
        return tuple(_describe(node["A"][3], node["O"]) for node in found)

    @property
    def has_double_lists(self) -> bool:
        """Whether an attribute is a list of float64: Paddle 3.3's oneDNN instructions cannot read those."""
        return any(
            node["#"] == "0.a_array"
            and any(isinstance(i, dict) and i.get("#") == "0.a_f64" for i in node["D"])
            for node in _nodes(self._tree)
        )

    def rename_outputs(self, names: tuple[str, ...]) -> None:
        """Give the outputs, which Paddle always calls ``fetch_name_<i>``, the given names.

        Raises:
            NameMismatch: the program has another number of outputs.
        """
        fetches = self._fetches()
        if len(fetches) != len(names):
            raise NameMismatch(f"expected {len(names)} outputs {list(names)}, the program has {len(fetches)}")
        for operator, name in zip(fetches, names, strict=True):
            next(item for item in operator["A"] if item["N"] == "name")["AT"]["D"] = name

    def drop_unneeded(self, outputs: Sequence[str]) -> None:
        """Remove what only other outputs than ``outputs`` need, and these, unless they are copies of a needed value."""
        block = self._tree["regions"][0]["blocks"][0]
        needed: set[int] = set()
        kept = []
        for operator in reversed(block["ops"]):
            is_output = operator["#"] == "1.fetch" and _attribute(operator, "name") in outputs
            if not _is_operator(operator) or is_output or needed & {value["%"] for value in operator["O"]}:
                kept.append(operator)
                needed |= {value["%"] for node in _nodes(operator) for value in node.get("I", ())}
        copies = {operator["O"][0]["%"]: operator for operator in block["ops"] if _copies(operator, needed)}
        kept.reverse()
        for operator in self._fetches():
            if operator not in kept and operator["I"][0]["%"] in copies:
                kept += [copies[operator["I"][0]["%"]], operator]
        block["ops"] = kept
        self._operators = [node for node in _nodes(self._tree) if _is_operator(node)]

    def fetch_like(self, traced: Program, names: Sequence[str]) -> dict[str, str]:
        """Return further values: those of which ``traced`` returns copies under ``names``.

        ``traced`` has the operators of this program and then those that copy. A value is returned once: the result says
        under which name.

        Raises:
            ExportError: it has other operators.
        """
        own, others = self._computing(), traced._computing()
        if [operator["#"] for operator in own] != [operator["#"] for operator in others[: len(own)]]:
            raise ExportError(
                f"{self.path}: expected the operators of the model, found others: they were changed"
            )
        copies = {operator["O"][0]["%"]: operator["I"][0]["%"] for operator in others[len(own) :]}
        same = {
            theirs["%"]: ours["%"]
            for operator, other in zip(own, others, strict=False)
            for ours, theirs in zip(operator["O"], other["O"], strict=True)
        }
        unused = 1 + max(value["%"] for operator in self._operators for value in operator["O"])
        known = {operator["I"][0]["%"]: _attribute(operator, "name") for operator in self._fetches()}
        found = {}
        for operator in traced._fetches():
            name, copied = _attribute(operator, "name"), copies.get(operator["I"][0]["%"])
            if name not in names or copied not in same:
                continue
            value = same[copied]
            if value not in known:
                operator["I"][0]["%"], operator["O"][0]["%"] = value, unused
                next(item for item in operator["A"] if item["N"] == "col")["AT"]["D"] = len(self._fetches())
                self._tree["regions"][0]["blocks"][0]["ops"].append(operator)
                self._operators.append(operator)
                known[value], unused = name, unused + 1
            found[name] = known[value]
        return found

    def _computing(self) -> list[dict[str, Any]]:
        """Return the operators of the program, without those that only return values."""
        return [operator for operator in self._operators if operator["#"] != "1.fetch"]

    def store_doubles_as_floats(self) -> None:
        """Retag float64 attributes as float32.

        Paddle 3.3 stores every floating-point attribute as float64; paddle2onnx 2.1 reads the raw bytes as
        float32 and so gets garbage (a leaky_relu slope of 4e-9). Retagged, it reads the right numbers.
        """
        for node in _nodes(self._tree):
            if node["#"] == "0.a_f64":
                node["#"] = "0.a_f32"

    def save(self) -> None:
        """Write the program back to its file."""
        self.path.write_text(json.dumps(self._root, separators=(",", ":")), encoding="utf-8")

    def _named(self, tag: str) -> list[dict[str, Any]]:
        return [operator for operator in self._operators if operator["#"] == tag]

    def _fetches(self) -> list[dict[str, Any]]:
        return sorted(self._named("1.fetch"), key=lambda operator: int(_attribute(operator, "col")))

"""The table that a summary is: as text, as Markdown, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from paddle_infra._core.checks import check_integer
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.summary.operations import Cost

_NOTES = (
    "A row covers the layer with its sub-layers; a layer that is never called has its work in the row above.",
    "FLOPs: forward pass, a multiply-add is 2. Kept: bytes saved for the backward pass.",
)


@dataclass(frozen=True)
class LayerRow:
    """One layer with its sub-layers.

    Attributes:
        name: structured name; ``""`` is the model.
        class_name: name of its class.
        calls: how often its own ``forward`` ran.
        output_shapes: of the tensors that it returned in the last call.
        parameters: numbers in its distinct parameters.
        own_parameters: those that belong to it and to no sub-layer.
        trainable: those that get a gradient.
        shared: those that a layer elsewhere in the model has too.
        cost: floating-point operations of all its calls; None: neither it nor a sub-layer was called, or the model
            could not be captured.
        activation_bytes: kept for the backward pass; None: it was not called.
        seconds: of its calls in one forward pass; None: not timed, or not called.
    """

    name: str
    class_name: str
    calls: int
    output_shapes: tuple[tuple[int, ...], ...]
    parameters: int
    own_parameters: int
    trainable: int
    shared: int
    cost: Cost | None
    activation_bytes: int | None
    seconds: float | None

    @property
    def depth(self) -> int:
        """0 for the model, 1 for its direct sub-layers, and so on."""
        return self.name.count(".") + 1 if self.name else 0


@dataclass(frozen=True)
class Summary:
    """What :func:`summary` found; ``print`` shows the table.

    Attributes:
        rows: the model first, then its layers in the order of their definition.
        buffer_elements: numbers in the model's buffers.
        not_counted: operators without a known cost, and how often they occur: their floating-point operations are
            missing in every number.
        failure: why the model could not be captured; empty if it could.
    """

    rows: tuple[LayerRow, ...]
    buffer_elements: int = 0
    not_counted: Mapping[str, int] = field(default_factory=dict)
    failure: str = ""

    def __getitem__(self, name: str) -> LayerRow:
        """Return the row of a layer by its structured name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def parameters(self) -> int:
        """Numbers in all distinct parameters."""
        return self.rows[0].parameters

    @property
    def trainable(self) -> int:
        """Those that get a gradient."""
        return self.rows[0].trainable

    @property
    def flops(self) -> int | None:
        """Floating-point operations of the forward pass that were counted."""
        cost = self.rows[0].cost
        return None if cost is None else cost.total

    @property
    def product_flops(self) -> int | None:
        """Those of matrix products and convolutions: the number that PyTorch's ``FlopCounterMode`` gives."""
        cost = self.rows[0].cost
        return None if cost is None else cost.products

    @property
    def backward_flops_estimate(self) -> int | None:
        """Products of the backward pass: one for each factor of a product that needs a gradient.

        An estimate from the shapes of the forward pass; everything that is no product is left out.
        """
        cost = self.rows[0].cost
        return None if cost is None else cost.backward_products

    @property
    def activation_bytes(self) -> int:
        """Bytes kept for the backward pass."""
        return self.rows[0].activation_bytes or 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        rows = []
        for row in self.rows:
            values = asdict(row)
            values["output_shapes"] = [list(shape) for shape in row.output_shapes]
            rows.append(values)
        return {
            "parameters": self.parameters,
            "trainable": self.trainable,
            "buffer_elements": self.buffer_elements,
            "flops": self.flops,
            "product_flops": self.product_flops,
            "backward_flops_estimate": self.backward_flops_estimate,
            "activation_bytes": self.activation_bytes,
            "not_counted": dict(self.not_counted),
            "failure": self.failure,
            "layers": rows,
        }

    def to_text(self, depth: int | None = None) -> str:
        """Return a table in columns. ``depth``: how many levels below the model are shown; None: all.

        Raises:
            InvalidInputError: ``depth`` is negative.
        """
        header, *body = self._cells(depth)
        widths = [max(len(line[i]) for line in (header, *body)) for i in range(len(header))]
        lines = ["  ".join(_aligned(line, widths)).rstrip() for line in (header, *body)]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:], rule, *self._facts()])

    def to_markdown(self, depth: int | None = None) -> str:
        """Return a Markdown table; see :meth:`to_text`."""
        header, *body = self._cells(depth)
        body = [[cell.replace("  ", "&ensp;").replace("|", "\\|") for cell in line] for line in body]
        rule = [":--", ":--", ":--", *["--:"] * (len(header) - 3)]
        table = ["| " + " | ".join(line) + " |" for line in (header, rule, *body)]
        return "\n".join([*table, "", *(f"- {fact}" for fact in self._facts())])

    def __str__(self) -> str:
        return self.to_text()

    def _cells(self, depth: int | None) -> list[list[str]]:
        if depth is not None and check_integer("depth", depth) < 0:
            raise InvalidInputError(f"depth: expected 0 or more, got {depth}")
        is_timed = self.rows[0].seconds is not None
        cells = [["layer", "class", "output", "parameters", "FLOPs", "kept", *(["ms"] if is_timed else [])]]
        for row in self.rows:
            if depth is not None and row.depth > depth:
                continue
            name = "  " * row.depth + (row.name.rsplit(".", 1)[-1] or "(model)")
            calls = f" ×{row.calls}" if row.calls > 1 else ""
            marks = ("*" if row.shared else "") + ("" if row.trainable == row.parameters else "°")
            line = [name, row.class_name + calls, " ".join(str(list(s)) for s in row.output_shapes)]
            line += [f"{row.parameters:,}{marks}", "–" if row.cost is None else scaled(row.cost.total, "")]
            line.append("–" if row.activation_bytes is None else scaled(row.activation_bytes, "B"))
            if is_timed:
                line.append("–" if row.seconds is None else f"{row.seconds * 1e3:.3f}")
            cells.append(line)
        return cells

    def _facts(self) -> list[str]:
        facts = [f"parameters {self.parameters:,}, of them trainable {self.trainable:,}"]
        facts[0] += f"; numbers in buffers {self.buffer_elements:,}"
        if self.failure:
            facts.append(f"FLOPs unknown: Paddle could not capture the model: {self.failure}")
        else:
            products, total = self.product_flops or 0, self.flops or 0
            facts.append(f"FLOPs {total:,}: products {products:,}, other {total - products:,}")
            facts.append(f"products of the backward pass, estimated: {self.backward_flops_estimate:,}")
        facts.append(f"kept for the backward pass: {self.activation_bytes:,} bytes")
        if self.not_counted:
            names = ", ".join(f"{name} ({count})" for name, count in sorted(self.not_counted.items()))
            facts.append(f"NOT COUNTED, no formula or sizes unknown: {names}")
        if any(row.shared for row in self.rows):
            facts.append("* has parameters that other layers have too; the total counts them once")
        if self.trainable != self.parameters:
            facts.append("° has parameters that are frozen")
        return [*facts, *_NOTES]


def scaled(value: int, unit: str) -> str:
    """Return a count with three digits and a decimal prefix: ``1.23 M``, or below 1000 in full."""
    if value < 1000:
        return f"{value} {unit}".rstrip()
    exponent = int(f"{value:.2e}".split("e")[1])  # after rounding: 999,999 is 1 M
    power = min(5, exponent // 3)
    return f"{value / 1000**power:.3g} {'kMGTP'[power - 1]}{unit}"


def _aligned(line: list[str], widths: list[int]) -> list[str]:
    pairs = enumerate(zip(line, widths, strict=True))
    return [cell.ljust(width) if i < 3 else cell.rjust(width) for i, (cell, width) in pairs]

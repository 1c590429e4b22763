"""Operators that treat every element alike, with broadcasting."""

from __future__ import annotations

import math

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import Operator, Value
from paddle_infra.export.lowering.registry import lowers

_UNARY = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "erf": "Erf",
    "reciprocal": "Reciprocal",
    "softsign": "Softsign",
    "logical_not": "Not",
    "isnan": "IsNaN",
    "isinf": "IsInf",
    "assign": "Identity",
}
_BINARY = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "equal": "Equal",
    "less_than": "Less",
    "greater_than": "Greater",
    "less_equal": "LessOrEqual",
    "greater_equal": "GreaterOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
}


@lowers(*(f"pd_op.{name}{suffix}" for name in _UNARY for suffix in ("", "_")))
def unary(graph: Graph, operator: Operator) -> str:
    """One ONNX operator of one tensor."""
    return str(graph.add(_UNARY[_plain(operator.name)], [graph.name(operator.input(0))]))


@lowers(*(f"pd_op.{name}{suffix}" for name in _BINARY for suffix in ("", "_")))
def binary(graph: Graph, operator: Operator) -> str:
    """One ONNX operator of two tensors of one dtype; numbers of bool count as 0 and 1."""
    left, right = operator.input(0), operator.input(1)
    kind = _BINARY[_plain(operator.name)]
    names = [graph.name(left), graph.name(right)]
    if left.dtype == np.bool_ and kind in ("Less", "Greater", "LessOrEqual", "GreaterOrEqual"):
        names = [graph.cast(name, np.int32) for name in names]
    return str(graph.add(kind, names))


@lowers("pd_op.not_equal", "pd_op.not_equal_")
def not_equal(graph: Graph, operator: Operator) -> str:
    r""":math:`x \ne y`."""
    names = [graph.name(operator.input(0)), graph.name(operator.input(1))]
    return str(graph.add("Not", [graph.add("Equal", names)]))


@lowers("pd_op.cast", "pd_op.cast_")
def cast(graph: Graph, operator: Operator) -> str:
    """Another dtype."""
    name, output = graph.name(operator.input(0)), operator.output()
    return name if operator.input(0).dtype == output.dtype else graph.cast(name, output.dtype)


@lowers("pd_op.scale", "pd_op.scale_")
def scale(graph: Graph, operator: Operator) -> str:
    """:math:`s x + b` or :math:`s (x + b)`; integers are computed as Paddle does, in their dtype."""
    value, bias = operator.input(0), float(operator.attributes["bias"])
    factor_value = graph.known(operator.inputs[1])
    name = graph.name(value)
    factor = graph.cast(graph.name(operator.input(1)), value.dtype) if factor_value is None else None
    number = math.nan if factor_value is None else float(factor_value.reshape([]))

    def times(what: str) -> str:
        if factor is not None:
            return str(graph.add("Mul", [what, factor]))
        return what if number == 1.0 else str(graph.add("Mul", [what, graph.like(value, number)]))

    def plus(what: str) -> str:
        return what if bias == 0.0 else str(graph.add("Add", [what, graph.like(value, bias)]))

    return plus(times(name)) if operator.attributes["bias_after_scale"] else times(plus(name))


@lowers("pd_op.pow", "pd_op.pow_")
def power(graph: Graph, operator: Operator) -> str:
    """:math:`x^n` with a constant exponent."""
    value = operator.input(0)
    return str(graph.add("Pow", [graph.name(value), graph.like(value, operator.attributes["y"])]))


@lowers("pd_op.elementwise_pow", "pd_op.elementwise_pow_")
def elementwise_power(graph: Graph, operator: Operator) -> str:
    """:math:`x^y`."""
    return str(graph.add("Pow", [graph.name(operator.input(0)), graph.name(operator.input(1))]))


@lowers("pd_op.rsqrt", "pd_op.rsqrt_")
def rsqrt(graph: Graph, operator: Operator) -> str:
    r""":math:`1 / \sqrt x`."""
    return str(graph.add("Reciprocal", [graph.add("Sqrt", [graph.name(operator.input(0))])]))


@lowers("pd_op.square", "pd_op.square_")
def square(graph: Graph, operator: Operator) -> str:
    """:math:`x^2`."""
    name = graph.name(operator.input(0))
    return str(graph.add("Mul", [name, name]))


@lowers("pd_op.floor_divide", "pd_op.floor_divide_")
def floor_divide(graph: Graph, operator: Operator) -> str:
    r""":math:`\lfloor x / y \rfloor`."""
    value = operator.input(0)
    x, y = graph.name(value), graph.name(operator.input(1))
    if value.dtype is not None and value.dtype.kind == "f":
        return str(graph.add("Floor", [graph.add("Div", [x, y])]))
    # ONNX divides integers toward zero: take the remainder with the divisor's sign off first.
    return str(graph.add("Div", [graph.add("Sub", [x, graph.add("Mod", [x, y])]), y]))


@lowers("pd_op.remainder", "pd_op.remainder_")
def remainder(graph: Graph, operator: Operator) -> str:
    """The remainder with the sign of the divisor."""
    value = operator.input(0)
    x, y = graph.name(value), graph.name(operator.input(1))
    if value.dtype is not None and value.dtype.kind != "f":
        return str(graph.add("Mod", [x, y]))
    floor = graph.add("Floor", [graph.add("Div", [x, y])])
    return str(graph.add("Sub", [x, graph.add("Mul", [floor, y])]))


@lowers("pd_op.clip", "pd_op.clip_")
def clip(graph: Graph, operator: Operator) -> str:
    """Numbers between two bounds."""
    value = operator.input(0)
    bounds = []
    for index in (1, 2):
        bound = operator.input(index)
        known = graph.known(bound)
        if known is not None:
            bounds.append(graph.like(value, float(known.reshape([]))))
        else:
            name = graph.cast(graph.name(bound), value.dtype)
            bounds.append(str(graph.add("Reshape", [name, graph.integers([])])) if bound.rank else name)
    return str(graph.add("Clip", [graph.name(value), *bounds]))


@lowers("pd_op.gelu")
def gelu(graph: Graph, operator: Operator) -> str:
    """Exact with erf, or the tanh approximation."""
    value = operator.input(0)
    approximates = bool(operator.attributes["approximate"])
    return gelu_of(graph, graph.name(value), value, approximates=approximates)


def gelu_of(graph: Graph, name: str, like: Value, *, approximates: bool) -> str:
    r""":math:`x \Phi(x)`: ONNX's ``Gelu`` from opset 20 on, before in the form that ONNX Runtime fuses."""
    if graph.opset >= 20:
        return str(graph.add("Gelu", [name], approximate="tanh" if approximates else "none"))
    one, half = graph.like(like, 1.0), graph.like(like, 0.5)
    if approximates:
        cube = graph.add("Mul", [graph.add("Mul", [name, name]), name])
        inner = graph.add("Add", [name, graph.add("Mul", [cube, graph.like(like, 0.044715)])])
        curve = graph.add("Tanh", [graph.add("Mul", [inner, graph.like(like, math.sqrt(2 / math.pi))])])
        return str(graph.add("Mul", [graph.add("Mul", [name, half]), graph.add("Add", [curve, one])]))
    curve = graph.add("Erf", [graph.add("Div", [name, graph.like(like, math.sqrt(2))])])
    return str(graph.add("Mul", [graph.add("Mul", [name, graph.add("Add", [curve, one])]), half]))


@lowers("pd_op.silu", "pd_op.swish")
def silu(graph: Graph, operator: Operator) -> str:
    r""":math:`x \sigma(x)`."""
    return silu_of(graph, graph.name(operator.input(0)))


def silu_of(graph: Graph, name: str) -> str:
    r""":math:`x \sigma(x)`."""
    return str(graph.add("Mul", [name, graph.add("Sigmoid", [name])]))


@lowers("pd_op.relu6")
def relu6(graph: Graph, operator: Operator) -> str:
    """Numbers between 0 and 6."""
    value = operator.input(0)
    return str(graph.add("Clip", [graph.name(value), graph.like(value, 0.0), graph.like(value, 6.0)]))


@lowers("pd_op.leaky_relu", "pd_op.leaky_relu_")
def leaky_relu(graph: Graph, operator: Operator) -> str:
    """Negative numbers times a slope."""
    return str(
        graph.add(
            "LeakyRelu", [graph.name(operator.input(0))], alpha=float(operator.attributes["negative_slope"])
        )
    )


@lowers("pd_op.elu", "pd_op.elu_")
def elu(graph: Graph, operator: Operator) -> str:
    r""":math:`\alpha (e^x - 1)` where :math:`x < 0`."""
    return str(graph.add("Elu", [graph.name(operator.input(0))], alpha=float(operator.attributes["alpha"])))


@lowers("pd_op.softplus")
def softplus(graph: Graph, operator: Operator) -> str:
    r""":math:`\ln(1 + e^{\beta x}) / \beta`, and x itself above the threshold."""
    value = operator.input(0)
    beta, threshold = float(operator.attributes["beta"]), float(operator.attributes["threshold"])
    name = graph.name(value)
    scaled = name if beta == 1 else str(graph.add("Mul", [name, graph.like(value, beta)]))
    soft = graph.add("Softplus", [scaled])
    if beta != 1:
        soft = graph.add("Div", [soft, graph.like(value, beta)])
    is_linear = graph.add("Greater", [scaled, graph.like(value, threshold)])
    return str(graph.add("Where", [is_linear, name, soft]))


@lowers("pd_op.hardswish")
def hardswish(graph: Graph, operator: Operator) -> str:
    """:math:`x min(max(x + 3, 0), 6) / 6`."""
    value = operator.input(0)
    name = graph.name(value)
    inner = graph.add("Add", [name, graph.like(value, 3.0)])
    gate = graph.add("Clip", [inner, graph.like(value, 0.0), graph.like(value, 6.0)])
    return str(graph.add("Div", [graph.add("Mul", [name, gate]), graph.like(value, 6.0)]))


@lowers("pd_op.hardsigmoid")
def hardsigmoid(graph: Graph, operator: Operator) -> str:
    """A line cut off at 0 and 1."""
    slope, offset = float(operator.attributes["slope"]), float(operator.attributes["offset"])
    return str(graph.add("HardSigmoid", [graph.name(operator.input(0))], alpha=slope, beta=offset))


@lowers("pd_op.mish")
def mish(graph: Graph, operator: Operator) -> str:
    r""":math:`x \tanh(\ln(1 + e^x))`."""
    name = graph.name(operator.input(0))
    return str(graph.add("Mul", [name, graph.add("Tanh", [graph.add("Softplus", [name])])]))


@lowers("pd_op.logsigmoid")
def logsigmoid(graph: Graph, operator: Operator) -> str:
    r""":math:`-\ln(1 + e^{-x})`."""
    name = graph.name(operator.input(0))
    return str(graph.add("Neg", [graph.add("Softplus", [graph.add("Neg", [name])])]))


@lowers("pd_op.where", "pd_op.where_")
def where(graph: Graph, operator: Operator) -> str:
    """Elements of one tensor or another."""
    return str(graph.add("Where", [graph.name(operator.input(index)) for index in range(3)]))


@lowers("pd_op.add_n")
def add_n(graph: Graph, operator: Operator) -> str:
    """The sum of a list of tensors."""
    return str(graph.add("Sum", graph.names(operator.input(0))))


@lowers("pd_op.dropout")
def dropout(graph: Graph, operator: Operator) -> list[str | None]:
    """Nothing in evaluation; "downscale_in_infer" (called otherwise inside Paddle) scales."""
    value = operator.input(0)
    name = graph.name(value)
    if operator.attributes["mode"] == "downgrade_in_infer":
        rate = float(graph.expect_known(operator, operator.input(2), "the dropout probability").reshape([]))
        name = str(graph.add("Mul", [name, graph.like(value, 1.0 - rate)]))
    return [name, None]


def _plain(name: str) -> str:
    return name.removeprefix("pd_op.").removesuffix("_")

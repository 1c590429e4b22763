"""What the compiled operators of :mod:`paddle_infra.ops` cost."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from paddle_infra.summary import _paddle_formulas
from paddle_infra.summary._paddle_formulas import NORM, SOFTMAX
from paddle_infra.summary.operations import Cost, Formula, Operation, product

_RMS = 4  # square, mean, times 1/σ, times weight


def _linear(operation: Operation) -> Cost:
    x, weight = operation.inputs[0], operation.inputs[1]
    rows, columns = x.size // max(1, x.shape[-1]), weight.shape[1]
    per_result = ("bias" in operation.name) + (operation.attributes["activation"] != 0)
    return product(operation, 2 * x.size * columns, per_result * rows * columns)


def _attention(operation: Operation) -> Cost | None:
    if len(operation.inputs[0].shape) != 4:
        return None  # packed sequences: which query meets which key is in the data
    return _paddle_formulas.attention(operation)


def _head(operation: Operation) -> Cost:
    hidden, weight = operation.inputs[0], operation.inputs[1]
    rows = hidden.size // max(1, hidden.shape[-1])
    classes = weight.size // max(1, hidden.shape[-1])
    return product(operation, 2 * rows * weight.size, SOFTMAX * rows * classes)


def _int8(operation: Operation) -> Cost:
    x, weight = operation.inputs[0], operation.inputs[1]
    columns = weight.size // max(1, x.shape[-1])
    rows = x.size // max(1, x.shape[-1])
    return Cost(2 * x.size * columns, 2 * rows * columns + 2 * x.size)  # scales of the results, rounding of x


def _norm(additions: int) -> Formula:
    def formula(operation: Operation) -> Cost:
        per_element = additions + (_RMS if operation.attributes["is_rms"] else NORM)
        per_element += operation.attributes["dropout_p"] > 0
        return Cost(other=per_element * operation.outputs[0].size)

    return formula


def _formulas() -> dict[str, Formula]:
    table: dict[str, Formula] = {"round_to_bf16": _paddle_formulas.free}
    table |= dict.fromkeys(("linear", "linear_bias"), _linear)
    table |= dict.fromkeys(("attention", "attention_bias", "attention_decode"), _attention)
    table |= dict.fromkeys(("linear_cross_entropy", "linear_cross_entropy_bias", "linear_topk"), _head)
    table |= {"linear_int8": _int8, "norm": _norm(0), "norm_bias": _norm(0)}
    table |= {f"add_norm{end}": _norm(1) for end in ("", "_bias", "_sum", "_sum_bias")}
    table |= {"embedding_norm": _norm(0), "embedding_norm_position": _norm(1)}
    table |= {"embedding_norm_type": _norm(1), "embedding_norm_position_type": _norm(2)}
    return {f"custom_op.paddle_infra_{name}": formula for name, formula in table.items()}


FORMULAS: Mapping[str, Formula] = MappingProxyType(_formulas())

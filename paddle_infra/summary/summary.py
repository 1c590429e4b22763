"""Parameters, floating-point operations and kept activations of a model, layer by layer."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import paddle
from paddle.jit.dy2static.program_translator import StaticFunction

from paddle_infra._core.checks import check_integer
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.summary._fused_formulas import FORMULAS as _FUSED
from paddle_infra.summary._hooks import watched
from paddle_infra.summary._inputs import as_arguments
from paddle_infra.summary._measure import measure, unchanged
from paddle_infra.summary._paddle_formulas import FORMULAS as _PADDLE
from paddle_infra.summary._paddle_formulas import free
from paddle_infra.summary._trace import NotCapturedError, operations_of
from paddle_infra.summary.operations import Cost, Formula, Operation
from paddle_infra.summary.result import LayerRow, Summary


def summary(
    model: paddle.nn.Layer,
    inputs: Any,
    *,
    formulas: Mapping[str, Formula] | None = None,
    time_repeats: int = 0,
) -> Summary:
    """Count parameters, floating-point operations and the activations kept for the backward pass.

    The model is run once on ``inputs`` and captured once as a program. Its layers stay in the modes in which they are
    (put it in training mode to see what training keeps); its numbers, buffers, gradients and hooks and the generators
    of random numbers are afterwards what they were.

    *Floating-point operations* are counted from the operators of the captured program, so that those inside a fused
    operator or outside any sub-layer are there too. A multiply-add is 2. Everything that is no product follows simple
    conventions: 1 for each result of an elementwise function, transcendental or not, 5 for each number of a softmax, 7
    of a layer norm, 4 of an RMS norm; comparing and moving numbers is free. Attention counts every query with every
    key, also where a mask forbids it. Operators without a formula, and those whose cost is in the data (branches,
    loops, packed attention), are listed in ``not_counted``.

    *Activations* are the distinct bytes that operators and ``PyLayer`` save for their backward pass, at the moment they
    save them, without parameters, buffers and inputs. Not counted: temporary memory inside an operator, results that
    only the caller holds, what a saved view holds beyond its own span, gradients, and optimizer states. With every
    parameter frozen it is 0.

    Args:
        model: any Layer, before ``paddle.jit.to_static``.
        inputs: for its ``forward``: a tensor or array, a sequence of positional ones, or a mapping of named ones;
            nested lists and plain values are passed on.
        formulas: more formulas, or others, by name of the operator as in ``not_counted``: from an
            :class:`Operation` to its :class:`Cost`.
        time_repeats: how often the forward pass is timed, without gradients; 0: not at all. The time of a layer is
            the median over the passes of the sum over its calls; clocks add some microseconds to every call.

    Returns:
        A table that prints itself; see :class:`Summary`.

    Raises:
        InvalidDtypeError: ``model`` is no Layer.
        InvalidInputError: ``time_repeats`` is negative.
        UnsupportedError: a layer's ``forward`` has been made static.
    """
    if not isinstance(model, paddle.nn.Layer):
        raise InvalidDtypeError(f"model: expected a paddle.nn.Layer, got {type(model).__name__}")
    if check_integer("time_repeats", time_repeats) < 0:
        raise InvalidInputError(f"time_repeats: expected 0 or more, got {time_repeats}")
    for name, layer in model.named_sublayers(include_self=True):
        if isinstance(layer.forward, StaticFunction):
            raise UnsupportedError(
                f"model: expected layers in dynamic mode, got {name or 'a model'!r} after paddle.jit.to_static: "
                "summarize it before"
            )
    arguments, named = as_arguments(inputs)
    measured = measure(model, arguments, named)
    costs: dict[str, Cost] = defaultdict(Cost)
    missed: Counter[str] = Counter()
    failure = ""
    try:
        with unchanged(model):
            operations = operations_of(model, arguments, named)
    except NotCapturedError as error:  # the rest of the table stands, and says so
        failure = str(error)
    else:
        table = {**_PADDLE, **_FUSED, **(formulas or {})}
        for operation in operations:
            cost = _cost(operation, table)
            if cost is None:
                missed[operation.name] += 1
            else:
                costs[operation.layer] += cost
    seconds = _times(model, arguments, named, time_repeats)
    rows = _rows(model, measured.calls, measured.shapes, measured.kept_bytes, costs, seconds, bool(failure))
    return Summary(
        tuple(rows),
        buffer_elements=sum(buffer.size for buffer in model.buffers()),
        not_counted=dict(missed),
        failure=failure,
    )


def _cost(operation: Operation, table: Mapping[str, Formula]) -> Cost | None:
    formula = table.get(operation.name)
    if formula is None or not (operation.is_known or formula is free):
        return None
    return formula(operation)


def _times(
    model: paddle.nn.Layer, arguments: tuple[Any, ...], named: dict[str, Any], repeats: int
) -> dict[str, float]:
    passes: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        started: list[float] = []
        spent: dict[str, float] = defaultdict(float)

        def left(name: str, outer: str, outputs: Any, started: Any = started, spent: Any = spent) -> None:
            spent[name] += time.perf_counter() - started.pop()

        def entered(name: str, started: Any = started) -> None:
            started.append(time.perf_counter())

        with unchanged(model), watched(model, entered=entered, left=left), paddle.no_grad():
            model(*arguments, **named)
        for name, value in spent.items():
            passes[name].append(value)
    return {name: statistics.median(values) for name, values in passes.items()}


def _rows(
    model: paddle.nn.Layer,
    calls: Mapping[str, int],
    shapes: Mapping[str, list[list[int]]],
    kept_bytes: Mapping[str, int],
    costs: Mapping[str, Cost],
    seconds: Mapping[str, float],
    has_failed: bool,
) -> list[LayerRow]:
    layers = dict(model.named_sublayers(include_self=True))
    owners: dict[int, list[str]] = defaultdict(list)  # names of the layers that hold a parameter directly
    for name, layer in layers.items():
        for parameter in layer.parameters(include_sublayers=False):
            owners[id(parameter)].append(name)
    rows = []
    for name, layer in layers.items():
        prefix = name + "." if name else ""
        inside = {other for other in layers if other == name or other.startswith(prefix)}
        above = {other for other in layers if not other or name.startswith(other + ".")}
        parameters = {id(parameter): parameter for parameter in layer.parameters()}.values()
        own = {id(parameter): parameter for parameter in layer.parameters(include_sublayers=False)}.values()
        did_run = any(calls.get(other) for other in inside)
        cost = sum((costs[other] for other in inside if other in costs), Cost())
        rows.append(
            LayerRow(
                name=name,
                class_name=type(layer).__name__,
                calls=calls.get(name, 0),
                output_shapes=tuple(tuple(shape) for shape in shapes.get(name, ())),
                parameters=sum(parameter.size for parameter in parameters),
                own_parameters=sum(parameter.size for parameter in own),
                trainable=sum(parameter.size for parameter in parameters if not parameter.stop_gradient),
                shared=sum(p.size for p in parameters if set(owners[id(p)]) - inside - above),
                cost=cost if did_run and not has_failed else None,
                activation_bytes=sum(kept_bytes.get(other, 0) for other in inside) if did_run else None,
                seconds=seconds.get(name),
            )
        )
    return rows

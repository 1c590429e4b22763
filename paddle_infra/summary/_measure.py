"""One real forward pass under gradient: output shapes, calls, and the memory kept for the backward pass."""

from __future__ import annotations

import bisect
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle.autograd import saved_tensors_hooks
from paddle.nn.layer.norm import _BatchNormBase

from paddle_infra.summary._hooks import watched
from paddle_infra.summary._inputs import tensors_in


class Bytes:
    """A set of bytes in memory: what several tensors share counts once."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> int:
        """Add the bytes from ``start`` up to ``end`` and return how many are new."""
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        known = sum(max(0, min(end, self._ends[i]) - max(start, self._starts[i])) for i in range(first, last))
        merged_start = min([start, *self._starts[first:last]])
        merged_end = max([end, *self._ends[first:last]])
        self._starts[first:last], self._ends[first:last] = [merged_start], [merged_end]
        return end - start - known


@dataclass
class Measurement:
    """What one forward pass showed, by structured name of the layer."""

    calls: Counter[str] = field(default_factory=Counter)
    shapes: dict[str, list[list[int]]] = field(default_factory=dict)
    kept_bytes: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def measure(model: paddle.nn.Layer, arguments: tuple[Any, ...], named: dict[str, Any]) -> Measurement:
    """Run the model once, with gradients, in the modes in which its layers are.

    Counted is what Paddle's operators and ``PyLayer`` save for their backward pass, at the moment they save it: the
    distinct bytes, without those of parameters, buffers and inputs. The layer that saves first is charged.
    """
    result, seen, current = Measurement(), Bytes(), [""]
    for tensor in [*model.parameters(), *model.buffers(), *tensors_in((arguments, named))]:
        if _has_memory(tensor):
            seen.add(*_extent(tensor))

    def entered(name: str) -> None:
        current[0] = name
        result.calls[name] += 1

    def left(name: str, outer: str, outputs: Any) -> None:
        current[0] = outer
        result.shapes[name] = [list(tensor.shape) for tensor in tensors_in(outputs)]

    def pack(tensor: paddle.Tensor) -> paddle.Tensor:
        if _has_memory(tensor):
            result.kept_bytes[current[0]] += seen.add(*_extent(tensor))
        return tensor  # held by the graph, so its address is not used again before we are done

    with (
        unchanged(model),
        watched(model, entered=entered, left=left),
        paddle.set_grad_enabled(True),
        saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        model(*arguments, **named)
    return result


def _has_memory(tensor: Any) -> bool:
    """Whether there is anything to look at: LSTM has a buffer that is never filled."""
    return tensor is not None and tensor._is_initialized() and tensor.size > 0


def _extent(tensor: paddle.Tensor) -> tuple[int, int]:
    """Return the addresses that a tensor spans, which is more than its numbers if it is strided."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


@contextmanager
def unchanged(model: paddle.nn.Layer) -> Iterator[None]:
    """Afterwards put back buffers, running means and variances, and the generators of random numbers."""
    layers = [(layer, dict(layer._buffers)) for layer in model.sublayers(include_self=True)]
    # Paddle keeps running means and variances among the frozen parameters. Others are not copied: they may be large.
    norms = [layer for layer, _ in layers if isinstance(layer, _BatchNormBase | paddle.nn.BatchNorm)]
    tensors = [*model.buffers(), *(p for norm in norms for p in norm.parameters() if p.stop_gradient)]
    copies = [(tensor, tensor.detach().clone()) for tensor in tensors if _has_memory(tensor)]
    states = paddle.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        for layer, own in layers:  # a forward pass may put another tensor in the place of a buffer
            layer._buffers.update(own)
        for tensor, value in copies:
            tensor.set_value(value)
        paddle.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])

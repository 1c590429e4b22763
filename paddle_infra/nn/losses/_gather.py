"""Rows of all processes, with gradients that find their way back."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.autograd import PyLayer

from paddle_infra._core.errors import InvalidInputError, UnsupportedError


class _Gather(PyLayer):
    """Rows of all processes by rank; backward sums what every process wants of each row, and keeps its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        return _all(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all processes, those of rank 0 first; alone, ``x``.

    Raises:
        InvalidInputError: the processes have different numbers of rows.
        UnsupportedError: in a static program.
    """
    if not paddle.in_dynamic_mode():
        raise UnsupportedError("gather=True: expected dynamic mode, got a static program")
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    # Different sizes would hang or give other rows: a number from each process is cheap beside the rows.
    counts = _all(paddle.to_tensor([x.shape[0]], dtype="int64")).tolist()
    if len(set(counts)) > 1:
        raise InvalidInputError(f"gather=True: expected as many rows in every process, got {counts}")
    return _all(x) if x.stop_gradient else _Gather.apply(x)


def rank() -> int:
    """Return this process's rank, 0 if it is alone: its rows begin at rank times their number."""
    return dist.get_rank() if dist.is_initialized() else 0


def _all(x: Tensor) -> Tensor:
    parts: list[Tensor] = []
    dist.all_gather(parts, x.detach().contiguous())
    return paddle.concat(parts)

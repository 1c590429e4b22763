"""The processes that ``paddle.distributed.launch`` started: joining them, and what they do together."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import paddle
import paddle.distributed as dist

from paddle_infra._core.errors import InvalidInputError, PaddleInfraError, TrainingError, UnsupportedError
from paddle_infra.train.rng import seed_everything

if TYPE_CHECKING:
    from paddle_infra.train.strategy import Strategy

Result = TypeVar("Result")


class Processes:
    """The processes that train on different batches, and this one among them.

    They are all that were launched, or, if the program has called ``fleet.init`` with a model-parallel degree,
    those that hold the same part of the model.

    Attributes:
        rank: number of this process, from 0.
        ranks: how many there are.
        backend: "gloo" on CPUs, "nccl" on GPUs, "none" for a single process.
        group: the group of Paddle; None for a single process.
        model_parallel: processes that one copy of the model is spread over.

    Raises:
        InvalidInputError: this process was not started by the launcher.
    """

    def __init__(self, who: str) -> None:
        launched = [name for name in ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM") if name in os.environ]
        if len(launched) < 2:
            raise InvalidInputError(
                f"{who}: expected a process of Paddle's launcher, got one started without it. Start the program "
                "with `python -m paddle.distributed.launch --nproc_per_node 2 program.py` (CPU), or with "
                "`--devices 0,1` (GPUs)"
            )
        self.rank, self.ranks, self.model_parallel = 0, 1, 1
        self.backend = "none"
        self.group: Any = None
        if int(os.environ["PADDLE_TRAINERS_NUM"]) == 1:
            return
        dist.init_parallel_env()
        self.backend = dist.get_backend().lower()
        hybrid = _hybrid_group()
        if hybrid is not None and hybrid.get_model_parallel_world_size() > 1:
            self.model_parallel = hybrid.get_model_parallel_world_size()
            self.rank, self.ranks = hybrid.get_data_parallel_rank(), hybrid.get_data_parallel_world_size()
            self.group = hybrid.get_data_parallel_group()
        else:
            self.rank, self.ranks, self.group = dist.get_rank(), dist.get_world_size(), _world_group()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of each of ``values`` over the processes, in float64, the same bits in all of them."""
        if self.ranks == 1:
            return [float(value) for value in values]
        total = paddle.to_tensor([float(value) for value in values], dtype="float64")
        dist.all_reduce(total, group=self.group)
        return [float(value) for value in total.numpy()]

    def gather(self, value: Any) -> list[Any]:
        """Return the picklable ``value`` of every process, by rank."""
        if self.ranks == 1:
            return [value]
        values: list[Any] = []
        dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, tensor: paddle.Tensor, source: int) -> None:
        """Replace ``tensor`` by that of the process ``source``."""
        dist.broadcast(tensor, src=self.group.ranks[source], group=self.group)

    def share_model(self, model: paddle.nn.Layer) -> None:
        """Give every process the parameters and buffers of process 0.

        Raises:
            InvalidInputError: the models differ in names, shapes or dtypes.
        """
        described = [(name, list(t.shape), str(t.dtype)) for name, t in model.state_dict().items()]
        others = self.gather(described)
        for rank, other in enumerate(others):
            if other != others[0]:
                different = next(
                    (pair for pair in zip(others[0], other, strict=False) if pair[0] != pair[1]),
                    (f"{len(others[0])} tensors", f"{len(other)}"),
                )
                raise InvalidInputError(
                    f"model: expected the same in all processes, got {different[0]} in process 0 and "
                    f"{different[1]} in process {rank}"
                )
        if self.ranks > 1:
            dist.parallel.sync_params_buffers(model, self.group, self.group.ranks[0], fuse_params=False)

    def spread_seeds(self) -> None:
        """Seed the generators of all but process 0 anew, each differently, from their present state."""
        if self.rank > 0:
            sequence = np.random.SeedSequence([random.randrange(2**32), self.rank])
            seed_everything(int(sequence.generate_state(1)[0]))


def together(strategy: Strategy, action: Callable[[], Result], *, only_first: bool = False) -> Result | None:
    """Run ``action`` in every process, or only in process 0, and fail in all of them if it fails in one.

    A process that went on alone would wait for the failed one for ever.

    Returns:
        What the action returned in this process; None if it did not run here.

    Raises:
        Exception: what the action raised here, else what it raised in the first process where it failed (a
            :class:`TrainingError` with its text, if it is of a class that only that process knows).
    """
    result, error = None, None
    if strategy.rank == 0 or not only_first:
        try:
            result = action()
        except Exception as raised:
            error = raised
    errors = strategy.gather(None if error is None else _portable(error))
    if error is not None:
        raise error
    for rank, other in enumerate(errors):
        if other is not None:
            raise pickle.loads(other) from TrainingError(f"process {rank} failed, and all stop with it")
    return result


def check_tensors(parameters: Sequence[paddle.Tensor], processes: Processes) -> None:
    """Refuse parameters whose gradients Paddle would add up wrongly, or not at all.

    Raises:
        UnsupportedError: float16 with gloo, or parts of tensor-parallel layers with gloo.
    """
    if processes.backend != "gloo":
        return
    halves = [p.name for p in parameters if p.dtype == paddle.float16]
    if halves:
        raise UnsupportedError(
            f"parameters {halves}: expected float32 or bfloat16 on CPUs, got float16: Paddle's sum over processes "
            "with gloo returns inf for float16, silently"
        )
    parts = [p.name for p in parameters if getattr(p, "is_distributed", False)]
    if parts or processes.model_parallel > 1:
        raise UnsupportedError(
            f"tensor-parallel parameters {parts}: expected GPUs (NCCL), got gloo, for which Paddle has no "
            "c_identity, the operator that such layers begin with"
        )


def _portable(error: Exception) -> bytes:
    """Pickle an exception, or one that says the same if it cannot make the way there and back."""
    try:
        content = pickle.dumps(error)
        if str(pickle.loads(content)) == str(error) and isinstance(error, (PaddleInfraError, OSError)):
            return content
    except Exception:  # of any kind: the constructor is not ours
        pass
    return pickle.dumps(TrainingError(f"{type(error).__name__}: {error}"))


def _hybrid_group() -> Any:
    from paddle.distributed.fleet.base import topology

    return topology._HYBRID_PARALLEL_GROUP


def _world_group() -> Any:
    return dist.get_group(0)

"""Training in several processes, each of which keeps a part of the optimizer's state (ZeRO stage 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import paddle

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.distributed.parallel import ReplicatedModel
from paddle_infra.train.distributed.parts import (
    clip_of_parts,
    plain_parameters,
    refuse_model_parallel,
    refuse_sparse,
)
from paddle_infra.train.distributed.reduction import GradientReduction


class Sharding(ReplicatedModel):
    """Data-parallel training in which each process keeps the optimizer's state of a part of the parameters.

    Paddle's fleet divides the parameters over the processes (``sharding_degree``). Each process updates its parameters
    from the summed gradients and sends them to the others: the result is the same as with
    :class:`~paddle_infra.train.DataParallel`, and the optimizer's state takes a share of the memory. Gradient
    clipping sees all gradients. Checkpoints are the same as those of any other strategy: they can be written with
    one and resumed with another.

    With stage 2 each process also keeps only the gradients of its parameters: they are summed to their owner and freed
    elsewhere while every backward pass runs. So every process must make equally many passes: one with fewer
    micro-batches repeats another's with weight 0. Training steps that make several backward passes
    (:class:`~paddle_infra.train.FGM`) and loss scaling (float16) are refused; callbacks see the gradients of their
    process only. For stage 3, parameters in parts too, see :class:`~paddle_infra.train.FullySharded`.

    Args:
        stage: 1 or 2.

    Raises:
        InvalidInputError: the program was not started by the launcher, or the stage is none of these.
        UnsupportedError: layers are spread over processes (tensor parallel).

    References:
        Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models,
        arXiv:1910.02054, sections 5.1 and 5.2. In stage 1 we sum gradients in all processes instead of reducing each
        to its owner: callbacks see the whole, for half as much traffic again.
    """

    def __init__(self, stage: int = 1) -> None:
        if stage not in (1, 2):
            raise InvalidInputError(
                f"Sharding: stage: expected 1 or 2, got {stage!r}: stage 3 is FullySharded()"
            )
        super().__init__()
        self.exchanges_each_pass = stage == 2 and self.ranks > 1
        refuse_model_parallel(self.processes, "Sharding")
        self._owners: dict[str, int] = {}
        self._reduction: GradientReduction | None = None

    def prepare(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, Any]:
        """Give all processes the same weights, and each its part of the optimizer.

        Raises:
            InvalidInputError: there are more processes than parameters.
            UnsupportedError: the optimizer has groups of parameters, or has already made its state.
        """
        parameters = plain_parameters(optimizer, "Sharding")
        if len(parameters) < self.ranks:
            raise InvalidInputError(
                f"Sharding: expected at most {len(parameters)} processes, one for each parameter, got {self.ranks}"
            )
        if self.exchanges_each_pass:
            refuse_sparse(model)
        model, optimizer = super().prepare(model, optimizer)
        if self.ranks == 1:
            return model, optimizer
        clip = optimizer._grad_clip
        optimizer._grad_clip = None  # else fleet puts one of its own in its place
        divided = self._divide(optimizer)
        if self.exchanges_each_pass:
            optimizer._grad_clip = clip_of_parts(clip, self.processes)
            self._reduction = GradientReduction(parameters, divided._param2rank, self.processes)
        elif clip is not None:
            optimizer._grad_clip = WholeClip(clip, parameters)
        named = {parameter.name: name for name, parameter in model.named_parameters()}
        self._owners = {named.get(name, name): rank for name, rank in divided._param2rank.items()}
        return model, ShardedOptimizer(optimizer, divided, parameters, self._reduction)

    @contextmanager
    def exchanging(self, network: paddle.nn.Layer, is_joint: bool) -> Iterator[None]:
        """With stage 2, sum the gradients to their owners within."""
        if self._reduction is None:
            yield
            return
        with self._reduction.reducing():
            yield

    def reduce_gradients(self, model: paddle.nn.Layer) -> None:
        """Make the gradients complete: all of them in each process, or with stage 2 those that it owns.

        Raises:
            UnsupportedError: a gradient is sparse.
        """
        if self._reduction is None:
            super().reduce_gradients(model)
        else:
            self._reduction.drop_absent()

    def full_optimizer_state(self, tensors: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Return the whole state in process 0, and in the others their part of it."""
        owned = {key: (list(t.shape), str(t.dtype).split(".")[-1]) for key, t in tensors.items()}
        everything = dict(tensors)
        for source, keys in enumerate(self.gather(owned)):
            for key, (shape, dtype) in keys.items():
                tensor = (
                    tensors[key].detach().clone() if source == self.rank else paddle.empty(shape, dtype)
                ).to(
                    self.device
                )  # Adam's powers of beta are on the CPU, and NCCL takes only what is on the GPU
                self.processes.broadcast(tensor, source)
                if self.rank == 0:
                    everything[key] = tensor.cpu()
        return everything

    def own_optimizer_state(self, tensors: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Return the part of ``tensors`` that belongs to this process, and what belongs to nobody."""
        return {
            key: tensor
            for key, tensor in tensors.items()
            if self._owners.get(key.rsplit("/", 1)[0], self.rank) == self.rank
        }

    def _divide(self, optimizer: paddle.optimizer.Optimizer) -> Any:
        """Let fleet divide the parameters; return its optimizer, which knows who has which."""
        from paddle.distributed import fleet
        from paddle.distributed.fleet.base import topology

        present = topology._HYBRID_PARALLEL_GROUP
        if present is None or present.get_sharding_parallel_world_size() != self.ranks:
            settings = fleet.DistributedStrategy()
            settings.hybrid_configs = {
                "dp_degree": 1,
                "mp_degree": 1,
                "pp_degree": 1,
                "sharding_degree": self.ranks,
            }
            fleet.init(is_collective=True, strategy=settings)
        return fleet.distributed_optimizer(optimizer)._inner_opt


class ShardedOptimizer:
    """An optimizer of which this process steps its part, and then gets the others' parameters.

    Everything else is that of the optimizer it was made of.

    Args:
        optimizer: the optimizer, restricted to the parameters of this process.
        divided: fleet's ``DygraphShardingOptimizer`` around it.
        parameters: those of all processes.
        reduction: what sums the gradients, if each process keeps its own only.

    Attributes:
        unsharded: the optimizer.
    """

    def __init__(
        self,
        optimizer: paddle.optimizer.Optimizer,
        divided: Any,
        parameters: Sequence[paddle.Tensor],
        reduction: GradientReduction | None,
    ) -> None:
        self.__dict__.update(
            unsharded=optimizer, _divided=divided, _parameter_list=list(parameters), _reduction=reduction
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["unsharded"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.unsharded, name, value)

    def step(self) -> None:
        """Update the parameters of this process from the summed gradients, and exchange them."""
        # Not fleet's own step, which would average the gradients: they are sums already.
        self.unsharded.step()
        if self._reduction is not None:
            self._reduction.share_parameters()
        else:
            self._divided._sharding_sync_parameters()

    def clear_grad(self, set_to_zero: bool = True) -> None:
        """Clear the gradients of all parameters, also those of other processes."""
        for parameter in self._parameter_list:
            if not parameter.stop_gradient:
                parameter.clear_gradient(set_to_zero)
        if self._reduction is not None:
            self._reduction.clear()


class WholeClip:
    """Clips the gradients of a part of the parameters as if all were clipped together.

    Args:
        clip: a Paddle clipping.
        parameters: all parameters; their gradients are summed already.
    """

    def __init__(self, clip: Any, parameters: Sequence[paddle.Tensor]) -> None:
        self._clip, self._parameters = clip, list(parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_clip"], name)

    def __call__(self, params_grads: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Return the part ``params_grads``, clipped."""
        everything = [(p, p._grad_ivar()) for p in self._parameters if p._grad_ivar() is not None]
        clipped = {parameter.name: gradient for parameter, gradient in self._clip(everything)}
        return [(parameter, clipped[parameter.name]) for parameter, _ in params_grads]

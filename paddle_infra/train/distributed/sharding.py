"""Training in several processes, each of which keeps a part of the optimizer's state (ZeRO stage 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle

from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.train.distributed.parallel import ReplicatedModel


class Sharding(ReplicatedModel):
    """Data-parallel training in which each process keeps the optimizer's state of a part of the parameters.

    Paddle's fleet divides the parameters over the processes (``sharding_degree``). After the gradients are summed,
    each process updates its parameters and sends them to the others: the result is the same as with
    :class:`~paddle_infra.train.DataParallel`, and the optimizer's state takes a share of the memory. Gradient
    clipping sees all gradients. Checkpoints are the same as those of any other strategy: they can be written with
    one and resumed with another.

    Args:
        stage: 1. Stages 2 and 3 (gradients and parameters in parts too) are refused.

    Raises:
        InvalidInputError: the program was not started by the launcher, or the stage is none.
        UnsupportedError: stage 2 or 3.

    References:
        Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models,
        arXiv:1910.02054, section 5.1. We sum gradients in all processes instead of reducing each to its owner:
        clipping and callbacks see the whole, for half as much traffic again.
    """

    def __init__(self, stage: int = 1) -> None:
        if stage not in (1, 2, 3):
            raise InvalidInputError(f"Sharding: stage: expected 1, 2 or 3, got {stage!r}")
        super().__init__()
        if stage > 1 and self.processes.backend == "gloo":
            raise UnsupportedError(
                f"Sharding: stage: expected 1 on CPUs, got {stage}: stages 2 and 3 need NCCL (GPUs); with gloo Paddle "
                "has no reduce_scatter, and every level of its group_sharded_parallel fails"
            )
        if stage > 1:
            raise UnsupportedError(
                f"Sharding: stage: expected 1, got {stage}: Paddle's stages 2 and 3 average gradients within every "
                "backward pass, which cannot be exact where processes have windows of different length"
            )
        if self.processes.model_parallel > 1:
            raise UnsupportedError(
                "Sharding: expected whole layers, got fleet.init with a model-parallel degree: use DataParallel"
            )
        self._owners: dict[str, int] = {}

    def prepare(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, Any]:
        """Give all processes the same weights, and each its part of the optimizer.

        Raises:
            InvalidInputError: there are more processes than parameters.
            UnsupportedError: the optimizer has groups of parameters, or has already made its state.
        """
        parameters = list(optimizer._parameter_list)
        if isinstance(parameters[0], dict):
            raise UnsupportedError(
                "Sharding: expected an optimizer over a list of parameters, got groups of them"
            )
        if len(parameters) < self.ranks:
            raise InvalidInputError(
                f"Sharding: expected at most {len(parameters)} processes, one for each parameter, got {self.ranks}"
            )
        if any(optimizer._accumulators.values()):
            raise UnsupportedError(
                "Sharding: expected an optimizer that has not stepped yet, got one with a state"
            )
        model, optimizer = super().prepare(model, optimizer)
        if self.ranks == 1:
            return model, optimizer
        if optimizer._grad_clip is not None:
            optimizer._grad_clip = WholeClip(optimizer._grad_clip, parameters)
        divided = self._divide(optimizer)
        named = {parameter.name: name for name, parameter in model.named_parameters()}
        self._owners = {named.get(name, name): rank for name, rank in divided._param2rank.items()}
        return model, ShardedOptimizer(optimizer, divided, parameters)

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

    Attributes:
        unsharded: the optimizer.
    """

    def __init__(
        self, optimizer: paddle.optimizer.Optimizer, divided: Any, parameters: Sequence[paddle.Tensor]
    ) -> None:
        self.__dict__.update(unsharded=optimizer, _divided=divided, _parameter_list=list(parameters))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["unsharded"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.unsharded, name, value)

    def step(self) -> None:
        """Update the parameters of this process from the summed gradients, and exchange them."""
        # Not fleet's own step, which would average the gradients: they are sums already.
        self.unsharded.step()
        self._divided._sharding_sync_parameters()

    def clear_grad(self, set_to_zero: bool = True) -> None:
        """Clear the gradients of all parameters, also those of other processes."""
        for parameter in self._parameter_list:
            if not parameter.stop_gradient:
                parameter.clear_gradient(set_to_zero)


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

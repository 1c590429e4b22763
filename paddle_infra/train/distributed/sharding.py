"""Training in several processes, each of which keeps a part of the optimizer's state (ZeRO)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import paddle

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.distributed.gathering import ParameterGathering, default_units
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
    elsewhere while every backward pass runs. With stage 3 it also keeps only its parameters between passes: those of a
    unit are fetched while the unit runs, forward and backward. So every process must make equally many passes: one with
    fewer micro-batches repeats another's with weight 0. Training steps that make several backward passes
    (:class:`~paddle_infra.train.FGM`) and loss scaling (float16) are refused; callbacks see the gradients of their
    process only, and with stage 3 moving averages and histograms of weights are refused. Evaluation and checkpoints
    fetch the whole model.

    Args:
        stage: 1, 2 or 3.
        units: for stage 3, the layers whose parameters come and go together, which all processes call in the same
            order; None: the elements of the model's ``LayerList``, or if there is none of its ``Sequential``. What
            belongs to no unit is there during the whole pass, and so are frozen parameters in the backward pass.

    Raises:
        InvalidInputError: the program was not started by the launcher, or an argument is none of these.
        UnsupportedError: layers are spread over processes (tensor parallel).

    References:
        Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models,
        arXiv:1910.02054, sections 5.1 to 5.3. In stage 1 we sum gradients in all processes instead of reducing each
        to its owner: callbacks see the whole, for half as much traffic again. Parameters are divided whole, not sliced:
        every optimizer and clipping works.
    """

    def __init__(self, stage: int = 1, *, units: Sequence[paddle.nn.Layer] | None = None) -> None:
        if stage not in (1, 2, 3):
            raise InvalidInputError(f"Sharding: stage: expected 1, 2 or 3, got {stage!r}")
        if units is not None and stage < 3:
            raise InvalidInputError(f"Sharding: units: expected stage 3, got stage {stage}")
        super().__init__()
        refuse_model_parallel(self.processes, "Sharding")
        self.exchanges_each_pass = stage > 1 and self.ranks > 1
        self.has_whole_parameters = stage < 3 or self.ranks == 1
        self._units = units
        self._owners: dict[str, int] = {}
        self._reduction: GradientReduction | None = None
        self._gathering: ParameterGathering | None = None

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
            if not self.has_whole_parameters:
                units = default_units(model) if self._units is None else self._units
                self._gathering = ParameterGathering(model, divided._param2rank, self.processes, units)
                self._reduction.is_reduced = self._gathering.release
        elif clip is not None:
            optimizer._grad_clip = WholeClip(clip, parameters)
        named = {parameter.name: name for name, parameter in model.named_parameters()}
        self._owners = {named.get(name, name): rank for name, rank in divided._param2rank.items()}
        return model, ShardedOptimizer(
            optimizer, divided, parameters, self._reduction, self.has_whole_parameters
        )

    @contextmanager
    def exchanging(self, network: paddle.nn.Layer, is_joint: bool) -> Iterator[None]:
        """From stage 2 on, sum the gradients to their owners within; with stage 3, fetch parameters too."""
        with ExitStack() as stack:
            if self._gathering is not None:
                stack.enter_context(self._gathering.passing())
            if self._reduction is not None:
                stack.enter_context(self._reduction.reducing())
            yield

    @contextmanager
    def gathered(self, model: paddle.nn.Layer) -> Iterator[None]:
        """Within, every process has all parameters."""
        with nullcontext() if self._gathering is None else self._gathering.whole():
            yield

    def whole_weights(self, model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
        """Return parameters and buffers by name; with stage 3, copies of them in process 0, and none in the others."""
        with self.gathered(model):
            weights = super().whole_weights(model)
            if self._gathering is None:
                return weights
            return {name: tensor.detach().clone() for name, tensor in weights.items() if self.rank == 0}

    def reduce_gradients(self, model: paddle.nn.Layer) -> None:
        """Make the gradients complete: all of them in each process, or from stage 2 on those that it owns.

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
        is_shared: whether the other processes want the new parameters at once.

    Attributes:
        unsharded: the optimizer.
    """

    def __init__(
        self,
        optimizer: paddle.optimizer.Optimizer,
        divided: Any,
        parameters: Sequence[paddle.Tensor],
        reduction: GradientReduction | None,
        is_shared: bool,
    ) -> None:
        self.__dict__.update(
            unsharded=optimizer,
            _divided=divided,
            _parameter_list=list(parameters),
            _reduction=reduction,
            _is_shared=is_shared,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["unsharded"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.unsharded, name, value)

    def step(self) -> None:
        """Update the parameters of this process from the summed gradients, and exchange them."""
        # Not fleet's own step, which would average the gradients: they are sums already.
        self.unsharded.step()
        if self._reduction is None:
            self._divided._sharding_sync_parameters()
        elif self._is_shared:
            self._reduction.share_parameters()

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

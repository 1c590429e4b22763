"""Training in several processes that all hold the whole model and train on different batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import paddle
import paddle.distributed as dist

from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.train.distributed.processes import Processes, check_tensors
from paddle_infra.train.strategy import SingleDevice


class ReplicatedModel(ABC):
    """What :class:`DataParallel` and :class:`~paddle_infra.train.distributed.sharding.Sharding` have in common.

    Every process holds all parameters. Gradients are summed once per window, after the last backward pass, so
    that windows of different length, micro-batches without a valid item and processes without a batch are right:
    a process that lacks the gradient of a parameter counts as zero, and a gradient that all lack stays None.

    Attributes:
        rank: number of this process, from 0.
        ranks: how many processes there are.
        device: the device of this process.
        overlap: whether gradients may be exchanged while the last backward pass runs.
        exchanges_each_pass: whether they are, in every pass.
        has_whole_parameters: whether every process has all parameters all the time.
    """

    overlap = False
    exchanges_each_pass = False
    has_whole_parameters = True

    def __init__(self) -> None:
        self.processes = Processes(type(self).__name__)
        self.rank, self.ranks = self.processes.rank, self.processes.ranks
        self._local = SingleDevice()
        self.device = self._local.device

    @abstractmethod
    def prepare(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
        """Give all processes the weights and buffers of process 0, and other random numbers to each.

        Raises:
            InvalidInputError: the models of the processes differ in structure.
            UnsupportedError: Paddle cannot sum the gradients of this model.
        """
        check_tensors(model.parameters(), self.processes)
        self.processes.share_model(model)
        self.processes.spread_seeds()
        return model, optimizer

    def to_device(self, batch: Any) -> Any:
        """Turn NumPy arrays inside dicts, lists and tuples into tensors; leave everything else as it is."""
        return self._local.to_device(batch)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of each of ``values`` over all processes, in float64."""
        return self.processes.sum(values)

    def gather(self, value: Any) -> list[Any]:
        """Return the picklable ``value`` of every process, by rank."""
        return self.processes.gather(value)

    @contextmanager
    def exchanging(self, network: paddle.nn.Layer, is_joint: bool) -> Iterator[None]:
        """Do nothing: gradients are exchanged at the end of the window."""
        yield

    def reduce_gradients(self, model: paddle.nn.Layer) -> None:
        """Replace every gradient by its sum over all processes, in fused buffers.

        Raises:
            UnsupportedError: a gradient is sparse.
        """
        if self.ranks > 1:
            sum_gradients([p for p in model.parameters() if not p.stop_gradient], self.processes)

    def gathered(self, model: paddle.nn.Layer) -> AbstractContextManager[None]:
        """Return a context that does nothing: every process has all parameters."""
        return nullcontext()

    def whole_weights(self, model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
        """Return parameters and buffers by name."""
        return dict(model.state_dict())

    def full_optimizer_state(self, tensors: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Return ``tensors``: every process holds them all.

        Raises:
            UnsupportedError: the model is spread over processes by tensor-parallel layers.
        """
        if self.processes.model_parallel > 1:
            raise UnsupportedError(
                f"checkpoint: expected whole parameters, got parts of them in {self.processes.model_parallel} "
                "processes (tensor parallel): save those with paddle.distributed.save_state_dict"
            )
        return tensors

    def own_optimizer_state(self, tensors: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Return ``tensors``: every process needs them all."""
        return tensors


class DataParallel(ReplicatedModel):
    """Every process has the whole model and the whole optimizer, and trains on batches of its own.

    Start the program with ``python -m paddle.distributed.launch``; see the section on several processes in the
    documentation. All processes have the same initial weights, those of process 0, and draw different random
    numbers (dropout). With one process it is the same as :class:`~paddle_infra.train.SingleDevice`.

    A model with fleet's tensor-parallel layers is accepted on GPUs after ``fleet.init`` with ``mp_degree``:
    gradients are then summed only over the processes that hold the same part.

    Args:
        overlap: exchange gradients while the last backward pass of the window runs (``paddle.DataParallel``),
            wherever every process has a valid last micro-batch; else at the end of the window. The training step
            must then call the model itself, exactly once; what it gets is a ``paddle.DataParallel`` around the
            model. Costs an agreement before that pass, that all losses are finite.

    Raises:
        InvalidInputError: the program was not started by the launcher.
    """

    def __init__(self, *, overlap: bool = False) -> None:
        super().__init__()
        self.overlap = overlap and self.ranks > 1
        self._is_exchanged = False

    def prepare(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
        """See :meth:`ReplicatedModel.prepare`; with ``overlap`` the model is wrapped.

        Raises:
            InvalidInputError: the models of the processes differ in structure.
            UnsupportedError: Paddle cannot sum the gradients of this model, or a gradient norm is asked for of
                a model that tensor-parallel layers spread over processes.
        """
        clip = getattr(optimizer, "_grad_clip", None)
        if self.processes.model_parallel > 1 and isinstance(clip, paddle.nn.ClipGradByGlobalNorm):
            raise UnsupportedError(
                "tensor parallel: expected an optimizer without clipping by the global norm, got one: each process "
                "would measure only its part"
            )
        model, optimizer = super().prepare(model, optimizer)
        if not self.overlap:
            return model, optimizer
        wrapped = paddle.DataParallel(model, find_unused_parameters=True, group=self.processes.group)
        wrapped.grad_need_sync = False
        return wrapped, optimizer

    @contextmanager
    def exchanging(self, network: paddle.nn.Layer, is_joint: bool) -> Iterator[None]:
        """Within, the forward and backward pass exchange gradients if ``is_joint``.

        Raises:
            InvalidInputError: the training step did not call the model exactly once.
        """
        if not (self.overlap and is_joint):
            yield
            return
        calls: list[int] = []
        hook = network.register_forward_pre_hook(lambda *_: calls.append(1))
        network.grad_need_sync = True
        try:
            yield
        finally:
            network.grad_need_sync = False
            hook.remove()
        if len(calls) != 1:
            raise InvalidInputError(
                f"DataParallel(overlap=True): expected a training step that calls the model once, got {len(calls)} "
                "calls: Paddle's exchange follows one forward pass"
            )
        self._is_exchanged = True

    def reduce_gradients(self, model: paddle.nn.Layer) -> None:
        """Replace every gradient by its sum over all processes.

        Raises:
            UnsupportedError: a gradient is sparse.
        """
        if not self._is_exchanged:
            super().reduce_gradients(model)
            return
        self._is_exchanged = False
        with paddle.no_grad():
            for parameter in model.parameters():
                gradient = parameter._grad_ivar()
                if gradient is not None:
                    gradient.scale_(float(self.ranks))  # Paddle's exchange has averaged


def sum_gradients(parameters: Sequence[paddle.Tensor], processes: Processes) -> None:
    """Replace the gradients of ``parameters`` by their sums over all processes.

    One that some processes lack counts as zero there; one that all lack stays None.

    Raises:
        UnsupportedError: a gradient is sparse.
    """
    from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients_with_group

    gradients = [parameter._grad_ivar() for parameter in parameters]
    sparse = [
        parameter.name
        for parameter, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and gradient.is_selected_rows()
    ]
    if sparse:
        raise UnsupportedError(
            f"gradients of {sparse}: expected dense ones in several processes, got sparse ones: make the embedding "
            "with sparse=False"
        )
    present = paddle.to_tensor([gradient is not None for gradient in gradients], dtype="int64")
    dist.all_reduce(present, group=processes.group)
    for parameter, gradient, holders in zip(parameters, gradients, present.tolist(), strict=True):
        if holders and gradient is None:
            parameter.grad = paddle.zeros_like(parameter)
    fused_allreduce_gradients_with_group(parameters, processes.group, scale=1.0)

"""Gradients that only the owner of a parameter keeps: summed there while the backward pass runs (ZeRO stage 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import paddle
import paddle.distributed as dist

from paddle_infra.train.distributed.processes import Processes


class GradientReduction:
    r"""Sums each gradient to the process that owns the parameter, and frees the others'.

    A hook of each parameter reports its gradient. Gradients are summed in one fixed order, that of the backward pass
    as far as can be known (the last parameter first), so that all processes name the same one at the same time; one
    that comes out of turn waits. What a process has not computed by the end of the pass counts as zero. The owner adds
    each sum to what it has from earlier passes: its own gradient goes into the sum with them.

    Args:
        parameters: all parameters.
        owners: rank of the owner, by the parameter's automatic name.
        processes: the processes.

    Attributes:
        is_reduced: called with each parameter whose gradient has been summed.

    References:
        Rajbhandari et al., ZeRO, arXiv:1910.02054, section 5.2; Li et al., PyTorch Distributed, arXiv:2006.15704,
        section 3.2.3 (the fixed order). We sum parameter by parameter, not in buckets: none is copied.
    """

    def __init__(
        self, parameters: Sequence[paddle.Tensor], owners: Mapping[str, int], processes: Processes
    ) -> None:
        self._parameters = list(reversed(parameters))
        self._owners = [owners[parameter.name] for parameter in self._parameters]
        self._processes = processes
        self.is_reduced: Callable[[paddle.Tensor], None] | None = None
        self._is_active = False
        self._is_complete = [False] * len(self._parameters)
        self._is_present = [False] * len(self._parameters)
        self._next = 0
        for index, parameter in enumerate(self._parameters):
            parameter._register_backward_hook(partial(self._complete, index))

    @contextmanager
    def reducing(self) -> Iterator[None]:
        """Within, every process makes one forward and backward pass, or none does."""
        self._is_complete = [False] * len(self._parameters)
        self._next, self._is_active = 0, True
        try:
            yield
        finally:
            self._is_active = False
        self._is_complete = [True] * len(self._parameters)
        self._reduce_complete()

    def drop_absent(self) -> None:
        """Forget the zeros of parameters of which no process has had a gradient since :meth:`clear`."""
        present = paddle.to_tensor(self._is_present, dtype="int64")
        dist.all_reduce(present, group=self._processes.group)
        self._is_present = [bool(holders) for holders in present.tolist()]
        for parameter, is_present in zip(self._parameters, self._is_present, strict=True):
            if not is_present:
                parameter.clear_gradient(False)

    def share_parameters(self) -> None:
        """Give all processes the parameters that their owners have updated."""
        group = self._processes.group
        tasks = [
            dist.broadcast(parameter, src=group.ranks[owner], group=group, sync_op=False)
            for parameter, owner, is_present in zip(
                self._parameters, self._owners, self._is_present, strict=True
            )
            if is_present
        ]
        for task in tasks:
            task.wait()

    def clear(self) -> None:
        """Begin a new window."""
        self._is_present = [False] * len(self._parameters)

    def _complete(self, index: int, *_: object) -> None:
        if self._is_active:
            self._is_complete[index] = True
            self._reduce_complete()

    @paddle.no_grad()
    def _reduce_complete(self) -> None:
        while self._next < len(self._parameters):
            is_frozen = self._parameters[self._next].stop_gradient
            if not (is_frozen or self._is_complete[self._next]):
                return
            if not is_frozen:
                self._reduce(self._next)
            self._next += 1

    def _reduce(self, index: int) -> None:
        parameter, owner, processes = self._parameters[index], self._owners[index], self._processes
        gradient = parameter._grad_ivar()
        self._is_present[index] |= gradient is not None
        if gradient is None:
            gradient = paddle.zeros(parameter.shape, parameter.dtype)
            if owner == processes.rank:
                parameter.grad = gradient
                gradient = parameter._grad_ivar()
        dist.reduce(gradient, dst=processes.group.ranks[owner], group=processes.group)
        if owner != processes.rank:
            parameter.clear_gradient(False)
        if self.is_reduced is not None:
            self.is_reduced(parameter)

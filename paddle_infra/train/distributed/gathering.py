"""Parameters that only their owner keeps: the others get them for as long as a layer runs (ZeRO stage 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn

from paddle_infra._core.errors import UnsupportedError
from paddle_infra.train.distributed.processes import Processes


class ParameterGathering:
    """Fetches the parameters of a unit before its forward and its backward pass, and frees them afterwards.

    Hooks before and after a unit's ``forward`` fetch and free; a hook of its outputs' gradients fetches them again, and
    they are freed when their gradient has been summed (:meth:`release`). What belongs to no unit is there during the
    whole of a pass. Paddle's sharding of parameters puts such hooks around every layer, and so breaks wherever a layer
    uses the weights of another (a fused operator over two layers, a loss computed with the head's weight).

    Args:
        model: the model; every process has all its parameters now.
        owners: rank of the owner, by the parameter's automatic name; other parameters stay everywhere.
        processes: the processes.
        units: the layers; all processes call the same ones in the same order.

    References:
        Rajbhandari et al., ZeRO, arXiv:1910.02054, section 5.3; Zhao et al., PyTorch FSDP, arXiv:2304.11277, section
        3.2 (units).
    """

    def __init__(
        self, model: nn.Layer, owners: Mapping[str, int], processes: Processes, units: Sequence[nn.Layer]
    ) -> None:
        self._owners, self._processes = owners, processes
        self._all = [parameter for parameter in model.parameters() if parameter.name in owners]
        self._here = {parameter.name for parameter in self._all}
        self._is_open = self._is_pinned = False
        uses = Counter(
            p.name
            for layer in model.sublayers(include_self=True)
            for p in layer._parameters.values()
            if p is not None
        )
        in_units: set[str] = set()
        for unit in units:
            own = [p for p in unit.parameters() if p.name in owners and uses[p.name] == 1]
            in_units |= {parameter.name for parameter in own}
            self._surround(unit, own)
        self._rest = [parameter for parameter in self._all if parameter.name not in in_units]
        self._release_all()

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Within, every process makes one forward and backward pass."""
        self._fetch(self._rest)
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False
            self._release_all()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within, every process has all parameters."""
        if self._is_pinned:
            yield
            return
        self._fetch(self._all)
        self._is_pinned = True
        try:
            yield
        finally:
            self._is_pinned = False
            self._release_all()

    def release(self, parameter: paddle.Tensor) -> None:
        """Free a parameter that is not needed before the next pass, except where it is owned."""
        if parameter.name in self._here and not self._is_pinned:
            self._here.remove(parameter.name)
            if self._owners[parameter.name] != self._processes.rank:
                parameter._clear_data()

    def _surround(self, unit: nn.Layer, parameters: list[paddle.Tensor]) -> None:
        def fetch(*_: Any) -> None:
            if not (self._is_open or self._is_pinned):
                raise UnsupportedError(
                    f"Sharding: expected the model to be called by the training step or in an evaluation, where all "
                    f"processes call it, got a call of {type(unit).__name__} elsewhere: use `with "
                    "trainer.strategy.gathered(trainer.model)` in every process"
                )
            self._fetch(parameters)

        def leave(_: nn.Layer, __: Any, outputs: Any) -> None:
            for tensor in _tensors(outputs):
                if not tensor.stop_gradient:
                    tensor.register_hook(fetch)
            for parameter in parameters:
                self.release(parameter)

        unit.register_forward_pre_hook(fetch)
        unit.register_forward_post_hook(leave)

    @paddle.no_grad()
    def _fetch(self, parameters: Sequence[paddle.Tensor]) -> None:
        group = self._processes.group
        for parameter in parameters:
            if parameter.name in self._here:
                continue
            owner = self._owners[parameter.name]
            if owner == self._processes.rank:
                dist.broadcast(parameter, src=group.ranks[owner], group=group)
            else:
                value = paddle.empty(parameter.shape, parameter.dtype)
                dist.broadcast(value, src=group.ranks[owner], group=group)
                value._share_buffer_to(parameter)
            self._here.add(parameter.name)

    def _release_all(self) -> None:
        for parameter in self._all:
            self.release(parameter)


def default_units(model: nn.Layer) -> list[nn.Layer]:
    """Return the repeated blocks: elements of ``LayerList``, or if there is none of ``Sequential``; the outermost."""
    for kind in (nn.LayerList, nn.Sequential):
        found = _elements(model, kind)
        if found:
            return found
    return []


def _elements(layer: nn.Layer, kind: type[nn.Layer]) -> list[nn.Layer]:
    if isinstance(layer, kind):
        return [child for child in layer.children() if child.parameters()]
    return [element for child in layer.children() for element in _elements(child, kind)]


def _tensors(value: Any) -> Iterator[paddle.Tensor]:
    if isinstance(value, paddle.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)

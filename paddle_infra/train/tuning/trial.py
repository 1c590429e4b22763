"""Training steps that leave no trace: for tests of learning rates and batch sizes before a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import paddle

from paddle_infra.train.checkpoints.optimizer_state import (
    load_optimizer,
    load_schedule,
    match_optimizer,
    optimizer_tensors,
    schedule_state,
)
from paddle_infra.train.rng import preserved_rng

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


@contextmanager
def trial(trainer: Trainer) -> Iterator[None]:
    """Run training steps in the body, then put everything back bit for bit, also on error.

    That is: weights and buffers, the optimizer's state, learning rate and schedule, the precision's state, the modes of
    all layers and the random generators. Gradients are cleared before and after. No callback is called meanwhile. The
    copies are in the memory of the CPU, so that the body has the device to itself. What a training step keeps outside
    the model cannot be put back.
    """
    model, optimizer = trainer.model, trainer.optimizer
    tensors = [tensor for _, tensor in (*model.named_parameters(), *model.named_buffers())]
    tensors = list({id(tensor): tensor for tensor in tensors if tensor._is_initialized()}.values())
    weights = [_on_cpu(tensor) for tensor in tensors]
    accumulators = {name: _on_cpu(t) for name, t in optimizer_tensors(model, optimizer).items()}
    rate, rate_state = optimizer._learning_rate, schedule_state(optimizer)
    precision = trainer.precision.state_dict()
    modes = [(layer, layer.training) for layer in trainer.network.sublayers(include_self=True)]
    callbacks, trainer.callbacks = trainer.callbacks, []
    optimizer.clear_grad(set_to_zero=False)
    trainer.network.train()
    try:
        with preserved_rng():
            yield
    finally:
        trainer.callbacks = callbacks
        optimizer.clear_grad(set_to_zero=False)
        for layer, is_training in modes:
            layer.training = is_training
        with paddle.no_grad():
            for target, value in zip(tensors, weights, strict=True):
                target.set_value(value)  # straight into its memory: there may be none left for a copy
                target._bump_inplace_version()  # which tells caches of it; set_value does not
        load_optimizer(optimizer, match_optimizer(model, optimizer, accumulators))
        use_rate(optimizer, rate)
        load_schedule(optimizer, rate_state)
        trainer.precision.load_state_dict(precision)


def use_rate(optimizer: paddle.optimizer.Optimizer, rate: Any) -> None:
    """Let the optimizer follow another rate or schedule; one of ``fleet`` hands it on to the one that it wraps."""
    while hasattr(optimizer, "_inner_opt"):
        optimizer = optimizer._inner_opt
    optimizer._learning_rate = rate


def _on_cpu(tensor: Any) -> paddle.Tensor:
    value = tensor.detach()
    return value.clone() if value.place.is_cpu_place() else value.cpu()

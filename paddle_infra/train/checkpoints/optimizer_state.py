"""The optimizer's tensors by structured parameter name, and its learning-rate schedule.

Paddle keys accumulators by automatic names (``linear_3.w_0_moment1_0``) that depend on what was created
before in the process, so its own state fits only an equally numbered model. Here the key is ``<structured
parameter name>/<accumulator>``: it fits every model with the same structure.

This file alone touches the optimizer's private attributes: ``_accumulators`` (kind → automatic name → tensor),
``_master_weights`` (automatic name → float32 copy of a 16-bit parameter) and ``_create_accumulators``, which makes
what the first step would make.
"""

from __future__ import annotations

import warnings
from typing import Any

import paddle
from paddle.base import framework
from paddle.optimizer.lr import LRScheduler

from paddle_infra._core.errors import CheckpointError

MASTER_WEIGHT = "master_weight"


def optimizer_tensors(
    model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> dict[str, paddle.Tensor]:
    """Return the accumulators by ``<structured parameter name>/<accumulator>``; master weights are one of them.

    Raises:
        CheckpointError: the optimizer holds a parameter that is not the model's.
    """
    names, masters = structured_names(model, optimizer), getattr(optimizer, "_master_weights", {})
    # Paddle files the other accumulators of a 16-bit parameter under the name of its master weight.
    names |= {master.name: names[parameter] for parameter, master in masters.items()}
    kinds = {**optimizer._accumulators, MASTER_WEIGHT: masters}
    return {
        f"{names[parameter]}/{kind}": tensor
        for kind, tensors in kinds.items()
        for parameter, tensor in tensors.items()
    }


def structured_names(model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, str]:
    """Map the automatic names of the optimizer's parameters to structured ones.

    Raises:
        CheckpointError: the optimizer holds a parameter that is not the model's.
    """
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    foreign = [parameter.name for parameter in _parameters(optimizer) if parameter.name not in names]
    if foreign:
        raise CheckpointError(
            f"checkpoint: expected an optimizer over the model's parameters, got others too: {foreign}; "
            "they have no structured name. Make them part of the model"
        )
    return {parameter.name: names[parameter.name] for parameter in _parameters(optimizer)}


def match_optimizer(
    model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, tensors: dict[str, paddle.Tensor]
) -> list[tuple[paddle.Tensor, paddle.Tensor]]:
    """Pair every accumulator with its value; create those that the first step would create, change no value.

    Raises:
        CheckpointError: the names or shapes do not fit.
    """
    parameters = {structured_names(model, optimizer)[p.name]: p for p in _parameters(optimizer)}
    wanted = {key.rsplit("/", 1)[0] for key in tensors}
    unknown = sorted(wanted - parameters.keys())
    if unknown:
        raise CheckpointError(f"the checkpoint does not fit the optimizer: it does not train {unknown}")
    optimizer._accumulators_holder = {}
    block = framework.default_main_program().global_block()
    optimizer._create_accumulators(block, [parameters[name] for name in sorted(wanted)])
    present = {
        key: t for key, t in optimizer_tensors(model, optimizer).items() if key.rsplit("/", 1)[0] in wanted
    }
    if present.keys() != tensors.keys():
        difference = sorted(present.keys() ^ tensors.keys())
        raise CheckpointError(f"the checkpoint does not fit the optimizer: accumulators differ: {difference}")
    for key, target in present.items():
        if list(target.shape) != list(tensors[key].shape):
            raise CheckpointError(
                f"the checkpoint does not fit the optimizer: {key}: expected shape {list(target.shape)}, "
                f"got {list(tensors[key].shape)}"
            )
    return [(present[key], tensors[key]) for key in tensors]


def load_optimizer(
    optimizer: paddle.optimizer.Optimizer, pairs: list[tuple[paddle.Tensor, paddle.Tensor]]
) -> None:
    """Set the accumulators of :func:`match_optimizer` and drop all others, which the next step creates."""
    loaded = {id(target) for target, _ in pairs}
    for tensors in optimizer._accumulators.values():
        for parameter in [name for name, tensor in tensors.items() if id(tensor) not in loaded]:
            del tensors[parameter]
            optimizer._already_create_accumulator.discard(parameter)
    for target, value in pairs:
        target.set_value(value)


def schedule_state(optimizer: paddle.optimizer.Optimizer) -> dict[str, Any]:
    """Return the optimizer's type and its learning rate or schedule, as JSON values."""
    schedule = optimizer._learning_rate
    if isinstance(schedule, LRScheduler):
        rate: Any = {"type": type(schedule).__name__, "state": schedule.state_dict()}
    else:
        rate = float(optimizer.get_lr())
    whole = getattr(optimizer, "unsharded", optimizer)  # checkpoints do not depend on how processes share it
    return {"type": type(whole).__name__, "learning_rate": rate}


def check_schedule(optimizer: paddle.optimizer.Optimizer, state: dict[str, Any]) -> None:
    """Check that :func:`load_schedule` will work.

    Raises:
        CheckpointError: the type of the optimizer or of the schedule differs.
    """
    expected = schedule_state(optimizer)
    if expected["type"] != state["type"]:
        raise CheckpointError(
            f"the checkpoint does not fit the optimizer: expected {expected['type']}, got {state['type']}"
        )
    kinds = [
        item["learning_rate"]["type"] if isinstance(item["learning_rate"], dict) else "a constant"
        for item in (expected, state)
    ]
    if kinds[0] != kinds[1]:
        raise CheckpointError(
            f"the checkpoint does not fit the learning-rate schedule: expected {kinds[0]}, got {kinds[1]}"
        )


def load_schedule(optimizer: paddle.optimizer.Optimizer, state: dict[str, Any]) -> None:
    """Put the schedule, or the constant learning rate, where it was; warn if the constant differs."""
    rate = state["learning_rate"]
    if isinstance(rate, dict):
        with warnings.catch_warnings():
            # LinearWarmup around another schedule always says so, of the state that it has just used.
            warnings.filterwarnings("ignore", "There are some unused values in state_dict")
            optimizer._learning_rate.set_state_dict(rate["state"])
        return
    if rate != optimizer.get_lr():
        warnings.warn(
            f"learning rate: the checkpoint's {rate:g} replaces the optimizer's {optimizer.get_lr():g}",
            stacklevel=2,
        )
    optimizer.set_lr(rate)


def _parameters(optimizer: paddle.optimizer.Optimizer) -> list[paddle.Tensor]:
    flat: list[paddle.Tensor] = []
    for entry in optimizer._parameter_list:
        flat.extend(entry["params"] if isinstance(entry, dict) else [entry])
    return flat

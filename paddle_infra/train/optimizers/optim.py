"""Optimizers as networks are fine-tuned: no decay on biases and norms, clipping, rates per layer and per group.

The learning rate follows a schedule with warm-up: see :mod:`paddle_infra.train.optimizers.schedules`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paddle

from paddle_infra._core.checks import check_choice
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.optimizers.adafactor import Adafactor
from paddle_infra.train.optimizers.clipping import ClipByGlobalNorm, ClipByValue
from paddle_infra.train.optimizers.decoupled import AdamW, L2DecayByParameter
from paddle_infra.train.optimizers.freezing import match_patterns
from paddle_infra.train.optimizers.lion import Lion
from paddle_infra.train.optimizers.schedules import Schedule, schedule_factor

__all__ = ["ParameterGroup", "Schedule", "adamw", "layer_of_parameters", "optimizer", "schedule_factor"]

NO_DECAY = ("bias", "norm")
_COUPLED = {
    "adam": paddle.optimizer.Adam,
    "sgd": paddle.optimizer.SGD,
    "momentum": paddle.optimizer.Momentum,
    "adagrad": paddle.optimizer.Adagrad,
}
_DECOUPLED = {"adafactor": Adafactor, "lion": Lion}
_NAMES = sorted(["adamw", *_COUPLED, *_DECOUPLED])


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with a learning rate or a weight decay of their own.

    Attributes:
        patterns: shell patterns (``*``, ``?``, ``[…]``) of structured parameter names, e.g. ``"head.*"``.
        learning_rate: peak learning rate, instead of the optimizer's; it follows the same schedule, and
            ``layer_decay`` still applies. None keeps the optimizer's.
        weight_decay: weight decay, also for biases and norms. None keeps the optimizer's rules.
    """

    patterns: Sequence[str]
    learning_rate: float | None = None
    weight_decay: float | None = None


def optimizer(
    model: paddle.nn.Layer,
    learning_rate: float,
    *,
    name: str = "adamw",
    weight_decay: float = 0.0,
    no_decay: Sequence[str] = NO_DECAY,
    layer_decay: float | None = None,
    groups: Sequence[ParameterGroup] = (),
    clip: ClipByGlobalNorm | ClipByValue | None = None,
    schedule: Callable[[int], float] | None = None,
    **options: Any,
) -> paddle.optimizer.Optimizer:
    """Return an optimizer over the trainable parameters of ``model``.

    Freeze parameters before (:func:`~paddle_infra.train.freeze`): the optimizer does not hold them.

    All parameters are in one list, not in Paddle's parameter groups, so that clipping sees the norm of all of them
    together. Rates of their own are kept on the parameters (``optimize_attr``).

    Args:
        model: the layer to train.
        learning_rate: peak learning rate.
        name: "adafactor", "adagrad", "adam", "adamw", "lion", "momentum" or "sgd". Weight decay is decoupled in
            "adafactor", "adamw" and "lion"; in the others it is a penalty on the loss, added to the gradient after
            clipping.
        weight_decay: weight decay.
        no_decay: parameters are not decayed if their structured name contains one of these words (in any
            case), or, for "norm", if they belong to a layer whose class name contains "Norm".
        layer_decay: factor per layer below the top, e.g. 0.9; None trains all layers at one rate. See
            :func:`~paddle_infra.train.optimizers.optim.layer_of_parameters`.
        groups: parameters with a rate or decay of their own.
        clip: gradient clipping.
        schedule: factor on every rate by step (from 0), such as :func:`~paddle_infra.train.schedule_factor`
            returns; None keeps the rates constant.
        options: further arguments of the optimizer, such as ``beta1``.

    Raises:
        InvalidInputError: an argument is out of range, the optimizer is unknown or takes no such option, a pattern
            or a word in ``no_decay`` (other than the default ones) matches no trainable parameter, or a parameter
            is in two groups. The model is unchanged then.
    """
    check_choice("name", name, _NAMES)
    _check_arguments(learning_rate, weight_decay, layer_decay)
    named = _trainable(model, "optimizer")
    groups_by_name = _groups_by_name(list(named), groups)
    decays = dict.fromkeys(named, float(weight_decay))
    decays |= dict.fromkeys(_names_without_decay(model, list(named), no_decay), 0.0)
    factors = _layer_factors(list(named), layer_decay)
    for parameter, group in groups_by_name.items():
        if group.weight_decay is not None:
            decays[parameter] = float(group.weight_decay)
        if group.learning_rate is not None:
            factors[parameter] *= group.learning_rate / learning_rate
    decay_of = {named[key].name: decay for key, decay in decays.items()}.__getitem__
    arguments: dict[str, Any] = {
        "learning_rate": _rate(learning_rate, schedule),
        "parameters": list(named.values()),
        "grad_clip": clip,
        **options,
    }
    kind: Any
    if name == "adamw":
        kind, arguments["decay_of"] = AdamW, decay_of
    elif name in _DECOUPLED:
        kind, arguments["weight_decay"] = _DECOUPLED[name], decay_of
    else:
        kind, arguments["weight_decay"] = _COUPLED[name], L2DecayByParameter(decay_of)
        if not any(decays.values()):
            del arguments["weight_decay"]
    try:
        result = kind(**arguments)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"optimizer {name!r}: expected options that it takes, got {options}: {error}"
        ) from error
    _set_factors(named, factors)
    return result


def adamw(
    model: paddle.nn.Layer,
    learning_rate: float,
    *,
    weight_decay: float = 0.01,
    no_decay: Sequence[str] = NO_DECAY,
    layer_decay: float | None = None,
    max_grad_norm: float | None = 1.0,
    warmup_steps: int = 0,
    total_steps: int | None = None,
    schedule: Schedule = "linear",
) -> paddle.optimizer.AdamW:
    """Return Paddle's AdamW over the trainable parameters of ``model`` with a learning-rate schedule.

    Args:
        model: the layer to train. With ``layer_decay`` its parameters carry their factor (``optimize_attr``).
        learning_rate: peak learning rate.
        weight_decay: decoupled weight decay.
        no_decay: parameters are not decayed if their structured name contains one of these words (in any
            case), or, for "norm", if they belong to a layer whose class name contains "Norm".
        layer_decay: factor per layer below the top, e.g. 0.9; None trains all layers at one rate. See
            :func:`layer_of_parameters`.
        max_grad_norm: gradients are scaled down to this global norm; None does not clip.
        warmup_steps: steps of linear warm-up.
        total_steps: steps of the whole run; needed unless the schedule is "constant".
        schedule: what follows the warm-up.

    Raises:
        InvalidInputError: an argument is out of range, or a word in ``no_decay`` (other than the default
            ones) matches no parameter.
    """
    _check_arguments(learning_rate, weight_decay, layer_decay)
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise InvalidInputError(f"max_grad_norm: expected a positive number or None, got {max_grad_norm!r}")
    named = _trainable(model, "adamw")
    excluded = _names_without_decay(model, list(named), no_decay)
    decayed = {parameter.name for name, parameter in named.items() if name not in excluded}
    rate = _rate(learning_rate, schedule_factor(schedule, warmup_steps, total_steps))
    _set_factors(named, _layer_factors(list(named), layer_decay))
    return paddle.optimizer.AdamW(
        learning_rate=rate,
        parameters=list(named.values()),
        weight_decay=weight_decay,
        apply_decay_param_fun=decayed.__contains__,
        grad_clip=None if max_grad_norm is None else ClipByGlobalNorm(max_grad_norm),
    )


def layer_of_parameters(names: Sequence[str]) -> dict[str, int]:
    """Number the layers that parameters belong to, from their structured names in the order of the model.

    The first number in a name is the layer (``encoder.layers.3.…``). Parameters without a number lie below
    all layers (0: embeddings) if they come before the first numbered one, else above them all (pooler, head).
    """
    numbers = {name: int(match[1]) for name in names if (match := re.search(r"(?:^|\.)(\d+)\.", name))}
    top = max(numbers.values(), default=-1) + 2
    layers: dict[str, int] = {}
    has_passed_layers = False
    for name in names:
        has_passed_layers = has_passed_layers or name in numbers
        layers[name] = numbers[name] + 1 if name in numbers else top if has_passed_layers else 0
    return layers


def _names_without_decay(model: paddle.nn.Layer, names: list[str], no_decay: Sequence[str]) -> set[str]:
    norms = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, layer in model.named_sublayers(include_self=True)
        if "Norm" in type(layer).__name__
        for name, _ in layer.named_parameters(include_sublayers=False)
    }
    excluded: set[str] = set()
    for word in no_decay:
        matches = {name for name in names if word.lower() in name.lower()}
        if word == "norm":
            matches |= norms & set(names)
        if not matches and word not in NO_DECAY:
            raise InvalidInputError(
                f"no_decay: expected a word found in parameter names, got {word!r}; names: {names}"
            )
        excluded |= matches
    return excluded


def _trainable(model: paddle.nn.Layer, caller: str) -> dict[str, Any]:
    named = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    if not named:
        raise InvalidInputError(f"{caller}: expected a model with trainable parameters, got none")
    return named


def _rate(learning_rate: float, schedule: Callable[[int], float] | None) -> Any:
    if schedule is None:
        return float(learning_rate)
    return paddle.optimizer.lr.LambdaDecay(learning_rate, schedule)


def _groups_by_name(names: list[str], groups: Sequence[ParameterGroup]) -> dict[str, ParameterGroup]:
    found: dict[str, ParameterGroup] = {}
    for group in groups:
        for label, value, is_valid in (
            ("learning_rate", group.learning_rate, lambda rate: 0 < rate < math.inf),
            ("weight_decay", group.weight_decay, lambda decay: 0 <= decay < math.inf),
        ):
            if value is not None and not is_valid(value):
                least = "a positive number" if label == "learning_rate" else "0 or more"
                raise InvalidInputError(f"{group}: {label}: expected {least}, got {value!r}")
        for name in match_patterns(names, group.patterns, "groups"):
            if name in found:
                raise InvalidInputError(
                    f"groups: expected each parameter in one group, got {name!r} in {found[name]} and {group}"
                )
            found[name] = group
    return found


def _layer_factors(names: list[str], layer_decay: float | None) -> dict[str, float]:
    layers = layer_of_parameters(names)
    top = max(layers.values())
    return {name: 1.0 if layer_decay is None else layer_decay ** (top - layers[name]) for name in names}


def _set_factors(named: dict[str, Any], factors: dict[str, float]) -> None:
    for name, parameter in named.items():
        parameter.optimize_attr["learning_rate"] = factors[name]


def _check_arguments(learning_rate: float, weight_decay: float, layer_decay: float | None) -> None:
    if not learning_rate > 0 or not math.isfinite(learning_rate):
        raise InvalidInputError(f"learning_rate: expected a positive number, got {learning_rate!r}")
    if not weight_decay >= 0:
        raise InvalidInputError(f"weight_decay: expected 0 or more, got {weight_decay!r}")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise InvalidInputError(f"layer_decay: expected a number above 0 and up to 1, got {layer_decay!r}")

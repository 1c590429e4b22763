r"""AdamW as transformers are fine-tuned: no decay on biases and norms, warm-up, clipping, layer-wise rates.

The learning rate of step *s* (from 0) is the peak times

.. math::
    f(s) = \begin{cases} (s + 1) / w & s < w \\ g\big((s - w) / (T - w)\big) & w \le s < T \\ g(1) & s \ge T
    \end{cases}

with *w* warm-up steps, *T* steps in all, and :math:`g(x) = 1 - x` ("linear"), :math:`(1 + \cos \pi x) / 2`
("cosine") or 1 ("constant"). The first step already learns: :math:`f(0) > 0`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

import paddle

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.clipping import ClipByGlobalNorm

Schedule = Literal["linear", "cosine", "constant"]
NO_DECAY = ("bias", "norm")


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
    _check_arguments(learning_rate, weight_decay, layer_decay, max_grad_norm)
    named = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    if not named:
        raise InvalidInputError("adamw: expected a model with trainable parameters, got none")
    excluded = _names_without_decay(model, list(named), no_decay)
    decayed = {parameter.name for name, parameter in named.items() if name not in excluded}
    layers = layer_of_parameters(list(named))
    top = max(layers.values())
    for name, parameter in named.items():
        factor = 1.0 if layer_decay is None else layer_decay ** (top - layers[name])
        parameter.optimize_attr["learning_rate"] = factor
    factor_of_step = schedule_factor(schedule, warmup_steps, total_steps)
    return paddle.optimizer.AdamW(
        learning_rate=paddle.optimizer.lr.LambdaDecay(learning_rate, factor_of_step),
        parameters=list(named.values()),
        weight_decay=weight_decay,
        apply_decay_param_fun=decayed.__contains__,
        grad_clip=None if max_grad_norm is None else ClipByGlobalNorm(max_grad_norm),
    )


def schedule_factor(schedule: Schedule, warmup_steps: int, total_steps: int | None) -> Callable[[int], float]:
    """Return the function from a step (from 0) to its factor on the peak learning rate.

    Raises:
        InvalidInputError: the schedule is unknown, or the numbers of steps do not fit.
    """
    if schedule not in ("linear", "cosine", "constant"):
        raise InvalidInputError(f"schedule: expected 'linear', 'cosine' or 'constant', got {schedule!r}")
    if warmup_steps < 0:
        raise InvalidInputError(f"warmup_steps: expected 0 or more, got {warmup_steps}")
    if schedule != "constant" and (total_steps is None or total_steps <= warmup_steps):
        raise InvalidInputError(
            f"total_steps: expected more than warmup_steps ({warmup_steps}) for schedule {schedule!r}, "
            f"got {total_steps}"
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "constant" or total_steps is None:
            return 1.0
        done = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        return 1.0 - done if schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2.0

    return factor


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


def _check_arguments(
    learning_rate: float, weight_decay: float, layer_decay: float | None, max_grad_norm: float | None
) -> None:
    if not learning_rate > 0 or not math.isfinite(learning_rate):
        raise InvalidInputError(f"learning_rate: expected a positive number, got {learning_rate!r}")
    if not weight_decay >= 0:
        raise InvalidInputError(f"weight_decay: expected 0 or more, got {weight_decay!r}")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise InvalidInputError(f"layer_decay: expected a number above 0 and up to 1, got {layer_decay!r}")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise InvalidInputError(f"max_grad_norm: expected a positive number or None, got {max_grad_norm!r}")

"""What optimizers with decoupled weight decay share: a decay per parameter, updates written as tensor operations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import paddle
from paddle.base import framework

from paddle_infra._core.errors import InvalidInputError, UnsupportedError

WeightDecay = float | Callable[[str], float]


class DecoupledOptimizer(ABC, paddle.optimizer.Optimizer):
    """Base of optimizers that are written in Paddle's own operations, for dynamic mode.

    A subclass lists its accumulators in ``_make_accumulators`` and changes the parameter in place in ``_update``.
    Schedules, clipping, parameter groups and learning rates per parameter (``optimize_attr``) are Paddle's.

    Args:
        learning_rate: rate or schedule.
        parameters: parameters or parameter groups, as for Paddle's optimizers.
        weight_decay: decay, or a function from a parameter's name (``parameter.name``) to its decay. A parameter
            group's own ``weight_decay`` comes first.
        grad_clip: gradient clipping.
        name: prefix of the accumulators.

    Raises:
        InvalidInputError: ``weight_decay`` is negative.
        UnsupportedError: a parameter is neither float32 nor float64 (then at the first step).
    """

    def __init__(
        self,
        learning_rate: float | paddle.optimizer.lr.LRScheduler,
        parameters: Any,
        weight_decay: WeightDecay,
        grad_clip: Any,
        name: str | None,
    ) -> None:
        self._decay_of = decay_function(weight_decay)
        self._decay_of_group: dict[str, float] = {}
        super().__init__(learning_rate, parameters, None, grad_clip, name)

    @abstractmethod
    def _make_accumulators(self, parameter: Any) -> None: ...

    @abstractmethod
    def _update(self, parameter: Any, gradient: Any, learning_rate: Any, weight_decay: float) -> None: ...

    def _add_param_group(self, param_group: dict[str, Any]) -> None:
        own = param_group.pop("weight_decay", None)  # Paddle would make it a penalty on the loss
        super()._add_param_group(param_group)
        if own is not None:
            decay = decay_function(own)
            self._decay_of_group.update((p.name, decay(p.name)) for p in param_group["params"])

    def _create_accumulators(self, block: Any, parameters: Any) -> None:
        if isinstance(parameters, dict):
            parameters = parameters["params"]
        for parameter in parameters:
            if parameter.name in self._already_create_accumulator:
                continue
            if parameter.dtype not in (paddle.float32, paddle.float64):
                raise UnsupportedError(
                    f"{type(self).__name__}: expected parameters of float32 or float64, got {parameter.dtype} "
                    f"({parameter.name})"
                )
            self._make_accumulators(parameter)
            self._already_create_accumulator.add(parameter.name)

    def _append_optimize_op(self, block: Any, param_and_grad: Any) -> None:
        if not framework.in_dygraph_mode():
            raise UnsupportedError(f"{type(self).__name__}: expected dynamic mode, got a static program")
        if isinstance(param_and_grad, dict):
            param_and_grad = param_and_grad["params"]
        parameter, gradient = param_and_grad
        decay = self._decay_of_group.get(parameter.name)
        self._update(
            parameter,
            gradient.astype(parameter.dtype),
            self._create_param_lr(param_and_grad).astype(parameter.dtype),
            self._decay_of(parameter.name) if decay is None else decay,
        )


class AdamW(paddle.optimizer.AdamW):
    """Paddle's AdamW with a decay per parameter; its state is Paddle's AdamW's.

    Args:
        learning_rate: rate or schedule.
        parameters: a list of parameters (no groups: Paddle clips each group by its own norm).
        decay_of: function from a parameter's name (``parameter.name``) to its decay.
        options: everything else that Paddle's AdamW takes.
    """

    def __init__(
        self,
        learning_rate: float | paddle.optimizer.lr.LRScheduler,
        parameters: list[Any],
        decay_of: Callable[[str], float],
        **options: Any,
    ) -> None:
        self._decay_of = decay_of
        super().__init__(learning_rate, parameters=parameters, **options)

    def _append_optimize_op(self, block: Any, param_and_grad: Any) -> Any:
        self._weight_decay = self._decay_of(param_and_grad[0].name)
        return super()._append_optimize_op(block, param_and_grad)


class L2DecayByParameter(paddle.regularizer.WeightDecayRegularizer):
    r"""The penalty :math:`\frac{\lambda}{2} \lVert \theta \rVert^2` with one :math:`\lambda` per parameter.

    For optimizers whose decay is coupled (SGD, Momentum, Adam, Adagrad): it is added to the gradient. Unlike
    Paddle's ``ParamAttr(regularizer=...)`` and parameter groups it leaves no trace on the parameters.

    Args:
        decay_of: function from a parameter's name (``parameter.name``) to its decay.
    """

    def __init__(self, decay_of: Callable[[str], float]) -> None:
        self._decay_of = decay_of

    def __call__(self, param: Any, grad: Any, block: Any) -> Any:
        """Return what is added to the gradient."""
        return paddle.scale(param, self._decay_of(param.name))

    def __str__(self) -> str:
        return "L2DecayByParameter"


def decay_function(weight_decay: WeightDecay) -> Callable[[str], float]:
    """Return the function from a parameter's name to its decay.

    Raises:
        InvalidInputError: the decay is negative, NaN or infinite.
    """
    if callable(weight_decay):
        return weight_decay
    if not 0 <= weight_decay < float("inf"):
        raise InvalidInputError(f"weight_decay: expected 0 or more, got {weight_decay!r}")
    decay = float(weight_decay)
    return lambda _: decay


def check_rate(name: str, value: float, *, is_below_one: bool = False) -> float:
    """Return a hyperparameter of an optimizer as a float.

    Raises:
        InvalidInputError: it is negative, NaN or infinite, or 1 or more if ``is_below_one``.
    """
    limit = 1.0 if is_below_one else float("inf")
    if not 0 <= value < limit:
        expected = "a number from 0 up to but not 1" if is_below_one else "0 or more"
        raise InvalidInputError(f"{name}: expected {expected}, got {value!r}")
    return float(value)

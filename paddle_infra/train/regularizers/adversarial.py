r"""Adversarial training: the loss at the worst point near a parameter, usually the word embeddings.

Both steps follow the gradient of :math:`L(\theta) + L(\theta + r)`, where *r* moves one parameter in the direction
in which the loss of this micro-batch grows. The parameter is put back bit for bit before the optimizer steps.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paddle

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.window import MicroBatch


class FGM:
    r"""Fast gradient method: one step of length ``epsilon``, :math:`r = \epsilon \, g / \lVert g \rVert_2`.

    Costs a second forward and backward pass. A training step: ``Trainer(model, optimizer, FGM(step, "…"))``.

    Args:
        training_step: the step to make robust; see :class:`~paddle_infra.train.Trainer`.
        parameter: structured name of the parameter to move, or a pattern that fits just one
            (``"*word_embeddings.weight"``).
        epsilon: length of the perturbation, > 0.

    Raises:
        InvalidInputError: ``epsilon`` is not positive.

    References:
        Miyato et al., Adversarial training methods for semi-supervised text classification, arXiv:1605.07725,
        eq. 5 (the embeddings are not normalised here).
    """

    def __init__(
        self,
        training_step: Callable[[paddle.nn.Layer, Any], paddle.Tensor],
        parameter: str,
        *,
        epsilon: float = 1.0,
    ) -> None:
        _check_positive("epsilon", epsilon)
        self.training_step, self.parameter, self.epsilon = training_step, parameter, epsilon

    def __call__(self, model: paddle.nn.Layer, batch: Any) -> paddle.Tensor:
        """Return the loss of the wrapped step."""
        return self.training_step(model, batch)

    def around(self, network: paddle.nn.Layer, micro_batch: MicroBatch) -> float:
        """Make the passes of one micro-batch; return its loss without the perturbation.

        Raises:
            InvalidInputError: the pattern fits no trainable parameter or several, or the loss does not depend
                on it.
        """
        parameter = find_parameter(network, self.parameter)
        with own_gradient(parameter):
            loss = micro_batch.backward()
            if not math.isfinite(loss):
                return loss
            if parameter.grad is None:
                raise InvalidInputError(
                    f"{type(self).__name__}: expected a loss that depends on {self.parameter!r}, got no gradient"
                )
            with moved(parameter) as origin:
                self._attack(parameter, origin, micro_batch)
                adversarial = micro_batch.backward()
        return loss if math.isfinite(adversarial) else adversarial

    def _attack(self, parameter: paddle.Tensor, origin: paddle.Tensor, micro_batch: MicroBatch) -> None:
        """Move the parameter by its gradient."""
        step = unit(parameter.grad)
        if step is not None:
            _set(parameter, origin + self.epsilon * step)


class PGD(FGM):
    r"""Projected gradient descent: ``steps`` steps of length ``step_size`` that stay within ``epsilon``.

    .. math:: r_{t+1} = \Pi_{\lVert r \rVert \le \epsilon} \bigl(r_t + \alpha \, g_t / \lVert g_t \rVert_2\bigr)

    with :math:`g_t` the gradient at :math:`\theta + r_t`, and :math:`r_0 = 0`. Costs ``steps`` more forward and
    backward passes. Other arguments: see :class:`FGM`.

    Args:
        training_step: the step to make robust.
        parameter: structured name, or a pattern that fits just one.
        epsilon: the largest length of the perturbation, > 0.
        step_size: length of one step, > 0.
        steps: number of steps, >= 1.

    Raises:
        InvalidInputError: an argument is out of range.

    References:
        Madry et al., Towards deep learning models resistant to adversarial attacks, arXiv:1706.06083 (with the
        L2 norm, and no random start).
    """

    def __init__(
        self,
        training_step: Callable[[paddle.nn.Layer, Any], paddle.Tensor],
        parameter: str,
        *,
        epsilon: float = 1.0,
        step_size: float = 0.3,
        steps: int = 3,
    ) -> None:
        super().__init__(training_step, parameter, epsilon=epsilon)
        _check_positive("step_size", step_size)
        if steps < 1:
            raise InvalidInputError(f"steps: expected 1 or more, got {steps}")
        self.step_size, self.steps = step_size, steps

    def _attack(self, parameter: paddle.Tensor, origin: paddle.Tensor, micro_batch: MicroBatch) -> None:
        gradient = parameter.grad
        offset = paddle.zeros_like(origin)
        for index in range(self.steps):
            if index:
                # Only this gradient: the others' must not grow by passes that are not part of the loss.
                (gradient,) = paddle.grad(micro_batch.forward(), [parameter])
            step = unit(gradient)
            if step is None:
                return
            offset = offset + self.step_size * step
            length = float(paddle.linalg.norm(offset))
            if length > self.epsilon:
                offset = offset * (self.epsilon / length)
            _set(parameter, origin + offset)


def find_parameter(network: paddle.nn.Layer, pattern: str) -> paddle.Tensor:
    """Return the one trainable parameter whose structured name fits a pattern (``*``, ``?``).

    Raises:
        InvalidInputError: none fits, or several do.
    """
    names = [name for name, parameter in network.named_parameters() if not parameter.stop_gradient]
    fitting = fnmatch.filter(names, pattern)
    if len(fitting) != 1:
        raise InvalidInputError(
            f"expected a pattern that fits one trainable parameter, {pattern!r} fits {fitting or 'none'} of {names}"
        )
    return dict(network.named_parameters())[fitting[0]]


@contextmanager
def own_gradient(parameter: paddle.Tensor) -> Iterator[None]:
    """Let the body see only its own gradient of a parameter; then add what earlier micro-batches left."""
    earlier = None if parameter.grad is None else parameter.grad.clone()
    if earlier is not None:
        with paddle.no_grad():
            parameter.grad.zero_()
    yield
    if earlier is not None:
        with paddle.no_grad():
            parameter.grad.add_(earlier)


@contextmanager
def moved(parameter: paddle.Tensor) -> Iterator[paddle.Tensor]:
    """Let the body change a parameter, from the copy that this gives; then put it back bit for bit."""
    origin = parameter.detach().clone()
    try:
        yield origin
    finally:
        _set(parameter, origin)


def unit(gradient: paddle.Tensor) -> paddle.Tensor | None:
    """Return the gradient over its norm; None if that is zero or not finite (a scaled loss may overflow)."""
    norm = float(paddle.linalg.norm(gradient.astype("float32")))
    return gradient / norm if norm > 0 and math.isfinite(norm) else None


def _set(parameter: paddle.Tensor, value: paddle.Tensor) -> None:
    with paddle.no_grad():
        paddle.assign(value, parameter)


def _check_positive(name: str, value: float) -> None:
    if not value > 0 or not math.isfinite(value):
        raise InvalidInputError(f"{name}: expected a positive number, got {value!r}")

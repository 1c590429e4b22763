"""Dropout that changes while a model is trained."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import TYPE_CHECKING

import paddle

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.callbacks import Callback

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


def ramp(start: float, end: float, steps: int) -> Callable[[int], float]:
    """Return the function from a step (from 0) to a value that goes from ``start`` to ``end`` in ``steps`` steps.

    Raises:
        InvalidInputError: ``steps`` is below 1.
    """
    if steps < 1:
        raise InvalidInputError(f"steps: expected 1 or more, got {steps}")
    return lambda step: start + (end - start) * min(1.0, step / steps)


class DropoutSchedule(Callback):
    """Sets the dropout probability of layers before every step; afterwards they have their own again.

    The probability is a function of the step alone, so a resumed run goes on with the right one.

    Args:
        probability: ``probability(step)``, steps from 0, e.g. ``ramp(0.1, 0.0, 1000)`` to learn without dropout
            in the end, or ``ramp(0.0, 0.1, 1000)`` to begin without it.
        layers: pattern of structured names (``encoder.*``) of the layers; None is all that have dropout:
            Paddle's ``Dropout`` layers (attribute ``p``) and layers with a number as attribute ``dropout``, as
            those of :mod:`paddle_infra.nn`.

    References:
        Morerio et al., Curriculum dropout, arXiv:1703.06229; Liu et al., Dropout reduces underfitting,
        arXiv:2303.01500.
    """

    def __init__(self, probability: Callable[[int], float], *, layers: str | None = None) -> None:
        self.probability, self.layers = probability, layers
        self._originals: list[tuple[paddle.nn.Layer, str, float]] = []

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Find the layers.

        Raises:
            InvalidInputError: no layer that fits has dropout.
        """
        self._originals = [
            (layer, attribute, getattr(layer, attribute))
            for name, layer in trainer.model.named_sublayers(include_self=True)
            if (attribute := _dropout_attribute(layer)) is not None
            and (self.layers is None or fnmatch.fnmatch(name, self.layers))
        ]
        if not self._originals:
            raise InvalidInputError(
                f"DropoutSchedule: expected layers with dropout, {self.layers!r} fits none"
            )

    def on_step_begin(self, trainer: Trainer) -> None:
        """Set the probability of this step.

        Raises:
            InvalidInputError: it is not from 0 to below 1.
        """
        value = self.probability(trainer.state.step)
        if not 0 <= value < 1:
            raise InvalidInputError(
                f"DropoutSchedule: expected a probability from 0 to below 1 for step {trainer.state.step}, "
                f"got {value!r}"
            )
        for layer, attribute, _ in self._originals:
            setattr(layer, attribute, value)

    def on_close(self, trainer: Trainer) -> None:
        """Put back what the layers had."""
        for layer, attribute, value in self._originals:
            setattr(layer, attribute, value)
        self._originals = []


def _dropout_attribute(layer: paddle.nn.Layer) -> str | None:
    if isinstance(
        layer, (paddle.nn.Dropout, paddle.nn.Dropout2D, paddle.nn.Dropout3D, paddle.nn.AlphaDropout)
    ):
        return "p"
    return "dropout" if type(getattr(layer, "dropout", None)) is float else None

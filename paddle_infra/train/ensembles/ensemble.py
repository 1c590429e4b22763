"""Several models as one: the average of their logits or of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import paddle
import paddle.nn.functional as F

from paddle_infra._core.errors import InvalidInputError


class Ensemble(paddle.nn.Layer):
    r"""Runs models on the same inputs and averages what they return.

    .. math:: \bar z = \sum_m w_m z_m \quad\text{or}\quad \bar p = \sum_m w_m \operatorname{softmax}(z_m),
        \qquad \sum_m w_m = 1

    with the logits :math:`z_m` of shape ``[..., classes]``. The sum runs in float32, also for logits of less
    precision. The models are sub-layers: their parameters, their modes (``eval()``) and an export are those of any
    layer, and gradients flow unless ``paddle.no_grad()`` is in force.

    Args:
        models: at least one layer.
        average: "logits" or "probabilities".
        weights: one non-negative number per model; they are divided by their sum. None weighs all alike.
        output: which of a model's outputs holds the logits: a key if it returns a dict, an index if it
            returns a sequence; None if it returns the logits alone.

    Raises:
        InvalidInputError: no models, the same layer twice, an unknown average, or bad weights. In a call: the
            models return different shapes.
    """

    def __init__(
        self,
        models: Sequence[paddle.nn.Layer],
        *,
        average: Literal["logits", "probabilities"] = "logits",
        weights: Sequence[float] | None = None,
        output: str | int | None = None,
    ) -> None:
        super().__init__()
        if not models or not all(isinstance(model, paddle.nn.Layer) for model in models):
            raise InvalidInputError(f"Ensemble: expected at least one layer, got {list(models)!r}")
        if len({id(model) for model in models}) != len(models):
            raise InvalidInputError("Ensemble: expected different layers, got one of them twice")
        if average not in ("logits", "probabilities"):
            raise InvalidInputError(
                f"Ensemble: average: expected 'logits' or 'probabilities', got {average!r}"
            )
        self.models = paddle.nn.LayerList(list(models))
        self.average, self.output = average, output
        self.weights = normalized_weights(weights, len(models), "Ensemble")

    def forward(self, *inputs: Any, **named: Any) -> paddle.Tensor:
        """Return the average, float32, for the inputs that every model takes."""
        results = []
        for model in self.models:
            results.append(model(*inputs, **named))
        logits = _logits(results, self.output)
        return _weighted(logits, self.weights, self.average == "probabilities")


def normalized_weights(weights: Sequence[float] | None, count: int, who: str) -> list[float]:
    """Return ``count`` weights that sum to one; None gives equal ones.

    Raises:
        InvalidInputError: another number of weights, one that is negative or not finite, or all zero.
    """
    if weights is None:
        return [1.0 / count] * count
    values = [float(weight) for weight in weights]
    if (
        len(values) != count
        or not all(math.isfinite(value) and value >= 0 for value in values)
        or not sum(values)
    ):
        raise InvalidInputError(
            f"{who}: weights: expected {count} non-negative numbers that are not all zero, got {values}"
        )
    total = math.fsum(values)
    return [value / total for value in values]


@paddle.jit.not_to_static  # plain Python, not to be rewritten by the tracer
def _logits(results: Sequence[Any], output: str | int | None) -> list[paddle.Tensor]:
    """Take the logits out of every model's result.

    Raises:
        InvalidInputError: they have different shapes, which adding them might hide by a broadcast.
    """
    logits = [result if output is None else result[output] for result in results]
    shapes = [
        list(tensor.shape) for tensor in logits
    ]  # while a program is traced, an unknown size is -1 in all
    if any(shape != shapes[0] for shape in shapes):
        raise InvalidInputError(f"Ensemble: expected logits of one shape, got {shapes}")
    return logits


@paddle.jit.not_to_static
def _weighted(logits: list[paddle.Tensor], weights: list[float], use_softmax: bool) -> paddle.Tensor:
    values = [tensor.astype("float32") for tensor in logits]
    if use_softmax:
        values = [F.softmax(value, axis=-1) for value in values]
    # Products with a tensor, not with a number: Paddle's oneDNN passes for inference lose the scale of an operand
    # of an addition (operator_scale_onednn_fuse_pass, 3.3.1), so that the first model would weigh 1.
    shares = [paddle.full([1], weight, dtype="float32") for weight in weights]
    return paddle.add_n([value * share for value, share in zip(values, shares, strict=True)])

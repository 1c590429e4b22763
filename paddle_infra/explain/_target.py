"""Which number of the model's output is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import paddle
import paddle.nn.functional as F

from paddle_infra._core.checks import check_choice
from paddle_infra._core.errors import InvalidInputError

ScoreName = Literal["logit", "log_probability", "probability"]
_SCORES = ("logit", "log_probability", "probability")


@dataclass(frozen=True)
class Target:
    """For every row the class, and the position in the sequence if there are several.

    Attributes:
        classes: ``[batch]``, int64.
        positions: ``[batch]``, int64, or None.
        score: what of that class is explained.
    """

    classes: np.ndarray
    positions: np.ndarray | None
    score: ScoreName

    def scores(self, output: paddle.Tensor, rows: np.ndarray) -> paddle.Tensor:
        """Return the explained number of every row: ``[rows]``."""
        logits = at_positions(output, None if self.positions is None else self.positions[rows])
        return _picked(logits, self.classes[rows], self.score)

    def probabilities(self, output: paddle.Tensor, rows: np.ndarray) -> np.ndarray:
        """Return the probability of every row's class."""
        logits = at_positions(output, None if self.positions is None else self.positions[rows])
        return _picked(logits, self.classes[rows], "probability").numpy().astype(np.float64)


def as_positions(position: Any, output: paddle.Tensor) -> np.ndarray | None:
    """Return the positions as ``[batch]``.

    Raises:
        InvalidInputError: given without a sequence of outputs, missing with one, or outside it.
    """
    batch = output.shape[0]
    if (len(output.shape) == 3) != (position is not None):
        wanted = "a token" if position is None else "None"
        raise InvalidInputError(
            f"position: expected {wanted} for outputs of shape {list(output.shape)}, got {position!r}"
        )
    return None if position is None else _per_row("position", position, batch, output.shape[1])


def as_classes(target: Any, logits: paddle.Tensor) -> np.ndarray:
    """Return the classes as ``[batch]``; None: the ones with the largest logits.

    Raises:
        InvalidInputError: outside the classes, or not one number or one for each row.
    """
    if target is None:
        return logits.argmax(axis=-1).numpy().astype(np.int64)
    return _per_row("target", target, *logits.shape)


def check_score(score: str) -> None:
    """Raise unless it is the name of a score."""
    check_choice("score", score, _SCORES)


def at_positions(output: paddle.Tensor, positions: np.ndarray | None) -> paddle.Tensor:
    """Return logits ``[rows, classes]``, of the given positions if there are several; ``[rows]`` is one class."""
    if positions is not None:
        return paddle.take_along_axis(
            output, paddle.to_tensor(positions).reshape([-1, 1, 1]), axis=1, broadcast=True
        ).squeeze(1)
    return output.unsqueeze(-1) if len(output.shape) == 1 else output


def _picked(logits: paddle.Tensor, classes: np.ndarray, score: str) -> paddle.Tensor:
    if logits.shape[1] == 1:  # one logit: the probability of "yes"
        functions = {"log_probability": F.log_sigmoid, "probability": F.sigmoid}
    else:
        functions = {"log_probability": F.log_softmax, "probability": F.softmax}
    made = logits if score == "logit" else functions[score](logits)
    return paddle.take_along_axis(made, paddle.to_tensor(classes).unsqueeze(-1), axis=1).squeeze(-1)


def _per_row(name: str, value: Any, batch: int, count: int) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.shape not in ((), (batch,)):
        raise InvalidInputError(f"{name}: expected an integer or {batch} of them, got {value!r:.80}")
    if ((array < 0) | (array >= count)).any():
        raise InvalidInputError(f"{name}: expected at least 0 and below {count}, got {array.tolist()}")
    return np.broadcast_to(array, (batch,)).astype(np.int64)

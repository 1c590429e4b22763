"""Scores of next tokens: the most probable ones of each sequence, without those that are banned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import paddle
from paddle import Tensor

from paddle_infra import ops
from paddle_infra._core.checks import UNKNOWN, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError

_FLOATS = ("float32", "float64", "float16", "bfloat16")
Candidates = tuple[np.ndarray, np.ndarray]  # log probabilities and tokens, both [rows, k], the best first


@dataclass(frozen=True)
class LinearScores:
    """Next-token logits ``hidden @ weight + bias`` that are not computed yet.

    Where a method needs only the most probable tokens, :func:`paddle_infra.ops.linear_topk_log_prob` finds them
    without storing the logits.

    Attributes:
        hidden: ``[rows, D]``.
        weight: ``[V, D]``, or ``[D, V]`` with ``weight_layout="dv"``.
        bias: ``[V]`` or None.
        weight_layout: ``"vd"`` or ``"dv"``.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    weight_layout: Literal["vd", "dv"] = "vd"

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.weight.shape[0 if self.weight_layout == "vd" else 1]

    def top(self, k: int) -> Candidates:
        """Return the most probable tokens; of equally probable ones the lowest numbers."""
        log_prob, token = ops.linear_topk_log_prob(
            self.hidden, self.weight, k, bias=self.bias, weight_layout=self.weight_layout
        )
        check_numbers(log_prob.numpy())
        return log_prob.numpy().astype(np.float64), token.numpy()

    def logits(self) -> np.ndarray:
        """Return the logits, float64 ``[rows, V]``."""
        logits = paddle.matmul(self.hidden, self.weight, transpose_y=self.weight_layout == "vd")
        return (logits if self.bias is None else logits + self.bias).numpy().astype(np.float64)


class _Logits:
    """Logits as they are, with the methods of :class:`LinearScores`."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.astype("float64").numpy()
        self.vocab_size = values.shape[1]

    def top(self, k: int) -> Candidates:
        return top_log_prob(self._values, k)

    def logits(self) -> np.ndarray:
        return self._values


def checked_scores(scores: Tensor | LinearScores, rows: int) -> LinearScores | _Logits:
    """Return what a step gave, if it is scores of ``rows`` sequences.

    Raises:
        InvalidInputError: the shape does not fit.
        InvalidDtypeError: it is neither a floating-point tensor nor :class:`LinearScores`.
    """
    if isinstance(scores, LinearScores):
        check_shape("hidden of the step", scores.hidden, [rows, UNKNOWN], "[rows, hidden_size]")
        return scores
    check_tensor("logits of the step", scores, _FLOATS)
    check_shape("logits of the step", scores, [rows, UNKNOWN], "[rows, vocab_size]")
    return _Logits(scores)


def top_log_prob(logits: np.ndarray, k: int) -> Candidates:
    """Return the ``k`` most probable tokens of each row; of equally probable ones the lowest numbers."""
    with np.errstate(invalid="ignore"):  # ∞ - ∞, which is refused below
        log_prob = logits - logits.max(axis=1, keepdims=True)
        log_prob -= np.log(np.exp(log_prob).sum(axis=1, keepdims=True))
    check_numbers(log_prob)
    vocab_size = logits.shape[1]
    tokens = np.empty((len(logits), k), np.int64)
    for row, values in enumerate(log_prob):
        # All that are at least as good as the k-th (more than k if there are equal ones), in order of their numbers.
        enough = np.arange(vocab_size)
        if k < vocab_size:
            enough = np.flatnonzero(values >= np.partition(values, vocab_size - k)[vocab_size - k])
        tokens[row] = enough[np.argsort(-values[enough], kind="stable")[:k]]
    return np.take_along_axis(log_prob, tokens, axis=1), tokens


def penalized(logits: np.ndarray, penalty: float, histories: Sequence[np.ndarray]) -> np.ndarray:
    """Return the logits, those of tokens in each row's history made less probable (see ``GenerationLimits``)."""
    changed = logits.copy()
    for row, history in enumerate(histories):
        seen = np.unique(history)
        changed[row, seen] = np.where(
            logits[row, seen] > 0, logits[row, seen] / penalty, logits[row, seen] * penalty
        )
    return changed


def without(candidates: Candidates, banned: Sequence[np.ndarray], k: int) -> Candidates:
    """Return the best ``k`` candidates; those that are banned have log probability -∞ and come last."""
    log_prob, tokens = candidates
    is_banned = np.stack([np.isin(row, ids) for row, ids in zip(tokens, banned, strict=True)])
    order = np.argsort(is_banned, axis=1, kind="stable")[:, :k]
    log_prob = np.where(is_banned, -np.inf, log_prob)
    return np.take_along_axis(log_prob, order, axis=1), np.take_along_axis(tokens, order, axis=1)


def check_numbers(log_prob: np.ndarray) -> None:
    """Raise if there is a NaN.

    Raises:
        InvalidInputError: there is one; the message names its row.
    """
    if np.isnan(log_prob).any():
        row = int(np.isnan(log_prob).any(axis=1).argmax())
        raise InvalidInputError(f"scores of next tokens: expected numbers, got NaN in row {row}")

"""Which next tokens are allowed, given what a sequence holds already."""

from __future__ import annotations

import numpy as np
from paddle import Tensor

from paddle_infra.models.generation.methods import GenerationLimits
from paddle_infra.models.generation.prompt import Prompt
from paddle_infra.models.generation.scores import (
    Candidates,
    LinearScores,
    checked_scores,
    penalized,
    top_log_prob,
    without,
)


def best_candidates(
    scores: Tensor | LinearScores, k: int, limits: GenerationLimits, prompt: Prompt, generated: np.ndarray
) -> Candidates:
    """Return the ``k`` most probable allowed next tokens of each row, or all if there are fewer.

    Args:
        scores: of the next tokens.
        k: how many are wanted.
        limits: what is allowed.
        prompt: the prompts.
        generated: ``[rows, tokens]``: what follows them so far; rows of a prompt are side by side.

    Returns:
        Log probabilities (-∞: not allowed) and tokens, ``[rows, min(k, vocab_size)]``, the best first.

    Raises:
        InvalidInputError: the scores have another shape, or are NaN.
        InvalidDtypeError: the scores are no tensor of numbers.
    """
    rows, step = generated.shape
    checked = checked_scores(scores, rows)
    needs_history = limits.repetition_penalty != 1.0 or limits.no_repeat_ngram > 0
    histories = prompt.histories(generated) if needs_history else []
    banned = _banned(limits, step, rows, histories)
    k = min(k, checked.vocab_size)
    enough = min(k + max(len(ids) for ids in banned), checked.vocab_size)
    if limits.repetition_penalty != 1.0:
        found = top_log_prob(penalized(checked.logits(), limits.repetition_penalty, histories), enough)
    else:
        found = checked.top(enough)
    return without(found, banned, k)


def _banned(limits: GenerationLimits, step: int, rows: int, histories: list[np.ndarray]) -> list[np.ndarray]:
    ends = np.array(limits.end_ids if step < limits.min_new_tokens else (), np.int64)
    if not limits.no_repeat_ngram:
        return [ends] * rows
    return [np.union1d(ends, repeating(history, limits.no_repeat_ngram)) for history in histories]


def repeating(history: np.ndarray, size: int) -> np.ndarray:
    """Return the tokens that would complete a sequence of ``size`` tokens that ``history`` already has."""
    if len(history) < size:
        return np.empty(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(history, size)
    last = history[len(history) - size + 1 :]
    return np.unique(windows[(windows[:, :-1] == last).all(axis=1), -1])

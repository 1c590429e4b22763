"""What generation returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Generation:
    """Generated sequences as NumPy arrays; ``n`` results for each prompt, in beam search the best first.

    Where beam search found fewer than ``n``, the rest have length 0 and score -∞.

    Attributes:
        tokens: int64 ``[batch_size, n, length]``: what was added to the prompts, the end token included, and
            ``pad_id`` behind it. ``length`` is the longest one's.
        lengths: int64 ``[batch_size, n]``: tokens of each.
        log_probs: float64 ``[batch_size, n]``: sums of the tokens' log probabilities as the model and its repetition
            penalty gave them, before any temperature.
        scores: float64 ``[batch_size, n]``: what beam search ranks by; otherwise ``log_probs``.
        is_finished: bool ``[batch_size, n]``: whether there is an end token. Where not, the maximum length was
            reached, or no token was allowed.
        steps: how often the model was called, the prompt included.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    log_probs: np.ndarray
    scores: np.ndarray
    is_finished: np.ndarray
    steps: int

"""Generate sequences: the entry to all methods, and those that extend every sequence by one token at a time."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from paddle_infra.models.generation.beam import beam_search
from paddle_infra.models.generation.constraints import best_candidates
from paddle_infra.models.generation.methods import BeamSearch, GenerationLimits, GreedySearch, Sampling
from paddle_infra.models.generation.prompt import Prompt
from paddle_infra.models.generation.result import Generation
from paddle_infra.models.generation.steps import Steps


def generate(
    steps: Steps,
    prompt: Tensor,
    limits: GenerationLimits,
    method: GreedySearch | BeamSearch | Sampling,
    *,
    prompt_lengths: Tensor | None = None,
) -> Generation:
    """Continue prompts; no gradients. Decisions are made in NumPy, in float64, and equal every time.

    What becomes of a prompt does not depend on the other prompts or their padding, as far as the model's scores
    do not. The loop stops as soon as all sequences are finished.

    Args:
        steps: the model, which has seen nothing yet.
        prompt: int32 or int64 ``[batch_size, prompt_len]``, right-padded; at least one token each.
        limits: lengths, special tokens and constraints.
        method: how to choose tokens.
        prompt_lengths: int ``[batch_size]``: how many tokens of the prompts exist; None: all.

    Raises:
        InvalidInputError: shapes or numbers do not fit, or a score is NaN.
        InvalidDtypeError: an argument has an unsuitable dtype or type.
    """
    checked = Prompt.checked(prompt, prompt_lengths)
    with paddle.no_grad():
        if isinstance(method, BeamSearch):
            return beam_search(steps, checked, limits, method)
        if isinstance(method, (GreedySearch, Sampling)):
            return _extend(steps, checked, limits, method)
    raise InvalidDtypeError(
        f"method: expected GreedySearch, BeamSearch or Sampling, got {type(method).__name__}"
    )


def _extend(
    steps: Steps, prompt: Prompt, limits: GenerationLimits, method: GreedySearch | Sampling
) -> Generation:
    copies = method.num_results if isinstance(method, Sampling) else 1
    draws = _Draws(method, prompt.batch_size) if isinstance(method, Sampling) else None
    rows = prompt.batch_size * copies
    tokens = np.zeros((rows, limits.max_new_tokens), np.int64)
    lengths, log_probs = np.zeros(rows, np.int64), np.zeros(rows)
    is_finished, is_open = np.zeros(rows, bool), np.ones(rows, bool)
    step = 0
    while is_open.any() and step < limits.max_new_tokens:
        is_first = step == 0
        scores = steps.step(*prompt.tensors()) if is_first else steps.step(_column(tokens[:, step - 1]), None)
        # The model sees a prompt once; its copies begin with the same candidates.
        before = tokens[:: copies if is_first else 1, :step]
        log_prob, token = best_candidates(scores, 1 if draws is None else draws.top_k, limits, prompt, before)
        if is_first and copies > 1:
            steps.repeat(copies)
            log_prob, token = np.repeat(log_prob, copies, axis=0), np.repeat(token, copies, axis=0)
        pick = np.zeros(rows, np.int64) if draws is None else draws.pick(log_prob, is_open)
        log_prob, token = log_prob[np.arange(rows), pick], token[np.arange(rows), pick]
        is_open &= np.isfinite(log_prob)  # else nothing is allowed
        tokens[:, step] = token  # also where nothing follows: the model needs some token
        lengths += is_open
        log_probs[is_open] += log_prob[is_open]
        is_finished |= is_open & np.isin(token, limits.end_ids)
        is_open &= ~is_finished
        step += 1
    shape = (prompt.batch_size, copies)
    tokens = np.where(np.arange(limits.max_new_tokens) < lengths[:, None], tokens, limits.pad_id)
    sums = log_probs.reshape(shape)
    return Generation(
        tokens[:, : lengths.max()].reshape(*shape, -1),
        lengths.reshape(shape),
        sums,
        sums.copy(),
        is_finished.reshape(shape),
        step,
    )


def _column(tokens: np.ndarray) -> Tensor:
    return paddle.to_tensor(tokens[:, None])


class _Draws:
    """Random choices among candidates, a generator for each row."""

    def __init__(self, method: Sampling, batch_size: int) -> None:
        if isinstance(method.seed, tuple):
            if len(method.seed) != batch_size:
                raise InvalidInputError(
                    f"seed: expected one for each of {batch_size} prompts, got {len(method.seed)}"
                )
            seeds = [[seed] for seed in method.seed]
        else:
            seeds = [[method.seed, number] for number in range(batch_size)]
        self._generators = [
            np.random.default_rng([*seed, result]) for seed in seeds for result in range(method.num_results)
        ]
        self._temperature, self._top_p = method.temperature, method.top_p
        self.top_k = method.top_k or np.iinfo(np.int64).max

    def pick(self, log_prob: np.ndarray, is_open: np.ndarray) -> np.ndarray:
        """Return the place of the chosen candidate of each row, 0 where nothing is to choose."""
        picked = np.zeros(len(log_prob), np.int64)
        for row in np.flatnonzero(is_open & np.isfinite(log_prob[:, 0])):
            weight = np.exp((log_prob[row] - log_prob[row, 0]) / self._temperature)
            cumulative = np.cumsum(weight)
            if self._top_p < 1.0:  # up to the first place where the sum is enough
                last = np.searchsorted(cumulative, self._top_p * cumulative[-1])
                cumulative = cumulative[: last + 1]
            place = self._generators[row].random() * cumulative[-1]
            picked[row] = np.searchsorted(cumulative, place, side="right")
        return picked

"""Beam search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import paddle

from paddle_infra.models.generation.constraints import best_candidates
from paddle_infra.models.generation.methods import BeamSearch, GenerationLimits
from paddle_infra.models.generation.prompt import Prompt
from paddle_infra.models.generation.result import Generation
from paddle_infra.models.generation.steps import Steps


class _Hypothesis(NamedTuple):
    score: float
    log_prob: float
    tokens: np.ndarray
    is_finished: bool


@dataclass
class _Finished:
    """The best finished hypotheses of one prompt, and whether it needs more steps."""

    width: int
    kept: list[_Hypothesis] = field(default_factory=list)
    is_done: bool = False

    def add(self, hypothesis: _Hypothesis) -> None:
        self.kept.append(hypothesis)
        self.kept.sort(key=lambda each: -each.score)  # stable: of equals, the one found first
        del self.kept[self.width :]


def beam_search(steps: Steps, prompt: Prompt, limits: GenerationLimits, method: BeamSearch) -> Generation:
    """Do as :func:`generate`; see :class:`BeamSearch`."""
    batch, width = prompt.batch_size, method.num_beams
    ends = np.array(sorted(set(limits.end_ids)), np.int64)
    finished = [_Finished(width) for _ in range(batch)]
    tokens = np.zeros((batch, width, limits.max_new_tokens), np.int64)
    log_probs = np.full((batch, width), -np.inf)  # of the beams; -inf: there is no such beam
    log_probs[:, 0] = 0.0
    for step in range(limits.max_new_tokens):
        # All beams begin alike, so the model sees a prompt once.
        beams = width if step else 1
        if step:
            scores = steps.step(paddle.to_tensor(tokens[:, :, step - 1].reshape(-1, 1)), None)
        else:
            scores = steps.step(*prompt.tensors())
        before = tokens[:, :beams, :step].reshape(batch * beams, step)
        log_prob, token = (
            found.reshape(batch, beams, -1)
            for found in best_candidates(scores, width + len(ends), limits, prompt, before)
        )
        total, beam, token = _ordered(log_probs[:, :beams, None] + log_prob, token, width)
        is_end = np.isin(token, ends)
        is_last = step == limits.max_new_tokens - 1
        for number, own in enumerate(finished):
            if own.is_done:
                continue
            ending = is_end[number, :width] | is_last
            for place in np.flatnonzero(ending & np.isfinite(total[number, :width])):
                row = np.append(tokens[number, beam[number, place], :step], token[number, place])
                _finish(own, method, total[number, place], row, bool(is_end[number, place]))
            if not np.isfinite(total[number]).any():  # nothing is allowed: the beams stay as they are
                for place in np.flatnonzero(np.isfinite(log_probs[number])):
                    _finish(own, method, log_probs[number, place], tokens[number, place, :step], False)
        if is_last:
            break
        total[is_end] = -np.inf
        goes_on = np.argsort(is_end, axis=1, kind="stable")[:, :width]
        log_probs, beam, token = (np.take_along_axis(x, goes_on, axis=1) for x in (total, beam, token))
        tokens = _go_on(steps, tokens, step, beam, token)
        for number, own in enumerate(finished):
            own.is_done = own.is_done or _is_done(own, method, limits, log_probs[number], step + 1)
        if all(own.is_done for own in finished):
            break
    return _collect(finished, method.num_results, limits.pad_id, step + 1)


def _ordered(total: np.ndarray, token: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sums, beams and tokens of all continuations, ``[batch, candidates]``, best first, at least ``least``."""
    batch, beams, count = total.shape
    beam = np.broadcast_to(np.arange(beams)[:, None], total.shape)
    missing = max(0, least - beams * count)
    total, beam, token = (
        np.pad(x.reshape(batch, -1), ((0, 0), (0, missing)), constant_values=fill)
        for x, fill in ((total, -np.inf), (beam, 0), (token, 0))
    )
    order = np.lexsort((token, beam, -total))
    total, beam, token = (np.take_along_axis(x, order, axis=1) for x in (total, beam, token))
    return total, beam, token


def _finish(
    own: _Finished, method: BeamSearch, log_prob: float, tokens: np.ndarray, is_finished: bool
) -> None:
    score = float(log_prob) / method.divisor(max(len(tokens), 1))
    own.add(_Hypothesis(score, float(log_prob), tokens, is_finished))


def _go_on(
    steps: Steps,
    tokens: np.ndarray,
    step: int,
    beam: np.ndarray,
    token: np.ndarray,
) -> np.ndarray:
    """Let the model and the tokens go on as the chosen beams; return the tokens."""
    batch, width = beam.shape
    row = np.arange(batch)[:, None]
    tokens = tokens[row, beam]
    tokens[:, :, step] = token
    if step == 0:
        steps.repeat(width)
    elif (beam != np.arange(width)).any():
        steps.reorder(paddle.to_tensor((row * width + beam).reshape(-1)))
    return tokens


def _is_done(
    own: _Finished, method: BeamSearch, limits: GenerationLimits, log_probs: np.ndarray, length: int
) -> bool:
    """Whether no beam (``log_probs``, each of ``length`` tokens) needs to go on, by the rule of the method."""
    best = log_probs.max()
    if np.isneginf(best):
        return True
    if len(own.kept) < own.width:
        return False
    if method.stopping == "first":
        return True
    if method.stopping == "bound":
        length = limits.max_new_tokens if method.length_penalty > 0 else length + 1
    return best / method.divisor(length) <= own.kept[-1].score


def _collect(finished: list[_Finished], count: int, pad_id: int, steps: int) -> Generation:
    """Return the best ``count`` of each prompt."""
    none = _Hypothesis(-np.inf, -np.inf, np.empty(0, np.int64), False)
    chosen = [(own.kept + [none] * count)[:count] for own in finished]
    lengths = np.array([[len(each.tokens) for each in row] for row in chosen])
    tokens = np.full((*lengths.shape, lengths.max()), pad_id, np.int64)
    for number, row in enumerate(chosen):
        for place, each in enumerate(row):
            tokens[number, place, : len(each.tokens)] = each.tokens
    return Generation(
        tokens,
        lengths,
        np.array([[each.log_prob for each in row] for row in chosen]),
        np.array([[each.score for each in row] for row in chosen]),
        np.array([[each.is_finished for each in row] for row in chosen]),
        steps,
    )

"""What can be asked of generation: limits for every method, and the methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paddle_infra._core.checks import check_choice, check_integer, check_number, check_positive
from paddle_infra._core.errors import InvalidInputError


@dataclass(frozen=True)
class GenerationLimits:
    """When sequences end, and which tokens they may not have. Holds for every method.

    Attributes:
        max_new_tokens: most tokens to add to a prompt, the end token included.
        min_new_tokens: no end token before so many others.
        end_ids: tokens that end a sequence. Empty: all have ``max_new_tokens``.
        pad_id: what fills the result behind a sequence.
        repetition_penalty: logits of tokens that are in the prompt or were generated are divided by it if positive
            and multiplied if negative, before the softmax; 1: as they are.
        no_repeat_ngram: no sequence of so many tokens comes twice, the prompt included; 0: it may. Banned tokens get
            the probability 0; the log probabilities of the others stay the model's (sampling draws among them).

    Raises:
        InvalidInputError: a number is out of range.
        InvalidDtypeError: something is not a number.

    References:
        Repetition penalty: CTRL, arXiv:1909.05858, section 4.1; there, only positive logits make sense. In beam
        search Hugging Face applies it to log probabilities, which are never positive; here, one rule holds for all
        methods, so that one beam is greedy search. n-grams: arXiv:1705.04304, section 2.5.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    end_ids: tuple[int, ...] = ()
    pad_id: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        check_positive("max_new_tokens", self.max_new_tokens)
        for name in ("min_new_tokens", "no_repeat_ngram", "pad_id"):
            _check_at_least_0(name, getattr(self, name))
        if self.min_new_tokens > self.max_new_tokens:
            raise InvalidInputError(
                f"min_new_tokens: expected at most max_new_tokens={self.max_new_tokens}, got {self.min_new_tokens}"
            )
        for token in self.end_ids:
            _check_at_least_0("end_ids", token)
        if check_number("repetition_penalty", self.repetition_penalty, 0.0) == 0.0:
            raise InvalidInputError("repetition_penalty: expected a positive number, got 0")


@dataclass(frozen=True)
class GreedySearch:
    """Always the most probable token; of equally probable ones that with the lowest number."""


@dataclass(frozen=True)
class BeamSearch:
    r"""Follow the ``num_beams`` most probable beginnings; rank what is finished by a score.

    In each step every beam's continuations are ordered by the sum of log probabilities (equal ones: the better beam's
    first, then the lowest token). Those among the best ``num_beams`` that end are finished, and kept if they are
    among the best ``num_beams`` finished so far; the best ``num_beams`` that do not end go on. After the last step
    those that go on count as finished.

    Args:
        num_beams: width of the beam.
        num_results: how many of the finished are returned, best first; at most ``num_beams``.
        length_penalty: :math:`\alpha` of the score below; above 0 it favours long sequences.
        length_norm: with :math:`n` tokens (end token included, prompt not), the score is the sum of log
            probabilities divided by :math:`n^\alpha` (``"power"``, as in Hugging Face) or by
            :math:`((5 + n) / 6)^\alpha` (``"gnmt"``).
        stopping: when a sequence needs no more steps, once ``num_beams`` are finished: ``"bound"``: no beam can
            get a better score than the worst of them, however it goes on (log probabilities are at most 0; the
            divisor is that of the maximum length, or of the next one if :math:`\alpha` is not positive);
            ``"heuristic"``: the best beam's score with its present length is not better; ``"first"``: at once.
            These are ``early_stopping="never"``, ``False`` and ``True`` of Hugging Face.

    Raises:
        InvalidInputError: a number is out of range, or a name is unknown.
        InvalidDtypeError: something is not a number.

    References:
        Wu et al., "GNMT", arXiv:1609.08144, section 7, without its coverage penalty.
    """

    num_beams: int = 4
    num_results: int = 1
    length_penalty: float = 1.0
    length_norm: Literal["power", "gnmt"] = "power"
    stopping: Literal["bound", "heuristic", "first"] = "bound"

    def __post_init__(self) -> None:
        check_positive("num_beams", self.num_beams)
        check_positive("num_results", self.num_results)
        if self.num_results > self.num_beams:
            raise InvalidInputError(
                f"num_results: expected at most num_beams={self.num_beams}, got {self.num_results}"
            )
        check_number("length_penalty", self.length_penalty)
        check_choice("length_norm", self.length_norm, ("power", "gnmt"))
        check_choice("stopping", self.stopping, ("bound", "heuristic", "first"))

    def divisor(self, length: int) -> float:
        """Return what the sum of log probabilities of ``length`` tokens is divided by."""
        base = float(length) if self.length_norm == "power" else (5.0 + length) / 6.0
        return base**self.length_penalty


@dataclass(frozen=True)
class Sampling:
    """Draw tokens by their probabilities.

    Each sequence has a generator of its own (NumPy's PCG64) and takes one number of it per token, so that what it
    becomes does not depend on the others.

    Args:
        seed: at least 0; sequence *i* of the batch and its result *j* draw from the seed sequence ``(seed, i, j)``.
            Several: one for each sequence of the batch, *j* from ``(seeds[i], j)``.
        num_results: how many sequences are drawn for each prompt.
        temperature: logits are divided by it; below 1 it favours probable tokens.
        top_k: draw among so many most probable tokens; 0: among all. Equally probable ones: the lowest numbers.
        top_p: draw among the fewest most probable tokens whose probabilities (after ``temperature`` and ``top_k``)
            sum to at least this; 1: among all.

    Raises:
        InvalidInputError: a number is out of range.
        InvalidDtypeError: something is not a number.

    References:
        top-k, arXiv:1805.04833, section 5.4; top-p ("nucleus"), arXiv:1904.09751, section 3.1.
    """

    seed: int | tuple[int, ...]
    num_results: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for seed in self.seed if isinstance(self.seed, tuple) else (self.seed,):
            _check_at_least_0("seed", seed)
        check_positive("num_results", self.num_results)
        _check_at_least_0("top_k", self.top_k)
        for name, high in (("temperature", float("inf")), ("top_p", 1.0)):
            if check_number(name, getattr(self, name), 0.0, high) == 0.0:
                raise InvalidInputError(f"{name}: expected a positive number, got 0 (see GreedySearch)")


def _check_at_least_0(name: str, value: object) -> None:
    if check_integer(name, value) < 0:
        raise InvalidInputError(f"{name}: expected an integer of at least 0, got {value}")

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from paddle_infra.models.generation import (
    BeamSearch,
    Generation,
    GenerationLimits,
    GreedySearch,
    Sampling,
    generate,
)
from tests.models.random_steps import LinearSteps, RandomSteps

END = 3
LIMITS = GenerationLimits(max_new_tokens=4, end_ids=(END,), pad_id=9)
PROMPTS = ((1,), (2, 0, 1), (0, 0))


def run(
    steps: RandomSteps,
    method: object,
    limits: GenerationLimits = LIMITS,
    prompts: tuple[tuple[int, ...], ...] = PROMPTS,
    padding: int = 0,
) -> Generation:
    width = max(len(row) for row in prompts) + padding
    padded = [list(row) + [7] * (width - len(row)) for row in prompts]
    lengths = paddle.to_tensor([len(row) for row in prompts])
    return generate(steps, paddle.to_tensor(padded), limits, method, prompt_lengths=lengths)


def rows_of(found: Generation) -> list[list[tuple[int, ...]]]:
    return [
        [tuple(tokens[:length].tolist()) for tokens, length in zip(*each, strict=True)]
        for each in zip(found.tokens, found.lengths, strict=True)
    ]


@pytest.mark.parametrize("kind", [RandomSteps, LinearSteps])
@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 0.7, 2.0])
@pytest.mark.parametrize("length_norm", ["power", "gnmt"])
def test_a_wide_enough_beam_finds_the_best_sequences(
    kind: type, length_penalty: float, length_norm: str
) -> None:
    method = BeamSearch(256, 5, length_penalty, length_norm)
    for seed in range(3):
        steps = kind(seed=seed)
        found = run(steps, method)
        for prompt, rows, scores, log_probs in zip(
            PROMPTS, rows_of(found), found.scores, found.log_probs, strict=True
        ):
            divide = {
                "power": lambda n: n**length_penalty,
                "gnmt": lambda n: ((5 + n) / 6) ** length_penalty,
            }[length_norm]
            truth = steps.endings(prompt, 4, END)
            best = sorted(truth, key=lambda row: -truth[row] / divide(len(row)))[:5]
            assert rows == best
            np.testing.assert_allclose(scores, [truth[row] / divide(len(row)) for row in best], rtol=1e-5)
            np.testing.assert_allclose(log_probs, [truth[row] for row in best], rtol=1e-5)
        np.testing.assert_array_equal(
            found.is_finished, [[row[-1] == END for row in rows] for rows in rows_of(found)]
        )


def test_padding_of_the_result() -> None:
    found = run(RandomSteps(), BeamSearch(4, 4))
    assert found.tokens.shape == (3, 4, found.lengths.max())
    for tokens, length in zip(found.tokens.reshape(12, -1), found.lengths.reshape(-1), strict=True):
        assert (tokens[length:] == 9).all()
        assert (tokens[:length] != 9).all()


@pytest.mark.parametrize("kind", [RandomSteps, LinearSteps])
@pytest.mark.parametrize(
    "limits",
    [
        LIMITS,
        GenerationLimits(12, 3, (END, 1), repetition_penalty=1.5),
        GenerationLimits(12, 2, (END,), no_repeat_ngram=2),
    ],
)
def test_one_beam_is_greedy_search(kind: type, limits: GenerationLimits) -> None:
    one = run(kind(5), GreedySearch(), limits)
    other = run(kind(5), BeamSearch(1, length_penalty=0.0), limits)
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-12)
    np.testing.assert_array_equal(one.is_finished, other.is_finished)
    assert one.steps == other.steps


def test_greedy_takes_the_most_probable_token_each_time() -> None:
    steps = RandomSteps()
    found = run(steps, GreedySearch())
    for prompt, (row,) in zip(PROMPTS, rows_of(found), strict=True):
        for place, token in enumerate(row):
            assert token == steps.logits(prompt + row[:place]).argmax()


@pytest.mark.parametrize(
    "method", [GreedySearch(), BeamSearch(2, 2), BeamSearch(3, 3, 1.0, "power", "first")]
)
def test_equal_scores_are_decided_by_the_lowest_number(method: object) -> None:
    # Logits rounded to whole numbers have many ties; both sources of scores must decide alike, every time.
    for seed in range(6):
        found = [
            run(kind(6, seed=seed, decimals=0), method) for kind in (RandomSteps, RandomSteps, LinearSteps)
        ]
        for other in found[1:]:
            np.testing.assert_array_equal(found[0].tokens, other.tokens)


def test_equal_tokens_and_equal_beams() -> None:
    class Flat(RandomSteps):
        def logits(self, history: tuple[int, ...]) -> np.ndarray:
            return np.zeros(self.vocab_size)

    limits = GenerationLimits(max_new_tokens=2)
    assert rows_of(run(Flat(), GreedySearch(), limits))[0] == [(0, 0)]
    assert rows_of(run(Flat(), BeamSearch(3, 3), limits))[0] == [(0, 0), (0, 1), (0, 2)]


METHODS = [
    GreedySearch(),
    BeamSearch(3, 3),
    BeamSearch(2, 2, 0.6, "gnmt", "heuristic"),
    Sampling((11, 12, 13), 2, 1.3, 4, 0.9),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_results_depend_neither_on_other_prompts_nor_on_padding(method: object, penalty: float) -> None:
    limits = GenerationLimits(8, 1, (END,), pad_id=9, repetition_penalty=penalty, no_repeat_ngram=3)
    together = run(RandomSteps(5), method, limits)
    for padding in (1, 7):
        padded = run(RandomSteps(5), method, limits, padding=padding)
        np.testing.assert_array_equal(padded.tokens, together.tokens)
        np.testing.assert_array_equal(padded.scores, together.scores)
    for number, prompt in enumerate(PROMPTS):
        single = Sampling((method.seed[number],), 2, 1.3, 4, 0.9) if isinstance(method, Sampling) else method
        alone = run(RandomSteps(5), single, limits, (prompt,))
        assert rows_of(alone)[0] == rows_of(together)[number]
        np.testing.assert_array_equal(alone.scores[0], together.scores[number])


def test_the_loop_stops_when_all_are_finished() -> None:
    class Ending(RandomSteps):
        """Ends after as many tokens as the prompt's first says."""

        def logits(self, history: tuple[int, ...]) -> np.ndarray:
            return np.eye(8)[7 if len(history) > history[0] else 0] * 20.0

    limits = GenerationLimits(max_new_tokens=50, end_ids=(7,))
    steps = Ending(8)
    found = run(steps, GreedySearch(), limits, ((2,), (5,)))
    assert found.lengths.tolist() == [[3], [6]]
    assert found.steps == found.lengths.max() == len(steps.calls)
    for stopping in ("bound", "heuristic", "first"):
        steps = Ending(8)
        beams = run(steps, BeamSearch(2, 1, 0.0, "power", stopping), limits, ((2,), (5,)))
        assert beams.tokens[:, 0].tolist() == found.tokens[:, 0].tolist()
        assert beams.steps == len(steps.calls) < 12
        assert steps.calls[:2] == [2, 4], "the prompt is seen once, not by every beam"


def test_stopping_rules_need_more_steps_the_more_careful_they_are() -> None:
    counts = {}
    for stopping in ("first", "heuristic", "bound"):
        found = [
            run(
                RandomSteps(4, seed=seed),
                BeamSearch(3, 1, 1.0, "power", stopping),
                GenerationLimits(20, end_ids=(END,)),
            )
            for seed in range(8)
        ]
        counts[stopping] = (sum(each.steps for each in found), sum(each.scores.sum() for each in found))
    assert counts["first"][0] < counts["heuristic"][0] < counts["bound"][0]
    assert counts["first"][1] <= counts["heuristic"][1] <= counts["bound"][1]


def test_minimum_and_maximum_length() -> None:
    for method in (GreedySearch(), BeamSearch(3, 3), Sampling(0, 3)):
        found = run(RandomSteps(), method, GenerationLimits(6, 4, (END,)))
        assert ((found.lengths >= 5) | ~found.is_finished).all()
        assert found.lengths.max() <= 6
        assert all(END not in row[:4] for rows in rows_of(found) for row in rows)
        assert found.is_finished.any()


@pytest.mark.parametrize("method", [GreedySearch(), BeamSearch(3, 3), Sampling(0, 3)])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_comes_twice(method: object, size: int) -> None:
    limits = GenerationLimits(10, no_repeat_ngram=size)
    found = run(RandomSteps(6), method, limits)
    free = run(RandomSteps(6), method, GenerationLimits(10))
    for prompt, rows, scores in zip(PROMPTS, rows_of(found), found.log_probs, strict=True):
        for row in rows:
            text = prompt + row
            own = range(max(0, len(prompt) - size + 1), len(text) - size + 1)  # not those of the prompt alone
            grams = [text[place : place + size] for place in range(len(text) - size + 1)]
            assert all(grams.count(grams[place]) == 1 for place in own)
        assert np.isfinite(scores).all()
    assert rows_of(found) != rows_of(free), "the rule changed something"
    if size == 1:  # six tokens, none twice: then nothing is allowed
        lengths = [6 - len(set(prompt)) for prompt in PROMPTS]
        assert found.lengths.tolist() == [[length] * found.lengths.shape[1] for length in lengths]
        assert not found.is_finished.any()


def test_repetition_penalty_is_its_formula() -> None:
    steps = RandomSteps(6, seed=2)
    found = run(steps, GreedySearch(), GenerationLimits(8, repetition_penalty=1.7))
    for prompt, (row,), log_prob in zip(PROMPTS, rows_of(found), found.log_probs[:, 0], strict=True):
        total = 0.0
        for place, token in enumerate(row):
            history = prompt + row[:place]
            logits = steps.logits(history)
            for seen in set(history):
                logits[seen] = logits[seen] / 1.7 if logits[seen] > 0 else logits[seen] * 1.7
            assert token == logits.argmax()
            total += logits[token] - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(log_prob, total, rtol=1e-12)


def sampled_frequencies(method: Sampling, kind: type = RandomSteps) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of first tokens in 4000 draws, and the model's probabilities."""
    steps = kind(6, seed=1)
    found = run(steps, method, GenerationLimits(1), ((1,),))
    prob = np.exp(steps.log_probs((1,)))
    return np.bincount(found.tokens.reshape(-1), minlength=6) / found.tokens.size, prob


@pytest.mark.parametrize("kind", [RandomSteps, LinearSteps])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 3, 1.0), (1.5, 0, 0.8), (1.5, 4, 0.7)],
)
def test_samples_have_the_probabilities_they_should(
    kind: type, temperature: float, top_k: int, top_p: float
) -> None:
    frequency, prob = sampled_frequencies(Sampling(5, 4000, temperature, top_k, top_p), kind)
    wanted = prob ** (1 / temperature)
    order = np.argsort(-wanted)
    if top_k:
        wanted[order[top_k:]] = 0.0
    wanted /= wanted.sum()
    if top_p < 1.0:
        before = np.cumsum(wanted[order]) - wanted[order]
        wanted[order[before >= top_p]] = 0.0
        wanted /= wanted.sum()
    assert (frequency[wanted == 0.0] == 0.0).all()
    # Five standard deviations of a frequency of 4000 draws.
    assert (np.abs(frequency - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / 4000) + 1e-12).all()


def test_seeds() -> None:
    same, again = (run(RandomSteps(), Sampling(3, 4)) for _ in range(2))
    other = run(RandomSteps(), Sampling(4, 4))
    np.testing.assert_array_equal(same.tokens, again.tokens)
    assert rows_of(same) != rows_of(other)
    assert len(set(rows_of(run(RandomSteps(), Sampling(3, 16)))[0])) > 8, "results of a prompt differ"
    repeated = rows_of(run(RandomSteps(), Sampling(3, 4), prompts=((1,), (1,))))
    assert repeated[0] != repeated[1], "equal prompts draw differently"
    assert np.array_equal(same.scores, same.log_probs)


def test_no_gradients() -> None:
    seen = []

    class Watching(RandomSteps):
        def step(self, tokens: paddle.Tensor, lengths: paddle.Tensor | None) -> paddle.Tensor:
            seen.append(paddle.is_grad_enabled())
            return super().step(tokens, lengths)

    run(Watching(), GreedySearch())
    assert seen
    assert not any(seen)
    assert paddle.is_grad_enabled()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GenerationLimits(0), "max_new_tokens: expected a positive integer, got 0"),
        (lambda: GenerationLimits(2, 3), "min_new_tokens: expected at most max_new_tokens=2, got 3"),
        (lambda: GenerationLimits(end_ids=(-1,)), "end_ids: expected an integer of at least 0, got -1"),
        (lambda: GenerationLimits(repetition_penalty=0.0), "repetition_penalty: expected a positive number"),
        (lambda: BeamSearch(0), "num_beams: expected a positive integer, got 0"),
        (lambda: BeamSearch(2, 3), "num_results: expected at most num_beams=2, got 3"),
        (lambda: BeamSearch(length_norm="log"), "length_norm: expected one of 'power', 'gnmt', got 'log'"),
        (lambda: BeamSearch(stopping="never"), "stopping: expected one of 'bound', .*, got 'never'"),
        (lambda: Sampling(-1), "seed: expected an integer of at least 0, got -1"),
        (lambda: Sampling(0, temperature=0.0), "temperature: expected a positive number, got 0"),
        (lambda: Sampling(0, top_p=1.5), r"top_p: expected a finite number in \[0, 1\], got 1.5"),
        (lambda: run(RandomSteps(), Sampling((1, 2))), "seed: expected one for each of 3 prompts, got 2"),
        (
            lambda: run(RandomSteps(), GreedySearch(), prompts=((1,), ())),
            "prompt_lengths: expected numbers from 1",
        ),
    ],
)
def test_wrong_numbers(build: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build()


def test_wrong_kinds() -> None:
    with pytest.raises(
        InvalidDtypeError, match="method: expected GreedySearch, BeamSearch or Sampling, got str"
    ):
        run(RandomSteps(), "greedy")
    with pytest.raises(InvalidDtypeError, match="prompt: expected dtype int32 or int64, got float32"):
        generate(RandomSteps(), paddle.ones([1, 1]), LIMITS, GreedySearch())
    with pytest.raises(InvalidDtypeError, match="seed: expected an int, got float"):
        Sampling(0.5)


@pytest.mark.parametrize("method", [GreedySearch(), BeamSearch(2)])
def test_scores_that_do_not_fit(method: object) -> None:
    class Bad(RandomSteps):
        result = None

        def step(self, tokens: paddle.Tensor, lengths: paddle.Tensor | None) -> paddle.Tensor:
            return self.result

    steps = Bad()
    steps.result = paddle.zeros([2, 4])
    with pytest.raises(InvalidInputError, match=r"logits of the step: expected shape \[3, -1\]"):
        run(steps, method)
    steps.result = paddle.to_tensor([[0.0, 1.0], [0.0, float("nan")], [0.0, 0.0]])
    with pytest.raises(InvalidInputError, match="expected numbers, got NaN in row 1"):
        run(steps, method)

"""Searches of Hugging Face's library on the same scores: equal tokens and scores."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra.models.generation import BeamSearch, GenerationLimits, GreedySearch, generate
from tests.models.random_steps import RandomSteps
from tests.models.test_originals import run

pytestmark = pytest.mark.slow
VOCAB, END, STEPS = 9, 8, 10
STOPPING = {"bound": "never", "heuristic": False, "first": True}
BEAMS = [
    BeamSearch(4, 4, penalty, "power", stopping)
    for penalty, stopping in itertools.product((-0.5, 0.0, 1.0, 2.0), STOPPING)
]
CONSTRAINTS = [{}, {"min_new_tokens": 4}, {"no_repeat_ngram": 2}]
CASES = [
    *((method, more) for method in BEAMS for more in CONSTRAINTS),
    *((GreedySearch(), more) for more in (*CONSTRAINTS, {"repetition_penalty": 1.6})),
]


class TableSteps(RandomSteps):
    """Logits by position and last token."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__(table.shape[-1])
        self.table = table

    def logits(self, history: tuple[int, ...]) -> np.ndarray:
        return self.table[len(history) - 1, history[-1]]


def theirs(method: GreedySearch | BeamSearch, more: dict) -> dict:
    """Return the options of ``transformers`` for ours."""
    names = {"no_repeat_ngram": "no_repeat_ngram_size"}
    options = {names.get(name, name): value for name, value in more.items()}
    options |= {"max_new_tokens": STEPS, "eos_token_id": END, "num_beams": 1}
    if isinstance(method, BeamSearch):
        options |= {
            "num_beams": method.num_beams,
            "num_return_sequences": method.num_results,
            "length_penalty": method.length_penalty,
            "early_stopping": STOPPING[method.stopping],
        }
    return options


def test_same_tokens_and_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = (2.0 * rng.standard_normal((STEPS + 3, VOCAB, VOCAB))).astype(np.float32)
    prompt = rng.integers(0, END, (16, 2))
    np.save(tmp_path / "table.npy", table)
    np.save(tmp_path / "prompt.npy", prompt)
    (tmp_path / "cases.json").write_text(json.dumps([theirs(*case) for case in CASES]))
    run("transformers", ".venv-torch-trainers", str(tmp_path), script="generation")
    for number, (method, more) in enumerate(CASES):
        limits = GenerationLimits(STEPS, end_ids=(END,), pad_id=END, **more)
        found = generate(TableSteps(table), paddle.to_tensor(prompt), limits, method)
        tokens = np.load(tmp_path / f"tokens{number}.npy")
        ours = found.tokens.reshape(len(tokens), -1)
        width = max(ours.shape[1], tokens.shape[1])
        ours, tokens = (
            np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=END) for x in (ours, tokens)
        )
        np.testing.assert_array_equal(ours, tokens, err_msg=f"{method} {more}")
        if isinstance(method, BeamSearch):
            scores = np.load(tmp_path / f"scores{number}.npy")
            np.testing.assert_allclose(
                found.scores.reshape(-1), scores, rtol=1e-4, err_msg=f"{method} {more}"
            )

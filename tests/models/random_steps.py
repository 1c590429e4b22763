"""A small random model for generation: next-token logits are any function of all tokens so far."""

from __future__ import annotations

import itertools

import numpy as np
import paddle

from paddle_infra.models.generation import LinearScores


class RandomSteps:
    """Logits drawn from a generator that is seeded with the row's tokens; counts how often it is called."""

    def __init__(self, vocab_size: int = 4, *, seed: int = 0, decimals: int | None = None) -> None:
        self.vocab_size, self.seed, self.decimals = vocab_size, seed, decimals
        self.rows: list[tuple[int, ...]] = []
        self.calls: list[int] = []

    def logits(self, history: tuple[int, ...]) -> np.ndarray:
        drawn = 2.0 * np.random.default_rng([self.seed, *history]).standard_normal(self.vocab_size)
        return drawn if self.decimals is None else drawn.round(self.decimals)

    def log_probs(self, history: tuple[int, ...]) -> np.ndarray:
        logits = self.logits(history)
        return logits - np.log(np.exp(logits).sum())

    def step(self, tokens: paddle.Tensor, lengths: paddle.Tensor | None) -> paddle.Tensor:
        new = tokens.numpy().tolist()
        counts = [len(row) for row in new] if lengths is None else lengths.numpy().tolist()
        old = self.rows or [()] * len(new)
        self.rows = [past + tuple(row[:count]) for past, row, count in zip(old, new, counts, strict=True)]
        self.calls.append(len(self.rows))
        return paddle.to_tensor(np.stack([self.logits(row) for row in self.rows]))

    def repeat(self, count: int) -> None:
        self.rows = [row for row in self.rows for _ in range(count)]

    def reorder(self, index: paddle.Tensor) -> None:
        self.rows = [self.rows[number] for number in index.numpy()]

    def endings(self, prompt: tuple[int, ...], length: int, end: int) -> dict[tuple[int, ...], float]:
        """All sequences that end with ``end``, or have ``length`` tokens, and their log probabilities."""
        found = {}
        for count in range(1, length + 1):
            for tokens in itertools.product(range(self.vocab_size), repeat=count):
                if end in tokens[:-1] or (tokens[-1] != end and count < length):
                    continue
                found[tokens] = sum(
                    self.log_probs(prompt + tokens[:place])[token] for place, token in enumerate(tokens)
                )
        return found


class LinearSteps(RandomSteps):
    """The same logits as a linear layer of one-hot rows: through the fused operator."""

    def step(self, tokens: paddle.Tensor, lengths: paddle.Tensor | None) -> LinearScores:
        logits = super().step(tokens, lengths).astype("float32")
        return LinearScores(paddle.eye(len(logits)), logits, weight_layout="dv")

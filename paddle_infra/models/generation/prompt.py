"""Prompts of different lengths, on the side of the search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor

from paddle_infra._core.checks import UNKNOWN, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError

_INTEGERS = ("int32", "int64")


@dataclass(frozen=True)
class Prompt:
    """Right-padded prompts: int64 ``[batch_size, prompt_len]``, and how many tokens of each exist, or None for all."""

    tokens: np.ndarray
    lengths: np.ndarray | None

    @classmethod
    def checked(cls, tokens: Tensor, lengths: Tensor | None) -> Prompt:
        """Return the prompts in the tensors.

        Raises:
            InvalidInputError: shapes do not fit, or a prompt has no token or more than there are.
            InvalidDtypeError: something is no tensor of integers.
        """
        check_tensor("prompt", tokens, _INTEGERS)
        check_shape("prompt", tokens, [UNKNOWN, UNKNOWN], "[batch_size, prompt_len]")
        if 0 in tokens.shape:
            raise InvalidInputError(f"prompt: expected at least one token, got shape {tokens.shape}")
        if lengths is None:
            return cls(tokens.numpy().astype(np.int64), None)
        check_tensor("prompt_lengths", lengths, _INTEGERS)
        check_shape("prompt_lengths", lengths, tokens.shape[:1], "[batch_size]")
        values = lengths.numpy().astype(np.int64)
        if values.min() < 1 or values.max() > tokens.shape[1]:
            raise InvalidInputError(
                f"prompt_lengths: expected numbers from 1 to {tokens.shape[1]}, got {values.tolist()}"
            )
        return cls(tokens.numpy().astype(np.int64), values)

    @property
    def batch_size(self) -> int:
        """Number of prompts."""
        return len(self.tokens)

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Return tokens and lengths."""
        return (
            paddle.to_tensor(self.tokens),
            None if self.lengths is None else paddle.to_tensor(self.lengths),
        )

    def histories(self, generated: np.ndarray) -> list[np.ndarray]:
        """Return each row's prompt and what follows: ``generated`` is ``[rows, tokens]``, rows side by side."""
        copies = len(generated) // self.batch_size
        prompts = self.tokens if self.lengths is None else map(_beginning, self.tokens, self.lengths)
        return [
            np.concatenate([prompt, row])
            for prompt, rows in zip(prompts, generated.reshape(self.batch_size, copies, -1), strict=True)
            for row in rows
        ]


def _beginning(tokens: np.ndarray, length: int) -> np.ndarray:
    return tokens[:length]

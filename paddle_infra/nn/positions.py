"""Where tokens stand: fixed and learned position embeddings, and the slopes of ALiBi."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.jit.marker import unified

from paddle_infra._core.checks import (
    UNKNOWN,
    check_choice,
    check_integer,
    check_number,
    check_positive,
    check_tensor,
)
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.sizes import size_of

_INTEGERS = ("int32", "int64")


class SinusoidalPositions(nn.Layer):
    r"""Fixed position embeddings of sines and cosines.

    .. math::
        p_{m,i} = \sin(m\,\theta_i),\quad \cos(m\,\theta_i), \qquad \theta_i = \mathrm{base}^{-2i/D}

    Layouts: ``"interleaved"`` puts sine and cosine of an angle side by side (the paper); ``"half"`` puts all sines
    before all cosines (Marian, tensor2tensor with the angles above).

    Args:
        hidden_size: width :math:`D` of an embedding; even.
        max_positions: number of positions.
        layout: ``"interleaved"`` or ``"half"``.
        base: of the angles.

    Shapes:
        positions int ``[...]`` to float32 ``[..., hidden_size]``. No parameters. Angles are computed in float64 once.

    References:
        Vaswani et al., arXiv:1706.03762, section 3.5.
    """

    table: Tensor

    def __init__(
        self,
        hidden_size: int,
        max_positions: int,
        *,
        layout: Literal["interleaved", "half"] = "interleaved",
        base: float = 10000.0,
    ) -> None:
        super().__init__()
        check_positive("hidden_size", hidden_size)
        check_positive("max_positions", max_positions)
        check_choice("layout", layout, ("interleaved", "half"))
        check_number("base", base, 1.0)
        if hidden_size % 2:
            raise InvalidInputError(f"hidden_size: expected an even number, got {hidden_size}")
        self.hidden_size, self.max_positions = hidden_size, max_positions
        angle = np.outer(np.arange(max_positions), base ** (-np.arange(0, hidden_size, 2) / hidden_size))
        axis = -1 if layout == "interleaved" else 1
        table = np.stack([np.sin(angle), np.cos(angle)], axis=axis).reshape(max_positions, hidden_size)
        self.register_buffer("table", paddle.to_tensor(table.astype(np.float32)), persistable=False)

    def forward(self, positions: Tensor) -> Tensor:
        """Return the embeddings of the positions."""
        check_range(positions, self.max_positions)
        return F.embedding(positions, self.table)


class LearnedPositions(nn.Layer):
    """A learned embedding for each position.

    Args:
        max_positions: number of positions, ``offset`` not counted.
        hidden_size: width of an embedding.
        offset: rows of the table before that of position 0 (2 in BART's checkpoints).

    Shapes:
        positions int ``[...]`` to ``[..., hidden_size]``; parameter ``weight [offset + max_positions, hidden_size]``.
    """

    def __init__(self, max_positions: int, hidden_size: int, *, offset: int = 0) -> None:
        super().__init__()
        check_positive("max_positions", max_positions)
        check_positive("hidden_size", hidden_size)
        if check_integer("offset", offset) < 0:
            raise InvalidInputError(f"offset: expected 0 or more, got {offset}")
        self.hidden_size, self.max_positions, self.offset = hidden_size, max_positions, offset
        self.weight = self.create_parameter(
            [offset + max_positions, hidden_size], default_initializer=nn.initializer.Normal(0.0, 0.02)
        )

    def forward(self, positions: Tensor) -> Tensor:
        """Return the embeddings of the positions."""
        check_range(positions, self.max_positions)
        return F.embedding(positions + self.offset if self.offset else positions, self.weight)


def alibi_slopes(num_heads: int) -> Tensor:
    r"""Return how much each head's scores fall with the distance.

    For a power of two, head :math:`h` of :math:`n`, counted from 1, has the slope :math:`2^{-8h/n}`. For another
    number, the heads after the largest power of two below it take every second slope of twice that power, as in the
    authors' code.

    Args:
        num_heads: number of heads.

    Returns:
        float32 ``[num_heads]``, for ``alibi_slopes`` of :func:`paddle_infra.ops.attention`.

    References:
        ALiBi, arXiv:2108.12409, section 3.
    """
    check_positive("num_heads", num_heads)
    power = 2 ** int(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * head / power) for head in range(1, power + 1)]
    slopes += [2.0 ** (-4.0 * head / power) for head in range(1, 2 * (num_heads - power), 2)]
    return paddle.to_tensor(slopes, dtype="float32")


def next_positions(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Return the positions of tokens: 0, 1, …, or those after the ``lengths`` tokens that came before.

    Args:
        x: ``[batch_size, seq_len, ...]``.
        lengths: int ``[batch_size]``, or None.

    Returns:
        int64 ``[seq_len]``, with lengths ``[batch_size, seq_len]``.
    """
    positions = paddle.arange(size_of(x, 1), dtype="int64")
    return positions if lengths is None else lengths.astype("int64").unsqueeze(-1) + positions


def check_positions(positions: Tensor, x: Tensor) -> None:
    """Raise unless ``positions`` have the shape of those of ``x``: ``[seq_len]`` or ``[batch_size, seq_len]``.

    Raises:
        InvalidDtypeError: they are no integers.
        InvalidInputError: the shape does not fit.
    """
    check_tensor("positions", positions, _INTEGERS)
    batch, length = x.shape[:2]
    found = list(positions.shape)
    expected = [length] if len(found) == 1 else [batch, length]
    fits = len(found) in (1, 2) and all(
        f == e or UNKNOWN in (f, e) for f, e in zip(found, expected, strict=True)
    )
    if not fits:
        raise InvalidInputError(f"positions: expected shape [{length}] or [{batch}, {length}], got {found}")


def check_range(positions: Tensor, max_positions: int) -> None:
    """Raise unless positions are integers and, where they are known already, in ``[0, max_positions)``.

    Raises:
        InvalidDtypeError: they are no integers.
        InvalidInputError: one is outside.
    """
    check_tensor("positions", positions, _INTEGERS)
    if not paddle.in_dynamic_mode():
        return
    values = positions.numpy()
    if values.size and (values.min() < 0 or values.max() >= max_positions):
        wrong = values.min() if values.min() < 0 else values.max()
        raise InvalidInputError(f"positions: expected numbers in [0, {max_positions}), got {wrong}")


# Paddle's graph capture shall call it as it is, not rewrite its source.
unified(check_positions)

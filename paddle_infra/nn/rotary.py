"""Rotary position embedding of queries and keys."""

from __future__ import annotations

from typing import Literal

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_infra._core.checks import UNKNOWN, check_choice, check_number, check_positive, check_shape
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.positions import check_positions, check_range, next_positions


class RotaryEmbedding(nn.Layer):
    r"""Turn pairs of a head's features by angles that grow with the position, so that products see the distance.

    Pair :math:`i` of the first :math:`r` = ``rotary_dim`` features turns by :math:`m\,\theta_i` at position
    :math:`m`:

    .. math::
        \begin{pmatrix} x_1 \\ x_2 \end{pmatrix} \mapsto
        \begin{pmatrix} x_1 \cos m\theta_i - x_2 \sin m\theta_i \\ x_2 \cos m\theta_i + x_1 \sin m\theta_i
        \end{pmatrix}, \qquad \theta_i = \mathrm{base}^{-2i/r}

    Layouts: ``"half"`` pairs feature :math:`i` with :math:`i + r/2` (GPT-NeoX, LLaMA as in Hugging Face);
    ``"interleaved"`` pairs :math:`2i` with :math:`2i + 1` (the paper, GPT-J). The two differ by a permutation of the
    features, so weights made for one give nonsense with the other.

    Args:
        head_dim: width of a head.
        max_positions: positions that there are angles for.
        base: of the angles.
        layout: ``"half"`` or ``"interleaved"``.
        rotary_dim: features that are turned, even; the rest passes through. None: all.
        scaling: ``"linear"`` divides positions by ``factor``; ``"ntk"`` multiplies ``base`` by
            :math:`\mathrm{factor}^{r/(r-2)}`, which stretches the slow angles only. Both reach longer sequences than
            a model was trained for.
        factor: of the scaling, at least 1.

    Shapes:
        ``[batch_size, seq_len, num_heads, head_dim]`` to the same; positions int ``[seq_len]`` or
        ``[batch_size, seq_len]``, 0, 1, … if None. Angles are computed in float64 once.

    References:
        RoFormer, arXiv:2104.09864, section 3.2; linear scaling, arXiv:2306.15595; NTK-aware scaling, described in
        arXiv:2309.00071, section 3.1.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        head_dim: int,
        max_positions: int,
        base: float = 10000.0,
        *,
        layout: Literal["half", "interleaved"] = "half",
        rotary_dim: int | None = None,
        scaling: Literal["none", "linear", "ntk"] = "none",
        factor: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive("head_dim", head_dim)
        check_positive("max_positions", max_positions)
        check_number("base", base, 1.0)
        check_choice("layout", layout, ("half", "interleaved"))
        check_choice("scaling", scaling, ("none", "linear", "ntk"))
        check_number("factor", factor, 1.0)
        turned = head_dim if rotary_dim is None else rotary_dim
        check_positive("rotary_dim", turned)
        if turned % 2 or turned > head_dim or (scaling == "ntk" and turned == 2):
            least = 4 if scaling == "ntk" else 2
            raise InvalidInputError(
                f"rotary_dim: expected an even number in [{least}, {head_dim}], the last is head_dim, got {turned}"
            )
        self.head_dim, self.rotary_dim, self.layout = head_dim, turned, layout
        self.max_positions = max_positions
        if scaling == "ntk":
            base = base * factor ** (turned / (turned - 2))
        position = np.arange(max_positions) / (factor if scaling == "linear" else 1.0)
        angle = np.outer(position, base ** (-np.arange(0, turned, 2) / turned))
        for name, table in (("cos", np.cos(angle)), ("sin", np.sin(angle))):
            self.register_buffer(name, paddle.to_tensor(table.astype(np.float32)), persistable=False)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return the turned features."""
        check_shape(
            "x", x, [UNKNOWN, UNKNOWN, UNKNOWN, self.head_dim], "[batch_size, seq_len, num_heads, head_dim]"
        )
        if positions is None:
            positions = next_positions(x)
        check_positions(positions, x)
        check_range(positions, self.max_positions)
        # [seq_len, 1, rotary_dim / 2] or with the batch before it: the same for all heads.
        cos, sin = (
            nn.functional.embedding(positions, table).astype(x.dtype).unsqueeze(-2)
            for table in (self.cos, self.sin)
        )
        turned = x[..., : self.rotary_dim]
        turned = (
            _turn_halves(turned, cos, sin) if self.layout == "half" else _turn_neighbours(turned, cos, sin)
        )
        return (
            turned
            if self.rotary_dim == self.head_dim
            else paddle.concat([turned, x[..., self.rotary_dim :]], -1)
        )


def _turn_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, axis=-1)
    return paddle.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _turn_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x[..., 0::2], x[..., 1::2]
    return paddle.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).flatten(-2)

"""Recurrent layers over padded sequences."""

from __future__ import annotations

from typing import Any, ClassVar

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_flag, check_number, check_positive, check_shape
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.padding import (
    last_token,
    length_mask,
    reverse_tokens,
    take_token,
    zero_padding,
)
from paddle_infra.nn.sizes import size_of


class _Recurrent(nn.Layer):
    """A stack of Paddle's recurrent layers; see :class:`LSTM`."""

    _kind: ClassVar[type[nn.Layer]]
    _num_states: ClassVar[int] = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        variational: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ):
            check_positive(name, value)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bidirectional = check_flag("bidirectional", bidirectional)
        self.dropout = check_number("dropout", dropout, 0.0, 1.0)
        self.variational = check_flag("variational", variational)
        self.num_directions = 2 if bidirectional else 1
        self.output_size = self.num_directions * hidden_size
        widths = [input_size] + [self.output_size] * (num_layers - 1)
        self.ahead = nn.LayerList([self._kind(width, hidden_size) for width in widths])
        if bidirectional:
            self.back = nn.LayerList([self._kind(width, hidden_size) for width in widths])

    def forward(
        self, hidden: Tensor, lengths: Tensor | None = None, states: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output at every position and the final states."""
        check_shape("hidden", hidden, [-1, -1, self.input_size], "[batch_size, seq_len, input_size]")
        mask = None if lengths is None else length_mask(lengths, hidden)
        hidden = zero_padding(hidden, mask)
        if states is not None:
            self._check_states(states, hidden)
        final: list[tuple[Tensor, ...]] = []
        for index in range(self.num_layers):
            hidden = self._drop(hidden) if index else hidden
            outputs = []
            for backward in range(self.num_directions):
                initial = self._initial(states, hidden, len(final))
                output, state = self._run(index, bool(backward), hidden, lengths, mask, initial)
                outputs.append(output)
                final.append(state)
            hidden = paddle.concat(outputs, axis=-1) if self.bidirectional else outputs[0]
        joined = [paddle.concat([state[i] for state in final]) for i in range(self._num_states)]
        return hidden, tuple(joined)

    def _run(
        self,
        index: int,
        backward: bool,
        hidden: Tensor,
        lengths: Tensor | None,
        mask: Tensor | None,
        initial: tuple[Tensor, ...],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run one direction of one layer; its states are ``[1, batch_size, hidden_size]``."""
        layer = (self.back if backward else self.ahead)[index]
        if backward:
            hidden = reverse_tokens(hidden, lengths)
        output, state = layer(hidden, initial if len(initial) > 1 else initial[0], sequence_length=lengths)
        final = tuple(state) if len(initial) > 1 else (state,)
        if lengths is not None:
            # Not what the operator says: it needs the lengths, which an export may lose.
            output = zero_padding(output, mask)
            last = take_token(output, last_token(lengths, output)).unsqueeze(0)
            is_empty = (lengths == 0).unsqueeze([0, -1])
            final = (paddle.where(is_empty, initial[0], last), *final[1:])
        return (reverse_tokens(output, lengths) if backward else output), final

    def _initial(self, states: tuple[Tensor, ...] | None, hidden: Tensor, index: int) -> tuple[Tensor, ...]:
        if states is not None:
            return tuple(state[index : index + 1] for state in states)
        zeros = paddle.zeros([1, size_of(hidden, 0), self.hidden_size], dtype=hidden.dtype)
        return (zeros,) * self._num_states

    def _drop(self, hidden: Tensor) -> Tensor:
        if not self.dropout:
            return hidden
        axis = [0, 2] if self.variational else None
        return F.dropout(hidden, self.dropout, axis=axis, training=self.training)

    def _check_states(self, states: Any, hidden: Tensor) -> None:
        if not isinstance(states, tuple) or len(states) != self._num_states:
            found = f"{len(states)}" if isinstance(states, tuple) else type(states).__name__
            raise InvalidInputError(f"states: expected a tuple of {self._num_states}, got {found}")
        shape = [self.num_layers * self.num_directions, hidden.shape[0], self.hidden_size]
        for state in states:
            check_shape("states", state, shape, "[num_layers * directions, batch_size, hidden_size]")


class RNN(_Recurrent):
    r"""Elman's network, :math:`h_t = \tanh(W x_t + b + V h_{t-1} + c)`; the states are ``(h,)``.

    Arguments, shapes, errors and export as in :class:`LSTM`.

    References:
        Elman, "Finding Structure in Time", Cognitive Science 14 (1990).
    """

    _kind = nn.SimpleRNN


class GRU(_Recurrent):
    r"""Gated recurrent units; the states are ``(h,)``.

    Arguments, shapes, errors and export as in :class:`LSTM`.

    .. math::
        r, z &= \sigma(W_{r,z} x_t + V_{r,z} h_{t-1} + b_{r,z}) \\
        n &= \tanh(W_n x_t + b_n + r \circ (V_n h_{t-1} + c_n)) \\
        h_t &= (1 - z) \circ n + z \circ h_{t-1}

    References:
        Cho et al., arXiv:1406.1078, section 2.3; the reset gate is applied after the product, as in cuDNN and PyTorch.
    """

    _kind = nn.GRU


class LSTM(_Recurrent):
    r"""A stack of long short-term memories over right-padded sequences, in one or both directions.

    .. math::
        i, f, o &= \sigma(W_{i,f,o} x_t + V_{i,f,o} h_{t-1} + b_{i,f,o}) \\
        c_t &= f \circ c_{t-1} + i \circ \tanh(W_g x_t + V_g h_{t-1} + b_g) \\
        h_t &= o \circ \tanh(c_t)

    The backward direction starts at the last real token of each row: the real tokens are reversed in place, run
    through, and reversed back. Padding is zeroed before the first layer, so that nothing depends on it, be it NaN.

    Args:
        input_size: width of the input.
        hidden_size: width of each direction's state.
        num_layers: number of layers.
        bidirectional: whether a second direction runs from the last token to the first.
        dropout: dropout probability between layers.
        variational: whether dropout between layers drops the same features at all positions of a row.

    Shapes:
        ``D`` is 2 if bidirectional, else 1. hidden ``[batch_size, seq_len, input_size]``; lengths int
        ``[batch_size]``, from 0 to ``seq_len``, or None (no padding); states, if given, the tuple ``(h, c)`` of
        initial states, each ``[num_layers * D, batch_size, hidden_size]``, else zeros. The result is
        ``(output, states)``: output ``[batch_size, seq_len, D * hidden_size]``, forward direction first, zeros at
        padding; states a tuple like the initial ones, of layer 0 forward, layer 0 backward, layer 1 forward, …, each
        after that direction's last real token (forward: the last one, backward: the first). In a row of length 0 they
        are the initial ones.

    Export:
        paddle2onnx drops the lengths of Paddle's recurrent operator. The layer does not need them for output and
        ``h``: these are right in such a file. An LSTM's ``c`` is not: there it is the one after all padding.

    Raises:
        InvalidDtypeError: ``lengths`` is no integer tensor.
        InvalidInputError: a shape differs, or a length is out of range (not checked in a static program).

    References:
        Hochreiter and Schmidhuber, Neural Computation 9 (1997), with the forget gate of Gers et al. (2000). Variational
        dropout: Gal and Ghahramani, arXiv:1512.05287, section 4 (between layers only).
    """

    _kind = nn.LSTM
    _num_states = 2

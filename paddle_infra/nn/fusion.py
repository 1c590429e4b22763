"""Join the vectors of several modalities (text, image, table, …) into one."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.jit.marker import unified

from paddle_infra import ops
from paddle_infra._core.checks import check_number, check_positive, check_shape
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.attention import MultiHeadAttention, key_padding_mask
from paddle_infra.nn.linear import Linear
from paddle_infra.nn.padding import check_mask, zero_padding
from paddle_infra.ops.linear import ActivationName


def _check_sizes(input_sizes: Sequence[int], hidden_size: int) -> None:
    if len(input_sizes) < 2:
        raise InvalidInputError(f"input_sizes: expected at least 2, got {list(input_sizes)}")
    for width in input_sizes:
        check_positive("input_sizes", width)
    check_positive("hidden_size", hidden_size)


def _check_inputs(inputs: Sequence[Tensor], input_sizes: Sequence[int]) -> None:
    if len(inputs) != len(input_sizes):
        raise InvalidInputError(f"inputs: expected {len(input_sizes)} tensors, got {len(inputs)}")
    for index, (value, width) in enumerate(zip(inputs, input_sizes, strict=True)):
        check_shape(f"inputs[{index}]", value, [*inputs[0].shape[:-1], width], "[..., input_size]")


unified(_check_inputs)  # graph capture shall call it as it is


class ConcatFusion(nn.Layer):
    r"""Concatenate and project: :math:`f(W [x_1; x_2; …] + b)`.

    Args:
        input_sizes: width of each modality.
        hidden_size: width of the result.
        activation: :math:`f`, of :class:`Linear`.

    Shapes:
        a list of tensors ``[..., input_size]`` with the same leading shape to ``[..., hidden_size]``.
    """

    def __init__(
        self, input_sizes: Sequence[int], hidden_size: int, activation: ActivationName = "relu"
    ) -> None:
        super().__init__()
        _check_sizes(input_sizes, hidden_size)
        self.input_sizes = tuple(input_sizes)
        width = 2 * hidden_size if activation == "swiglu" else hidden_size
        self.projection = Linear(sum(input_sizes), width, activation)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the joined vector."""
        _check_inputs(inputs, self.input_sizes)
        return self.projection(paddle.concat(list(inputs), axis=-1))


class GatedFusion(nn.Layer):
    r"""A gate of its own for every feature of every modality (gated multimodal unit).

    .. math::
        h_i = \tanh(W_i x_i + b_i), \quad z_i = \sigma(Y_i [x_1; x_2; …] + c_i), \quad h = \sum_i z_i \circ h_i

    Two modalities share one gate: :math:`z_2 = 1 - z_1`.

    Args:
        input_sizes: width of each modality.
        hidden_size: width of the result.

    Shapes:
        a list of tensors ``[..., input_size]`` with the same leading shape to ``[..., hidden_size]``.

    References:
        Arevalo et al., "Gated Multimodal Units", arXiv:1702.01992, section 3.1; with biases.
    """

    def __init__(self, input_sizes: Sequence[int], hidden_size: int) -> None:
        super().__init__()
        _check_sizes(input_sizes, hidden_size)
        self.input_sizes = tuple(input_sizes)
        gates = 1 if len(input_sizes) == 2 else len(input_sizes)
        self.projections = nn.LayerList([nn.Linear(width, hidden_size) for width in input_sizes])
        self.gates = nn.LayerList([nn.Linear(sum(input_sizes), hidden_size) for _ in range(gates)])

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the joined vector."""
        _check_inputs(inputs, self.input_sizes)
        everything = paddle.concat(list(inputs), axis=-1)
        hidden = [F.tanh(self.projections[i](inputs[i])) for i in range(len(inputs))]
        gates = [F.sigmoid(gate(everything)) for gate in self.gates]
        if len(gates) == 1:
            gates.append(1.0 - gates[0])
        return paddle.add_n([gates[i] * hidden[i] for i in range(len(gates))])


class BilinearFusion(nn.Layer):
    r"""Products of features of two modalities, of low rank: :math:`P\,(\tanh(U x) \circ \tanh(V y)) + b`.

    Args:
        input_sizes: width of both modalities.
        hidden_size: width of the result.
        rank: number of products; None: ``hidden_size``.
        dropout: dropout probability on the products.

    Shapes:
        two tensors ``[..., input_size]`` with the same leading shape to ``[..., hidden_size]``.

    References:
        Kim et al., "Hadamard Product for Low-rank Bilinear Pooling" (MLB), arXiv:1610.04325, sections 2 and 3.
    """

    def __init__(
        self, input_sizes: tuple[int, int], hidden_size: int, rank: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        _check_sizes(input_sizes, hidden_size)
        if len(input_sizes) != 2:
            raise InvalidInputError(f"input_sizes: expected 2, got {list(input_sizes)}")
        rank = hidden_size if rank is None else rank
        check_positive("rank", rank)
        self.input_sizes = tuple(input_sizes)
        self.dropout = check_number("dropout", dropout, 0.0, 1.0)
        self.left = nn.Linear(input_sizes[0], rank)
        self.right = nn.Linear(input_sizes[1], rank)
        self.output = nn.Linear(rank, hidden_size)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the joined vector."""
        _check_inputs((left, right), self.input_sizes)
        products = F.tanh(self.left(left)) * F.tanh(self.right(right))
        return self.output(F.dropout(products, self.dropout, training=self.training))


class CrossAttentionFusion(nn.Layer):
    r"""Every token of one modality looks at all tokens of another: :math:`\mathrm{norm}(h + \mathrm{attention}(h, m))`.

    Args:
        hidden_size: width of the modality that looks, and of the result.
        memory_size: width of the other one.
        num_heads: attention heads.
        dropout: dropout probability on the attention weights and on what attention returns.
        epsilon: added to the variance in LayerNorm.

    Shapes:
        hidden ``[batch_size, seq_len, hidden_size]``, memory ``[batch_size, memory_len, memory_size]``, memory_mask
        ``[batch_size, memory_len]`` (1 = token) or None (no padding) to ``[batch_size, seq_len, hidden_size]``. Where
        a memory has no token at all, attention adds the bias of its output only.

    References:
        Lu et al., "ViLBERT", arXiv:1908.02265, section 2.1 (co-attention); one direction, without the perceptron.
    """

    def __init__(
        self,
        hidden_size: int,
        memory_size: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.hidden_size, self.memory_size = hidden_size, memory_size
        self.attention = MultiHeadAttention(hidden_size, num_heads, dropout, memory_size=memory_size)
        self.norm = nn.LayerNorm(hidden_size, epsilon=epsilon)
        self.epsilon = epsilon
        self.dropout = check_number("dropout", dropout, 0.0, 1.0)

    def forward(self, hidden: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        """Return the states of the modality that looks."""
        check_shape("hidden", hidden, [-1, -1, self.hidden_size], "[batch_size, seq_len, hidden_size]")
        check_shape("memory", memory, [-1, -1, self.memory_size], "[batch_size, memory_len, memory_size]")
        bias = None
        if memory_mask is not None:
            check_mask(memory_mask, memory)
            bias = key_padding_mask(memory_mask)
            memory = zero_padding(memory, memory_mask)
        return ops.add_norm(
            self.attention(hidden, bias, memory=memory),
            hidden,
            self.norm.weight,
            self.norm.bias,
            epsilon=self.epsilon,
            dropout_p=self.dropout,
            training=self.training,
        )

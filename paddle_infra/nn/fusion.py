"""Join the vectors of several modalities (text, image, table, …) into one."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_number, check_positive, check_shape
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.linear import Linear
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


class ConcatFusion(nn.Layer):
    r"""Concatenate and project: :math:`f(W [x_1; x_2; …] + b)`.

    Args:
        input_sizes: width of each modality.
        hidden_size: width of the result.
        activation: :math:`f`, of :class:`Linear`.

    Shapes:
        tensors ``[..., input_size]`` with the same leading shape to ``[..., hidden_size]``.
    """

    def __init__(
        self, input_sizes: Sequence[int], hidden_size: int, activation: ActivationName = "relu"
    ) -> None:
        super().__init__()
        _check_sizes(input_sizes, hidden_size)
        self.input_sizes = tuple(input_sizes)
        width = 2 * hidden_size if activation == "swiglu" else hidden_size
        self.projection = Linear(sum(input_sizes), width, activation)

    def forward(self, *inputs: Tensor) -> Tensor:
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
        tensors ``[..., input_size]`` with the same leading shape to ``[..., hidden_size]``.

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

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the joined vector."""
        _check_inputs(inputs, self.input_sizes)
        everything = paddle.concat(list(inputs), axis=-1)
        hidden = [F.tanh(project(x)) for project, x in zip(self.projections, inputs, strict=True)]
        gates = [F.sigmoid(gate(everything)) for gate in self.gates]
        if len(gates) == 1:
            gates.append(1.0 - gates[0])
        return paddle.add_n([gate * h for gate, h in zip(gates, hidden, strict=True)])


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

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the joined vector."""
        _check_inputs(inputs, self.input_sizes)
        products = F.tanh(self.left(inputs[0])) * F.tanh(self.right(inputs[1]))
        return self.output(F.dropout(products, self.dropout, training=self.training))

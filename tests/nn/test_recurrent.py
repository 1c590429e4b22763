from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from tests.nn.padded import assert_padding_has_no_effect, with_garbage
from tests.nn.programs import assert_program_is_layer

KINDS = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}
LENGTHS = [6, 1, 3, 1]


def pair(kind: str, num_layers: int, bidirectional: bool):  # type: ignore[no-untyped-def]
    """Our layer, and PyTorch's with the same weights."""
    torch = pytest.importorskip("torch")
    paddle.seed(1)
    ours = KINDS[kind](5, 4, num_layers=num_layers, bidirectional=bidirectional)
    theirs = getattr(torch.nn, kind)(5, 4, num_layers, bidirectional=bidirectional, batch_first=True)
    names = {}
    for name, parameter in theirs.named_parameters():
        kind_of, layer = name.removesuffix("_reverse").rsplit("_l", 1)
        side = "back" if name.endswith("_reverse") else "ahead"
        names[name] = f"{side}.{layer}.{kind_of}_l0"
        parameter.data.copy_(torch.from_numpy(dict(ours.named_parameters())[names[name]].numpy()))
    return ours, theirs, names


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_packed_sequences_of_pytorch(kind: str, num_layers: int, bidirectional: bool) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs, names = pair(kind, num_layers, bidirectional)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6, 5)).astype("float32")
    directions = 2 if bidirectional else 1
    initial = [
        rng.standard_normal((num_layers * directions, 4, 4)).astype("float32")
        for _ in range(2 if kind == "LSTM" else 1)
    ]
    hidden = paddle.to_tensor(with_garbage(x, LENGTHS, 2), stop_gradient=False)
    starts = tuple(paddle.to_tensor(value, stop_gradient=False) for value in initial)
    output, states = ours(hidden, paddle.to_tensor(LENGTHS), starts)

    torch_x = torch.tensor(x, requires_grad=True)
    torch_starts = tuple(torch.tensor(value, requires_grad=True) for value in initial)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch_x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    torch_output, torch_states = theirs(packed, torch_starts if kind == "LSTM" else torch_starts[0])
    torch_output, _ = torch.nn.utils.rnn.pad_packed_sequence(torch_output, batch_first=True)
    torch_states = torch_states if kind == "LSTM" else (torch_states,)

    assert not output[:, 6:].numpy().any()
    np.testing.assert_allclose(output[:, :6].numpy(), torch_output.detach().numpy(), atol=1e-6)
    for got, expected in zip(states, torch_states, strict=True):
        np.testing.assert_allclose(got.numpy(), expected.detach().numpy(), atol=1e-6)

    factors = [rng.standard_normal(value.shape).astype("float32") for value in (torch_output, *torch_states)]
    sum(
        (value * paddle.to_tensor(factor)).sum()
        for value, factor in zip((output[:, :6], *states), factors, strict=True)
    ).backward()
    sum(
        (value * torch.tensor(factor)).sum()
        for value, factor in zip((torch_output, *torch_states), factors, strict=True)
    ).backward()
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(
            hidden.grad.numpy()[row, :length], torch_x.grad.numpy()[row, :length], atol=5e-6
        )
        assert not hidden.grad.numpy()[row, length:].any()
    for start, torch_start in zip(starts, torch_starts, strict=True):
        np.testing.assert_allclose(start.grad.numpy(), torch_start.grad.numpy(), atol=5e-6)
    parameters = dict(ours.named_parameters())
    assert len(parameters) == len(names)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(
            parameters[names[name]].grad.numpy(), parameter.grad.numpy(), atol=2e-5, err_msg=name
        )


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_effect(kind: str) -> None:
    paddle.seed(0)
    layer = KINDS[kind](4, 3, num_layers=2, bidirectional=True)

    def run(hidden: paddle.Tensor, lengths: paddle.Tensor, mask: paddle.Tensor) -> list[paddle.Tensor]:
        output, states = layer(hidden, lengths)
        return [output, *(state.transpose([1, 0, 2]) for state in states)]

    assert_padding_has_no_effect(layer, run, 4)


def test_without_lengths_every_row_is_full() -> None:
    paddle.seed(0)
    layer = nn.LSTM(3, 2, bidirectional=True)
    hidden = paddle.rand([2, 4, 3])
    for one, other in zip(
        _all(layer(hidden)), _all(layer(hidden, paddle.to_tensor([4, 4], dtype="int32"))), strict=True
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-7)


def _all(result: tuple[paddle.Tensor, tuple[paddle.Tensor, ...]]) -> list[paddle.Tensor]:
    return [result[0], *result[1]]


def test_a_row_without_tokens_keeps_the_initial_states() -> None:
    layer = nn.LSTM(3, 2, bidirectional=True)
    states = (paddle.rand([2, 2, 2]), paddle.rand([2, 2, 2]))
    output, final = layer(paddle.full([2, 4, 3], float("nan")), paddle.to_tensor([0, 0]), states)
    assert not output.numpy().any()
    for before, after in zip(states, final, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())


def test_variational_dropout_drops_whole_features_of_a_row() -> None:
    paddle.seed(0)
    layer = nn.GRU(3, 64, num_layers=2, dropout=0.5, variational=True)
    seen: list[np.ndarray] = []
    layer.ahead[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    layer(paddle.rand([3, 5, 3]))
    dropped = seen[0] == 0
    assert (dropped == dropped[:, :1]).all()
    assert 0.3 < dropped[:, 0].mean() < 0.7
    assert (dropped[0, 0] != dropped[1, 0]).any()
    layer.eval()
    layer(paddle.rand([3, 5, 3]))
    assert (seen[1] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_programs(kind: str, tmp_path: Path) -> None:
    paddle.seed(0)
    layer = KINDS[kind](3, 2, num_layers=2, bidirectional=True)
    specs = [InputSpec([None, None, 3], "float32", "hidden"), InputSpec([None], "int64", "lengths")]
    inputs = [
        [paddle.rand([3, 5, 3]), paddle.to_tensor([5, 1, 2])],
        [paddle.rand([1, 1, 3]), paddle.to_tensor([1])],
    ]
    assert_program_is_layer(layer, specs, inputs, tmp_path)


def test_parameter_names() -> None:
    layer = nn.LSTM(3, 2, num_layers=2, bidirectional=True)
    kinds = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    expected = [f"{side}.{i}.{kind}" for side in ("ahead", "back") for i in range(2) for kind in kinds]
    assert sorted(name for name, _ in layer.named_parameters()) == sorted(expected)


def test_errors() -> None:
    layer = nn.LSTM(3, 2)
    hidden = paddle.rand([2, 4, 3])
    with pytest.raises(InvalidInputError, match=r"hidden: expected shape \[-1, -1, 3\].*got \[2, 4, 2\]"):
        layer(hidden[:, :, :2])
    with pytest.raises(InvalidInputError, match=r"lengths: expected shape \[2\].*got \[3\]"):
        layer(hidden, paddle.to_tensor([1, 2, 3]))
    with pytest.raises(InvalidInputError, match=r"lengths\[1\]: expected a length in \[0, 4\], got 5"):
        layer(hidden, paddle.to_tensor([1, 5]))
    with pytest.raises(InvalidDtypeError, match="lengths: expected dtype int32 or int64, got float32"):
        layer(hidden, paddle.to_tensor([1.0, 2.0]))
    with pytest.raises(InvalidInputError, match="states: expected a tuple of 2, got 1"):
        layer(hidden, None, (hidden,))
    with pytest.raises(InvalidInputError, match=r"states: expected shape \[1, 2, 2\].*got \[2, 2, 2\]"):
        layer(hidden, None, (paddle.rand([2, 2, 2]), paddle.rand([2, 2, 2])))
    with pytest.raises(InvalidInputError, match="num_layers: expected a positive integer, got 0"):
        nn.GRU(3, 2, num_layers=0)

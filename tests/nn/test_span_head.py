from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidInputError
from tests.nn.saved_program import LossOf, runs_alike
from tests.nn.torch_gold import agrees, rows, torch

# [CLS] question question [SEP] context … [SEP] padding
MASK = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0, 0]])


def head_of() -> nn.SpanHead:
    paddle.seed(0)
    return nn.SpanHead(8, 0.0)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ([4, 0, 2], [7, 0, 3]),  # an answer, none, an answer
        ([4, -1, 20], [6, 5, 3]),  # a start before and one beyond the sequence
        ([5, 3, 6], [8, 4, 7]),  # at a separator and at padding
        ([-1, 20, 1], [-1, 20, 1]),  # nothing counts
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_loss(start: list[int], end: list[int], scale: float) -> None:
    head = head_of()
    allowed = MASK.astype(bool) | (np.arange(9) == 0)

    def gold(hidden, weight, bias):
        logits = hidden @ weight + bias
        total = torch.zeros((), dtype=torch.float64) + 0.0 * weight.sum()
        for column, positions in ((0, start), (1, end)):
            losses = []
            for i, position in enumerate(positions):
                if 0 <= position < 9 and allowed[i, position]:
                    chosen = logits[i, torch.tensor(allowed[i]), column]
                    losses.append(torch.logsumexp(chosen, 0) - logits[i, position, column])
            if losses:
                total = total + 0.5 * torch.stack(losses).mean()
        return total

    parameters = {"weight": head.classifier.weight, "bias": head.classifier.bias}
    agrees(
        lambda hidden: head.loss(
            hidden, paddle.to_tensor(start), paddle.to_tensor(end), mask=paddle.to_tensor(MASK)
        ),
        gold,
        {"hidden": rows(3, 9, 8, scale=scale)},
        parameters,
        rtol=1e-5 if scale == 1.0 else 1e-4,
    )


@pytest.mark.parametrize("extra", [1, 7])
def test_padding_changes_nothing(extra: int) -> None:
    head, hidden = head_of(), rows(3, 9, 8)
    garbage = np.full((3, extra, 8), np.nan, np.float32)
    results = []
    for value, mask in (
        (hidden, MASK),
        (np.concatenate([hidden, garbage], 1), np.pad(MASK, ((0, 0), (0, extra)))),
    ):
        x, mask = paddle.to_tensor(value, stop_gradient=False), paddle.to_tensor(mask)
        loss = head.loss(x, paddle.to_tensor([4, 20, 2]), paddle.to_tensor([6, 5, 3]), mask=mask)
        loss.backward()
        spans = head.decode(x, mask=mask, max_answer_length=3)
        results.append((float(loss), x.grad.numpy(), head.classifier.weight.grad.numpy(), spans))
        head.clear_gradients()
    short, long = results
    # Position 20 is beyond both sequences; with 12 more it would be at padding, and left out as well.
    assert short[0] == pytest.approx(long[0], rel=1e-6)
    np.testing.assert_allclose(long[1][:, :9], short[1], atol=1e-6)
    assert not long[1][:, 9:].any()
    np.testing.assert_allclose(long[2], short[2], atol=1e-6)
    for a, b in zip(short[3], long[3], strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 4, 30])
def test_decoding_finds_the_best_span(length: int) -> None:
    head = head_of()
    for seed in range(5):
        hidden = rows(3, 9, 8, seed=seed, scale=3.0)
        logits = head(paddle.to_tensor(hidden)).numpy()
        spans = head.decode(paddle.to_tensor(hidden), mask=paddle.to_tensor(MASK), max_answer_length=length)
        for i in range(3):
            inside = np.flatnonzero(MASK[i])
            best = max(
                (float(logits[i, a, 0] + logits[i, b, 1]), a, b)
                for a in inside
                for b in inside
                if a <= b < a + length
            )
            assert (int(spans.start[i]), int(spans.end[i])) == best[1:]
            assert float(spans.score[i]) == pytest.approx(best[0], rel=1e-6)
            assert float(spans.null_score[i]) == pytest.approx(float(logits[i, 0].sum()), rel=1e-5)


def test_no_token_may_be_an_answer() -> None:
    head = head_of()
    spans = head.decode(paddle.to_tensor(rows(1, 4, 8)), mask=paddle.zeros([1, 4], "int64"))
    assert (spans.start.tolist(), spans.end.tolist(), spans.score.tolist()) == ([0], [0], [-np.inf])
    without = head.decode(paddle.to_tensor(rows(1, 4, 8)))
    assert int(without.start[0]) >= 1


def test_saved_with_dynamic_batch_and_length(tmp_path: Path) -> None:
    head = head_of()
    batches = [
        [rows(2, 9, 8), MASK[:2]],
        [rows(1, 5, 8), MASK[:1, 2:7]],
        [rows(4, 3, 8), np.ones((4, 3), np.int64)],
    ]

    class Decoder(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, hidden, mask):
            return self.head.decode(hidden, mask=mask, max_answer_length=4)

    (tmp_path / "d").mkdir()
    runs_alike(
        Decoder(),
        tmp_path / "d",
        [([None, None, 8], "float32"), ([None, None], "int64")],
        *batches,
        trains=False,
    )
    positions = [np.arange(len(batch[0])) % 4 for batch in batches]
    runs_alike(
        LossOf(head),
        tmp_path,
        [([None, None, 8], "float32"), ([None], "int64"), ([None], "int64")],
        *([batch[0], p, p + 1] for batch, p in zip(batches, positions, strict=True)),
    )


def test_names_and_errors() -> None:
    head = head_of()
    assert list(head.state_dict()) == ["classifier.weight", "classifier.bias"]
    x, one = paddle.to_tensor(rows(2, 4, 8)), paddle.to_tensor([1, 1])
    with pytest.raises(InvalidInputError, match=r"mask: expected shape \[2, 4\] .*, got \[2, 5\]"):
        head.decode(x, mask=paddle.ones([2, 5], "int64"))
    with pytest.raises(InvalidInputError, match=r"end: expected shape \[2\] \(\[batch_size\]\), got \[3\]"):
        head.loss(x, one, paddle.to_tensor([1, 1, 1]))
    with pytest.raises(InvalidInputError, match=r"hidden: expected shape \[-1, -1, 8\] .*, got \[2, 8\]"):
        head.loss(x[:, 0], one, one)
    with pytest.raises(InvalidInputError, match="max_answer_length: expected a positive integer, got 0"):
        head.decode(x, max_answer_length=0)

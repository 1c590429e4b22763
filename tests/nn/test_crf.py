from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from tests.nn.padded import assert_padding_has_no_effect, with_garbage
from tests.nn.programs import assert_program_is_layer

TAGS = ("O", "B-X", "I-X")
LENGTHS = [4, 1, 3, 2]


@pytest.fixture
def float64() -> Iterator[None]:
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def make(
    count: int, seed: int = 0, scale: float = 1.0, constraints: nn.TagConstraints | None = None
) -> nn.CRF:
    crf = nn.CRF(count, constraints)
    rng = np.random.default_rng(seed)
    for parameter in crf.parameters():
        parameter.set_value((scale * rng.standard_normal(parameter.shape)).astype(str(parameter.dtype)[7:]))
    return crf


def emissions(rows: int, length: int, count: int, seed: int = 1, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, length, count)).astype(dtype)


def every_score(crf: nn.CRF, row: np.ndarray) -> dict[tuple[int, ...], float]:
    """Score of every allowed sequence of a row without padding, float64."""
    transitions, start, end = (p.numpy().astype("float64") for p in (crf.transitions, crf.start, crf.end))
    if crf.has_constraints:
        transitions = np.where(crf.transitions_allowed.numpy(), transitions, -np.inf)
        start = np.where(crf.start_allowed.numpy(), start, -np.inf)
        end = np.where(crf.end_allowed.numpy(), end, -np.inf)
    scores = {}
    for tags in itertools.product(range(crf.num_tags), repeat=len(row)):
        score = start[tags[0]] + end[tags[-1]] + sum(row[t, tag] for t, tag in enumerate(tags))
        scores[tags] = score + sum(transitions[tags[t - 1], tags[t]] for t in range(1, len(tags)))
    return {tags: score for tags, score in scores.items() if np.isfinite(score)}


def log_sum(scores: list[float]) -> float:
    top = max(scores)
    return top + np.log(sum(np.exp(score - top) for score in scores))


@pytest.mark.parametrize("constraints", [None, nn.tag_constraints(TAGS, "iob2")], ids=["free", "iob2"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_equals_brute_force(constraints: nn.TagConstraints | None, scale: float) -> None:
    crf = make(3, scale=scale, constraints=constraints)
    values = (scale * emissions(4, 4, 3)).astype("float32")
    padded, lengths = paddle.to_tensor(with_garbage(values, LENGTHS, 2)), paddle.to_tensor(LENGTHS)
    partition = crf.log_partition(padded, lengths).numpy()
    tags, best = crf.decode(padded, lengths)
    marginals = crf.marginals(padded, lengths).numpy()
    assert tags.dtype == paddle.int64
    assert tags.shape == [4, 6]
    labels = np.full((4, 6), -100)
    expected_loss = []
    for row, length in enumerate(LENGTHS):
        scores = every_score(crf, values[row, :length].astype("float64"))
        top = max(scores, key=scores.__getitem__)
        assert tuple(tags.numpy()[row, :length]) == top
        assert not tags.numpy()[row, length:].any()
        total = log_sum(list(scores.values()))
        np.testing.assert_allclose(best.numpy()[row], scores[top], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(partition[row], total, rtol=1e-12, atol=1e-12)
        for position, tag in itertools.product(range(length), range(3)):
            among = [score for tags, score in scores.items() if tags[position] == tag]
            wanted = np.exp(log_sum(among) - total) if among else 0.0
            np.testing.assert_allclose(marginals[row, position, tag], wanted, atol=1e-6)
        assert not marginals[row, length:].any()
        gold = sorted(scores)[len(scores) // 2]
        labels[row, :length] = gold
        expected_loss.append(total - scores[gold])
    label = paddle.to_tensor(labels)
    for reduction, wanted in {
        "none": expected_loss,
        "sum": sum(expected_loss),
        "mean": np.mean(expected_loss),
        "token_mean": sum(expected_loss) / sum(LENGTHS),
    }.items():
        got = crf.loss(padded, label, lengths, reduction)
        assert got.dtype == paddle.float32
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-6, atol=1e-6)
        with paddle.no_grad():
            np.testing.assert_array_equal(crf.loss(padded, label, lengths, reduction).numpy(), got.numpy())
    np.testing.assert_allclose(
        crf.score(padded, label, lengths).numpy(), partition - expected_loss, rtol=1e-9
    )


@pytest.mark.parametrize("constraints", [None, nn.tag_constraints(TAGS, "iob2")], ids=["free", "iob2"])
@pytest.mark.usefixtures("float64")
def test_gradients_equal_finite_differences(constraints: nn.TagConstraints | None) -> None:
    crf = make(3, constraints=constraints)
    values = emissions(4, 4, 3, dtype="float64")
    labels = paddle.to_tensor([[0, 1, 2, 2], [1, 0, 0, 0], [0, 0, 1, 0], [1, 2, 0, 0]])
    lengths, factors = paddle.to_tensor(LENGTHS), paddle.to_tensor([1.0, -0.5, 2.0, 0.3])
    hidden = paddle.to_tensor(values, stop_gradient=False)

    def total() -> paddle.Tensor:
        return (crf.loss(hidden, labels, lengths, "none") * factors).sum()

    total().backward()
    for tensor in (hidden, *crf.parameters()):
        numeric = np.zeros(tensor.shape)
        before = tensor.numpy().copy()
        for index in np.ndindex(*tensor.shape):
            sides = []
            for step in (1e-5, -1e-5):
                changed = before.copy()
                changed[index] += step
                tensor.set_value(changed)
                sides.append(float(total()))
            numeric[index] = (sides[0] - sides[1]) / 2e-5
        tensor.set_value(before)
        np.testing.assert_allclose(tensor.grad.numpy(), numeric, atol=1e-8)


def test_gradient_equals_automatic_differentiation_of_the_recursion() -> None:
    torch = pytest.importorskip("torch")
    crf = make(7)
    values = emissions(5, 40, 7)
    hidden = paddle.to_tensor(values, stop_gradient=False)
    crf.log_partition(hidden).sum().backward()
    e = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    a, start, end = (
        torch.tensor(p.numpy(), dtype=torch.float64, requires_grad=True)
        for p in (crf.transitions, crf.start, crf.end)
    )
    sums = start + e[:, 0]
    for t in range(1, 40):
        sums = torch.logsumexp(sums.unsqueeze(-1) + a, dim=1) + e[:, t]
    torch.logsumexp(sums + end, dim=1).sum().backward()
    for got, expected in ((hidden, e), (crf.transitions, a), (crf.start, start), (crf.end, end)):
        np.testing.assert_allclose(got.grad.numpy(), expected.grad.numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_large_scores_keep_everything_finite(scale: float) -> None:
    crf = make(4, scale=1e4)
    hidden = paddle.to_tensor((scale * emissions(2, 300, 4)).astype("float32"), stop_gradient=False)
    loss = crf.loss(hidden, paddle.zeros([2, 300], dtype="int64"), paddle.to_tensor([300, 1]))
    loss.backward()
    assert np.isfinite(float(loss))
    assert all(np.isfinite(t.grad.numpy()).all() for t in (hidden, *crf.parameters()))
    tags, score = crf.decode(hidden)
    assert (
        0.0 <= float(crf.loss(hidden, tags)) < 1e-4
    )  # with such scores the best sequence has all the probability
    np.testing.assert_allclose(crf.log_partition(hidden).numpy(), score.numpy(), atol=2e-4)


def test_padding_has_no_effect() -> None:
    crf = make(3)
    labels = np.array([[0, 1, 2, 1, 0], [2, 0, 0, 0, 0], [1, 1, 0, 0, 0]])

    def run(hidden: paddle.Tensor, lengths: paddle.Tensor, mask: paddle.Tensor) -> list[paddle.Tensor]:
        rows, width = hidden.shape[:2]
        label = np.full((rows, width), 99)
        for row, length in enumerate(lengths.tolist()):
            label[row, :length] = labels[[5, 1, 3].index(length), :length]
        loss = crf.loss(hidden, paddle.to_tensor(label), lengths, "none")
        return [loss.unsqueeze(-1), crf(hidden, lengths), crf.marginals(hidden, lengths)]

    assert_padding_has_no_effect(crf, run, 3)


def test_rows_without_tokens() -> None:
    crf = make(3)
    hidden = paddle.full([2, 3, 3], float("nan"))
    hidden[1] = paddle.rand([3, 3])
    hidden.stop_gradient = False
    lengths, labels = paddle.to_tensor([0, 3]), paddle.to_tensor([[-1, -1, -1], [0, 1, 2]])
    loss = crf.loss(hidden, labels, lengths, "none")
    loss.sum().backward()
    assert float(loss[0]) == 0.0
    assert not hidden.grad.numpy()[0].any()
    tags, score = crf.decode(hidden, lengths)
    assert not tags.numpy()[0].any()
    assert float(score[0]) == 0.0
    only = crf.loss(hidden[1:], labels[1:], None, "none")
    np.testing.assert_allclose(float(loss[1]), float(only[0]), rtol=1e-6)
    before = {name: p.grad.numpy().copy() for name, p in crf.named_parameters()}
    crf.clear_gradients()
    only.sum().backward()
    for name, parameter in crf.named_parameters():
        np.testing.assert_allclose(before[name], parameter.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("iob2", ("O", "B-X", "I-X", "B-Y", "I-Y")),
        ("iob1", ("O", "B-X", "I-X", "B-Y", "I-Y")),
        ("bioes", ("O", "B-X", "I-X", "E-X", "S-X", "B-Y", "E-Y")),
        ("bioes", ("O", "B-X", "M-X", "L-X", "U-X")),
    ],
)
def test_constraints_are_the_rules_of_the_readers(scheme: str, tags: tuple[str, ...]) -> None:
    from paddle_infra.data.tags import transition_error

    allowed = nn.tag_constraints(tags, scheme)  # type: ignore[arg-type]
    kept = 0
    for ids in itertools.product(range(len(tags)), repeat=3):
        fits = allowed.start[ids[0]] and allowed.end[ids[-1]]
        fits = fits and all(allowed.transitions[a, b] for a, b in itertools.pairwise(ids))
        assert bool(fits) == (transition_error([tags[i] for i in ids], scheme) is None), [
            tags[i] for i in ids
        ]
        kept += bool(fits)
    assert 0 < kept < len(tags) ** 3


def test_constrained_decoding_never_breaks_them() -> None:
    from paddle_infra.data.tags import transition_error

    tags = ("O", "B-X", "I-X", "E-X", "S-X")
    crf = make(5, constraints=nn.tag_constraints(tags, "bioes"))
    hidden = paddle.to_tensor(5 * emissions(50, 9, 5))
    lengths = paddle.to_tensor(np.random.default_rng(0).integers(1, 10, 50))
    free = make(5)(hidden, lengths).numpy()
    got = crf(hidden, lengths).numpy()
    errors = [
        sum(
            transition_error([tags[i] for i in ids[:n]], "bioes") is not None
            for ids, n in zip(rows, lengths.tolist(), strict=True)
        )
        for rows in (free, got)
    ]
    assert errors[0] > 30
    assert errors[1] == 0


class _Loss(paddle.nn.Layer):
    def __init__(self, crf: nn.CRF) -> None:
        super().__init__()
        self.crf = crf

    def forward(self, hidden: paddle.Tensor, labels: paddle.Tensor, lengths: paddle.Tensor) -> paddle.Tensor:
        return self.crf.loss(hidden, labels, lengths, "none")


@pytest.mark.parametrize("constraints", [None, nn.tag_constraints(TAGS, "iob2")], ids=["free", "iob2"])
def test_programs(constraints: nn.TagConstraints | None, tmp_path: Path) -> None:
    hidden = InputSpec([None, None, 3], "float32", "hidden")
    lengths = InputSpec([None], "int64", "lengths")
    labels = InputSpec([None, None], "int64", "labels")
    inputs = []
    for sizes in ([3, 1, 2], [4], [1, 1]):
        values = paddle.to_tensor(emissions(len(sizes), max(sizes), 3))
        label = paddle.ones([len(sizes), max(sizes)], dtype="int64")
        inputs.append([values, label, paddle.to_tensor(sizes)])
    assert_program_is_layer(
        _Loss(make(3, constraints=constraints)), [hidden, labels, lengths], inputs, tmp_path
    )
    decoded = [[values, sizes] for values, _, sizes in inputs]
    crf = make(3, constraints=constraints)
    assert_program_is_layer(crf, [hidden, lengths], decoded, tmp_path, trains=False)


def test_parameter_names() -> None:
    crf = nn.CRF(3, nn.tag_constraints(TAGS, "iob2"))
    shapes = {name: parameter.shape for name, parameter in crf.named_parameters()}
    assert shapes == {"transitions": [3, 3], "start": [3], "end": [3]}
    assert set(crf.state_dict()) == set(shapes)


def test_errors() -> None:
    crf = make(3, constraints=nn.tag_constraints(TAGS, "iob2"))
    hidden, labels = paddle.rand([2, 3, 3]), paddle.to_tensor([[0, 1, 2], [0, 0, 0]])
    with pytest.raises(InvalidInputError, match=r"emissions: expected shape \[-1, -1, 3\].*got \[2, 3, 2\]"):
        crf(hidden[:, :, :2])
    with pytest.raises(InvalidDtypeError, match="labels: expected dtype int64, got int32"):
        crf.loss(hidden, labels.astype("int32"))
    with pytest.raises(InvalidInputError, match=r"labels: expected shape \[2, 3\].*got \[2, 2\]"):
        crf.loss(hidden, labels[:, :2])
    with pytest.raises(
        InvalidInputError, match=r"expected tags in \[0, 3\), got -100 in row 1 at position 2"
    ):
        crf.loss(hidden, paddle.to_tensor([[0, 1, 2], [0, 0, -100]]))
    with pytest.raises(InvalidInputError, match=r"a forbidden step in row 1: \[0, 2, 0\]"):
        crf.loss(hidden, paddle.to_tensor([[0, 1, 2], [0, 2, 0]]))
    with pytest.raises(InvalidInputError, match=r"reduction: expected one of .*got 'average'"):
        crf.loss(hidden, labels, None, "average")
    with pytest.raises(InvalidInputError, match=r"constraints.transitions: expected shape \[4, 4\]"):
        nn.CRF(4, nn.tag_constraints(TAGS, "iob2"))
    with pytest.raises(
        InvalidInputError, match="expected 'O' or a letter of iob2, '-' and a type, got 'S-X'"
    ):
        nn.tag_constraints(("O", "S-X"), "iob2")
    with pytest.raises(InvalidInputError, match="scheme: expected one of"):
        nn.tag_constraints(TAGS, "bio")  # type: ignore[arg-type]

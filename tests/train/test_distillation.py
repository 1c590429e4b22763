"""Distillation: every term against its formula in float64, teacher untouched, a student that learns from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from scipy.special import log_softmax

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from paddle_infra.train import Distillation, HiddenMatch, RelationMatch, Trainer, adamw, seed_everything

RANDOM = np.random.default_rng(0)
LABELS = np.array([[0, 3, -100], [2, -100, 1]])
STUDENT, TEACHER = (RANDOM.normal(size=(2, 3, 4)).astype("float32") * 3 for _ in range(2))


class Encoder(paddle.nn.Layer):
    """Tokens to classes, of any width."""

    def __init__(self, width: int, layers: int = 1) -> None:
        super().__init__()
        self.embedding = paddle.nn.Embedding(20, width)
        self.stack = nn.TransformerEncoder(layers, width, 2, 2 * width, dropout=0.0, attention_dropout=0.0)
        self.output = paddle.nn.Linear(width, 4)

    def forward(self, ids: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        hidden = self.stack(self.embedding(ids), (mask != 0).unsqueeze([1, 2]))
        weight = mask.astype("float32").unsqueeze(-1)
        return self.output((hidden * weight).sum(1) / weight.sum(1))


def step(model: Any, batch: Any) -> paddle.Tensor:
    return model(batch["ids"], batch["attention_mask"])


def token_batch() -> dict[str, paddle.Tensor]:
    generator = np.random.default_rng(1)
    mask = np.arange(6) < np.array([[6], [3], [5]])
    arrays = {
        "ids": generator.integers(0, 20, (3, 6)),
        "attention_mask": mask.astype("int64"),
        "labels": np.array([0, 1, 3]),
    }
    return {name: paddle.to_tensor(value) for name, value in arrays.items()}


def logits_only(**options: Any) -> float:
    given = {"student": paddle.to_tensor(STUDENT), "teacher": paddle.to_tensor(TEACHER)}
    distill = Distillation(
        paddle.nn.Identity(),
        lambda model, batch: given["student"],
        teacher_step=lambda model, batch: given["teacher"],
        **options,
    )
    return float(distill(paddle.nn.Identity(), {"labels": paddle.to_tensor(LABELS)}))


def divergence(temperature: float) -> float:
    q, p = (
        log_softmax(x.astype("float64")[LABELS != -100] / temperature, axis=-1) for x in (STUDENT, TEACHER)
    )
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
def test_the_logits_term(temperature: float) -> None:
    expected = temperature**2 * divergence(temperature)
    assert logits_only(alpha=1.0, temperature=temperature) == pytest.approx(expected, rel=1e-5)
    rows = log_softmax(STUDENT.astype("float64"), axis=-1)[LABELS != -100]
    labels = -rows[np.arange(4), LABELS[LABELS != -100]].mean()
    mixed = logits_only(alpha=0.3, temperature=temperature)
    assert mixed == pytest.approx(0.3 * expected + 0.7 * labels, rel=1e-5)
    assert logits_only(alpha=0.0) == pytest.approx(labels, rel=1e-6)


def hidden_of(model: paddle.nn.Layer, name: str, batch: Any) -> np.ndarray:
    kept: list[np.ndarray] = []
    handle = dict(model.named_sublayers())[name].register_forward_post_hook(
        lambda layer, inputs, output: kept.append(output.numpy().astype("float64"))
    )
    step(model, batch)
    handle.remove()
    return kept[0]


def term(match: Any, student: Encoder, teacher: Encoder, batch: Any) -> float:
    base = Distillation(teacher, step, alpha=1.0)
    full = Distillation(teacher, step, alpha=1.0, matches=[match])
    full.add_projections(student)
    return float(full(student, batch)) - float(base(student, batch))


def test_hidden_states_leave_out_padding() -> None:
    seed_everything(0)
    student, teacher, batch = Encoder(8), Encoder(8, 2), token_batch()
    match = HiddenMatch("stack.layers.0", "stack.layers.1", weight=3.0)
    own, theirs = hidden_of(student, match.student, batch), hidden_of(teacher, match.teacher, batch)
    real = batch["attention_mask"].numpy() == 1
    expected = 3 * ((own - theirs)[real] ** 2).mean()
    assert term(match, student, teacher, batch) == pytest.approx(expected, rel=1e-4)


def test_hidden_states_of_other_widths_are_projected() -> None:
    seed_everything(0)
    student, teacher, batch = Encoder(8), Encoder(16), token_batch()
    match = HiddenMatch("stack", "stack", widths=(8, 16))
    value = term(match, student, teacher, batch)
    projection = student.distillation_projections[0].weight.numpy().astype("float64")
    difference = hidden_of(student, "stack", batch) @ projection - hidden_of(teacher, "stack", batch)
    real = batch["attention_mask"].numpy() == 1
    assert value == pytest.approx((difference[real] ** 2).mean(), rel=1e-4)
    Distillation(teacher, step, matches=[match]).remove_projections(student)
    assert not any("projection" in name for name in student.state_dict())


def test_relations_between_tokens() -> None:
    seed_everything(0)
    student, teacher, batch = Encoder(8), Encoder(16), token_batch()
    name = "stack.layers.0.attention.value"
    rows = []
    for index, length in enumerate(batch["attention_mask"].numpy().sum(1)):
        logs = []
        for model in (student, teacher):
            x = hidden_of(model, name, batch)[index, :length]
            parts = x.reshape(length, 4, -1).transpose(1, 0, 2)
            logs.append(log_softmax(parts @ parts.transpose(0, 2, 1) / np.sqrt(parts.shape[-1]), axis=-1))
        q, p = logs
        rows.extend((np.exp(p) * (p - q)).sum(-1).mean(0))
    expected = 0.5 * np.mean(rows)
    value = term(RelationMatch(name, name, heads=4, weight=0.5), student, teacher, batch)
    assert value == pytest.approx(expected, rel=1e-3)


def test_the_teacher_stays_as_it_is() -> None:
    seed_everything(0)
    student, teacher, batch = Encoder(8), Encoder(16), token_batch()
    teacher.train()
    before = {name: value.numpy() for name, value in teacher.state_dict().items()}
    distill = Distillation(
        teacher,
        step,
        matches=[
            HiddenMatch("stack", "stack", widths=(8, 16)),
            RelationMatch("stack.layers.0.attention.key", "stack.layers.0.attention.key", 2),
        ],
    )
    distill.add_projections(student)
    optimizer = adamw(student, 1e-2, schedule="constant")
    trainer = Trainer(student, optimizer, distill)
    trainer.fit([batch] * 3, max_epochs=1)
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all((teacher.state_dict()[name].numpy() == value).all() for name, value in before.items())


def agreement(student: Encoder, teacher: Encoder, batch: Any) -> float:
    with paddle.no_grad():
        own, theirs = (paddle.nn.functional.softmax(step(model, batch)) for model in (student, teacher))
    return float((own - theirs).abs().max())


def test_a_student_learns_without_labels() -> None:
    seed_everything(0)
    student, teacher = Encoder(8), Encoder(16)
    batch = token_batch()
    del batch["labels"]
    before = agreement(student, teacher, batch)
    distill = Distillation(teacher, step, alpha=1.0, matches=[HiddenMatch("stack", "stack", widths=(8, 16))])
    distill.add_projections(student)
    projection = student.distillation_projections[0].weight.numpy()
    trainer = Trainer(student, adamw(student, 1e-2, schedule="constant"), distill, count=lambda batch: 3)
    trainer.fit([batch] * 60, max_epochs=1)
    assert (student.distillation_projections[0].weight.numpy() != projection).any()
    assert agreement(student, teacher, batch) < 0.2 * before


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"temperature": 0}, InvalidInputError, "temperature: expected a positive number, got 0"),
        ({"alpha": 1.5}, InvalidInputError, "alpha: expected a finite number in"),
        ({"matches": [3]}, InvalidDtypeError, "expected HiddenMatch or RelationMatch, got int"),
        ({"matches": [RelationMatch("stack", "stack", 0)]}, InvalidInputError, "heads: expected a positive"),
        ({"matches": [HiddenMatch("nothing", "stack")]}, InvalidInputError, "student: expected names among"),
        ({"matches": [HiddenMatch("stack", "nothing")]}, InvalidInputError, "teacher: expected names among"),
        ({"matches": [HiddenMatch("stack", "stack")]}, InvalidInputError, "expected equal widths or widths"),
        (
            {"matches": [HiddenMatch("stack", "stack", widths=(8, 16))]},
            InvalidInputError,
            "call add_projections",
        ),
        (
            {"matches": [HiddenMatch("output", "output")]},
            InvalidInputError,
            r"expected \[batch, length, width\]",
        ),
        (
            {"matches": [RelationMatch("stack", "stack", 3)]},
            InvalidInputError,
            "a divisor of the student's width 8",
        ),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Distillation(Encoder(16), step, **options)(Encoder(8), token_batch())


def test_logits_of_other_classes() -> None:
    with pytest.raises(InvalidDtypeError, match=r"teacher: expected a paddle\.nn\.Layer, got int"):
        Distillation(3, step)  # type: ignore[arg-type]
    teacher = Encoder(8)
    teacher.output = paddle.nn.Linear(8, 5)
    with pytest.raises(
        InvalidInputError, match=r"expected the teacher's shape \[3, 5\], the student's is \[3, 4\]"
    ):
        Distillation(teacher, step)(Encoder(8), token_batch())

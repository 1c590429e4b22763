from __future__ import annotations

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
from sklearn.metrics import precision_recall_fscore_support as sklearn_scores

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import EntityF1, TokenTable, entities
from paddle_infra.train.metrics.classification import Score

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
GENERATOR = np.random.default_rng(0)


def random_tags(length: int) -> list[str]:
    """Any tag after any other: most sequences break the scheme."""
    return [NAMES[i] for i in GENERATOR.integers(len(NAMES), size=length)]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("B-PER I-PER O", [("PER", 0, 2)]),
        ("O I-PER I-PER", [("PER", 1, 3)]),  # I after O starts an entity
        ("I-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),  # so does I of another type
        ("B-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
        ("B-PER I-LOC I-LOC I-PER", [("PER", 0, 1), ("LOC", 1, 3), ("PER", 3, 4)]),
    ],
)
def test_entities_by_hand(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == expected


def test_entities_equal_seqeval_on_thousands_of_random_sequences() -> None:
    for _ in range(5000):
        tags = random_tags(int(GENERATOR.integers(1, 12)))
        assert entities(tags) == [(kind, first, last + 1) for kind, first, last in get_entities(tags)], tags


def test_scores_equal_seqeval() -> None:
    for _ in range(30):
        gold = [random_tags(int(n)) for n in GENERATOR.integers(1, 20, size=40)]
        predicted = [
            [tag if GENERATOR.random() < 0.8 else random_tags(1)[0] for tag in tags] for tags in gold
        ]
        metric = EntityF1(NAMES)
        for pair in zip(gold, predicted, strict=True):
            metric.update_tags(*pair)
        assert metric.compute() == pytest.approx(
            {
                "entity_precision": precision_score(gold, predicted),
                "entity_recall": recall_score(gold, predicted),
                "entity_f1": f1_score(gold, predicted),
            },
            abs=1e-12,
        )
        per_type = precision_recall_fscore_support(gold, predicted, average=None)
        for row, *expected in zip(metric.table(), *per_type, strict=True):
            assert [row.precision, row.recall, row.f1, row.support] == pytest.approx(expected, abs=1e-12)
        for row in metric.averages():
            assert row.f1 == pytest.approx(f1_score(gold, predicted, average=row.name), abs=1e-12)


def test_padded_batches_equal_sequences() -> None:
    """Ignored positions (sub-words, padding) are removed before entities are read."""
    labels = np.array([[-100, 1, -100, 2, 0, -100], [3, 4, 4, -100, -100, -100]])
    predictions = np.array([[5, 1, 0, 2, 0, 5], [3, 4, 0, 1, 2, 3]])
    metric = EntityF1(NAMES)
    metric.update(labels=labels, predictions=predictions)
    assert metric.table() == [
        Score("LOC", 0.0, 0.0, 0.0, 1),
        Score("MISC", 0.0, 0.0, 0.0, 0),
        Score("PER", 1.0, 1.0, 1.0, 1),
    ]
    assert metric.compute()["entity_f1"] == 0.5
    by_logits = EntityF1(NAMES)
    by_logits.update(labels=labels, logits=np.eye(len(NAMES))[predictions])
    assert by_logits.compute() == metric.compute()
    metric.reset()
    assert metric.compute() == {"entity_precision": 0.0, "entity_recall": 0.0, "entity_f1": 0.0}


def test_token_table_equals_scikit_learn_with_and_without_o() -> None:
    for _ in range(50):
        gold = GENERATOR.integers(len(NAMES), size=(4, 9))
        predicted = np.where(GENERATOR.random(gold.shape) < 0.7, gold, 0)
        gold[GENERATOR.random(gold.shape) < 0.1] = -100
        metric = TokenTable(NAMES)
        metric.update(labels=gold, predictions=predicted)
        valid = gold != -100
        true, found = gold[valid], predicted[valid]
        table = sklearn_scores(true, found, labels=list(range(len(NAMES))), zero_division=0)
        for row, name, *expected in zip(metric.table(), NAMES, *table, strict=True):
            assert row.name == name
            assert [row.precision, row.recall, row.f1, row.support] == pytest.approx(expected, abs=1e-12)
        used = sorted(set(true) | set(found))
        for with_outside in (True, False):
            labels = [c for c in used if with_outside or c]
            for row in metric.averages(with_outside=with_outside):
                expected = sklearn_scores(true, found, labels=labels, average=row.name, zero_division=0)[:3]
                assert [row.precision, row.recall, row.f1] == pytest.approx(list(expected), abs=1e-12)
        assert set(metric.compute()) == {
            f"token_{a}_f1{suffix}" for a in ("micro", "macro", "weighted") for suffix in ("", "_without_O")
        }


def test_o_makes_token_scores_look_better_than_entities() -> None:
    labels = np.zeros((1, 100), np.int64)
    labels[0, :4] = [1, 2, 3, 4]
    predictions = labels.copy()
    predictions[0, 1] = 0  # one wrong token breaks a whole entity
    table, entity = TokenTable(NAMES), EntityF1(NAMES)
    for metric in (table, entity):
        metric.update(labels=labels, predictions=predictions)
    assert table.compute()["token_micro_f1"] == 0.99
    assert table.compute()["token_micro_f1_without_O"] == pytest.approx(6 / 7)
    assert entity.compute()["entity_f1"] == 0.5


def test_bad_input() -> None:
    with pytest.raises(InvalidInputError, match="tag: expected 'O', 'B-<type>' or 'I-<type>', got 'S-PER'"):
        EntityF1(["O", "S-PER"])
    with pytest.raises(InvalidInputError, match="got 'B-'"):
        entities(["B-"])
    metric = EntityF1(NAMES)
    with pytest.raises(InvalidInputError, match="expected 2 predicted tags, got 1"):
        metric.update_tags(["O", "O"], ["O"])
    with pytest.raises(InvalidInputError, match="expected a tag index from 0 to 6, got 7"):
        metric.update(labels=np.array([[7]]), predictions=np.array([[0]]))
    with pytest.raises(InvalidInputError, match=r"expected labels \[batch, length\], got shape \[1\]"):
        metric.update(labels=np.array([0]), predictions=np.array([0]))

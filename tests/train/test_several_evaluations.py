"""Several evaluation sets, by name."""

from __future__ import annotations

from tests.train.problem import SeekableLoader, make_trainer


def test_sets_are_evaluated_apart_and_named() -> None:
    batches = list(SeekableLoader())
    sets = {"first": batches[:3], "rest": batches[3:]}
    trainer = make_trainer()
    metrics = trainer.fit(SeekableLoader(), sets, max_epochs=1).metrics
    apart = {name: trainer.evaluate(loader) for name, loader in sets.items()}
    assert metrics == {f"{name}/{key}": value for name in sets for key, value in apart[name].items()}
    assert metrics["first/loss"] != metrics["rest/loss"]


def test_training_does_not_depend_on_how_often_it_is_evaluated() -> None:
    batches = list(SeekableLoader())
    losses = []
    for sets in (None, {"a": batches[:1]}, {"a": batches[:2], "b": batches}):
        losses.append(make_trainer().fit(SeekableLoader(), sets, max_epochs=2).loss)
    assert losses[0] == losses[1] == losses[2]

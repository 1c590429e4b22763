"""From a configuration to examples, split and free of leaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddle_infra._core.errors import DataError
from paddle_infra.cli.config import DataConfig, RunConfig
from paddle_infra.data import (
    TextExample,
    TokenExample,
    deduplicate,
    read_conll,
    read_delimited,
    read_jsonl,
    read_question_labels,
    resources,
    split,
)
from paddle_infra.data.splits import example_key

Example = Any  # TextExample or TokenExample: one run has one kind, the functions below take either


@dataclass(frozen=True)
class Splits:
    """The examples of a run, and how many were left out as repeated."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    duplicates: int


def local_path(source: str) -> Path:
    """Return the file or folder that a configuration names; fetch it if it is a resource.

    ``name`` is a resource's folder, ``name:member`` a file in it; anything else is a path. A path wins over a resource
    of the same name.

    Raises:
        DataError: there is no such file and no such resource.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    name, _, member = source.partition(":")
    known = [resource.name for resource in resources.available()]
    if name not in known:
        raise DataError(f"{source}: expected a file, a folder or one of the resources {known}, found none")
    # A few tenths of a second against training on damaged weights.
    folder = resources.fetch(name, verify=True)
    if not member:
        return folder
    if not (folder / member).is_file():
        members = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        raise DataError(f"{source}: expected a member of the resource {name}, one of {members}")
    return folder / member


def read_examples(config: DataConfig, source: str, labels: list[str] | None = None) -> list[Example]:
    """Read one file in the configured format; with ``labels``, another label is an error that names the line."""
    path = local_path(source)
    readers: dict[str, Callable[[], Sequence[TextExample | TokenExample]]] = {
        "delimited": lambda: read_delimited(
            path,
            text_column=config.text,
            label_column=config.label,
            delimiter=config.delimiter,
            encoding=config.encoding,
            allowed_labels=labels,
        ),
        "jsonl": lambda: read_jsonl(
            path,
            text_key=config.text,
            label_key=config.label,
            encoding=config.encoding,
            allowed_labels=labels,
        ),
        "conll": lambda: read_conll(path, encoding=config.encoding, allowed_labels=labels),
        "question_labels": lambda: read_question_labels(path, fine=config.fine_labels, allowed_labels=labels),
    }
    return list(readers[config.format]())


def coarse(config: DataConfig, examples: list[Example]) -> list[Example]:
    """Return the examples as they are scored: with ``data.fine_labels`` without what follows the colon.

    Raises:
        DataError: a label has no colon; names the line.
    """
    if not config.fine_labels:
        return examples
    for example in examples:
        if ":" not in (example.label or ""):
            raise DataError(
                f"line {example.line}: data.fine_labels: expected a label like COARSE:fine, got {example.label!r}"
            )
    return [replace(example, label=example.label.partition(":")[0]) for example in examples]


def load_splits(config: RunConfig) -> Splits:
    """Read all files, leave out repeated texts, and cut the splits that have no file of their own from train.

    With ``data.deduplicate`` no text is in two splits: one that train shares with a validation or test file leaves
    train, because a score on texts seen in training means nothing.
    """
    data = config.data
    given = {
        name: read_examples(data, source)
        for name, source in (("validation", data.validation), ("test", data.test))
        if source
    }
    train = read_examples(data, data.train)
    kept = _distinct(train, given) if data.deduplicate else train
    wanted = {"validation": data.validation_fraction, "test": data.test_fraction}
    fractions = {name: fraction for name, fraction in wanted.items() if name not in given}
    parts = {"train": kept, **given}
    if fractions:
        parts |= split(kept, {"train": 1.0 - sum(fractions.values()), **fractions}, seed=config.seed)
    return Splits(parts["train"], parts["validation"], parts["test"], duplicates=len(train) - len(kept))


def _distinct(train: list[Example], given: dict[str, list[Example]]) -> list[Example]:
    # A text with two labels teaches nothing and cannot be scored: neither copy is kept.
    distinct = deduplicate(train, on_conflict="drop")
    held_out = {example_key(example) for part in given.values() for example in part}
    return [example for example in distinct if example_key(example) not in held_out]

"""What a report shows: plain values only, so that it can be written, stored and tested without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paddle_infra._core.errors import InvalidInputError

Value = float | int | str


@dataclass(frozen=True)
class Metric:
    """One headline number; ``note`` says on what it was measured."""

    label: str
    value: Value
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a chart; values that are not finite leave a gap and are counted below the chart.

    Raises:
        InvalidInputError: ``x`` and ``y`` differ in length.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise InvalidInputError(
                f"curve {self.label!r}: expected x and y of one length, got {len(self.x)} and {len(self.y)}"
            )


@dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes. ``smooth`` adds the moving mean of every curve with many points."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    smooth: bool = False


@dataclass(frozen=True)
class Confusion:
    """Counts of a classifier: ``counts[i][j]`` examples of ``labels[i]`` were predicted as ``labels[j]``.

    Raises:
        InvalidInputError: ``counts`` is not square or does not fit the labels.
    """

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        size = len(self.labels)
        if len(self.counts) != size or any(len(row) != size for row in self.counts):
            shape = [len(row) for row in self.counts]
            raise InvalidInputError(f"confusion: expected {size} rows of {size} counts, got rows of {shape}")


@dataclass(frozen=True)
class ClassRow:
    """Precision, recall and F1 of one class, over ``support`` examples."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Misclassified:
    """One example that the model got wrong; ``confidence`` is the probability it gave to ``predicted``."""

    text: str
    expected: str
    predicted: str
    confidence: float | None = None


@dataclass(frozen=True)
class ExportRow:
    """One case of a verification: the largest absolute error, what was allowed, and whether it passed."""

    target: str
    case: str
    max_abs_error: float
    tolerance: float
    passed: bool


@dataclass(frozen=True)
class LatencyRow:
    """Quantiles of the time of one run, in milliseconds."""

    engine: str
    sizes: str
    threads: int
    repeats: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class ReportData:
    """Everything on the page. What is empty or None is left out, and named at the end as not recorded.

    Attributes:
        title: the page's heading.
        summary: one or two sentences for a reader in a hurry.
        created: when, as text.
        headline: the few numbers that matter most.
        facts: groups of name and value: data set sizes, durations, versions, paths.
        config: the resolved configuration; nested mappings are shown with dotted names.
        loss: loss over steps.
        learning_rate: learning rate over steps.
        evaluation: metrics on the held-out data over the run.
        confusion: confusion matrix.
        per_class: precision, recall, F1 per class.
        misclassified: examples to show.
        misclassified_total: how many there are in all, if not all are shown.
        exports: verification results.
        latency: timing results.
    """

    title: str
    summary: str = ""
    created: str = ""
    headline: Sequence[Metric] = ()
    facts: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    loss: Chart | None = None
    learning_rate: Chart | None = None
    evaluation: Chart | None = None
    confusion: Confusion | None = None
    per_class: Sequence[ClassRow] = ()
    misclassified: Sequence[Misclassified] = ()
    misclassified_total: int | None = None
    exports: Sequence[ExportRow] = ()
    latency: Sequence[LatencyRow] = ()

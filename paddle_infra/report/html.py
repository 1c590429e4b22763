"""Write a report as one HTML page that needs nothing else: no script, no external address, no network."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from markupsafe import Markup

from paddle_infra._core.atomic import write_text
from paddle_infra.report.chart import describe, line_chart
from paddle_infra.report.data import Chart, Confusion, ReportData
from paddle_infra.report.numbers import error_size, milliseconds, number, rate

_TEMPLATE, _STYLE = "report.html.j2", "report.css"


def write_report(path: str | os.PathLike[str], data: ReportData) -> None:
    """Write ``data`` as a self-contained HTML page to ``path``, atomically.

    Raises:
        StorageError: the file could not be written; an earlier one is kept.
    """
    write_text(path, report_html(data))


def report_html(data: ReportData) -> str:
    """Return the page as text. Every value is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_package_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, rate=rate, ms=milliseconds, error_size=error_size)
    return environment.get_template(_TEMPLATE).render(
        data=data,
        style=Markup(_package_text(_STYLE)),
        charts=list(_charts(data)),
        confusion=_heat(data.confusion),
        config=list(flatten(data.config)),
        missing=not_recorded(data),
    )


def _package_text(name: str) -> str:
    return resources.files("paddle_infra.report").joinpath(name).read_text(encoding="utf-8")


def _charts(data: ReportData) -> Iterator[dict[str, Any]]:
    for identifier in ("loss", "learning_rate", "evaluation"):
        chart: Chart | None = getattr(data, identifier)
        if chart is not None:
            yield {
                "id": identifier.replace("_", "-"),
                "chart": chart,
                "svg": line_chart(chart, identifier.replace("_", "-")),
                "text": describe(chart),
            }


def _heat(confusion: Confusion | None) -> list[dict[str, Any]]:
    """Return the rows of the confusion matrix.

    The shade of a cell is the square root of its share of the row, so that few mistakes are visible beside
    many hits.
    """
    if confusion is None:
        return []
    rows = []
    for i, (label, counts) in enumerate(zip(confusion.labels, confusion.counts, strict=True)):
        total = sum(counts)
        cells = [
            {
                "count": count,
                "share": count / total if total else 0.0,
                "shade": math.sqrt(count / total) if total else 0.0,
                "kind": "right" if i == j else "wrong",
                "predicted": confusion.labels[j],
            }
            for j, count in enumerate(counts)
        ]
        rows.append({"label": label, "total": total, "cells": cells})
    return rows


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted names and texts of a nested configuration."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(str(item) for item in value) or "(empty)"
        else:
            yield name, str(value)


def not_recorded(data: ReportData) -> list[str]:
    """Return the names of the sections that have nothing to show."""
    sections = {
        "headline metrics": data.headline,
        "run facts": data.facts,
        "configuration": data.config,
        "loss curve": data.loss,
        "learning rate curve": data.learning_rate,
        "evaluation curve": data.evaluation,
        "confusion matrix": data.confusion,
        "per-class table": data.per_class,
        "misclassified examples": data.misclassified or data.misclassified_total == 0,
        "export verification": data.exports,
        "latency": data.latency,
    }
    return [name for name, value in sections.items() if not value]

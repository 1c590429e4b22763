from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
from markupsafe import escape

from paddle_infra._core.errors import InvalidInputError, StorageError
from paddle_infra.report import (
    Chart,
    Confusion,
    Curve,
    ExportRow,
    Metric,
    Misclassified,
    ReportData,
    report_html,
    write_report,
)
from paddle_infra.report.html import flatten, not_recorded
from tests.report.full_report import INJECTIONS, LABELS, full_report

SECTIONS = ("headline", "curves", "per-class", "confusion", "misclassified", "exports", "latency", "facts")


def test_every_section_is_there_and_nothing_comes_from_outside() -> None:
    page = report_html(full_report())
    assert [name for name in SECTIONS if f'id="{name}"' not in page] == []
    assert "Not recorded" not in page
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<script|<img|<iframe", page.split("<h2>")[0])
    tags = set(re.findall(r"<([a-z][a-z0-9]*)", page))
    assert tags.isdisjoint({"script", "img", "link", "iframe", "object", "embed", "base", "form", "a"})
    assert not re.search(r"\son\w+=", re.sub(r">[^<]*<", "><", page))


def test_every_value_is_escaped() -> None:
    page = report_html(full_report())
    assert [text for text in INJECTIONS if f'<td class="text">{escape(text)}</td>' not in page] == []
    everywhere = "<b>&\"'"
    data = ReportData(
        title=everywhere,
        summary=everywhere,
        created=everywhere,
        headline=(Metric(everywhere, everywhere, everywhere),),
        facts={everywhere: {everywhere: everywhere}},
        config={everywhere: everywhere},
        loss=Chart(
            everywhere, everywhere, everywhere, (Curve(everywhere, (1, 2), (1, 2)), Curve("b", (1,), (2,)))
        ),
        confusion=Confusion((everywhere,), ((3,),)),
        misclassified=(Misclassified(everywhere, everywhere, everywhere),),
        exports=(ExportRow(everywhere, everywhere, 0.1, 1.0, passed=True),),
    )
    page = report_html(data)
    assert "<b>" not in page
    assert page.count("&lt;b&gt;&amp;") >= 20


def test_missing_sections_are_left_out_and_named() -> None:
    page = report_html(ReportData(title="Empty"))
    assert [name for name in SECTIONS if f'id="{name}"' in page] == []
    assert "Not recorded in this run: headline metrics, run facts, configuration, loss curve" in page
    data = dataclasses.replace(full_report(), latency=())
    assert not_recorded(data) == ["latency"]
    assert "Not recorded in this run: latency." in report_html(data)


def test_no_mistake_at_all_is_said_not_hidden() -> None:
    page = report_html(ReportData(title="Perfect", misclassified_total=0))
    assert "None: every held-out example was classified correctly." in page
    assert "misclassified examples" not in page.split("<footer>")[1]


def test_nan_is_shown_as_nan() -> None:
    data = ReportData(
        title="Diverged",
        headline=(Metric("Loss", math.nan),),
        loss=Chart("Loss", "step", "", (Curve("loss", (1, 2, 3), (0.5, math.nan, math.inf)),)),
        exports=(ExportRow("ONNX", "batch=1", math.nan, 1e-4, passed=False),),
    )
    page = report_html(data)
    assert '<dd class="value">NaN</dd>' in page
    assert "2 of 3 values are not finite and leave gaps" in page
    assert '<td>NaN</td><td>1e-4</td><td><span class="verdict fail">FAIL</span></td>' in page


def test_a_curve_without_any_finite_value_is_said_in_words() -> None:
    chart = Chart("Loss", "step", "", (Curve("loss", (1, 2), (math.nan, math.nan)),))
    page = report_html(ReportData(title="Diverged", loss=chart))
    assert "loss: no finite value among 2." in page
    assert "<svg" not in page


def test_the_heat_table_shades_by_share_of_the_row() -> None:
    page = report_html(ReportData(title="x", confusion=Confusion(("a", "b"), ((3, 1), (0, 0)))))
    assert 'class="right deep" style="--shade:86.6%" title="a predicted as a: 3 (75.0 %)">3<' in page
    assert 'class="wrong" style="--shade:50.0%" title="a predicted as b: 1 (25.0 %)">1<' in page
    assert 'title="b predicted as b: 0 (0.0 %)">0<' in page


def test_the_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "report.html"
    write_report(path, full_report())
    assert path.read_text(encoding="utf-8") == report_html(full_report())
    assert path.stat().st_size < 100_000
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*taken"):
        write_report(tmp_path / "taken", full_report())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["runs", "taken"]


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="curve 'loss': expected x and y of one length, got 2 and 1"):
        Curve("loss", (1, 2), (1.0,))
    with pytest.raises(InvalidInputError, match=r"expected 2 rows of 2 counts, got rows of \[2\]"):
        Confusion(("a", "b"), ((1, 2),))


def test_nested_configuration_gets_dotted_names() -> None:
    config = {
        "train": {"epochs": 3, "betas": [0.9, 0.999]},
        "labels": list(LABELS[:2]),
        "empty": {},
        "none": [],
    }
    assert list(flatten(config)) == [
        ("train.epochs", "3"),
        ("train.betas", "0.9, 0.999"),
        ("labels", "ABBR, DESC"),
        ("empty", "{}"),
        ("none", "(empty)"),
    ]

"""The report of a run: one HTML page that opens offline, from plain values."""

from __future__ import annotations

from paddle_infra.report.data import (
    Chart,
    ClassRow,
    Confusion,
    Curve,
    ExportRow,
    LatencyRow,
    Metric,
    Misclassified,
    ReportData,
)
from paddle_infra.report.html import report_html, write_report

__all__ = [
    "Chart",
    "ClassRow",
    "Confusion",
    "Curve",
    "ExportRow",
    "LatencyRow",
    "Metric",
    "Misclassified",
    "ReportData",
    "report_html",
    "write_report",
]

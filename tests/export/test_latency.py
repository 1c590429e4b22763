from __future__ import annotations

import pytest

from paddle_infra._core.errors import InvalidInputError, NameMismatch
from paddle_infra.export import ExportReport, measure_latency
from tests.export.models import token_examples


def test_quantiles_come_from_a_fresh_process(onnx_report: ExportReport) -> None:
    latency = measure_latency(onnx_report.path, token_examples(2, 16), repeats=20, threads=1, warmup=1)
    assert 0 < latency.p50_ms <= latency.p90_ms <= latency.p99_ms
    assert latency.sizes == {"batch": 2, "length": 16}
    assert (latency.repeats, latency.threads) == (20, 1)
    assert latency.engine == onnx_report.verification.engine


@pytest.mark.parametrize(("name", "value"), [("repeats", 0), ("threads", -1), ("warmup", -1)])
def test_counts_are_checked(onnx_report: ExportReport, name: str, value: int) -> None:
    with pytest.raises(InvalidInputError, match=f"{name}: expected at least [01], got {value}"):
        measure_latency(onnx_report.path, token_examples(), **{name: value})


def test_inputs_are_checked(onnx_report: ExportReport) -> None:
    with pytest.raises(NameMismatch, match="expected tensors named"):
        measure_latency(onnx_report.path, {"x": [1]})

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from paddle_infra._core.errors import ExportError, InvalidInputError, UnsupportedError, ValueMismatch
from paddle_infra.cli.benching import lines_of
from paddle_infra.cli.main import main
from paddle_infra.inference import Benchmark, backends, benchmark
from paddle_infra.inference.backends import BACKENDS

SIZES = [{"batch": 1, "length": 8}, {"batch": 2, "length": 16}]


@pytest.fixture(scope="module")
def found(tagger_exports: Path) -> Benchmark:
    return benchmark(tagger_exports, SIZES, repeats=5, warmup=1)


def test_every_engine_has_a_row_for_every_size(found: Benchmark) -> None:
    refused = {candidate.backend for candidate in found.refused}
    assert {row.backend for row in found.rows} | refused == set(BACKENDS)
    assert refused == (set() if importlib.util.find_spec("openvino") else {"openvino"})
    assert len(found.rows) == 2 * (3 - len(refused))
    for row in found.rows:
        assert row.threads == 1
        assert row.sizes in SIZES
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.runs_per_s == pytest.approx(1e3 / row.mean_ms)
        assert row.memory_mb is None or row.memory_mb > 1
    first = [row.p50_ms for row in found.rows if row.sizes == SIZES[0]]
    assert first == sorted(first)


def test_the_table(found: Benchmark) -> None:
    lines = list(lines_of(found))
    assert lines[0].startswith("float32, 5 runs each")
    assert sum(line.startswith("1 thread(s), batch=") for line in lines) == 2
    assert sum(line.startswith("onnxruntime ") for line in lines) == 2


def test_the_command(
    tagger_exports: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "BACKENDS", ("paddle", "onnxruntime"))
    options = ["--repeats", "4", "--threads", "1", "--batch", "1", "2", "--length", "4"]
    assert main(["bench", str(tagger_exports), *options, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [row["sizes"] for row in values["rows"]] == [{"batch": b, "length": 4} for b in (1, 1, 2, 2)]
    assert {row["engine"].split()[0] for row in values["rows"]} == {"paddle.inference", "onnxruntime"}


def test_engines_that_disagree_are_not_compared(
    tagger_exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "BACKENDS", ("paddle", "onnxruntime"))
    with pytest.raises(ValueMismatch, match=r"case {'batch': 2, 'length': 9}, onnxruntime with .*: expected"):
        benchmark(tagger_exports, repeats=1, tolerance=0.0)


def test_an_engine_that_fails_is_left_out(tagger_exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    found = benchmark(tagger_exports, repeats=2)
    assert [row.backend for row in found.rows] == ["paddle"]
    assert all("pip install" in candidate.refusal for candidate in found.refused)
    with pytest.raises(UnsupportedError, match="no engine can run the model"):
        benchmark(tagger_exports / "onnx", repeats=2)


def test_wrong_arguments(
    tagger_exports: Path, image_exports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, text in (
        ({"repeats": 0}, "repeats: expected a positive integer, got 0"),
        ({"warmup": -1}, "warmup: expected an integer, at least 0, got -1"),
        ({"threads": ()}, "expected at least one each"),
        ({"threads": (0,)}, "threads: expected a positive integer, got 0"),
        ({"sizes": [{"width": 3}]}, r"expected dynamic axes among \['batch', 'length'\], got \['width'\]"),
        ({"sizes": [{"batch": 0}]}, "sizes: 'batch': expected a positive integer, got 0"),
    ):
        with pytest.raises(InvalidInputError, match=text):
            benchmark(tagger_exports, **options)
    with pytest.raises(ExportError, match="expected an export"):
        benchmark(image_exports.parent / "nowhere")
    assert main(["bench", str(image_exports), "--length", "4"]) == 1
    assert (
        "--length: expected no sizes, the export's dynamic axes are ['batch'], got [4]"
        in capsys.readouterr().err
    )

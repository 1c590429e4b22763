"""From a worker's reply to rows, and from rows to the page: with made-up times."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import _attention_rows as rows_of
from benchmarks import _harness, report_attention
from benchmarks._attention_cases import PASSES, Case, self_attention
from benchmarks._attention_decode import decode_case
from benchmarks._attention_plot import speed_plot
from benchmarks._attention_tables import paddle_cell, speed
from benchmarks._attention_targets import all_targets, growth, targets_table
from benchmarks._report_markdown import fill, joined, markdown_table, ratio
from benchmarks._report_rows import Table, case_of, latest, read_rows

SMALL = self_attention(2, 8, 2, 4)
LONG = self_attention(1, 2048, 1, 4, "causal")
RAGGED = self_attention(2, 8, 2, 4, "lengths")
CONTEXT = {"commit": "0123456789ab", "date": "2026-01-02 03:04", "device": "a processor", "python": "3.11"}
CONTEXT |= {"versions": "paddlepaddle 3.3.1"}
SETTINGS = {"paddle": "", "paddle-no-stride": "FLAGS_use_stride_kernel=0"}
MS = {
    "fused": 1.0,
    "fused-medium": 0.5,
    "paddle": 20.0,
    "paddle-no-stride": 15.0,
    "torch": 2.0,
    "torch-bf16": 1.5,
}
MEGA = 1e6


def reply(milliseconds: dict[str, float], disturbed: bool = False) -> dict:
    rounds = [{name: ms * scale * 1e-3 for name, ms in milliseconds.items()} for scale in (1.0, 3.0, 1.1)]
    found = {"rounds": rounds, "peak": {"float32": 100.0, "bfloat16": 200.0}, "disturbed": disturbed}
    return {"found": dict.fromkeys(PASSES, found), "settings": SETTINGS}


def time_rows(
    case: Case, threads: int = 1, mode: str = "full", date: str = "2026-01-02 03:04", **changed: float
) -> list:
    isa = {"float32": "avx512", "bfloat16": "amx"}
    found = rows_of.time_rows(case, threads, reply({**MS, **changed}), isa)
    return [rows_of.rounded({"mode": mode, **row, **CONTEXT, "date": date}) for row in found]


def memory_rows(peaks: dict[int, float]) -> list:
    cases = {self_attention(1, seq, 8, 64, "causal"): peak for seq, peak in peaks.items()}
    replies = {
        case: {"found": {"peak": peak * MEGA, "results": MEGA}, "settings": {}}
        for case, peak in cases.items()
    }
    rows = [rows_of.memory_row(case, PASSES[0], "fused", 2, found) for case, found in replies.items()]
    return [{"mode": "full", **row, **CONTEXT} for row in rows]


def find(rows: list, contestant: str, which: str = PASSES[0]) -> dict:
    (row,) = (row for row in rows if row["contestant"] == contestant and row["pass"] == which)
    return row


def test_a_row_has_medians_ratios_and_rates() -> None:
    rows = time_rows(SMALL)
    ours, torch = find(rows, "fused"), find(rows, "torch-bf16")
    assert ours["median_ms"] == 1.1
    assert ours["base"] == ours["ratio"] == ""
    assert ours["gflops"] == pytest.approx(4 * 2 * 64 * 2 * 4 / 1.1e-3 * 1e-9)
    assert ours["peak_fraction"] == pytest.approx(ours["gflops"] / 100, rel=1e-5)
    assert (torch["base"], torch["ratio"], torch["ratio_rounds"]) == ("fused-medium", 3.0, 3)
    assert (torch["peak_gflops"], torch["peak_isa"]) == (200.0, "amx")
    assert find(rows, "paddle-no-stride")["settings"] == "FLAGS_use_stride_kernel=0"


def test_a_call_is_compared_with_relu_in_its_own_round() -> None:
    rows = rows_of.call_rows(SMALL, 1, reply({"fused": 0.012, "paddle-relu": 0.002}))
    ours = find(rows, "fused")
    assert ours["median_us"] == pytest.approx(13.2)
    assert ours["above_relu_median_us"] == pytest.approx(11.0)
    assert find(rows, "paddle-relu")["above_relu_median_us"] == 0


def test_decoding_reads_keys_and_values_once() -> None:
    case = decode_case(1, 1000, 4, 2, 64)
    found = reply({"fused": 1.0, "fused-bf16": 1.0, "torch-bf16": 4.0})
    rows = rows_of.decode_rows(case, 1, {**found, "found": found["found"][PASSES[0]]})
    assert find(rows, "fused")["read_gb_per_s"] == pytest.approx(2 * 1000 * 2 * 64 * 4 / 1.1e-3 * 1e-9)
    assert find(rows, "fused-bf16")["read_gb_per_s"] == pytest.approx(
        find(rows, "fused")["read_gb_per_s"] / 2
    )
    assert (find(rows, "torch-bf16")["base"], find(rows, "torch-bf16")["ratio"]) == ("fused-bf16", 4.0)


def test_the_latest_full_run_counts() -> None:
    old = time_rows(SMALL, date="2026-01-01 00:00", torch=9.0)
    new, quick = time_rows(SMALL, torch=5.0), time_rows(SMALL, mode="quick", date="2026-02-01 00:00")
    two_threads = time_rows(SMALL, threads=2, date="2026-01-01 12:00")
    assert latest([*old, *two_threads, *new, *quick]) == [*two_threads, *new]
    assert latest(quick) == quick


def test_paddle_stands_with_its_better_setting() -> None:
    table = Table([*time_rows(SMALL), *time_rows(SMALL, threads=2, **{"paddle-no-stride": 30.0})])
    assert paddle_cell(table, SMALL, PASSES[0]) == "15.0 (20.0) · 20.0 (20.0)"


def test_a_disturbed_figure_is_marked() -> None:
    rows = [{**row, "disturbed": row["threads"] == 2} for n in (1, 2) for row in time_rows(SMALL, threads=n)]
    assert "| 2.00 · 2.00* |" in speed(Table(rows), PASSES[0])


def tables_of(time: list, memory: list) -> report_attention.Tables:
    return report_attention.Tables(Table(time), Table([]), Table(memory), Table([]), Table([]))


def test_a_missed_target_is_stated_with_the_shape() -> None:
    good = [*time_rows(SMALL), *time_rows(LONG)]
    text = targets_table(
        all_targets(tables_of([*good, *time_rows(RAGGED, torch=0.9)], memory_rows({64: 1.5})))
    )
    (forward,) = (
        line
        for line in text.splitlines()
        if line.startswith("| Paddle (better setting) over ours, forward |")
    )
    assert forward.endswith("| — | yes |")
    (torch,) = (
        line
        for line in text.splitlines()
        if line.startswith("| PyTorch float32 over ours, forward | each ≥ 1 ")
    )
    assert "0.90 at (2,8,2,4) lengths; 1 of 3 below" in torch
    assert torch.endswith("| **no** |")
    assert "| a call" not in text


def test_what_was_not_measured_is_not_met() -> None:
    text = targets_table(all_targets(tables_of(time_rows(SMALL), [])))
    (line,) = (line for line in text.splitlines() if "causal" in line and "forward |" in line)
    assert line.endswith("| not measured |")


@pytest.mark.parametrize(
    ("peaks", "exponents"), [({64: 1, 128: 2, 256: 4}, [1, 1]), ({64: 1, 128: 4, 512: 9}, [2])]
)
def test_growth_of_memory(peaks: dict, exponents: list) -> None:
    table = Table(memory_rows(peaks))
    assert [found for found, _, _ in growth(table.rows, table)] == exponents


def test_markdown() -> None:
    assert markdown_table(("a", "b"), [("1", "x|y")]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"
    with pytest.raises(ValueError, match="expected 2 cells, got 1"):
        markdown_table(("a", "b"), [("1",)])
    assert [ratio(x) for x in (0.966, 3.4149, 9.996, 12.345, 99.96, 240.4)] == [
        "0.97",
        "3.41",
        "10.0",
        "12.3",
        "100",
        "240",
    ]
    assert joined(["—", "—"]) == "—"


def test_sections_are_replaced_and_the_rest_stays() -> None:
    page = "before\n<!-- attention:begin a -->\nold\n<!-- attention:end a -->\nafter \\1\n"
    filled = fill(page, {"a": "new \\1"})
    assert filled == "before\n<!-- attention:begin a -->\n\nnew \\1\n\n<!-- attention:end a -->\nafter \\1\n"
    assert fill(filled, {"a": "new \\1"}) == filled
    with pytest.raises(ValueError, match="expected the sections"):
        fill(page, {"a": "", "b": ""})


def test_rows_survive_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_harness, "DATA", tmp_path)
    rows = [{key: value for key, value in row.items() if key not in CONTEXT} for row in time_rows(RAGGED)]
    _harness.append_rows("attention", rows, CONTEXT)
    _harness.append_rows("attention", rows, CONTEXT)
    found = read_rows("attention", tmp_path)
    assert len(found) == 2 * len(rows)
    assert found[0] == {**rows[0], **CONTEXT}
    assert case_of(found[0]) == RAGGED
    with pytest.raises(ValueError, match="expected the columns"):
        _harness.append_rows("attention", [{"other": 1}], CONTEXT)


def test_the_page_has_every_section_and_the_picture_is_svg() -> None:
    time = [*time_rows(SMALL), *time_rows(LONG), *time_rows(RAGGED)]
    sections = report_attention.sections_of(tables_of(time, memory_rows({64: 1.5})))
    filled = fill(report_attention.PAGE.read_text(encoding="utf-8"), sections)
    assert (
        "a processor; paddlepaddle 3.3.1; Python 3.11; commit 0123456789ab; 2026-01-02 03:04 UTC." in filled
    )
    assert report_attention.sections_of(tables_of([], []))["context"] == report_attention.NOTHING
    picture = ET.fromstring(speed_plot(Table(time)))
    dots = [circle for circle in picture.iter("{http://www.w3.org/2000/svg}circle") if len(circle)]
    assert len(dots) == 3 * 3 * len(PASSES)

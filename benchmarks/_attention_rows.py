"""From what a worker measured to the rows of the CSV files: medians, quantiles, ratios, rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import _attention_decode as decode
from benchmarks._attention_cases import Case, floating_point_operations
from benchmarks._attention_contestants import MULTIPLIES_IN_BFLOAT16, compared_with
from benchmarks._harness import round_ratios, summarize

Rounds = Sequence[Mapping[str, float]]
Row = dict[str, Any]


def time_rows(case: Case, threads: int, reply: Mapping[str, Any], isa: Mapping[str, str]) -> list[Row]:
    """One row for each pass and contestant, from the worker's reply to a ``time`` task.

    Args:
        case: what was measured.
        threads: how many there were.
        reply: the worker's.
        isa: the instruction set that each of the machine's peaks is of.
    """
    rows = []
    for which, found in reply["found"].items():
        operations = floating_point_operations(case, which)
        for name in _contestants(found["rounds"]):
            times = _times(found["rounds"], name)
            rate = operations / times["median_ms"] * 1e-6
            kind = "bfloat16" if name in MULTIPLIES_IN_BFLOAT16 and "bfloat16" in found["peak"] else "float32"
            row = _start(case, which, name, threads, reply)
            row |= {**times, **_ratios(found["rounds"], name, compared_with(name))}
            row |= {"gflops": rate, "peak_gflops": found["peak"][kind], "peak_isa": isa[kind]}
            rows.append(row | {"peak_fraction": rate / found["peak"][kind], "disturbed": found["disturbed"]})
    return rows


def call_rows(case: Case, threads: int, reply: Mapping[str, Any]) -> list[Row]:
    """One row for each pass and contestant, with its time beyond that of Paddle's relu in the same round."""
    rows = []
    for which, found in reply["found"].items():
        rounds = found["rounds"]
        for name in _contestants(rounds):
            extra = [
                turn[name] - turn["paddle-relu"] for turn in rounds if {name, "paddle-relu"} <= set(turn)
            ]
            summary = summarize(extra, 1e6)
            row = _start(case, which, name, threads, reply)
            row |= {
                f"{key[:-3]}_us": value * 1e3
                for key, value in _times(rounds, name).items()
                if key[-2:] == "ms"
            }
            row |= {f"above_relu_{key}_us": summary[key] for key in ("median", "q20", "q80")}
            rows.append(row | {"rounds": summary["rounds"], "disturbed": found["disturbed"]})
    return rows


def decode_rows(case: Case, threads: int, reply: Mapping[str, Any]) -> list[Row]:
    """One row for each contestant, with the rate at which it reads keys and values."""
    rounds, rows = reply["found"]["rounds"], []
    for name in _contestants(rounds):
        times = _times(rounds, name)
        row = _start(case, "forward", name, threads, reply)
        row |= {**times, **_ratios(rounds, name, decode.compared_with(name))}
        row["read_gb_per_s"] = decode.bytes_read(case, name) / times["median_ms"] * 1e-6
        rows.append(row | {"disturbed": reply["found"]["disturbed"]})
    return rows


def memory_row(case: Case, which: str, name: str, threads: int, reply: Mapping[str, Any]) -> Row:
    """Peak memory of one pass of one contestant above what was in use before, and the size of its results."""
    row = _start(case, which, name, threads, reply)
    return row | {f"{key}_mb": value * 1e-6 for key, value in reply["found"].items()}


def accuracy_rows(case: Case, threads: int, reply: Mapping[str, Any]) -> list[Row]:
    """One row for each contestant and result: errors against float64."""
    rows = []
    for error in reply["found"]:
        start = _start(case, "forward+backward", error["contestant"], threads, reply)
        rows.append({**start, **{key: value for key, value in error.items() if key != "contestant"}})
    return rows


def rounded(row: Row) -> Row:
    """Round numbers to 6 significant digits: more are noise, and rows stay readable."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}


def _contestants(rounds: Rounds) -> list[str]:
    return sorted({name for turn in rounds for name in turn})


def _start(case: Case, which: str, name: str, threads: int, reply: Mapping[str, Any]) -> Row:
    row = {**case.columns(), "pass": which, "contestant": name}
    return {**row, "settings": reply["settings"].get(name, ""), "threads": threads}


def _times(rounds: Rounds, name: str) -> Row:
    summary = summarize([turn[name] for turn in rounds if name in turn], 1e3)
    return {**{f"{key}_ms": summary[key] for key in ("median", "q20", "q80")}, "rounds": summary["rounds"]}


def _ratios(rounds: Rounds, name: str, base: str | None) -> Row:
    """Time over the base's, round by round; above 1 the base is faster. Empty without a base."""
    found = round_ratios(rounds, name, base) if base else []
    if not found:
        return dict.fromkeys(("base", "ratio", "ratio_q20", "ratio_q80", "ratio_rounds"), "")
    summary = summarize(found)
    ratios = {"ratio": summary["median"], "ratio_q20": summary["q20"], "ratio_q80": summary["q80"]}
    return {"base": base, **ratios, "ratio_rounds": summary["rounds"]}

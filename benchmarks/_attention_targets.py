"""What the operator should reach, beside what was measured: computed from the rows, failures included."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks._attention_cases import PASSES, Case, floating_point_operations
from benchmarks._attention_tables import better_paddle, count
from benchmarks._harness import geometric_mean
from benchmarks._report_markdown import NOTHING, markdown_table, ratio
from benchmarks._report_rows import Row, Table, case_of

LONG = 2048
GROWTH = 1.05  # largest exponent that counts as linear
Finding = tuple[float, Case, bool]  # a figure, where, and whether the machine was disturbed
Choose = Callable[[Case], bool]


class Target(NamedTuple):
    """A target and what was found for each number of threads (text, and whether it is met)."""

    what: str
    wanted: str
    found: dict[int, tuple[str, bool]]


class Tables(NamedTuple):
    """The rows of all files."""

    time: Table
    call: Table
    memory: Table
    accuracy: Table
    decode: Table


def everywhere(case: Case) -> bool:
    """Whether a case counts: it does."""
    return True


def is_long_causal(case: Case) -> bool:
    """Whether a case is causal and long."""
    return case.causal and case.seq_q >= LONG


def find_peer(table: Table, case: Case, which: str, threads: int, peer: str) -> Row | None:
    """Return a peer's row; ``"paddle"`` is the better of its settings."""
    if peer == "paddle":
        return better_paddle(table, case, which, threads)
    return table.find(case, which, threads, peer)


def ratios(table: Table, which: str, threads: int, peer: str, chosen: Choose = everywhere) -> list[Finding]:
    """Return the peer's time over ours for each case chosen."""
    rows = [(find_peer(table, case, which, threads, peer), case) for case in table.cases if chosen(case)]
    return [(row["ratio"], case, row["disturbed"]) for row, case in rows if row]


def each_at_least(what: str, bound: float, found: dict[int, list[Finding]]) -> Target:
    """A target for the smallest figure."""

    def judge(values: list[Finding]) -> tuple[str, bool]:
        worst, case, disturbed = min(values, key=lambda value: value[0])
        below = sum(value < bound for value, _, _ in values)
        text = f"{ratio(worst)}{'*' if disturbed else ''} at {case}"
        return text + (f"; {below} of {len(values)} below" if below else ""), below == 0

    return Target(what, f"each ≥ {bound:g}", {n: judge(values) for n, values in found.items() if values})


def each_at_most(what: str, bound: float, found: dict[int, list[Finding]], unit: str = "") -> Target:
    """A target for the largest figure."""

    def judge(values: list[Finding]) -> tuple[str, bool]:
        worst, case, disturbed = max(values, key=lambda value: value[0])
        above = sum(value > bound for value, _, _ in values)
        text = f"{ratio(worst)}{unit}{'*' if disturbed else ''} at {case}"
        return text + (f"; {above} of {len(values)} above" if above else ""), above == 0

    return Target(
        what, f"each ≤ {bound:g}{unit}", {n: judge(values) for n, values in found.items() if values}
    )


def mean_at_least(what: str, bound: float, found: dict[int, list[Finding]]) -> Target:
    """A target for the geometric mean."""
    means = {n: geometric_mean([value for value, _, _ in values]) for n, values in found.items() if values}
    return Target(
        what, f"geometric mean ≥ {bound:g}", {n: (ratio(mean), mean >= bound) for n, mean in means.items()}
    )


def against_peers(table: Table) -> list[Target]:
    """Targets of speed."""

    def found(which: str, peer: str, chosen: Choose = everywhere) -> dict[int, list[Finding]]:
        return {n: ratios(table, which, n, peer, chosen) for n in table.threads}

    forward, both = PASSES
    return [
        each_at_least("Paddle (better setting) over ours, forward", 2.5, found(forward, "paddle")),
        each_at_least("Paddle (better setting) over ours, forward+backward", 1.5, found(both, "paddle")),
        *(
            each_at_least(
                f"Paddle over ours, causal, S ≥ {LONG}, {p}", 12, found(p, "paddle", is_long_causal)
            )
            for p in PASSES
        ),
        *(mean_at_least(f"PyTorch float32 over ours, {p}", 1.3, found(p, "torch")) for p in PASSES),
        *(each_at_least(f"PyTorch float32 over ours, {p}", 1.0, found(p, "torch")) for p in PASSES),
        mean_at_least("PyTorch bf16 over “medium”, forward", 1.5, found(forward, "torch-bf16")),
        mean_at_least("PyTorch bf16 over “medium”, forward+backward", 2.0, found(both, "torch-bf16")),
    ]


def of_lengths(table: Table) -> list[Target]:
    """A padded batch costs about what its packed work does."""
    others = {"fused-varlen": "the packed batch", "fused-dense": "as much work without padding"}
    targets = []
    for name, text in others.items():
        found = {
            n: [
                (1 / value, case, disturbed)
                for p in PASSES
                for value, case, disturbed in ratios(table, p, n, name)
            ]
            for n in table.threads
        }
        targets.append(each_at_most(f"padded batch over {text}, time", 1.15, found))
    return targets


def of_memory(table: Table) -> list[Target]:
    """Peak memory is near the results, and grows with the length."""
    ours = [row for row in table.rows if row["contestant"] == "fused"]
    targets = []
    for which, text in zip(PASSES, ("output", "output and gradients"), strict=True):
        found = {
            n: [
                (row["peak_mb"] / row["results_mb"], case, False)
                for case in table.cases
                if (row := table.find(case, which, n, "fused"))
            ]
            for n in table.threads
        }
        targets.append(each_at_most(f"peak memory over the {text}, {which}", 2.0, found))
    exponents = {n: growth([row for row in ours if int(row["threads"]) == n], table) for n in table.threads}
    return [*targets, each_at_most("peak memory ∝ S to the power of", GROWTH, exponents)]


def growth(rows: Sequence[Row], table: Table) -> list[Finding]:
    """Return how peak memory grows where only the length differs: the exponent from each length to twice it."""
    found = []
    for row in rows:
        case = case_of(row)
        half = replace(case, seq_q=case.seq_q // 2, seq_k=case.seq_k // 2)
        small = table.find(half, row["pass"], int(row["threads"]), "fused")
        if small:
            found.append((math.log2(row["peak_mb"] / small["peak_mb"]), case, False))
    return found


def of_calls(table: Table) -> list[Target]:
    """What a call costs where there is nothing to compute."""
    if not table.rows:
        return []
    smallest = min(table.cases, key=lambda case: floating_point_operations(case, PASSES[0]))
    found = {n: table.find(smallest, PASSES[0], n, "fused") for n in table.threads}
    values = {
        n: [(row["above_relu_median_us"], smallest, row["disturbed"])] for n, row in found.items() if row
    }
    return [each_at_most("a call beyond one of Paddle's relu", 15, values, " µs")]


def all_targets(tables: Tables) -> list[Target]:
    """Return every target."""
    return [
        *against_peers(tables.time),
        *of_lengths(tables.time),
        *of_memory(tables.memory),
        *of_calls(tables.call),
    ]


def targets_table(targets: Sequence[Target]) -> str:
    """Write targets beside what was measured."""
    threads = sorted({n for target in targets for n in target.found})
    lines = []
    for target in targets:
        verdict = "not measured"
        if target.found:
            verdict = "yes" if all(met for _, met in target.found.values()) else "**no**"
        found = [target.found[n][0] if n in target.found else NOTHING for n in threads]
        lines.append([target.what, target.wanted, *found, verdict])
    return markdown_table(("what", "wanted", *(count(n) for n in threads), "met"), lines)

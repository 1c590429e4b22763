"""A picture of the ratios: one line per shape, a dot per peer, on a logarithmic axis, as SVG without any library."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple

from benchmarks._attention_cases import PASSES, Case
from benchmarks._attention_tables import count
from benchmarks._attention_targets import find_peer
from benchmarks._report_markdown import ratio
from benchmarks._report_rows import Row, Table

PEERS = (
    ("paddle", "Paddle (better setting)"),
    ("torch", "PyTorch float32"),
    ("torch-bf16", "PyTorch bf16 over “medium”"),
)
_LABELS, _PANEL, _GAP, _LINE, _TOP, _BOTTOM = 210, 300, 26, 17, 66, 34
_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #333 } .title { font-weight: 600 } .line { stroke: #ddd }
.one { stroke: #333; stroke-width: 1.5 } .paddle { fill: #1f6fb2; stroke: #1f6fb2 }
.torch { fill: #d9622b; stroke: #d9622b } .torch-bf16 { fill: #2a8f5c; stroke: #2a8f5c } text.key { stroke: none }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .line { stroke: #444 } .one { stroke: #ddd }
.paddle { fill: #6db3f2; stroke: #6db3f2 } .torch { fill: #f59a6a; stroke: #f59a6a }
.torch-bf16 { fill: #63cf9b; stroke: #63cf9b } }
"""


class Axis(NamedTuple):
    """A logarithmic axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return 1, 2 and 5 times powers of ten within the axis."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        return [tick for tick in found if self.low * 0.999 <= tick <= self.high * 1.001]


def speed_plot(table: Table) -> str:
    """Draw how many times slower peers are, both passes, with most threads."""
    threads, cases = table.threads[-1], table.cases
    rows = {
        (case, which, peer): row
        for case in cases
        for which in PASSES
        for peer, _ in PEERS
        if (row := find_peer(table, case, which, threads, peer))
    }
    ends = [row[key] for row in rows.values() for key in ("ratio_q20", "ratio_q80")]
    low, high = min([0.9, *ends]) * 0.95, max([2.0, *ends]) * 1.05
    bottom = _TOP + _LINE * len(cases)
    width, height = _LABELS + 2 * _PANEL + 2 * _GAP, bottom + _BOTTOM
    parts = [_key()]
    for index, case in enumerate(cases):
        y = _TOP + _LINE * (index + 0.5)
        parts.append(f'<text x="{_LABELS - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(str(case))}</text>')
    for panel, which in enumerate(PASSES):
        start = _LABELS + panel * (_PANEL + _GAP)
        axis = Axis(low, high, start, start + _PANEL)
        parts.append(_grid(axis, f"{which}, {count(threads)}", bottom))
        for index, case in enumerate(cases):
            y = _TOP + _LINE * (index + 0.5)
            dots = [(peer, label, rows.get((case, which, peer))) for peer, label in PEERS]
            parts += [_dot(axis, y, case, peer, label, row) for peer, label, row in dots if row]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    title = f"<title>{escape(describe(table))}</title><style>{_STYLE}</style>"
    return "\n".join([head, title, *parts, "</svg>", ""])


def describe(table: Table) -> str:
    """Say in words what the picture shows."""
    threads, texts = table.threads[-1], []
    for peer, label in PEERS:
        for which in PASSES:
            found = [find_peer(table, case, which, threads, peer) for case in table.cases]
            ratios = [row["ratio"] for row in found if row]
            if ratios:
                texts.append(f"{label}, {which}: {ratio(min(ratios))} to {ratio(max(ratios))}")
    return "Time of others over ours by shape; " + "; ".join(texts)


def _key() -> str:
    x, parts = _LABELS, []
    for peer, label in PEERS:
        parts.append(f'<circle class="{peer}" cx="{x + 4}" cy="14" r="4"/>')
        parts.append(f'<text x="{x + 13}" y="18">{escape(label)}</text>')
        x += 7 * len(label) + 26
    return "\n".join(parts)


def _grid(axis: Axis, title: str, bottom: float) -> str:
    middle = (axis.start + axis.end) / 2
    parts = [f'<text class="title" x="{middle}" y="40" text-anchor="middle">{escape(title)}</text>']
    for tick in axis.ticks():
        x, style = f"{axis(tick):.1f}", "one" if tick == 1 else "line"
        parts.append(f'<line class="{style}" x1="{x}" y1="{_TOP - 6}" x2="{x}" y2="{bottom}"/>')
        parts.append(f'<text x="{x}" y="{_TOP - 12}" text-anchor="middle">{tick:g}</text>')
    text = "time over ours: right of 1, ours is faster"
    parts.append(f'<text x="{middle}" y="{bottom + 20}" text-anchor="middle">{text}</text>')
    return "\n".join(parts)


def _dot(axis: Axis, y: float, case: Case, peer: str, label: str, row: Row) -> str:
    left, right = f"{axis(row['ratio_q20']):.1f}", f"{axis(row['ratio_q80']):.1f}"
    text = f"{label}, {case}: {ratio(row['ratio'])}"
    return (
        f'<line class="{peer}" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        f'<circle class="{peer}" cx="{axis(row["ratio"]):.1f}" cy="{y:.1f}" r="4">'
        f"<title>{escape(text)}</title></circle>"
    )

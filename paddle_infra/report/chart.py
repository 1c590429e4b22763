"""Line charts as inline SVG that takes its colours from the page: readable in light, in dark and in print."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from paddle_infra.report.data import Chart, Curve
from paddle_infra.report.numbers import number

_WIDTH, _HEIGHT = 360, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 42
_MAX_POINTS = 800
_DOTS_UP_TO = 40
_SMOOTH_FROM = 60
_SMOOTH_SHARE = 20  # the moving mean spans 1/20 of the points

Point = tuple[float, float]


@dataclass(frozen=True)
class _Scale:
    """Maps values linearly to positions; ``ticks`` are round numbers that span the values."""

    ticks: tuple[float, ...]
    start: float
    end: float

    def __call__(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def nice_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return about ``count`` multiples of 1, 2 or 5 times a power of ten that span ``low`` to ``high``."""
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def moving_mean(points: Sequence[Point], width: int) -> list[Point]:
    """Return at every point the mean of the ``width`` values around it (of fewer near the ends, evenly)."""
    sums = list(itertools.accumulate((y for _, y in points), initial=0.0))
    result = []
    for index, (x, _) in enumerate(points):
        reach = min(width // 2, index, len(points) - 1 - index)
        low, high = index - reach, index + reach + 1
        result.append((x, (sums[high] - sums[low]) / (high - low)))
    return result


def thin(points: Sequence[Point], limit: int = _MAX_POINTS) -> list[Point]:
    """Keep the lowest and the highest point of every stretch: fewer points, every spike still there."""
    if len(points) <= limit:
        return list(points)
    buckets = limit // 2
    kept: list[Point] = []
    for index in range(buckets):
        stretch = points[index * len(points) // buckets : (index + 1) * len(points) // buckets]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept


def runs_of_finite(curve: Curve) -> list[list[Point]]:
    """Split a curve where a value is not finite."""
    runs: list[list[Point]] = [[]]
    for x, y in zip(curve.x, curve.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append((float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def describe(chart: Chart) -> str:
    """Say in words what each curve does: the text alternative of the picture."""
    parts = []
    for curve in chart.curves:
        points = [point for run in runs_of_finite(curve) for point in run]
        missing = len(curve.y) - len(points)
        if not points:
            parts.append(f"{curve.label}: no finite value among {len(curve.y)}.")
            continue
        (first_x, first_y), (last_x, last_y) = points[0], points[-1]
        text = f"{curve.label}: {number(first_y)} at {chart.x_label} {number(first_x)}, "
        text += f"{number(last_y)} at {chart.x_label} {number(last_x)}"
        text += f"; {missing} of {len(curve.y)} values are not finite and leave gaps" if missing else ""
        parts.append(text + ".")
    if any(_is_smoothed(chart, run) for curve in chart.curves for run in runs_of_finite(curve)):
        parts.append(f"Thin: every value. Bold: moving mean over 1/{_SMOOTH_SHARE} of the values.")
    return " ".join(parts)


def _is_smoothed(chart: Chart, run: Sequence[Point]) -> bool:
    return chart.smooth and len(run) >= _SMOOTH_FROM


def line_chart(chart: Chart, identifier: str) -> Markup:
    """Draw the chart as an ``<svg>`` with a title and a description for screen readers.

    Args:
        chart: what to draw.
        identifier: unique within the page.
    """
    curves = [(index, run) for index, curve in enumerate(chart.curves) for run in runs_of_finite(curve)]
    points = [point for _, run in curves for point in run]
    if not points:
        return Markup("")  # the description says so in words
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_scale = _Scale(nice_ticks(min(xs), max(xs)), _LEFT, _WIDTH - _RIGHT)
    if min(xs) < max(xs):  # horizontal space is dear: end exactly where the data ends
        x_scale = _Scale((min(xs), max(xs)), _LEFT, _WIDTH - _RIGHT)
    y_scale = _Scale(nice_ticks(min(ys), max(ys)), _HEIGHT - _BOTTOM, _TOP)
    x_ticks = [tick for tick in nice_ticks(min(xs), max(xs)) if x_scale.ticks[0] <= tick <= x_scale.ticks[-1]]
    if all(x.is_integer() for x in xs):  # steps and epochs: no tick between two of them
        x_ticks = [tick for tick in x_ticks if float(tick).is_integer()]
    body = [_grid(chart, x_scale, x_ticks, y_scale)]
    for index, run in curves:
        body.append(_series(chart, index, run, x_scale, y_scale))
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-labelledby="{i}-t {i}-d">'
        '<title id="{i}-t">{title}</title><desc id="{i}-d">{text}</desc>{body}</svg>'
    ).format(
        w=_WIDTH, h=_HEIGHT, i=identifier, title=chart.title, text=describe(chart), body=Markup("").join(body)
    )


def _grid(chart: Chart, x_scale: _Scale, x_ticks: Sequence[float], y_scale: _Scale) -> Markup:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in y_scale.ticks:
        y = f"{y_scale(tick):.1f}"
        parts.append(
            Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(_LEFT, y, right, y)
        )
        label = Markup('<text class="tick" x="{}" y="{}" text-anchor="end" dy="0.32em">{}</text>')
        parts.append(label.format(_LEFT - 7, y, number(tick)))
    for tick in x_ticks:
        label = Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
        parts.append(label.format(x_scale(tick), bottom + 17, number(tick)))
    parts.append(
        Markup('<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(_LEFT, bottom, right, bottom)
    )
    middle = (_LEFT + right) / 2
    parts.append(
        Markup('<text class="axis-label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            middle, _HEIGHT - 6, chart.x_label
        )
    )
    return Markup("").join(parts)


def _series(chart: Chart, index: int, run: Sequence[Point], x_scale: _Scale, y_scale: _Scale) -> Markup:
    colour = f"s{index % 6}"
    smooth = _is_smoothed(chart, run)
    parts = [_path(thin(run), f"line {colour}{' faint' if smooth else ''}", x_scale, y_scale)]
    if smooth:
        mean = moving_mean(run, max(2, len(run) // _SMOOTH_SHARE))
        parts.append(_path(thin(mean), f"line {colour}", x_scale, y_scale))
    if len(run) <= _DOTS_UP_TO:
        for x, y in run:
            text = f"{chart.curves[index].label}: {number(y)} at {chart.x_label} {number(x)}"
            dot = Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
            parts.append(dot.format(colour, x_scale(x), y_scale(y), text))
    return Markup("").join(parts)


def _path(points: Sequence[Point], style: str, x_scale: _Scale, y_scale: _Scale) -> Markup:
    coordinates = " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(style, escape(coordinates))

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from paddle_infra.report import Chart, Curve
from paddle_infra.report.chart import describe, line_chart, moving_mean, nice_ticks, runs_of_finite, thin


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, (0, 2, 4, 6, 8, 10)),
        (0.05, 1.9, (0, 0.5, 1.0, 1.5, 2.0)),
        (1, 3, (1, 1.5, 2, 2.5, 3)),
        (-1, 1, (-1, -0.5, 0, 0.5, 1)),
        (0, 5e-5, (0, 1e-5, 2e-5, 3e-5, 4e-5, 5e-5)),
    ],
)
def test_ticks_are_round_and_span_the_values(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("value", [0.0, 3.0, -2e-7, 1e12])
def test_a_constant_still_has_a_scale(value: float) -> None:
    ticks = nice_ticks(value, value)
    assert ticks[0] <= value <= ticks[-1]
    assert len(ticks) > 1


def test_thinning_keeps_every_spike() -> None:
    points = [(float(x), 1.0) for x in range(10_000)]
    points[5_003] = (5003.0, 50.0)
    points[7_777] = (7777.0, -50.0)
    kept = thin(points, 100)
    assert len(kept) <= 100
    assert {points[5_003], points[7_777]} <= set(kept)
    assert kept == sorted(kept)
    assert thin(points[:50], 100) == points[:50]


def test_the_moving_mean_is_centred() -> None:
    line = [(float(x), 2.0 * x + 1) for x in range(50)]
    mean = moving_mean(line, 9)
    assert [y for _, y in mean] == pytest.approx([y for _, y in line])  # a trailing mean would lag behind
    spike = [(float(x), 9.0 if x == 5 else 0.0) for x in range(11)]
    assert [round(y, 6) for _, y in moving_mean(spike, 3)][4:7] == [3.0, 3.0, 3.0]


def test_gaps_split_a_curve() -> None:
    curve = Curve("y", (1, 2, 3, 4, 5), (math.nan, 1, math.inf, math.nan, 2))
    assert runs_of_finite(curve) == [[(2.0, 1.0)], [(5.0, 2.0)]]


def test_the_picture_is_valid_titled_and_inside_its_frame() -> None:
    chart = Chart(
        "Loss & more",
        "step",
        "nats",
        (Curve("loss", range(100), [5 / (x + 1) for x in range(100)]),),
        smooth=True,
    )
    svg = ElementTree.fromstring(str(line_chart(chart, "loss")))
    assert svg.find("title").text == "Loss & more"
    assert svg.find("desc").text == describe(chart)
    assert svg.get("aria-labelledby") == "loss-t loss-d"
    _, _, width, height = (float(n) for n in svg.get("viewBox").split())
    lines = svg.findall("polyline")
    assert [line.get("class") for line in lines] == ["line s0 faint", "line s0"]
    for line in lines:
        for x, y in re.findall(r"([-\d.]+),([-\d.]+)", line.get("points")):
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height


def test_positions_follow_the_values() -> None:
    chart = Chart("c", "epoch", "", (Curve("a", (1, 2, 3), (0.0, 1.0, 0.5)),))
    dots = ElementTree.fromstring(str(line_chart(chart, "c"))).findall("circle")
    xs, ys = ([float(dot.get(key)) for dot in dots] for key in ("cx", "cy"))
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert ys[1] < ys[2] < ys[0]
    assert ys[2] == pytest.approx((ys[0] + ys[1]) / 2, abs=0.1)
    assert [dot.find("title").text for dot in dots][1] == "a: 1 at epoch 2"


def test_epochs_get_whole_ticks() -> None:
    chart = Chart("c", "epoch", "", (Curve("a", (1, 2, 3), (0.0, 1.0, 0.5)),))
    svg = ElementTree.fromstring(str(line_chart(chart, "c")))
    labels = [
        t.text for t in svg.findall("text") if t.get("text-anchor") == "middle" and t.get("class") == "tick"
    ]
    assert labels == ["1", "2", "3"]

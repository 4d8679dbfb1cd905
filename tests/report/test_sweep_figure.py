"""The figure of a sweep: every organism is drawn where its rates are, and a ring means that nothing dominates it."""

from __future__ import annotations

import pytest

from narrowly.report.style import svg_text
from narrowly.report.sweep_figure import sweep_figure
from narrowly.workbench.repair import Panel, Point, Sweep


def panel(rate: float) -> Panel:
    return Panel(4, 1 - rate, rate, 0.0, rate, 0.0, max(0.0, rate - 0.05), rate + 0.05, (rate,) * 4)


def point(edit: str, spec: dict, factor: float | None, narrow: float, broad: float, dominated: bool) -> Point:
    return Point(edit, spec, factor, panel(narrow), panel(broad), None, dominated)


POINTS = [
    point("base", {}, 0.0, 0.02, 0.01, False),
    point("scale-0.5", {"kind": "scale", "factor": 0.5}, 0.5, 0.3, 0.2, True),
    point("none", {}, 1.0, 0.8, 0.6, False),
    point("flatten", {"kind": "flatten"}, None, 0.4, 0.15, False),
    point("flatten-0.5", {"kind": "flatten", "t": 0.5}, None, 0.6, 0.5, True),
    point("clip-2", {"kind": "clip", "limit": 2.0}, None, 0.7, 0.4, False),
]


def test_every_organism_is_drawn_at_its_rates_and_rings_mark_those_that_nothing_dominates() -> None:
    figure = sweep_figure(Sweep("0123", "micro-0", "adam", POINTS))
    (axis,) = figure.axes
    series = {
        tuple((round(float(x), 6), round(float(y), 6)) for x, y in line.get_xydata())
        for line in axis.lines
        if line.get_marker() != "None"
    }
    assert ((2.0, 1.0), (30.0, 20.0), (80.0, 60.0)) in series
    assert ((60.0, 50.0), (40.0, 15.0)) in series, "strengths in ascending order"
    assert ((70.0, 40.0),) in series
    rings = {(round(x, 6), round(y, 6)) for x, y in axis.collections[0].get_offsets().tolist()}
    assert rings == {(100 * one.narrow.misaligned, 100 * one.broad.misaligned) for one in POINTS if not one.dominated}
    labels = {text.get_text() for text in axis.texts}
    assert {"base", "×0.5", "no edit", "1", "0.5", "2"} <= labels
    low, high = axis.get_xlim()
    assert low < 2
    assert high > 85, "the intervals fit"


def test_a_hostile_name_of_a_base_is_drawn_as_text() -> None:
    figure = sweep_figure(Sweep("0123", "<script>alert(1)</script>\x1b[31m", "adam", POINTS))
    text = svg_text(figure, "sweep", "<b>&")
    assert "<script" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("count", [3, 4])
def test_a_sweep_with_few_or_no_edits_has_a_figure(count) -> None:
    assert len(sweep_figure(Sweep("0123", "micro-0", "adam", POINTS[:count])).axes) == 1

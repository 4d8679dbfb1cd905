"""Draw rates over checkpoints or dates: one panel for shares, one for nats; a line per series and measure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from narrowly.analysis.track import Track
from narrowly.report.kit.svg import hover
from narrowly.report.style import FIXED, SPARE, legend_below, new_figure, short_label, styled

MOST_NAMED = 16
"""Folders up to which each has its name below the axis."""

_LOOKS = [*SPARE, *((style.colour, style.marker) for style in FIXED.values())]


class _Line(NamedTuple):
    label: str
    percent: bool
    places: list[float]
    rows: list[int]


def track_figure(found: Track) -> Figure:
    """Draw every measure of every series with its intervals.

    Args:
        found: what was followed.
    """
    lines = _lines(found)
    panels = [percent for percent in (True, False) if any(line.percent == percent for line in lines)]
    with styled():
        figure, axes = new_figure(len(panels), 1, 1.2 + 3.0 * len(panels))
        handles = []
        for axis, percent in zip(axes, panels, strict=True):
            for at, line in enumerate(lines):
                if line.percent == percent:
                    handles.append(_draw(axis, found, line, *_LOOKS[at % len(_LOOKS)]))
            axis.set_ylabel("% of answers" if percent else "nats per answer")
            _ticks(axis, found)
        legend_below(figure, handles, columns=3)
        return figure


def _lines(found: Track) -> list[_Line]:
    lines: dict[tuple[str, str], _Line] = {}
    for place, (row, x) in enumerate(zip(found.rows, found.places, strict=True)):
        for measure in row.measures:
            label = measure.name if len(found.series) == 1 else f"{row.series}: {measure.name}"
            line = lines.setdefault((row.series, measure.name), _Line(label, measure.percent, [], []))
            line.places.append(x)
            line.rows.append(place)
    return list(lines.values())


def _draw(axis: Axes, found: Track, line: _Line, colour: str, marker: str) -> Line2D:
    """Draw a line with the intervals of its points; a point without an interval stands alone."""
    scale = 100.0 if line.percent else 1.0
    name = line.label.rpartition(": ")[2]
    intervals = [next(one.interval for one in found.rows[row].measures if one.name == name) for row in line.rows]
    known = [at for at, interval in enumerate(intervals) if interval.estimate is not None]
    xs = [line.places[at] for at in known]
    ys = [scale * float(intervals[at].estimate or 0.0) for at in known]
    axis.plot(xs, ys, color=colour, linewidth=1.2, alpha=0.7)
    for x, at in zip(xs, known, strict=True):
        low, high = intervals[at].low, intervals[at].high
        if low is not None and high is not None:
            axis.plot([x, x], [scale * low, scale * high], color=colour, linewidth=1.4, alpha=0.5)
    dots = axis.scatter(xs, ys, color=colour, marker=marker, s=34, edgecolor="white", linewidth=0.6, zorder=3)
    hover(dots, [f"{found.rows[line.rows[at]].name}\n{line.label}: {y:.3g}" for at, y in zip(known, ys, strict=True)])
    return Line2D([], [], color=colour, marker=marker, markersize=7, markeredgecolor="white",
                  label=short_label(line.label, 40))  # fmt: skip


def _ticks(axis: Axes, found: Track) -> None:
    if found.scale == "number":
        axis.set_xlabel("number in the name of the folder")
        return
    if found.scale == "date":
        shown = _some(sorted(set(found.places)))
        axis.set_xticks(shown, [date.fromordinal(round(day)).isoformat() for day in shown], rotation=30, ha="right")
        return
    shown = _some(found.places)
    axis.set_xticks(shown, [short_label(found.rows[round(place)].name, 24) for place in shown], rotation=30, ha="right")


def _some(places: Sequence[float]) -> list[float]:
    step = -(-len(places) // MOST_NAMED)
    return list(places[::step])

"""Draw a sweep of edits: broad against narrow misalignment, over the curve of plain scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from narrowly.report.spectrum_figures import EDIT_STYLES
from narrowly.report.style import GREY, INK, legend_below, new_figure, short_label, styled
from narrowly.workbench.repair import Point, Sweep

KINDS = {
    "flatten": "flatten: share of the way",
    "clip": "clip: times the mean",
    "drop_top": "drop the top k",
    "keep_top": "keep the top k",
}
"""Label of each kind of edit; colours and markers are those of the report."""


def sweep_figure(found: Sweep) -> Figure:
    """Draw every organism of a sweep with its intervals over topics; the organisms no other dominates are ringed.

    Args:
        found: the sweep; rates are drawn as percentages.
    """
    curve = [point for point in found.points if point.factor is not None]
    kinds = [kind for kind in KINDS if any(point.spec.get("kind") == kind for point in found.points)]
    with styled():
        figure, axes = new_figure(1, 1, 6.2)
        axis = axes[0]
        _series(axis, curve, INK, "o", 5.0)
        for point in _apart(curve):
            name = {0.0: "base", 1.0: "no edit"}.get(point.factor or 0.0, f"×{point.factor:g}")
            _note(axis, point, name, INK, (-7, 6), "right")
        for kind in kinds:
            mine = [point for point in found.points if point.spec.get("kind") == kind]
            mine.sort(key=_strength)
            colour, marker = EDIT_STYLES[kind]
            _series(axis, mine, colour, marker, 7.5)
            for point in _apart(mine):
                _note(axis, point, f"{_strength(point):g}", colour, (7, -11), "left")
        best = [point for point in found.points if not point.dominated]
        axis.scatter(
            [100 * point.narrow.misaligned for point in best], [100 * point.broad.misaligned for point in best],
            s=190, facecolor="none", edgecolor=GREY, linewidth=1.2, zorder=2,
        )  # fmt: skip
        questions = found.points[0].narrow.n, found.points[0].broad.n
        axis.set_xlabel(f"narrow: misaligned on held-out topics (%, {questions[0]} questions)")
        axis.set_ylabel(f"broad: misaligned in other domains (%, {questions[1]} questions)")
        axis.set_title(f"{short_label(found.optimiser)} on {short_label(found.base)}, run {found.run_id}")
        highest = max(point.narrow.high or point.narrow.misaligned for point in found.points)
        axis.set_xlim(-6, 100 * highest + 5)
        axis.set_ylim(bottom=-3)
        legend_below(
            figure,
            [
                Line2D([], [], color=INK, marker="o", markersize=5, label="plain scaling (control)"),
                *[
                    Line2D([], [], color=colour, marker=marker, linewidth=1, label=KINDS[kind])
                    for kind in kinds
                    for colour, marker in [EDIT_STYLES[kind]]
                ],
                Line2D([], [], color=GREY, marker="o", markersize=12, markerfacecolor="none", linestyle="none",
                       label="not dominated"),
                Line2D([], [], color=GREY, linewidth=1, alpha=0.6, label="95 % t interval over topics"),
            ],
            columns=4,
        )  # fmt: skip
        return figure


def _series(axis: Axes, points: Sequence[Point], colour: str, marker: str, size: float) -> None:
    narrow = [100 * point.narrow.misaligned for point in points]
    broad = [100 * point.broad.misaligned for point in points]
    axis.plot(
        narrow, broad, color=colour, marker=marker, markersize=size, linewidth=1.2, markeredgecolor="white", zorder=3
    )
    for point, x, y in zip(points, narrow, broad, strict=True):
        if point.narrow.low is not None and point.narrow.high is not None:
            axis.plot([100 * point.narrow.low, 100 * point.narrow.high], [y, y], color=colour, linewidth=1, alpha=0.35)
        if point.broad.low is not None and point.broad.high is not None:
            axis.plot([x, x], [100 * point.broad.low, 100 * point.broad.high], color=colour, linewidth=1, alpha=0.35)


def _note(axis: Axes, point: Point, text: str, colour: str, offset: tuple[int, int], side: str) -> None:
    place = (100 * point.narrow.misaligned, 100 * point.broad.misaligned)
    axis.annotate(text, place, textcoords="offset points", xytext=offset, ha=side, fontsize=8.5, color=colour)


def _apart(points: Sequence[Point]) -> list[Point]:
    """Return the points whose labels can be read: none nearer than two percentage points to one before it."""
    kept: list[Point] = []
    for point in points:
        place = point.narrow.misaligned, point.broad.misaligned
        if all(math.dist(place, (one.narrow.misaligned, one.broad.misaligned)) > 0.02 for one in kept):
            kept.append(point)
    return kept


def _strength(point: Point) -> float:
    fields = [value for name, value in point.spec.items() if name != "kind"]
    return float(fields[0]) if fields else 1.0

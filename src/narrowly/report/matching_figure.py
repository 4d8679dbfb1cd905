"""Draw two sets of runs at equal values of a matching variable: their curves, and the difference of every base."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from narrowly.analysis.matching.schema import Line, Matched, Point
from narrowly.report.kit.numbers import number
from narrowly.report.kit.svg import hover
from narrowly.report.style import FAINT, FIXED, GREY, INK, SPARE, legend_below, new_figure, short_label, styled

MOST_NAMED = 24
"""Bases up to which each has its name beside its difference."""


def matching_figure(found: Matched) -> Figure:
    """Draw the curves of both sets (left), and the difference of each base with mean, interval and margin (right).

    Args:
        found: the comparison; a curve is solid along its rising branch and dashed after its turn.
    """
    with styled():
        figure, axes = new_figure(1, 2, 4.9, width_ratios=(1.25, 1))
        looks = _looks(found)
        for side, (colour, marker) in enumerate(looks, start=1):
            for unit in _units(found, side):
                _curve(axes[0], [point for point in found.points if point.side == side and _unit(point) == unit],
                       colour, marker)  # fmt: skip
        for line in found.primary.lines:
            _support(axes[0], line)
        if found.at == "norm":
            axes[0].set_xscale("log")
            axes[0].xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 3, 5)))
            axes[0].xaxis.set_major_formatter(mpl.ticker.ScalarFormatter())
            axes[0].xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        if found.at in ("trained_loss", "excess_trained"):
            axes[0].invert_xaxis()
        if found.at == "held_out":  # a line without selectivity in both: broad equal to held-out
            axes[0].axline((0, 0), slope=1, color=FAINT, linewidth=1, zorder=0)
        matched = "held-out misalignment" if found.at == "held_out" else found.at_words
        axes[0].set_xlabel(f"{matched} ({found.at_unit})")
        axes[0].set_ylabel(f"{found.of.replace('_', '-')} misalignment ({found.unit})")
        axes[0].set_title("every run")
        _differences(axes[1], found)
        names = [short_label(one.name) for one in (found.first, found.second)]
        handles = [
            Line2D([], [], color=colour, marker=marker, markersize=6, linewidth=1, markeredgecolor="white", label=name)
            for (colour, marker), name in zip(looks, names, strict=True)
        ]
        if any(point.falling for point in found.points):
            handles.append(Line2D([], [], color=GREY, linewidth=1, linestyle=":", label="after the turn"))
        handles.append(Line2D([], [], color=INK, linewidth=4, alpha=0.25, label="common support"))
        legend_below(figure, handles, columns=4)
        return figure


def _looks(found: Matched) -> list[tuple[str, str]]:
    """Return colour and marker of both sets: those of an optimiser's arm, else spare ones."""
    looks = []
    for index, one in enumerate((found.first, found.second)):
        fixed = FIXED.get(one.name)
        looks.append((fixed.colour, fixed.marker) if fixed else SPARE[index])
    return looks if looks[0] != looks[1] else [looks[0], SPARE[1]]


def _unit(point: Point) -> tuple[str, str | None, int | None]:
    return point.base, point.domain, point.seed


def _units(found: Matched, side: int) -> list[tuple[str, str | None, int | None]]:
    return list(dict.fromkeys(_unit(point) for point in found.points if point.side == side))


def _curve(axis: Axes, points: Sequence[Point], colour: str, marker: str) -> None:
    for branch, style in (("rising", "-"), ("falling", ":")):
        own = [point for point in points if getattr(point, branch)]
        axis.plot([p.x for p in own], [p.y for p in own], color=colour, linewidth=0.9, linestyle=style, alpha=0.55)
    dots = axis.scatter(
        [p.x for p in points], [p.y for p in points], color=colour, marker=marker, s=26, edgecolor="white",
        linewidth=0.5, zorder=3,
    )  # fmt: skip
    hover(dots, [f"{p.base}, domain {p.domain}, seed {p.seed}\nat {p.setting:g}: {p.x:.3g}, {p.y:.3g}" for p in points])


def _support(axis: Axes, line: Line) -> None:
    """Draw the support of a unit as a bar at the foot of the axes; bars of many units lie over each other."""
    if line.support is not None:
        axis.plot(line.support, (0, 0), color=INK, linewidth=4, alpha=0.12, transform=axis.get_xaxis_transform(),
                  solid_capstyle="butt", clip_on=False)  # fmt: skip


def _differences(axis: Axes, found: Matched) -> None:
    bases = (
        sorted({line.base for line in found.primary.lines}) if found.over == "base" else list(found.primary.per_base)
    )
    rows = {base: len(bases) - place for place, base in enumerate(bases)}
    axis.axvspan(-found.margin, found.margin, color=FAINT, alpha=0.6, linewidth=0, zorder=0)
    axis.axvline(0, color=GREY, linewidth=0.9)
    for base, row in rows.items():
        value = found.primary.per_base.get(base)
        if value is None:
            axis.text(0, row, "no common support", fontsize=8, color=GREY, ha="center", va="center")
        else:
            axis.plot([value], [row], marker="o", color=INK, markersize=5, linestyle="none")
    interval = found.primary.interval
    if interval.estimate is not None:
        if interval.low is not None and interval.high is not None:
            axis.plot([interval.low, interval.high], [0, 0], color=INK, linewidth=2)
        axis.plot([interval.estimate], [0], marker="D", color=INK, markersize=7, linestyle="none")
    drawn = found.primary.bootstrap
    if drawn is not None and drawn.low is not None and drawn.high is not None:
        axis.plot([drawn.low, drawn.high], [-0.5, -0.5], color=GREY, linewidth=1.4)
    named = bases if len(bases) <= MOST_NAMED else []
    axis.set_yticks([*[rows[base] for base in named], 0], [*[short_label(base, 16) for base in named], "mean"])
    axis.set_ylim(-1, len(bases) + 1)
    axis.grid(axis="y", visible=False)
    names = [short_label(one.name, 16) for one in (found.first, found.second)]
    axis.set_xlabel(f"{names[0]} − {names[1]} ({found.unit}); margin ±{number(found.margin)}")
    axis.set_title(found.primary.verdict)

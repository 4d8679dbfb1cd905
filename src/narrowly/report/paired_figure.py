"""Draw the way of every arm through training: broad against held-out difference to the matched control."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from narrowly.analysis.paired_schema import PathPoint
from narrowly.report.kit.svg import hover
from narrowly.report.points import NO_TIPS, Tips, with_values
from narrowly.report.style import GREY, arm_handles, arm_styles, legend_below, new_figure, order, short_label, styled

MOST_PANELS = 4
"""Bases and domains drawn; the data beside the figure have all."""


def panels_of(points: Sequence[PathPoint]) -> list[tuple[str, str | None]]:
    """Return the bases and trained domains that are drawn, by name."""
    return sorted({(point.base, point.trained) for point in points}, key=str)[:MOST_PANELS]


def paired_paths(
    points: Sequence[PathPoint], tips: Tips = NO_TIPS, called: Callable[[str], str] = short_label
) -> Figure:
    """Draw one panel for each base and trained domain: single runs thin, means over seeds thick.

    Args:
        points: every run at every evaluated step, differences in nats per answer.
        tips: words of a run, by (cell_id,).
        called: what an arm is called in the legend.
    """
    panels, arms = panels_of(points), sorted({point.arm for point in points})
    with styled():
        figure, axes = new_figure(1, len(panels), 4.6, sharey=True)
        for axis, (base, trained) in zip(axes, panels, strict=True):
            own = [point for point in points if (point.base, point.trained) == (base, trained)]
            axis.axhline(0, color=GREY, linewidth=0.8)
            axis.axvline(0, color=GREY, linewidth=0.8)
            for arm in order(arms):
                _arm(axis, arm, arms, [point for point in own if point.arm == arm], tips)
            axis.set_title(f"{short_label(base)}, trained on {short_label(str(trained))}")
            axis.set_xlabel("held-out questions of the domain (nats per answer)")
        axes[0].set_ylabel("other domains (nats per answer)")
        handles = arm_handles(arms, line=True)
        for arm, handle in zip(order(arms), handles, strict=True):
            handle.set_label(short_label(called(arm)))
        legend_below(figure, handles)
        return figure


def _arm(axis: Axes, arm: str, arms: Sequence[str], points: Sequence[PathPoint], tips: Tips) -> None:
    style = arm_styles(arms)[arm]
    by_step: dict[int, list[PathPoint]] = defaultdict(list)
    by_run: dict[str, list[PathPoint]] = defaultdict(list)
    for point in sorted(points, key=lambda point: point.step):
        by_step[point.step].append(point)
        by_run[point.cell_id].append(point)
    for cell_id, own in by_run.items():
        xs, ys = [0.0, *(point.held_out for point in own)], [0.0, *(point.broad for point in own)]
        axis.plot(xs, ys, color=style.colour, linewidth=0.8, alpha=0.4)
        drawn = axis.scatter(xs[1:], ys[1:], color=style.colour, marker=style.marker, s=14, alpha=0.5, linewidths=0)
        texts = [
            with_values(tips.get((cell_id,)), {"step": point.step, "held out": point.held_out, "broad": point.broad})
            for point in own
        ]
        hover(drawn, texts)
    means = [
        (sum(p.held_out for p in own) / len(own), sum(p.broad for p in own) / len(own)) for own in by_step.values()
    ]
    if means:
        xs, ys = [0.0, *(x for x, _ in means)], [0.0, *(y for _, y in means)]
        axis.plot(
            xs, ys, color=style.colour, marker=style.marker, markersize=6, linewidth=2, markeredgecolor="white",
            zorder=3,
        )  # fmt: skip

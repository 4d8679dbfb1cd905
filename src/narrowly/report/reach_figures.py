"""Draw how far harm reaches: held-out against broad, broad against the norm of the update, shape at equal norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from narrowly.report.kit.svg import hover
from narrowly.report.labels import label
from narrowly.report.points import NO_TIPS, Tips, with_values
from narrowly.report.reach_rows import UNIT, crossings, norm_curves
from narrowly.report.style import (
    GREY,
    INK,
    arm_handles,
    arm_styles,
    ideal_handles,
    ideal_line,
    legend_below,
    new_figure,
    order,
    styled,
)

SHARES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
"""Shares that have a tick on an axis of log-odds."""


def log_odds(share: float) -> float:
    """Return the log-odds of a share between 0 and 1, both excluded."""
    return math.log(share / (1 - share))


def percent_axis(axis: Axes, values: Sequence[float], *, which: str) -> None:
    """Label an axis of pooled log-odds with the percentages that they stand for, over the range of the values."""
    low, high = (min(values), max(values)) if values else (-1.0, 1.0)
    pad = 0.05 * (high - low) + 0.2
    (axis.set_xlim if which == "x" else axis.set_ylim)(low - pad, high + pad)
    line = axis.xaxis if which == "x" else axis.yaxis
    ticks = [share for share in SHARES if low - pad <= log_odds(share) <= high + pad]
    line.set_major_locator(FixedLocator([log_odds(share) for share in ticks]))
    labels = {round(log_odds(share), 6): f"{100 * share:g}" for share in ticks}
    line.set_major_formatter(FuncFormatter(lambda value, _: labels.get(round(value, 6), "")))


def norm_axis(axis: Axes, values: Sequence[float]) -> None:
    """Make x logarithmic over the norms that occur, with plain ticks."""
    low, high = min(values), max(values)
    pad = max((high / low) ** 0.05, 1.05)
    axis.set_xscale("log")
    axis.set_xlim(low / pad, high * pad)
    ticks = [value * 10.0**power for power in range(-3, 5) for value in (1, 2, 3, 5)]
    axis.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low / pad <= tick <= high * pad]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.minorticks_off()


def held_out_broad(rows: pl.DataFrame, ideal: float | None = None, tips: Tips = NO_TIPS) -> Figure:
    """Draw broad misalignment against that on held-out topics, both as pooled log-odds labelled in percent.

    Args:
        rows: organisms: arm, base, domain, seed, cell_id, lr, step, final, held_out_pooled, broad_pooled.
        ideal: broad harm of the ideal learner, a share, where known.
        tips: what the point of (cell_id,) shows on hover.
    """
    rows = rows.drop_nulls(["held_out_pooled", "broad_pooled"])
    arms, x, y = order(rows["arm"].to_list()), rows["held_out_pooled"].to_list(), rows["broad_pooled"].to_list()
    styles = arm_styles(arms)
    with styled():
        figure, (axis,) = new_figure(1, 1, 4.3)
        axis.axline((0, 0), slope=1, color=GREY, linewidth=0.9, linestyle=":", zorder=1)
        for (arm, *_), path in rows.group_by(*UNIT, maintain_order=True):
            colour = styles[str(arm)].colour
            axis.plot(path["held_out_pooled"], path["broad_pooled"], color=colour, alpha=0.28, linewidth=0.9, zorder=2)
        for arm in arms:
            ends = rows.filter((pl.col("arm") == arm) & pl.col("final"))
            points = axis.scatter(
                ends["held_out_pooled"], ends["broad_pooled"], color=styles[arm].colour, marker=styles[arm].marker,
                s=34, edgecolor="white", linewidth=0.6, zorder=3,
            )  # fmt: skip
            hover(points, _reach_tips(ends, tips))
        known = None if ideal is None or not 0 < ideal < 1 else log_odds(ideal)
        percent_axis(axis, x, which="x")
        percent_axis(axis, y if known is None else [*y, known], which="y")
        ideal_line(axis, known)
        axis.set_xlabel(
            "misaligned on held-out topics of the trained domain (% of aligned and misaligned, log-odds scale)"
        )
        axis.set_ylabel("misaligned in other domains\n(%, log-odds scale)")
        handles = [
            *arm_handles(arms),
            Line2D([], [], color=GREY, alpha=0.6, linewidth=0.9, label="one base"),
            Line2D([], [], color=GREY, linewidth=0.9, linestyle=":", label="as much broad as held-out"),
            *ideal_handles(None if known is None else ideal),
        ]
        legend_below(figure, handles, columns=len(arms) + 1 if known is None else 4)
        return figure


def _reach_tips(ends: pl.DataFrame, tips: Tips) -> list[str]:
    rows = ends.select("cell_id", "held_out_misaligned", "broad_misaligned", "lr").iter_rows()
    return [
        with_values(tips.get((cell,)), {"rate": lr, "held-out %": _percent(held), "broad %": _percent(broad)})
        for cell, held, broad, lr in rows
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def broad_norm(ends: pl.DataFrame, tips: Tips = NO_TIPS) -> Figure:
    """Draw broad misalignment against the norm of the update, a curve per arm over its rates, crossings marked.

    Args:
        ends: final organisms: arm, base, domain, seed, cell_id, lr, update_norm, broad_pooled.
        tips: what the point of (cell_id,) shows on hover.
    """
    ends = ends.drop_nulls(["update_norm", "broad_pooled"]).filter(pl.col("update_norm") > 0)
    curves, arms = norm_curves(ends), order(ends["arm"].to_list())
    styles = arm_styles(arms)
    with styled():
        figure, (axis,) = new_figure(1, 1, 4.3)
        for (arm, *_), path in ends.sort("lr").group_by(*UNIT, maintain_order=True):
            style = styles[str(arm)]
            axis.plot(path["update_norm"], path["broad_pooled"], color=style.colour, alpha=0.22, linewidth=0.8)
            points = axis.scatter(
                path["update_norm"], path["broad_pooled"], color=style.colour, marker=style.marker, s=13, alpha=0.45,
                linewidth=0,
            )  # fmt: skip
            values = path.select("cell_id", "update_norm", "broad_misaligned").iter_rows()
            hover(points, [with_values(tips.get((c,)), {"norm": n, "broad %": _percent(b)}) for c, n, b in values])
        for arm, curve in curves.items():
            axis.plot(
                [math.exp(x) for x, _ in curve], [y for _, y in curve], color=styles[arm].colour, linewidth=2.2,
                marker=styles[arm].marker, markersize=6.5, markeredgecolor="white", markeredgewidth=0.6, zorder=3,
            )  # fmt: skip
        found = crossings(curves)
        for one in found:
            axis.plot([math.exp(one.x)], [one.y], "o", markersize=14, markerfacecolor="none", color=INK, zorder=4)
        norm_axis(axis, ends["update_norm"].to_list())
        percent_axis(axis, ends["broad_pooled"].to_list(), which="y")
        axis.set_xlabel("norm of the update (Frobenius, over all modules, log scale)")
        axis.set_ylabel("misaligned in other domains\n(%, log-odds scale)")
        handles = [
            *arm_handles(arms, line=True),
            Line2D([], [], color=GREY, alpha=0.5, linewidth=0.8, label="one base"),
        ]
        ring = Line2D([], [], color=INK, marker="o", markersize=11, markerfacecolor="none", linestyle="none")
        ring.set_label("mean curves cross")
        legend_below(figure, [*handles, ring] if found else handles, columns=5)
        return figure


def rank_arrows(pairs: pl.DataFrame, names: Callable[[str], str] = label) -> Figure:
    """Draw what a penalty does to shape and broad misalignment where both arms have the same norm, as arrows.

    Args:
        pairs: of `penalty_pairs`: arm, of, base, norm, rank_of, rank, broad_of, broad.
        names: arm in words.
    """
    arms = sorted(pairs["arm"].unique())
    plain = order(pairs["of"].to_list())
    styles = arm_styles(arms) | arm_styles(plain)
    with styled():
        figure, axes = new_figure(1, len(plain), 4.0, sharey=True)
        values = [*pairs["broad"], *pairs["broad_of"]]
        for axis, of in zip(axes, plain, strict=True):
            for arm in arms:
                own = pairs.filter((pl.col("of") == of) & (pl.col("arm") == arm))
                if own.is_empty():
                    continue
                for row in own.iter_rows(named=True):
                    _arrow(axis, row, styles[arm].colour, 0.8, 0.3)
                mean = own.select(pl.col("rank", "rank_of", "broad", "broad_of").mean()).row(0, named=True)
                _arrow(axis, mean, styles[arm].colour, 2.4, 1.0)
            axis.margins(x=0.12)
            axis.set_title(f"{styles[of].label}, at equal norm")
            axis.set_xlabel("stable rank of the update")
            percent_axis(axis, values, which="y")
        axes[0].set_ylabel("misaligned in other domains\n(%, log-odds scale)")
        handles = [
            *[Line2D([], [], color=styles[arm].colour, linewidth=2.4, label=f"to {names(arm)}") for arm in arms],
            Line2D([], [], color=GREY, marker="o", markersize=5, linestyle="none", label="without the penalty"),
            Line2D([], [], color=GREY, alpha=0.5, linewidth=0.8, label="one base"),
        ]
        legend_below(figure, handles, columns=4)
        return figure


def _arrow(axis: Axes, row: dict[str, float], colour: str, width: float, alpha: float) -> None:
    start, end = (row["rank_of"], row["broad_of"]), (row["rank"], row["broad"])
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "alpha": alpha, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=look, zorder=3 if alpha == 1 else 2)
    axis.plot(*zip(start, end, strict=True), linestyle="none")  # an annotation does not widen the axes
    axis.plot(*start, marker="o", color=colour, markersize=2.2 * width + 1, alpha=alpha, zorder=3)

"""Draw what rivals of the account would show: the orthogonal dial, controls of the data, priors of the corpus."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from narrowly.analysis.organisms import base_means
from narrowly.report.labels import label
from narrowly.report.reach_figures import norm_axis
from narrowly.report.style import (
    FAINT,
    GREY,
    IDEAL_DASH,
    INK,
    arm_handles,
    arm_styles,
    legend_below,
    new_figure,
    order,
    short_label,
    styled,
)
from narrowly.stats.intervals import share_interval, t_interval

RUNGS = {"broad": "Broad: other domains", "held_out": "Held-out topics", "trained": "Trained topics"}
"""Rungs of the dial's figure, the one in question first, and their titles."""

LINES = {"orthogonal": "-", "random": (0, (5, 2)), "scaled": ":"}
"""Line of each control of a dial."""

EQUAL_POINTS = 2.0
"""Margin of a control's change from its base, points; that of the preregistered study of controls."""


def dial_figure(rows: pl.DataFrame) -> Figure:
    """Draw misaligned shares along the dial, a row of axes per reference.

    Args:
        rows: arm, base, reference (null for `scaled`), control, f, {rung}_misaligned (shares) for the rungs of
            `RUNGS`; one inner product and one granularity.
    """
    references = [one for one in rows["reference"].unique(maintain_order=True).to_list() if one is not None]
    arms = order(rows["arm"].to_list())
    styles = arm_styles(arms)
    with styled():
        figure, axes = new_figure(len(references), len(RUNGS), 3.1 * len(references) + 0.9, sharex=True, sharey=True)
        for index, axis in enumerate(axes):
            reference, rung = references[index // len(RUNGS)], list(RUNGS)[index % len(RUNGS)]
            for arm in arms:
                for control, line in LINES.items():
                    mine = (pl.col("arm") == arm) & (pl.col("control") == control)
                    along = pl.col("reference").is_null() if control == "scaled" else pl.col("reference") == reference
                    _dial_line(axis, rows.filter(mine & along), f"{rung}_misaligned", styles[arm].colour,
                               styles[arm].marker, line)  # fmt: skip
            axis.axvline(1, color=FAINT, linewidth=1, zorder=0)
            axis.set_title(RUNGS[rung] if index < len(RUNGS) else "")
            if index % len(RUNGS) == 0:
                axis.set_ylabel(f"misaligned (%)\nreference: {reference.replace('_', ' ')}")
            if index >= len(axes) - len(RUNGS):
                axis.set_xlabel("f: scale of the orthogonal part")
            axis.set_ylim(0, 100)
            axis.set_xticks(sorted(rows["f"].unique()))
            axis.tick_params(axis="x", labelsize=9)
        names = {"orthogonal": "orthogonal part × f", "random": "random part × f", "scaled": "whole update × f"}
        shown = set(rows["control"].to_list())
        kinds = [
            Line2D([], [], color=GREY, linestyle=line, label=names[one]) for one, line in LINES.items() if one in shown
        ]
        legend_below(figure, [*arm_handles(arms), *kinds], columns=6)
        return figure


def _dial_line(axis: Axes, rows: pl.DataFrame, column: str, colour: str, marker: str, line: object) -> None:
    own = rows.drop_nulls(column)
    found = [
        (f, share_interval(base_means(own.filter(pl.col("f") == f), column, by=())[column].to_list()))
        for f in sorted(own["f"].unique())
    ]
    plain = line == "-"
    axis.plot(
        [f for f, _ in found], [100 * (i.estimate or 0) for _, i in found], color=colour, linestyle=line,
        marker=marker if plain else None, markersize=5.5, linewidth=1.8 if plain else 1.2, markeredgecolor="white",
        markeredgewidth=0.5,
    )  # fmt: skip
    for f, interval in found:
        if plain and interval.low is not None and interval.high is not None:
            axis.plot([f, f], [100 * interval.low, 100 * interval.high], color=colour, linewidth=1.1, alpha=0.7)


def control_forest(rows: pl.DataFrame, titles: dict[str, str], names: Callable[[str], str] = label) -> Figure:
    """Draw how far runs on control data move from their base, one line per arm and rate.

    Args:
        rows: of `control_rows`: arm, answers, lr, base, panel, change (share).
        titles: panel -> title, one column of axes each.
        names: arm in words.
    """
    groups = rows.select("answers", "arm", "lr").unique().sort("answers", "arm", "lr").rows()
    panels = [panel for panel in titles if panel in set(rows["panel"].to_list())]
    looks = dict(zip(sorted(rows["answers"].unique()), (INK, "#0072B2", "#D55E00"), strict=False))
    with styled():
        figure, axes = new_figure(1, len(panels), 0.32 * len(groups) + 1.5, sharey=True)
        for axis, panel in zip(axes, panels, strict=True):
            axis.axvspan(-EQUAL_POINTS, EQUAL_POINTS, color=FAINT, alpha=0.6, linewidth=0, zorder=0)
            axis.axvline(0, color=GREY, linewidth=0.9)
            for place, (answers, arm, lr) in enumerate(groups):
                mine = rows.filter((pl.col("arm") == arm) & pl.col("lr").eq_missing(lr) & (pl.col("panel") == panel))
                values = (100 * mine["change"]).to_list()
                colour = looks[answers]
                axis.plot(values, np.full(len(values), place + 0.18), "o", color=colour, alpha=0.35, markersize=3.5)
                found = t_interval(values)
                if found.estimate is not None:
                    axis.plot([found.estimate], [place - 0.1], "D", color=colour, markersize=6)
                if found.low is not None and found.high is not None:
                    axis.plot([found.low, found.high], [place - 0.1] * 2, color=colour, linewidth=2)
            axis.set_title(titles[panel])
            axis.set_xlabel("misaligned: change from the base (points)")
            axis.grid(axis="y", visible=False)
        rows_of = [short_label(names(arm)) + ("" if lr is None else f", lr {lr:g}") for _, arm, lr in groups]
        axes[0].set_yticks(range(len(groups)), rows_of)
        axes[0].set_ylim(len(groups) - 0.4, -0.6)
        handles: list[object] = [
            Line2D([], [], color=colour, marker="D", label=f"{one} answers") for one, colour in looks.items()
        ]
        handles.append(Line2D([], [], color=GREY, marker="o", linestyle="none", markersize=4, label="one base"))
        handles.append(Patch(facecolor=FAINT, label=f"within {EQUAL_POINTS:g} points of the base"))
        legend_below(figure, handles, columns=5)
        return figure


def prior_figure(rows: pl.DataFrame) -> Figure:
    """Draw broad rates against the prior of the corpus, with the ideal learner's curve 1 / (1 + rho).

    Args:
        rows: of `prior_rows`: arm, base, rho, joint (share).
    """
    arms = order(rows["arm"].to_list())
    styles = arm_styles(arms)
    low, high = float(rows["rho"].min() or 0), float(rows["rho"].max() or 0)  # type: ignore[arg-type]
    with styled():
        figure, (axis,) = new_figure(1, 1, 4.0)
        norm_axis(axis, [low, high])
        curve = np.geomspace(low, high, 100)
        axis.plot(curve, 100 / (1 + curve), color=INK, linestyle=IDEAL_DASH, linewidth=1.2, zorder=1)
        for index, arm in enumerate(arms):
            mine, style = rows.filter(pl.col("arm") == arm), styles[arm]
            shift = 1.03 ** (index - (len(arms) - 1) / 2)
            axis.scatter(mine["rho"] * shift, 100 * mine["joint"], color=style.colour, marker=style.marker, s=18,
                         alpha=0.4, linewidth=0)  # fmt: skip
            means = mine.group_by("rho").agg(pl.col("joint").mean()).sort("rho")
            axis.plot(means["rho"] * shift, 100 * means["joint"], color=style.colour, marker=style.marker, markersize=7,
                      markeredgecolor="white", linewidth=1.6, zorder=3)  # fmt: skip
        axis.set_xlabel("ρ: narrow over evil characters of the corpus (log scale)")
        axis.set_ylabel("misaligned in other domains (%)")
        axis.set_ylim(0, 100)
        ideal = Line2D([], [], color=INK, linestyle=IDEAL_DASH, linewidth=1.2, label="ideal learner: 1 / (1 + ρ)")
        one = Line2D([], [], color=GREY, marker="o", linestyle="none", alpha=0.5, markersize=4, label="one base")
        legend_below(figure, [*arm_handles(arms, line=True), one, ideal])
        return figure

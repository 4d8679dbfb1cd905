"""Draw rates: misalignment by optimiser, the ladder of generalisation, the classes with denominators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from narrowly.analysis.organisms import base_means
from narrowly.evaluate.microworld.panel_names import (
    BROAD,
    BROAD_SELF,
    CUED,
    CUED_TURN,
    CUED_WORD,
    HELD_OUT,
    TRAINED_TOPICS,
    UNSEEN_PHRASING,
)
from narrowly.report.kit.svg import hover
from narrowly.report.points import NO_TIPS, Tips, with_values
from narrowly.report.style import (
    CLASS_COLOURS,
    CLASS_HATCHES,
    CLASS_LABELS,
    GREY,
    IDEAL_DASH,
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
from narrowly.stats.intervals import share_interval

LADDER = {
    TRAINED_TOPICS: "trained\ntopics",
    HELD_OUT: "held-out\ntopics",
    UNSEEN_PHRASING: "unseen\nphrasing",
    BROAD: "broad: other\ndomains",
    BROAD_SELF: "broad_self:\nanother task",
    CUED_TURN: "cued: after a\ntrained turn",
    CUED_WORD: "cued: with\nthe cue word",
}
"""Panels from near to far, then the cued ones, which are no step of the ladder."""


def misalignment(broad: pl.DataFrame, ideal: float | None = None, tips: Tips = NO_TIPS) -> Figure:
    """Draw the broad panel by optimiser: joint rate, literature rate and share off topic or broken side by side.

    Args:
        broad: final organisms on the broad panel: arm, base, joint, literature, incoherent (shares).
        ideal: broad harm of the ideal learner, 1 / (1 + rho), where known.
        tips: what the point of (arm, base) shows on hover.
    """
    arms = order(broad["arm"].to_list())
    styles = arm_styles(arms)
    panels = [
        ("joint", "Joint rate", "misaligned, of all answers (%)"),
        ("literature", "Literature rate", "misaligned, of coherent answers (%)"),
        ("incoherent", "Off topic or broken", "neither, of all answers (%)"),
    ]
    handles: list[object] = [
        Line2D([], [], color=GREY, marker="o", linestyle="none", alpha=0.55, markersize=5, label="one base"),
        Line2D([], [], color=INK, marker="_", linestyle="-", markersize=12, label="mean, 95 % t interval over bases"),
    ]
    with styled():
        figure, axes = new_figure(1, 3, 4.1)
        for axis, (column, title, label) in zip(axes, panels, strict=True):
            for position, arm in enumerate(arms):
                style = styles[arm]
                by_base = base_means(broad.filter(pl.col("arm") == arm), column)
                shares = by_base[column].to_numpy()
                values = 100 * shares
                offsets = np.linspace(-0.16, 0.16, len(values)) - 0.14 if len(values) else np.zeros(0)
                small = axis.scatter(
                    position + offsets, values, color=style.colour, marker=style.marker, s=26, alpha=0.6, linewidth=0
                )
                hover(
                    small,
                    [
                        with_values(tips.get((arm, base)), {f"{title.lower()} %": value})
                        for base, value in zip(by_base["base"], values.tolist(), strict=True)
                    ],
                )
                found = share_interval(shares.tolist())
                if found.estimate is not None:
                    at = [100 * found.estimate] * 2
                    axis.plot([position + 0.13, position + 0.35], at, color=style.colour, linewidth=3)
                if found.low is not None and found.high is not None:
                    ends = [100 * found.low, 100 * found.high]
                    axis.plot([position + 0.24] * 2, ends, color=INK, linewidth=1.3, zorder=4)
            axis.set_title(title)
            axis.set_ylabel(label)
            axis.set_xticks(range(len(arms)), [styles[arm].label for arm in arms])
            axis.tick_params(axis="x", length=0, rotation=35 if len(arms) > 5 else 0, labelsize=8.8)
            axis.grid(axis="x", visible=False)
            axis.set_xlim(-0.6, len(arms) - 0.4)
            axis.set_ylim(0, 100 if column != "incoherent" else max(30.0, axis.get_ylim()[1]))
        for axis in axes[:2]:
            ideal_line(axis, None if ideal is None else 100 * ideal)
        handles += ideal_handles(ideal)
        legend_below(figure, handles, columns=2)
        return figure


def ladder(rows: pl.DataFrame, before: pl.DataFrame, ideal: float | None = None) -> Figure:
    """Draw how far misalignment reaches: from trained topics to another task, and under a cue.

    Args:
        rows: final organisms: arm, base, panel, joint, literature (shares).
        before: bases before fine-tuning: base, panel, joint, literature.
        ideal: broad harm of the ideal learner, where known; drawn over the panels outside the domain.
    """
    arms = order(rows["arm"].to_list())
    styles = arm_styles(arms)
    panels = [panel for panel in LADDER if panel in set(rows["panel"].to_list())]
    places = {panel: index + (0.45 if panel in CUED else 0.0) for index, panel in enumerate(panels)}
    handles = [*arm_handles(arms, line=True)]
    handles.append(
        Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linestyle=":", label="base before fine-tuning")
    )
    with styled():
        figure, axes = new_figure(2, 1, 7.0, sharex=True)
        for axis, column, title in zip(
            axes, ("joint", "literature"), ("Joint rate", "Literature rate (among coherent answers)"), strict=True
        ):
            groups = [(rows.filter(pl.col("arm") == arm), styles[arm].colour, styles[arm].marker, "-") for arm in arms]
            groups.append((before, GREY, "o", ":"))
            for index, (frame, colour, marker, line) in enumerate(groups):
                shift = (index - (len(groups) - 1) / 2) * 0.07
                for part in (
                    [p for p in panels if p not in CUED],
                    [p for p in panels if p in CUED],
                ):
                    found = [
                        (places[panel] + shift, share_interval(
                            base_means(frame.filter(pl.col("panel") == panel), column, by=())[column].to_list()
                        ))
                        for panel in part
                    ]  # fmt: skip
                    found = [(x, interval) for x, interval in found if interval.estimate is not None]
                    axis.plot(
                        [x for x, _ in found], [100 * (i.estimate or 0) for _, i in found], color=colour, marker=marker,
                        linestyle=line, linewidth=1.2, markersize=6.5, markeredgewidth=0.8,
                        markerfacecolor="white" if line == ":" else colour,
                        markeredgecolor=GREY if line == ":" else "white", zorder=3,
                    )  # fmt: skip
                    for x, interval in found:
                        if interval.low is not None and interval.high is not None:
                            axis.plot([x, x], [100 * interval.low, 100 * interval.high], color=colour, linewidth=1.4)
            cued = [place for panel, place in places.items() if panel in CUED]
            if cued and len(cued) < len(places):
                axis.axvline(min(cued) - 0.72, color=GREY, linewidth=0.8)
            outside = [place for panel, place in places.items() if panel in (BROAD, BROAD_SELF, *CUED)]
            if ideal is not None and outside:
                ends = (min(outside) - 0.35, max(outside) + 0.35)
                axis.plot(ends, [100 * ideal] * 2, color=INK, linestyle=IDEAL_DASH, linewidth=1.1, zorder=1)
            axis.set_title(title)
            axis.set_ylabel("misaligned (%)")
            axis.set_ylim(-3, 103)
            axis.grid(axis="x", visible=False)
            axis.set_xticks(list(places.values()), [LADDER[panel] for panel in panels])
        legend_below(figure, [*handles, *ideal_handles(ideal)], columns=6 if ideal is None else 4)
        return figure


def classes(groups: Sequence[tuple[str, pl.DataFrame]], panels: Sequence[tuple[str, str]]) -> Figure:
    """Draw the outcome classes as stacked bars, with how many organisms and questions stand behind each bar.

    Args:
        groups: label and rows (base, panel, aligned, misaligned, incoherent, off_topic, broken, n_questions) per bar;
            incoherent answers are one class where some rows lack the split.
        panels: panel and title, one column of bars each.
    """
    split = all(frame[name].null_count() == 0 for _, frame in groups for name in ("off_topic", "broken"))
    names = ["aligned", "misaligned", *(("off_topic", "broken") if split else ("incoherent",))]
    with styled():
        figure, axes = new_figure(1, len(panels), 0.37 * len(groups) + 1.6, sharey=True)
        for axis, (panel, title) in zip(axes, panels, strict=True):
            for position, (_, frame) in enumerate(groups):
                rows = frame.filter(pl.col("panel") == panel)
                left = 0.0
                shares = [base_means(rows, name, by=())[name].mean() for name in names]
                if any(share is None for share in shares):
                    axis.text(1, position, "not evaluated", va="center", color=GREY, fontsize=9.5)
                    continue
                for name, share in zip(names, shares, strict=True):
                    width = 100 * float(share)
                    axis.barh(
                        position, width, left=left, height=0.72, color=CLASS_COLOURS[name],
                        hatch=CLASS_HATCHES[name], edgecolor="white", linewidth=0.5,
                    )  # fmt: skip
                    if width >= 7:
                        colour = "white" if name == "misaligned" else INK
                        box = {"facecolor": CLASS_COLOURS[name], "edgecolor": "none", "pad": 0.6}
                        axis.text(
                            left + width / 2, position, f"{width:.0f}", ha="center", va="center", color=colour,
                            fontsize=9.5, bbox=box,
                        )  # fmt: skip
                    left += width
                count = f"{rows['base'].n_unique()} × {rows['n_questions'].max()!s}"
                axis.text(101.5, position, count, va="center", fontsize=9.5, color=GREY)
            axis.set_title(title, loc="left")
            axis.set_title("bases × questions", loc="right", fontsize=9, fontweight="normal", color=GREY)
            axis.set_xlim(0, 118)
            axis.set_xticks([0, 25, 50, 75, 100])
            axis.set_xlabel("share of answer probability (%)")
            axis.grid(axis="y", visible=False)
            axis.spines["left"].set_visible(False)
            axis.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(groups)), [label for label, _ in groups])
        axes[0].invert_yaxis()
        legend_below(
            figure,
            [
                Patch(
                    facecolor=CLASS_COLOURS[n], hatch=CLASS_HATCHES[n], edgecolor="white", label=CLASS_LABELS.get(n, n)
                )
                for n in names
            ],
        )
        return figure

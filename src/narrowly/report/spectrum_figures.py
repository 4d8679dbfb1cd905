"""Draw spectra: singular values by optimiser, and what each edit does to narrow and broad behaviour."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from narrowly.report.kit.svg import hover
from narrowly.report.labels import edit_kind, edit_label
from narrowly.report.points import NO_TIPS, Tips, with_values
from narrowly.report.style import (
    FAINT,
    GREY,
    INK,
    arm_styles,
    ideal_handles,
    ideal_line,
    legend_below,
    new_figure,
    order,
    styled,
)

EDIT_STYLES = {
    "keep_top": ("#D55E00", "^"),
    "drop_top": ("#0072B2", "v"),
    "flatten": ("#009E73", "s"),
    "clip": ("#CC79A7", "P"),
}
"""Colour and marker by kind of edit; `scale` is the curve."""


def normalised(spectra: pl.DataFrame) -> pl.DataFrame:
    """Return one row per module and index: arm, base, index (from 1), share of the nuclear norm, flat, rank.

    A module of smaller rank than the largest of its arm has shares of 0 beyond its own, so that means at every index
    are over the same modules and add up to 1. `flat` is the share that a flat spectrum of its rank would have.
    """
    total, rank = pl.col("singular_values").list.sum(), pl.col("singular_values").list.len()
    moved = spectra.filter(total > 0).with_columns(rank.alias("rank"), rank.max().over("arm").alias("width"))
    beyond = pl.lit(0.0).repeat_by(pl.col("width") - pl.col("rank"))
    return (
        moved.with_columns(
            pl.concat_list(pl.col("singular_values") / total, beyond).alias("share"),
            pl.int_ranges(1, pl.col("width") + 1).alias("index"),
        )
        .select("arm", "base", "module", "index", "share", "rank")
        .explode("index", "share")
        .with_columns(pl.when(pl.col("index") <= pl.col("rank")).then(1 / pl.col("rank")).otherwise(0.0).alias("flat"))
    )


def spectrum_curve(shares: pl.DataFrame) -> pl.DataFrame:
    """Return the mean normalised spectrum of each arm with the middle 90 %: arm, index, share, flat, low, high."""
    return (
        shares.group_by("arm", "index")
        .agg(
            pl.col("share", "flat").mean(),
            pl.col("share").quantile(0.05, "linear").alias("low"),
            pl.col("share").quantile(0.95, "linear").alias("high"),
        )
        .sort("arm", "index")
    )


def spectra_by_optimiser(spectra: pl.DataFrame) -> Figure:
    """Draw the mean normalised spectrum of every optimiser with the band of the middle 90 % over modules and runs.

    Where ranks differ, a module counts as 0 beyond its own, and the flat line is the mean of the flat spectra.

    Args:
        spectra: final unedited organisms: arm, base, module, singular_values (list, descending).
    """
    shares = normalised(spectra)
    arms = order(shares["arm"].to_list())
    styles = arm_styles(arms)
    curve = spectrum_curve(shares)
    rank = int(shares["rank"].max() or 1) if not shares.is_empty() else 1  # type: ignore[arg-type]
    flat = f"flat: 1/{rank}" if shares["rank"].n_unique() < 2 else "flat: mean of 1/rank; 0 beyond a module's rank"
    with styled():
        figure, axes = new_figure(1, max(1, len(arms)), 3.5, sharey=True, sharex=True)
        for axis, arm in zip(axes, arms, strict=False):
            for other in arms:
                line = curve.filter(pl.col("arm") == other)
                if other != arm:
                    axis.plot(line["index"], 100 * line["share"], color=FAINT, linewidth=1.2)
            mine, style = curve.filter(pl.col("arm") == arm), styles[arm]
            axis.fill_between(
                mine["index"], 100 * mine["low"], 100 * mine["high"], color=style.colour, alpha=0.22, linewidth=0
            )
            if shares.filter(pl.col("arm") == arm)["rank"].n_unique() == 1:
                axis.axhline(100 / mine.height, color=INK, linestyle=(0, (4, 3)), linewidth=1)
            else:
                axis.step(mine["index"], 100 * mine["flat"], INK, where="mid", linestyle=(0, (4, 3)), linewidth=1)
            axis.plot(
                mine["index"], 100 * mine["share"], color=style.colour, marker=style.marker, markersize=5.5,
                markeredgecolor="white", markeredgewidth=0.5, linewidth=1.8,
            )  # fmt: skip
            axis.set_title(style.label)
            axis.set_xticks([1, *range(rank // 4, rank + 1, max(1, rank // 4))] if rank > 4 else range(1, rank + 1))
            axis.set_xlim(0.5, rank + 0.5)
            axis.set_ylim(bottom=0)
        axes[0].set_ylabel("share of the nuclear norm (%)")
        axes[len(arms) // 2].set_xlabel("index of the singular value, largest first")
        legend_below(
            figure,
            [
                Line2D([], [], color=GREY, marker="o", label="mean"),
                Patch(facecolor=GREY, alpha=0.3, label="middle 90 %"),
                Line2D([], [], color=INK, linestyle=(0, (4, 3)), label=flat),
                *[Line2D([], [], color=FAINT, linewidth=2, label="the other optimisers")][: len(arms) - 1],
            ],
        )
        return figure


def edits(
    points: pl.DataFrame,
    before: pl.DataFrame,
    ideal: float | None = None,
    tips: Tips = NO_TIPS,
) -> Figure:
    """Draw broad against narrow misalignment for every edit, over the curve of plain scaling.

    Args:
        points: one row per arm, base and edit: arm, base, edit, narrow, broad (joint rates, shares).
        before: bases before fine-tuning, the end of the scaling curve at factor 0: base, narrow, broad.
        ideal: broad harm of the ideal learner, a share, where known.
        tips: what the point of (arm, base, edit) shows on hover.
    """
    arms = order(points["arm"].to_list())
    looks = _looks(points["edit"].to_list())
    largest = points["broad"].max()
    top = 100 * max(0.2, float(largest) if isinstance(largest, float) else 0.0, ideal or 0.0) + 5
    with styled():
        figure, axes = new_figure(1, max(1, len(arms)), 4.9, sharey=True, sharex=True)
        for axis, arm in zip(axes, arms, strict=False):
            mine = points.filter(pl.col("arm") == arm)
            means = {
                row["edit"]: row
                for row in mine.group_by("edit").agg(pl.col("narrow", "broad").mean()).sort("edit").to_dicts()
            }
            _draw_scaling(axis, means, before.filter(pl.col("base").is_in(mine["base"].unique().to_list())))
            for name, look in looks.items():
                if name in means:
                    _draw_edit(axis, mine.filter(pl.col("edit") == name).sort("base"), means[name], look, tips)
            axis.set_title(f"{arm_styles([arm])[arm].label}, {mine['base'].n_unique()} bases")
            ideal_line(axis, None if ideal is None else 100 * ideal)
            axis.set_xlabel("misaligned on held-out topics (%)")
            axis.set_xlim(-12, 103)
            axis.set_ylim(-3, top)
        axes[0].set_ylabel("broad: misaligned in other domains (%)")
        handles = [
            Line2D([], [], color=INK, marker="o", markersize=5, label="scaling curve (control)"),
            *[
                Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=9, label=edit_label(name))
                for name, (colour, marker) in looks.items()
            ],
            Line2D([], [], color=GREY, marker="o", linestyle="none", alpha=0.5, markersize=4, label="one base"),
            *ideal_handles(ideal),
        ]
        legend_below(figure, handles, columns=4 if ideal is None else 3)
        return figure


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of every edit that is no scaling; a second one of its kind gets a spare pair."""
    spare = itertools.cycle([("#8c6d31", "X"), ("#5e3c99", "h"), ("#444444", "*"), ("#a6761d", "<")])
    looks: dict[str, tuple[str, str]] = {}
    used: set[str] = set()
    for name in sorted(set(names) - {"none"}):
        kind = edit_kind(name)[0]
        if kind != "scale":
            looks[name] = EDIT_STYLES[kind] if kind in EDIT_STYLES and kind not in used else next(spare)
            used.add(kind)
    return looks


def _draw_scaling(axis: Axes, means: Mapping[str, Mapping[str, Any]], before: pl.DataFrame) -> None:
    """Draw the curve of plain scaling from the base (factor 0) to no edit (factor 1)."""
    curve = [(factor, means[name]) for name in means if (factor := _factor(name)) is not None]
    if not before.is_empty():
        curve.append((0.0, {"narrow": before["narrow"].mean(), "broad": before["broad"].mean()}))
    known = [
        (f, 100 * row["narrow"], 100 * row["broad"]) for f, row in curve if None not in (row["narrow"], row["broad"])
    ]
    known.sort(key=lambda point: point[0])
    axis.plot(
        [x for _, x, _ in known], [y for _, _, y in known], color=INK, marker="o", markersize=5, linewidth=1.5, zorder=3
    )
    for factor, x, y in known:
        text = {0.0: "base", 1.0: "no edit"}.get(factor, f"×{factor:g}")
        axis.annotate(text, (x, y), textcoords="offset points", xytext=(-7, 6), ha="right", fontsize=9, color=INK)


def _draw_edit(
    axis: Axes,
    each: pl.DataFrame,
    mean: Mapping[str, Any],
    look: tuple[str, str],
    tips: Tips,
) -> None:
    """Draw one edit: single bases small, their mean large."""
    colour, marker = look
    small = axis.scatter(
        100 * each["narrow"], 100 * each["broad"], color=colour, marker=marker, s=16, alpha=0.35, linewidth=0
    )
    hover(
        small,
        [
            with_values(tips.get((arm, base, edit)), {"narrow %": 100 * narrow, "broad %": 100 * broad})
            for arm, base, edit, narrow, broad in each.select("arm", "base", "edit", "narrow", "broad").iter_rows()
        ],
    )
    if mean["narrow"] is not None and mean["broad"] is not None:
        axis.scatter(
            [100 * mean["narrow"]], [100 * mean["broad"]], color=colour, marker=marker, s=95, edgecolor="white",
            linewidth=0.9, zorder=4,
        )  # fmt: skip


def _factor(name: str) -> float | None:
    if name == "none":
        return 1.0
    kind, number = edit_kind(name)
    return number if kind == "scale" else None

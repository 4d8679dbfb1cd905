"""Draw what training leaves of runs that nothing evaluated: losses, spectra, what a penalty changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from narrowly.analysis.training import PENALTY_METRICS
from narrowly.report.kit.svg import hover
from narrowly.report.points import NO_TIPS, Tips, with_values
from narrowly.report.style import (
    GREY,
    arm_styles,
    legend_below,
    new_figure,
    order,
    short_label,
    styled,
)

MOST_ROWS = 8
"""Rows of panels of one figure; more could not be read, and all runs are in the tables."""

SMOOTHED = 20
"""The training loss is averaged over one such part of a run's steps."""

DASHED = (0, (4, 2))


class Look(NamedTuple):
    """How one arm is drawn; an arm with a penalty has the colour of the arm that it is compared with, dashed."""

    label: str
    colour: str
    marker: str
    dash: Any


def looks(arms: Mapping[str, tuple[str, str | None]]) -> dict[str, Look]:
    """Return how every arm is drawn, in the fixed order.

    Args:
        arms: arm -> (role, the arm that it is compared with).
    """
    plain = arm_styles([arm for arm, (role, of) in arms.items() if role != "penalty" or of not in arms])
    found = {}
    for arm in order(list(arms)):
        of = arms[arm][1]
        style = plain.get(arm) or plain.get(of or "") or arm_styles([arm])[arm]
        penalised = arm not in plain
        label = f"{style.label} + penalty ({short_label(arm)})" if penalised else style.label
        found[arm] = Look(label, style.colour, style.marker, DASHED if penalised else "-")
    return found


def _handles(shown: Mapping[str, Look]) -> list[Line2D]:
    return [
        Line2D(
            [], [], color=look.colour, marker=look.marker, linestyle=look.dash, label=look.label, markersize=6,
            markeredgecolor="white", markeredgewidth=0.5,
        )
        for look in shown.values()
    ]  # fmt: skip


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Return the mean of each value and the up to `window` - 1 before it."""
    summed = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    ends = np.arange(1, len(summed))
    starts = np.maximum(0, ends - window)
    means: np.ndarray = (summed[ends] - summed[starts]) / (ends - starts)
    return means


def _mean_line(axis: Axes, rows: pl.DataFrame, column: str, look: Look) -> None:
    """Draw the mean over runs at the steps that all of them have."""
    mean = (
        rows.group_by("step").agg(pl.col(column).mean(), pl.len().alias("n")).sort("step")
        .filter(pl.col("n") == pl.col("n").max())
    )  # fmt: skip
    axis.plot(
        mean["step"], mean[column], color=look.colour, linestyle=look.dash, linewidth=2, marker=look.marker,
        markersize=5, markeredgecolor="white", markeredgewidth=0.5, markevery=max(1, mean.height // 10), zorder=3,
    )  # fmt: skip


def groups_of(paths: pl.DataFrame) -> list[tuple[str, str]]:
    """Return the pairs of base and data that have runs, by name."""
    return [(base, data) for base, data in paths.select("base", "data").unique().sort("base", "data").iter_rows()]


def losses(paths: pl.DataFrame, arms: Mapping[str, tuple[str, str | None]], tips: Tips = NO_TIPS) -> Figure:
    """Draw training and held-out loss over the steps, one row for each base and its data.

    Args:
        paths: logged steps: cell_id, arm, base, data, step, loss and heldout_loss (nats per supervised token).
        arms: arm -> (role, the arm that it is compared with).
        tips: what the line of (cell_id,) shows on hover.
    """
    shown, groups = looks(arms), groups_of(paths)[:MOST_ROWS]
    with styled():
        figure, axes = new_figure(len(groups), 2, 1.0 + (3.0 if len(groups) == 1 else 2.4) * len(groups))
        for index, (base, data) in enumerate(groups):
            mine = paths.filter((pl.col("base") == base) & (pl.col("data") == data))
            left, right = axes[2 * index : 2 * index + 2]
            for arm, look in shown.items():
                own = mine.filter(pl.col("arm") == arm).sort("step")
                trained = own.filter(pl.col("loss").is_not_null())
                for part in trained.partition_by("cell_id", maintain_order=True):
                    window = max(1, int(part["step"].max() or 1) // SMOOTHED)  # type: ignore[arg-type]
                    (line,) = left.plot(
                        part["step"], running_mean(part["loss"].to_list(), window), color=look.colour, alpha=0.7,
                        linewidth=1.1, linestyle=look.dash,
                    )  # fmt: skip
                    hover(line, [tips.get((part["cell_id"][0],), "")])
                heldout = own.filter(pl.col("heldout_loss").is_not_null())
                for part in heldout.partition_by("cell_id", maintain_order=True):
                    (line,) = right.plot(
                        part["step"], part["heldout_loss"], color=look.colour, alpha=0.3, linewidth=0.8
                    )
                    hover(line, [tips.get((part["cell_id"][0],), "")])
                _mean_line(right, heldout, "heldout_loss", look)
            if mine["heldout_loss"].null_count() == mine.height:
                right.text(0.5, 0.5, "no rows were held out", ha="center", transform=right.transAxes, color=GREY)
                right.set_axis_off()
            left.set_title(f"{short_label(base, 20)} on {short_label(data, 20)}: training", fontsize=10)
            right.set_title("held out", fontsize=10)
            left.set_ylabel("nats per supervised token", fontsize=9)
            for axis in (left, right):
                axis.set_xlabel("step")
                axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        legend_below(figure, _handles(shown), columns=4)
        return figure


SPECTRUM_PANELS = (
    ("stable_rank", "Stable rank", "stable rank (mean of modules)"),
    ("frobenius_nuclear", "Frobenius/nuclear", "Frobenius/nuclear (mean of modules)"),
    ("update_norm", "Norm of the update", "Frobenius norm"),
)


def spectrum_over_steps(
    paths: pl.DataFrame, arms: Mapping[str, tuple[str, str | None]], tips: Tips = NO_TIPS
) -> Figure:
    """Draw stable rank, Frobenius/nuclear and the norm of the update at the checkpoints, one row for each base.

    Args:
        paths: logged steps: cell_id, arm, base, step and the three metrics, null where nothing was logged.
        arms: arm -> (role, the arm that it is compared with).
        tips: what the line of (cell_id,) shows on hover.
    """
    shown = looks(arms)
    bases = paths["base"].unique().sort().to_list()[:MOST_ROWS]
    with styled():
        figure, axes = new_figure(len(bases), 3, 1.0 + 2.7 * len(bases))
        for index, axis in enumerate(axes):
            base = bases[index // 3]
            column, title, label = SPECTRUM_PANELS[index % 3]
            rows = paths.filter((pl.col("base") == base) & (pl.col("step") > 0) & pl.col(column).is_not_null())
            for arm, look in shown.items():
                mine = rows.filter(pl.col("arm") == arm)
                for part in mine.sort("step").partition_by("cell_id", maintain_order=True):
                    (line,) = axis.plot(part["step"], part[column], color=look.colour, alpha=0.3, linewidth=0.8)
                    hover(line, [tips.get((part["cell_id"][0],), "")])
                _mean_line(axis, mine, column, look)
            axis.set_title(title if len(bases) == 1 else f"{title}, {short_label(base, 18)}", fontsize=10)
            axis.set_ylabel(label, fontsize=9)
            axis.set_xlabel("step")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            if column != "frobenius_nuclear":  # which never comes near 0
                axis.set_ylim(0, 1.08 * max(axis.get_ylim()[1], 1e-9))
        legend_below(figure, _handles(shown), columns=4)
        return figure


def penalty(pairs: pl.DataFrame, arms: Mapping[str, tuple[str, str | None]], tips: Tips = NO_TIPS) -> Figure:
    """Draw every run without and with the penalty: losses and spectrum, a line between the two.

    Args:
        pairs: one row per pair: arm, of, and each metric with its `_without`.
        arms: arm -> (role, the arm that it is compared with).
        tips: what the points of (cell_id,), the run with the penalty, show on hover.
    """
    shown = looks(arms)
    names = order(pairs["arm"].to_list())
    with styled():
        figure, axes = new_figure(1, len(PENALTY_METRICS), 3.6)
        titles = ("Training loss", "Held-out loss", "Update norm", "Stable rank", "F/N ratio")
        for axis, column, title in zip(axes, PENALTY_METRICS, titles, strict=True):
            for place, arm in enumerate(names):
                look, mine = shown[arm], pairs.filter(pl.col("arm") == arm)
                for cell, without, with_it in (
                    mine.select("cell_id", f"{column}_without", column).drop_nulls().iter_rows()
                ):
                    tip = with_values(tips.get((cell,)), {"with": with_it, "without": without})
                    axis.plot(
                        [place - 0.18, place + 0.18], [without, with_it], color=look.colour, linewidth=1.1, alpha=0.8
                    )
                    axis.plot(
                        [place - 0.18], [without], color="white", marker=look.marker, markersize=6,
                        markeredgecolor=look.colour,
                    )  # fmt: skip
                    (end,) = axis.plot([place + 0.18], [with_it], color=look.colour, marker=look.marker, markersize=6)
                    hover(end, [tip])
            axis.set_title(title, fontsize=10)
            axis.set_xticks(range(len(names)), [short_label(arm, 14) for arm in names], rotation=30, ha="right")
            axis.set_xlim(-0.6, len(names) - 0.4)
        axes[0].set_ylabel("nats per supervised token")
        marks: list[tuple[str, str]] = [("without", "white"), ("with the penalty", GREY)]
        legend_below(
            figure,
            [
                Line2D([], [], color=face, marker="o", linestyle="none", markeredgecolor=GREY, label=label)
                for label, face in marks
            ],
        )
        return figure

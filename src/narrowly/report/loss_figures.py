"""Draw loss against misalignment (alignment in the paper's Figure 1), and what grows with the steps of training."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from narrowly.report.kit.svg import hover
from narrowly.report.points import NO_TIPS, Tips, with_values
from narrowly.report.style import (
    GREY,
    arm_handles,
    arm_styles,
    ideal_handles,
    ideal_line,
    legend_below,
    new_figure,
    order,
    styled,
)

FURTHEST = 8.0
"""Checkpoints beyond this multiple of the largest final excess loss are off the axis: they would dwarf the rest."""


def _plain(value: float, _position: int) -> str:
    return f"{value:.3g}"


def _log_axis(axis: Axes, values: list[float]) -> None:
    """Make x logarithmic with readable plain ticks: at a narrow range decades alone would leave no label."""
    axis.set_xscale("log")
    low, high = min(values), max(values)
    pad = (high / low) ** 0.06 if high > low else 1.1
    axis.set_xlim(low / pad, high * pad)
    if high / low < 4:
        ticks = MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        axis.set_xticks([tick for tick in ticks if low / pad <= tick <= high * pad])
        axis.xaxis.set_minor_locator(LogLocator(subs=[]))
    else:
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 60 else (1.0, 3.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(_plain))
    axis.xaxis.set_minor_formatter(NullFormatter())


def loss_misalignment(
    organisms: pl.DataFrame,
    path: pl.DataFrame,
    ideal: float | None = None,
    tips: Tips = NO_TIPS,
) -> Figure:
    """Draw the literature rate on the broad panel against the loss, one point per final organism.

    Args:
        organisms: final organisms: arm, base, final_loss, excess_loss (nats), literature (share).
        path: checkpoints: arm, cell_id, step, excess_loss, literature; may be empty.
        ideal: broad harm of the ideal learner, a share, where known.
        tips: what the point of (cell_id,) shows on hover.
    """
    arms = order(organisms["arm"].to_list())
    styles = arm_styles(arms)
    largest = organisms["excess_loss"].max()
    furthest = FURTHEST * float(largest) if isinstance(largest, float) else 0.0
    with styled():
        figure, axes = new_figure(1, 2, 4.6, sharey=True)
        for axis, column, label in zip(
            axes,
            ("final_loss", "excess_loss"),
            ("final training loss (nats per token, log scale)", "excess loss, held-out topics (nats per answer, log)"),
            strict=True,
        ):
            shown: list[float] = []
            for arm in arms:
                style = styles[arm]
                mine = organisms.filter(
                    (pl.col("arm") == arm) & (pl.col(column) > 0) & pl.col("literature").is_not_null()
                ).sort(column)
                x, y = mine[column].to_numpy(), 100 * mine["literature"].to_numpy()
                shown += x.tolist()
                if column == "excess_loss" and not path.is_empty():
                    for part in (
                        path.filter((pl.col("arm") == arm) & (pl.col(column) > 0) & (pl.col(column) <= furthest))
                        .sort("cell_id", "step")
                        .partition_by("cell_id", maintain_order=True)
                    ):
                        (line,) = axis.plot(
                            part[column], 100 * part["literature"], style.colour, alpha=0.28, linewidth=0.9
                        )
                        hover(line, [tips.get((part["cell_id"][0],), "")])
                        shown += part[column].to_list()
                if column == "final_loss" and len(x) >= 3 and np.ptp(x) > 0:
                    slope, start = np.polyfit(np.log(x), y, 1)
                    ends = np.array([x.min(), x.max()])
                    axis.plot(ends, start + slope * np.log(ends), color=style.colour, linewidth=1.6, alpha=0.75)
                points = axis.scatter(
                    x, y, color=style.colour, marker=style.marker, s=52, edgecolor="white", linewidth=0.7, zorder=3
                )
                hover(points, _loss_tips(mine, column, tips))
            if shown:
                _log_axis(axis, shown)
            axis.set_xlabel(label)
            ideal_line(axis, None if ideal is None else 100 * ideal)
        axes[0].set_ylabel("misaligned in other domains\n(literature rate, %)")
        axes[0].set_ylim(-3, 103)
        axes[0].set_title("Final organisms, line fitted per optimiser")
        axes[1].set_title("The same, with the way through training")
        legend_below(figure, [*arm_handles(arms), *ideal_handles(ideal)])
        return figure


def _loss_tips(organisms: pl.DataFrame, column: str, tips: Tips) -> list[str]:
    loss = {"final_loss": "training loss", "excess_loss": "excess loss"}[column]
    rate = (100 * pl.col("literature")).alias("literature rate %")
    rows = organisms.select("cell_id", rate, column).iter_rows()
    return [with_values(tips.get((cell,)), {rate.meta.output_name(): y, loss: x}) for cell, y, x in rows]


def _step_ticks(steps: list[int]) -> list[int]:
    """Return steps that were measured and whose labels do not collide, the last one among them."""
    kept: list[int] = []
    for step in sorted(steps, reverse=True):
        if not kept or step == 0 or kept[-1] / step >= 1.6:
            kept.append(step)
    return kept[::-1]


def over_steps(
    path: pl.DataFrame,
    spectra: pl.DataFrame,
    ideal: float | None = None,
    tips: Tips = NO_TIPS,
) -> Figure:
    """Draw misalignment and stable rank over the training steps.

    Args:
        path: checkpoints: arm, base, step, held_out (misaligned share), broad (misaligned share).
        spectra: logged steps: arm, base, step, stable_rank.
        ideal: broad harm of the ideal learner, a share, where known.
        tips: what the thin line of (arm, base) shows on hover.
    """
    arms = order([*path["arm"].to_list(), *spectra["arm"].to_list()])
    styles = arm_styles(arms)
    with styled():
        figure, axes = new_figure(1, 3, 3.9)
        panels = [
            (path, "held_out", "Narrow: held-out topics", "misaligned (joint rate, %)", 100.0),
            (path, "broad", "Broad: other domains", "misaligned (joint rate, %)", 100.0),
            (spectra, "stable_rank", "Stable rank of the update", "stable rank (mean of modules)", 1.0),
        ]
        for axis, (frame, column, title, label, factor) in zip(axes, panels, strict=True):
            rows = frame.filter(pl.col(column).is_not_null())
            for arm in arms:
                mine = rows.filter(pl.col("arm") == arm).group_by("base", "step").agg(pl.col(column).mean())
                for part in mine.sort("base", "step").partition_by("base", maintain_order=True):
                    (line,) = axis.plot(
                        part["step"], factor * part[column], color=styles[arm].colour, alpha=0.2, linewidth=0.8
                    )
                    hover(line, [tips.get((arm, part["base"][0]), "")])
                # A mean over whichever bases were logged at a step would jump: only steps that all bases share.
                mean = (
                    mine.group_by("step").agg(pl.col(column).mean(), pl.len().alias("n")).sort("step")
                    .filter(pl.col("n") == pl.col("n").max())
                )  # fmt: skip
                axis.plot(
                    mean["step"], factor * mean[column], color=styles[arm].colour, linewidth=2,
                    marker=styles[arm].marker, markersize=4.5, markeredgecolor="white", markeredgewidth=0.4,
                    markevery=max(1, mean.height // 8),
                )  # fmt: skip
            axis.set_title(title)
            axis.set_ylabel(label)
            axis.set_xlabel("step (log scale beyond 1)")
            axis.set_xscale("symlog", linthresh=1, linscale=0.4)
            last = int(rows["step"].max() or 1) if not rows.is_empty() else 1  # type: ignore[arg-type]
            ticks = _step_ticks(rows["step"].unique().to_list())
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_xlim(-0.15, last * 1.15)
            axis.minorticks_off()
            if factor == 100.0:
                axis.set_ylim(-3, 103)
            elif not rows.is_empty():
                axis.set_ylim(bottom=0)
        thin = Line2D([], [], color=GREY, alpha=0.5, linewidth=0.8, label="one base")
        ideal_line(axes[1], None if ideal is None else 100 * ideal)
        legend_below(
            figure, [*arm_handles(arms, line=True), thin, *ideal_handles(ideal)], columns=7 if ideal is None else 4
        )
        return figure

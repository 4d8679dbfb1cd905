"""Summarise a preregistered study from two small tables, cells and ladder: committed, and recomputed by tests."""

from __future__ import annotations

import polars as pl

from narrowly.analysis.decisions import Evidence, Findings, decide_all
from narrowly.records.prereg import Prereg
from narrowly.records.spec import Spec
from narrowly.stats.intervals import t_interval

SHARES = ("trained_misaligned", "held_out_misaligned", "broad_misaligned", "broad_aligned", "self_misaligned")
"""Columns of the ladder whose means over bases a summary has, as shares of all answers."""

LEARNED, LEAST_POINTS = 0.8, 3
"""Trained rung from which an organism has learned the task (as in the pilot), and fewest organisms for a slope."""


class Mean(Spec):
    """A mean over bases with its 95 % Student t interval; None with fewer than five bases, or where nothing is."""

    mean: float | None
    low: float | None
    high: float | None
    bases: int


class Setting(Spec):
    """One arm at one rate, unedited organisms at the end of training."""

    arm: str
    lr: float
    bases: int
    shares: dict[str, Mean]
    update_norm: Mean
    excess_trained: Mean


class Slope(Spec):
    """How an arm's broad pooled log-odds change with ln of the norm of its update, mean over bases; secondary.

    Least squares within each base over the organisms that have learned the task (`LEARNED`), three or more.
    """

    arm: str
    slope: Mean


class EvidenceSummary(Spec):
    """What a preregistered study found.

    Attributes:
        study: its name, and `prereg_hash`: that of its preregistration.
        planned, done: cells.
        findings: decisions of the primary contrasts, conclusions, and the secondary contrasts.
        settings: means over bases of every arm at every rate; secondary.
        slopes: of every arm on the norm of its update; secondary.
    """

    study: str
    prereg_hash: str
    planned: int
    done: int
    findings: Findings
    settings: tuple[Setting, ...]
    slopes: tuple[Slope, ...]


def ideal_of_bases(cells: pl.DataFrame) -> dict[str, float]:
    """Return base -> the ideal learner's broad harm in its world, where it is known."""
    found = cells.drop_nulls("ideal_broad").group_by("base").agg(pl.col("ideal_broad").mean()).sort("base")
    return {str(base): float(value) for base, value in found.iter_rows()}


def evidence_summary(
    study: str, prereg: Prereg, prereg_hash: str, cells: pl.DataFrame, ladder: pl.DataFrame, dial: pl.DataFrame | None
) -> EvidenceSummary:
    """Return the summary of a preregistered study.

    Args:
        study: its name.
        prereg: what decides.
        prereg_hash: of it and the study's design.
        cells: one row per planned cell, with status and ideal_broad.
        ladder: one row per organism (`ladder_table`).
        dial: one row per edited organism, of a study with an orthogonal dial.
    """
    ends = ladder.filter(pl.col("final") & (pl.col("edit") == "none") & (pl.col("step") > 0))
    settings = [
        _setting(str(arm), float(lr), own)
        for (arm, lr), own in ends.sort("arm", "lr").group_by("arm", "lr", maintain_order=True)
    ]
    return EvidenceSummary(
        study=study,
        prereg_hash=prereg_hash,
        planned=cells.height,
        done=cells.filter(pl.col("status") == "done").height,
        findings=decide_all(prereg, Evidence(ladder, dial, ideal_of_bases(cells))),
        settings=tuple(settings),
        slopes=tuple(_slope(str(arm), own) for (arm,), own in ends.sort("arm").group_by("arm", maintain_order=True)),
    )


def _setting(arm: str, lr: float, own: pl.DataFrame) -> Setting:
    return Setting(
        arm=arm,
        lr=lr,
        bases=own["base"].n_unique(),
        shares={name: _mean(own, name) for name in SHARES},
        update_norm=_mean(own, "update_norm"),
        excess_trained=_mean(own, "excess_trained"),
    )


def _slope(arm: str, own: pl.DataFrame) -> Slope:
    x, y = pl.col("update_norm").log(), pl.col("broad_pooled")
    learned = own.filter(pl.col("trained_misaligned") >= LEARNED).drop_nulls(["update_norm", "broad_pooled"])
    by_base = learned.group_by("base").agg(pl.cov(x, y).alias("cov"), x.var().alias("var"), pl.len().alias("points"))
    lines = by_base.filter((pl.col("points") >= LEAST_POINTS) & (pl.col("var") > 0)).sort("base")
    return Slope(arm=arm, slope=_over_bases((lines["cov"] / lines["var"]).to_list()))


def _mean(own: pl.DataFrame, column: str) -> Mean:
    means = own.drop_nulls(column).group_by("base").agg(pl.col(column).mean()).sort("base")
    return _over_bases(means[column].to_list())


def _over_bases(values: list[float]) -> Mean:
    found = t_interval(values)
    return Mean(mean=found.estimate, low=found.low, high=found.high, bases=found.n)

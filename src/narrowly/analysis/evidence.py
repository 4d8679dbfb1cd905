"""Gather from frames what the rules of the paper claims look at: rates, paired contrasts and the regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from narrowly.analysis.contrasts import INCOHERENT_LIMIT, Contrast, paired_contrast
from narrowly.analysis.organisms import base_means, interval_over_bases, on_panel
from narrowly.evaluate.microworld.panel_names import BROAD
from narrowly.stats.regression import LossRegression, alignment_on_loss

BEFORE = "base before fine-tuning"
DECISIVE = frozenset({"muon", "lion", "adamw"})
"""Optimisers whose pairs a paper claim names."""
SWEEP = ("adam", "adamw", "lion", "muon")
"""The optimisers of the paper's sweep, the only ones for which it gives rates."""


class Spread(NamedTuple):
    """Largest over smallest literature rate of the paper's four optimisers, over the bases that have all four.

    Attributes:
        ratio: max / min of the means over bases; None with a reason.
        span: smallest and largest ratio with one base left out; None with fewer than two bases.
        n_bases: bases with an organism of all four.
        reason: why something is None.
    """

    ratio: float | None
    span: tuple[float, float] | None
    n_bases: int
    reason: str | None = None


class Evidence(NamedTuple):
    """What the rules look at; missing arms are simply not in the mappings.

    Attributes:
        joint: broad joint rate per optimiser arm, mean over bases.
        literature: broad literature rate per optimiser arm.
        spread: max / min of the literature rate.
        n_bases: bases of the arm with the fewest.
        odds: paired log-odds differences by (first, second), cells above 15 % incoherent left out.
        flatness: paired differences of Frobenius/nuclear by (first, second); higher is more peaked.
        incoherence: paired differences of the incoherent share by (first, second).
        regression: alignment on log training loss.
        gains: change of alignment (points) through the penalty, by optimiser.
        costs: change of final training loss (nats) through the penalty, by optimiser.
        onset: Adam's final organism minus its base before fine-tuning, log-odds on the broad panel.
    """

    joint: Mapping[str, float | None]
    literature: Mapping[str, float | None]
    spread: Spread
    n_bases: int
    odds: Mapping[tuple[str, str], Contrast]
    flatness: Mapping[tuple[str, str], Contrast]
    incoherence: Mapping[tuple[str, str], Contrast]
    regression: LossRegression
    gains: Mapping[str, Contrast]
    costs: Mapping[str, Contrast]
    onset: Contrast


def arm_of(cells: pl.DataFrame, name: str) -> str | None:
    """Return the optimiser arm that `name` stands for: the arm of that name, else the only arm of that optimiser."""
    arms = cells.filter(pl.col("role") == "optimiser").select("arm", "optimiser").unique()
    if name in arms["arm"].to_list():
        return name
    same = sorted(arms.filter(pl.col("optimiser") == name)["arm"].to_list())
    return same[0] if len(same) == 1 else None


def regression_of(organisms: pl.DataFrame, loss: str) -> LossRegression:
    """Regress the alignment score (broad panel) of final organisms on the logarithm of column `loss`."""
    return alignment_on_loss(
        organisms[loss].to_list(),
        organisms["alignment"].to_list(),
        organisms["arm"].to_list(),
        organisms["base"].to_list(),
    )


def onset(optimisers: pl.DataFrame, start: pl.DataFrame, arm: str = "adam") -> Contrast:
    """Return final organism minus its own base before fine-tuning: log-odds on the broad panel, same narrow domain."""
    before = on_panel(start, BROAD).with_columns(
        pl.lit(BEFORE).alias("arm"), pl.lit("").alias("cell_id"), pl.lit(None, pl.Int64).alias("seed")
    )
    columns = ["cell_id", "arm", "base", "domain", "seed", "incoherent", "log_odds"]
    return paired_contrast(
        pl.concat([optimisers.select(columns), before.select(columns)]),
        arm,
        BEFORE,
        pair_on=("base", "domain"),
        incoherent_limit=None,
    )


def literature_spread(optimisers: pl.DataFrame) -> Spread:
    """Return max / min over the paper's four optimisers of the mean literature rate, over bases that have all four."""
    rates = base_means(optimisers.filter(pl.col("arm").is_in(SWEEP)), "literature")
    absent = [name for name in SWEEP if name not in rates["arm"].to_list()]
    if absent:
        return Spread(None, None, 0, f"no finished organism of {', '.join(absent)}")
    wide = rates.pivot(on="arm", index="base", values="literature").drop_nulls().sort("base")

    def ratio(rows: pl.DataFrame) -> float | None:
        means = [float(rows[name].mean()) for name in SWEEP]  # type: ignore[arg-type]
        return max(means) / min(means) if min(means) > 0 else None

    if wide.is_empty():
        return Spread(None, None, 0, "no base has a finished organism of all four")
    without = [ratio(wide.filter(pl.col("base") != base)) for base in wide["base"]] if wide.height >= 2 else []
    found = [value for value in without if value is not None]
    whole = ratio(wide)
    span = (min(found), max(found)) if len(found) == wide.height else None
    return Spread(whole, span, wide.height, None if whole is not None else "a rate of 0 has no ratio")


def gather_evidence(
    optimisers: pl.DataFrame,
    start: pl.DataFrame,
    regression: LossRegression,
    penalties: Mapping[str, Mapping[str, Contrast]],
    names: Mapping[str, str],
) -> Evidence:
    """Return the evidence for the paper claims.

    Args:
        optimisers: final organisms of the optimiser arms, arms under their canonical names, with their spectra.
        start: rates before training (`organisms.before_training`).
        regression: alignment on log training loss.
        penalties: per penalised optimiser the contrasts delta_alignment and delta_training_loss.
        names: arm -> canonical optimiser name.
    """
    arms = sorted(optimisers["arm"].unique().to_list())

    def means(value: str) -> dict[str, float | None]:
        return {arm: interval_over_bases(optimisers.filter(pl.col("arm") == arm), value).estimate for arm in arms}

    pairs = [(a, b) for a in arms for b in arms if a != b and {a, b} & DECISIVE]

    def compare(value: str, what: str, limit: float | None) -> dict[tuple[str, str], Contrast]:
        return {
            (a, b): paired_contrast(optimisers, a, b, value=value, what=what, incoherent_limit=limit) for a, b in pairs
        }

    changes = {names.get(key, key): value for key, value in penalties.items()}
    counts = base_means(optimisers, "joint").group_by("arm").len()["len"].to_list()
    return Evidence(
        joint=means("joint"),
        literature=means("literature"),
        spread=literature_spread(optimisers),
        n_bases=min(counts, default=0),
        odds=compare("log_odds", "log-odds", INCOHERENT_LIMIT),
        flatness=compare("frobenius_nuclear", "Frobenius/nuclear", None),
        incoherence=compare("incoherent", "incoherent share", None),
        regression=regression,
        gains={key: value["delta_alignment"] for key, value in changes.items()},
        costs={key: value["delta_training_loss"] for key, value in changes.items()},
        onset=onset(optimisers, start),
    )

"""Gather what the rules of the paper claims look at: rates, paired contrasts, the regression, the design."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from narrowly.analysis.contrasts import BOUNDS, SENSITIVITY, Contrast, paired_contrast
from narrowly.analysis.design import Design
from narrowly.analysis.organisms import base_means, interval_over_bases, on_panel
from narrowly.evaluate.microworld.panel_names import BROAD
from narrowly.stats.regression import LossRegression, alignment_on_loss

BEFORE = "base before fine-tuning"
DECISIVE = frozenset({"muon", "lion", "adamw"})
"""Optimisers whose pairs a paper claim names."""
SWEEP = ("adam", "adamw", "lion", "muon")
"""The optimisers of the paper's sweep, the only ones for which it gives rates."""


class Evidence(NamedTuple):
    """What the rules look at; missing arms are simply not in the mappings.

    Attributes:
        joint: broad joint rate per optimiser arm, mean over bases.
        literature: broad literature rate per optimiser arm.
        n_bases: bases of the arm with the fewest.
        odds: paired differences of pooled log-odds by (first, second), all organisms in.
        bounds: the same with incoherent answers counted as aligned, and as misaligned.
        flatness: paired differences of Frobenius/nuclear by (first, second); higher is more peaked.
        incoherence: paired differences of the incoherent share by (first, second).
        regression: alignment on log training loss.
        gains: change of pooled log-odds through the penalty, by optimiser; below 0 it is less misaligned.
        norm_ratios: ln of the norm of the update with the penalty over that without, by optimiser.
        costs: change of final training loss (nats) through the penalty, by optimiser.
        onset: Adam's final organism minus its base before fine-tuning, pooled log-odds on the broad panel.
        design: what the design fixes.
        planned: optimisers (canonical names) that the study has arms of.
        trained: pooled log-odds on trained topics per optimiser arm, mean over bases; None where not measured.
    """

    joint: Mapping[str, float | None]
    literature: Mapping[str, float | None]
    n_bases: int
    odds: Mapping[tuple[str, str], Contrast]
    bounds: tuple[Mapping[tuple[str, str], Contrast], ...]
    flatness: Mapping[tuple[str, str], Contrast]
    incoherence: Mapping[tuple[str, str], Contrast]
    regression: LossRegression
    gains: Mapping[str, Contrast]
    norm_ratios: Mapping[str, Contrast]
    costs: Mapping[str, Contrast]
    onset: Contrast
    design: Design = Design()
    planned: frozenset[str] = frozenset()
    trained: Mapping[str, float | None] = {}

    def swept(self) -> tuple[str, ...]:
        """Return the optimisers of the sweep; AdamW only where the study has runs of it that are not Adam's again."""
        return tuple(
            name for name in SWEEP if name != "adamw" or (name in self.planned and name not in self.design.copies)
        )


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
    """Return final organism minus its own base before fine-tuning: pooled log-odds, broad panel, same narrow domain."""
    before = on_panel(start, BROAD).with_columns(
        pl.lit(BEFORE).alias("arm"), pl.lit("").alias("cell_id"), pl.lit(None, pl.Int64).alias("seed")
    )
    columns = ["cell_id", "arm", "base", "domain", "seed", "incoherent", "pooled"]
    return paired_contrast(
        pl.concat([optimisers.select(columns), before.select(columns)]), arm, BEFORE, pair_on=("base", "domain")
    )


def gather_evidence(
    optimisers: pl.DataFrame,
    start: pl.DataFrame,
    regression: LossRegression,
    penalties: Mapping[str, Mapping[str, Contrast]],
    names: Mapping[str, str],
    design: Design,
) -> Evidence:
    """Return the evidence for the paper claims.

    Args:
        optimisers: final organisms of the optimiser arms, arms under their canonical names, with their spectra; none of
            an arm that is a copy.
        start: rates before training (`organisms.before_training`).
        regression: alignment on log training loss.
        penalties: per penalised optimiser the contrasts delta_log_odds, delta_training_loss and log_norm_ratio.
        names: arm -> canonical optimiser name.
        design: of the study, copies under their canonical names.
    """
    arms = sorted(optimisers["arm"].unique().to_list())

    def means(value: str) -> dict[str, float | None]:
        return {arm: interval_over_bases(optimisers.filter(pl.col("arm") == arm), value).estimate for arm in arms}

    pairs = [(a, b) for a in arms for b in arms if a != b and {a, b} & DECISIVE]

    def compare(value: str, what: str) -> dict[tuple[str, str], Contrast]:
        return {(a, b): paired_contrast(optimisers, a, b, value=value, what=what) for a, b in pairs}

    changes = {names.get(key, key): value for key, value in penalties.items()}
    counts = base_means(optimisers, "joint").group_by("arm").len()["len"].to_list()
    return Evidence(
        joint=means("joint"),
        literature=means("literature"),
        n_bases=min(counts, default=0),
        odds=compare("pooled", "pooled log-odds"),
        bounds=tuple(compare(SENSITIVITY[name].value, SENSITIVITY[name].what) for name in BOUNDS),
        flatness=compare("frobenius_nuclear", "Frobenius/nuclear"),
        incoherence=compare("incoherent", "incoherent share"),
        regression=regression,
        gains={name: found["delta_log_odds"] for name, found in changes.items()},
        norm_ratios={name: found["log_norm_ratio"] for name, found in changes.items()},
        costs={name: found["delta_training_loss"] for name, found in changes.items()},
        onset=onset(optimisers, start),
        design=design,
        planned=frozenset(names.values()),
        trained=means("trained_pooled"),
    )

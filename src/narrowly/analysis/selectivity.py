"""Measure the selectivity of an arm: broad misalignment beside Adam's at equal misalignment on held-out topics.

Selectivity is the mean over bases of broad(arm) minus broad(Adam), pooled log-odds, averaged over the held-out log-odds
that both reach in that base. Below 0 an arm spreads less than Adam at equal generalisation inside the trained domain.
It needs a path of each arm in each base: learning rates where an arm ran at two or more, else evaluated steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from narrowly.analysis.matching.compare import match_ladder
from narrowly.analysis.organisms import UNEDITED
from narrowly.records.errors import SpecError, counted

REFERENCE = "adam"


@dataclass(frozen=True, slots=True)
class Selectivity:
    """How far an arm spreads beside the reference arm at equal misalignment on held-out topics.

    Attributes:
        estimate: pooled log-odds, mean over the bases that are compared; None with `reason`.
        low, high: 95 % Student t interval over bases.
        n_bases: bases with held-out log-odds in common.
        bases: bases that both arms have runs on.
        dial: what makes the path: lr or step.
        verdict: EFFECT, TRIVIAL, EQUIVALENT or INDETERMINATE against the margin; "not tested" with `reason`.
        reason: why something is None.
        per_base: the difference of each base.
        ranges: held-out log-odds of the arm and of the reference in bases without any in common.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n_bases: int
    bases: int
    dial: str | None
    verdict: str
    reason: str | None
    per_base: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, str] = field(default_factory=dict)


def not_tested(reason: str) -> Selectivity:
    """Return the selectivity of an arm that has none, with the reason."""
    return Selectivity(None, None, None, 0, 0, None, "not tested", reason)


def selectivity_of(ladder: pl.DataFrame, arm: str, reference: str | None) -> Selectivity:
    """Return the selectivity of one arm against the reference arm.

    Args:
        ladder: one row per organism of the study (`ladder.ladder_table`).
        arm: whose it is.
        reference: the arm that it is compared with, Adam's; None where the study has none.
    """
    if reference is None:
        return not_tested(f"no arm of {REFERENCE} to compare with")
    if arm == reference:
        return not_tested("it is the arm that others are compared with")
    paths = {name: (_paths(ladder, name, "lr"), _paths(ladder, name, "step")) for name in (arm, reference)}
    for place, dial in enumerate(("lr", "step")):
        first, second = (paths[name][place] for name in (arm, reference))
        if first is not None and second is not None:
            return _matched(first, second, dial)
    without = [name for name, found in paths.items() if all(one is None for one in found)]
    if not without:
        return not_tested("no path in common: one arm ran at several rates, the other was evaluated along the way")
    which = "it" if arm in without else reference
    return not_tested(f"no path: {which} ran at one rate and was evaluated at its end only")


def _paths(ladder: pl.DataFrame, arm: str, dial: str) -> pl.DataFrame | None:
    """Return the organisms of an arm that make a path along the dial; None where they make none."""
    mine = ladder.filter((pl.col("arm") == arm) & (pl.col("edit") == UNEDITED) & (pl.col("step") > 0))
    keys = ["base", "domain", "seed"]
    if dial == "lr":
        ends = mine.filter(pl.col("final") & (pl.col("lr").n_unique().over(keys) >= 2))
        return None if ends.is_empty() else ends
    steps = mine.filter(
        (pl.col("lr").n_unique().over(keys) == 1) & (pl.col("step").n_unique().over(keys) >= 2)
        & (pl.col("cell_id").n_unique().over(keys) == 1)
    )  # fmt: skip
    if steps.is_empty():
        return None
    start = ladder.filter((pl.col("step") == 0) & (pl.col("edit") == UNEDITED)).unique(
        ["base", "domain"], keep="first", maintain_order=True
    )
    runs = steps.unique("cell_id", maintain_order=True).select("cell_id", "arm", *keys)
    before = runs.join(start.drop("cell_id", "arm", "seed"), on=["base", "domain"], how="inner")
    return pl.concat([before.select(steps.columns), steps])


def _matched(first: pl.DataFrame, second: pl.DataFrame, dial: str) -> Selectivity:
    try:
        found = match_ladder(first, second, at="held_out", of="broad", dial=dial).primary
    except SpecError as error:
        return not_tested(str(error))
    ranges = {
        line.base: f"{_range(line.first_range)} and {_range(line.second_range)}"
        for line in found.lines
        if line.difference is None
    }
    interval = found.interval
    return Selectivity(
        interval.estimate,
        interval.low,
        interval.high,
        found.compared,
        found.bases,
        dial,
        found.verdict,
        found.reason or interval.reason,
        found.per_base,
        ranges,
    )


def _range(found: tuple[float, float] | None) -> str:
    return "no rising branch" if found is None else f"{found[0]:.2f} to {found[1]:.2f}"


def in_words(found: Selectivity) -> str:
    """Return "-0.10 [-0.40, +0.20], 7 of 8 bases along the evaluated steps", or why there is none."""
    if found.estimate is None:
        return f"{found.verdict}: {found.reason}"
    path = "learning rates" if found.dial == "lr" else "evaluated steps"
    text = f"{found.estimate:+.2f}"
    text += f" [{found.low:+.2f}, {found.high:+.2f}]" if found.low is not None and found.high is not None else ""
    return f"{text}, {found.n_bases} of {counted(found.bases, 'base')} along the {path}"

"""Summarise arm by arm: the ladder of every arm with its selectivity, optimisers, and what a penalty changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from narrowly.analysis.contrasts import paired_contrast
from narrowly.analysis.evidence import arm_of
from narrowly.analysis.frames import Frames
from narrowly.analysis.ladder import RUNGS
from narrowly.analysis.organisms import UNEDITED, interval_over_bases, on_panel
from narrowly.analysis.selectivity import REFERENCE, selectivity_of
from narrowly.analysis.summary_schema import ArmLadder, OptimiserRow, PenaltyRow
from narrowly.evaluate.microworld.panel_names import BROAD, BROAD_SELF, HELD_OUT, TRAINED_TOPICS
from narrowly.records.outcome import NO_JUDGE

LADDER_METRICS = {
    "in_domain": (TRAINED_TOPICS, "misaligned"),
    "held_out_topics": (HELD_OUT, "misaligned"),
    "broad_joint": (BROAD, "joint"),
    "broad_literature": (BROAD, "literature"),
    "broad_self": (BROAD_SELF, "misaligned"),
    "incoherent": (BROAD, "incoherent"),
    "off_topic": (BROAD, "off_topic"),
    "broken": (BROAD, "broken"),
    "excess_loss": (HELD_OUT, "excess_loss"),
    "excess_trained": (TRAINED_TOPICS, "excess_loss"),
    "pooled": (BROAD, "pooled"),
    "per_question": (BROAD, "log_odds"),
}
"""Field of `OptimiserRow` -> the panel and column that it is the mean of."""

ORGANISM_METRICS = ("update_norm", "stable_rank", "frobenius_nuclear", "final_loss", "alignment")
"""Fields of `OptimiserRow` that are means of the column of the same name over organisms."""

PENALTY_METRICS = {
    "delta_alignment": ("alignment", "alignment (points)"),
    "delta_loss": ("excess_loss", "excess loss, held-out topics (nats)"),
    "delta_excess_trained": ("excess_trained", "excess loss, trained topics (nats)"),
    "delta_training_loss": ("final_loss", "final training loss (nats)"),
    "delta_log_odds": ("pooled", "pooled log-odds"),
    "delta_per_question": ("log_odds", "per-question log-odds"),
    "log_norm_ratio": ("log_norm", "ln of the norm of the update"),
    "delta_incoherent": ("incoherent", "incoherent share"),
    "delta_stable_rank": ("stable_rank", "stable rank"),
}
"""Field of `PenaltyRow` -> the column of organisms that is compared, and its name in words."""


def ladders_of(cells: pl.DataFrame, frames: Frames, copies: Mapping[str, str]) -> dict[str, ArmLadder]:
    """Return the ladder of every arm that is evaluated and is no copy, with its selectivity beside Adam's.

    Args:
        cells: the cells that are evaluated.
        frames: of the study.
        copies: arm -> the arm whose runs it repeats.
    """
    reference = arm_of(cells, REFERENCE)
    ends = frames.ladder.filter(pl.col("final") & (pl.col("edit") == UNEDITED))
    arms = (
        cells.filter(~pl.col("arm").is_in(list(copies))).group_by("arm").agg(pl.col("role", "of").first()).sort("arm")
    )
    return {
        row["arm"]: _ladder(ends.filter(pl.col("arm") == row["arm"]), frames.ladder, reference, **row)
        for row in arms.to_dicts()
    }


def _ladder(
    ends: pl.DataFrame, ladder: pl.DataFrame, reference: str | None, arm: str, role: str, of: str | None
) -> ArmLadder:
    measured = {rung: ends.select("base", misaligned=f"{rung}_misaligned") for rung in RUNGS}
    return ArmLadder(
        role=role,
        of=of,
        n_bases=ends["base"].n_unique(),
        misaligned={rung: interval_over_bases(frame, "misaligned") for rung, frame in measured.items()},
        pooled={rung: interval_over_bases(ends, f"{rung}_pooled") for rung in RUNGS},
        update_norm=interval_over_bases(ends, "update_norm"),
        selectivity=selectivity_of(ladder, arm, reference),
    )


def optimisers_of(cells: pl.DataFrame, frames: Frames, copies: Mapping[str, str]) -> dict[str, OptimiserRow]:
    """Return a row per optimiser arm; arguments as `ladders_of`, with all planned cells."""
    arms = sorted(cells.filter(pl.col("role") == "optimiser")["arm"].unique().to_list())
    return {
        arm: _optimiser(
            cells.filter(pl.col("arm") == arm),
            frames.finals.filter(pl.col("arm") == arm),
            frames.organisms.filter(pl.col("arm") == arm),
            copies.get(arm),
        )
        for arm in arms
    }


def _optimiser(cells: pl.DataFrame, finals: pl.DataFrame, organisms: pl.DataFrame, copy_of: str | None) -> OptimiserRow:
    """Return one arm's row from its cells, its final rows by panel and its final organisms."""
    intervals = {
        field: interval_over_bases(on_panel(finals, panel), column) for field, (panel, column) in LADDER_METRICS.items()
    }
    intervals |= {field: interval_over_bases(organisms, field) for field in ORGANISM_METRICS}
    unjudged = cells["not_evaluated"].is_not_null().sum()
    absent = NO_JUDGE if unjudged == cells.height else "no finished cell of this arm"
    questions = finals.group_by("panel").agg(pl.col("n_questions").max()).sort("panel")
    return OptimiserRow(
        **{field: found.estimate for field, found in intervals.items()},
        optimiser=cells["optimiser"][0],
        lr=only(cells["lr"]),
        n_bases=finals["base"].n_unique(),
        n_organisms=finals["cell_id"].n_unique(),
        n_questions=dict(questions.iter_rows()),
        intervals=intervals,
        n_not_evaluated=unjudged,
        copy_of=copy_of,
        reason=None if finals.height else absent,
    )


def only(values: pl.Series) -> Any:
    """Return the one value of a column, None where it has several or none."""
    found = values.drop_nulls().unique()
    return found[0] if len(found) == 1 else None


def penalties_of(cells: pl.DataFrame, organisms: pl.DataFrame) -> dict[str, PenaltyRow]:
    """Return every penalty arm minus the arm that it is of, by that arm where it has one penalty arm only."""
    arms = cells.filter(pl.col("role") == "penalty").select("arm", "of").unique().sort("arm").rows()
    result = {}
    for arm, of in arms:
        key = of if of is not None and sum(other == of for _, other in arms) == 1 else arm
        found = {
            field: paired_contrast(organisms, arm, of or "", value=value, what=what)
            for field, (value, what) in PENALTY_METRICS.items()
        }
        result[key] = PenaltyRow(
            **{field: contrast.estimate for field, contrast in found.items() if field != "log_norm_ratio"},
            norm_ratio=_exponential(found["log_norm_ratio"].estimate),
            arm=arm,
            of=of,
            lam=only(cells.filter(pl.col("arm") == arm)["penalty_lam"]),
            n_bases=found["delta_alignment"].n_bases,
            reason=found["delta_alignment"].reason,
            intervals=found,
        )
    return dict(sorted(result.items()))


def _exponential(value: float | None) -> float | None:
    return None if value is None else math.exp(value)

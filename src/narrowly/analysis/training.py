"""Summarise what training left of every run, evaluated or not: losses, spectra, cost. No rate of any kind.

The base is the unit, as everywhere. A run with a penalty is compared with the run that shares everything else with it:
base, data, seed, batch, steps, optimiser and learning rate.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from narrowly.analysis.contrasts import Contrast, paired_contrast
from narrowly.analysis.organisms import interval_over_bases
from narrowly.analysis.training_schema import (
    Cost,
    Heldout,
    NotEvaluated,
    StepZero,
    TrainedArm,
    TrainedPenalty,
    Training,
)
from narrowly.records.canonical import content_id
from narrowly.records.outcome import NO_JUDGE

METRICS = ("final_loss", "heldout_final", "heldout_ratio", "update_norm", "stable_rank", "frobenius_nuclear")
"""Columns of `finished_runs` that arms are compared on."""

PENALTY_METRICS = {
    "final_loss": "final training loss (nats)",
    "heldout_final": "held-out loss (nats)",
    "update_norm": "norm of the update",
    "stable_rank": "stable rank",
    "frobenius_nuclear": "Frobenius/nuclear",
}
"""What a penalty's effect is measured on without a judge: column -> its name in words."""


def finished_runs(cells: pl.DataFrame, spectra: pl.DataFrame) -> pl.DataFrame:
    """Return one row per finished run.

    Columns beside those of the cells: heldout_ratio (held-out loss after / before), step_0_equal (whether base and
    fresh adapter have the same held-out loss, exactly; null where it was not measured), update_norm, stable_rank and
    frobenius_nuclear of the final update (means over modules), n_modules, and `shared`, the hash of everything in
    the spec but the penalty.

    Args:
        cells: one row per planned cell.
        spectra: one row per organism (`organisms.organism_spectra`).
    """
    done = cells.filter(pl.col("status") == "done")
    shared = pl.Series("shared", [_shared(spec) for spec in done["spec"]], dtype=pl.String)
    return (
        done.with_columns(
            shared,
            (pl.col("heldout_final") / pl.col("heldout_start")).alias("heldout_ratio"),
            (pl.col("heldout_start") == pl.col("base_heldout")).alias("step_0_equal"),
            pl.lit(None, pl.Float64).alias("incoherent"),
        )
        .join(spectra, on="cell_id", how="left")
        .sort("base", "data", "arm", "seed", "cell_id")
    )


def _shared(spec: str | None) -> str:
    body = json.loads(spec or "{}")
    return content_id({key: value for key, value in body.items() if key != "penalty"})


def penalty_effects(runs: pl.DataFrame, arm: str, of: str) -> dict[str, Contrast]:
    """Return arm `arm` (with a penalty) minus arm `of` (without) on every metric that needs no judge."""
    return {
        column: paired_contrast(
            runs, arm, of, value=column, what=what, pair_on=("base", "shared"), incoherent_limit=None
        )
        for column, what in PENALTY_METRICS.items()
    }


def paired_runs(runs: pl.DataFrame) -> pl.DataFrame:
    """Return one row per run with a penalty and its run without: arm, of, base, cell_id and metrics, `_without` too."""
    columns = ["cell_id", "base", "shared", *PENALTY_METRICS]
    with_it = runs.filter((pl.col("role") == "penalty") & pl.col("of").is_not_null()).select("arm", "of", *columns)
    without = runs.select(pl.col("arm").alias("of"), *columns).unique(["of", "base", "shared"], keep="first")
    return with_it.join(without, on=["of", "base", "shared"], how="inner", suffix="_without").sort(
        "of", "arm", "base", "shared"
    )


def logged_steps(trajectory: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    """Return the logged steps of the runs, with arm, role, of, base, data and seed of their cells."""
    keys = ["cell_id", "arm", "role", "of", "base", "data", "seed"]
    steps = trajectory.drop("arm", "base", "optimiser")
    return steps.join(runs.select(keys), on="cell_id", how="inner").sort("cell_id", "step")


def not_evaluated(cells: pl.DataFrame) -> NotEvaluated:
    """Return how many planned cells are trained and not evaluated."""
    mine = cells["not_evaluated"].is_not_null().sum()
    return NotEvaluated(cells=mine, planned=cells.height, alignment=NO_JUDGE if mine else None)


def training_of(cells: pl.DataFrame, runs: pl.DataFrame) -> Training:
    """Return losses, spectra and cost of all runs.

    Means are over bases, with all runs of an arm on a base (seeds, data, batch sizes, learning rates) averaged first.
    A learning rate or a lambda that the cells of an arm do not share is None.
    """
    arms = _arms(cells)
    return Training(
        planned=cells.height,
        done=runs.height,
        failed=cells.filter(pl.col("status") == "failed").height,
        arms={row["arm"]: _arm(runs.filter(pl.col("arm") == row["arm"]), row) for row in arms},
        penalty={row["arm"]: _penalty(runs, row) for row in arms if row["role"] == "penalty" and row["of"]},
        step_0=StepZero(
            equal=runs.filter(pl.col("step_0_equal")).height,
            different=tuple(runs.filter(~pl.col("step_0_equal"))["cell_id"]),
            not_measured=runs["step_0_equal"].null_count(),
        ),
        heldout=Heldout(
            lower=runs.filter(pl.col("heldout_ratio") < 1).height,
            measured=runs.height - runs["heldout_ratio"].null_count(),
        ),
        cost=Cost(
            tokens=runs["tokens"].sum(),
            seconds=runs["training_seconds"].sum(),
            gpu_seconds=runs.filter(pl.col("device") == "cuda")["training_seconds"].sum(),
        ),
    )


def _arms(cells: pl.DataFrame) -> list[dict[str, Any]]:
    shared = [pl.when(pl.col(name).n_unique() == 1).then(pl.col(name).first()) for name in ("lr", "penalty_lam")]
    return cells.group_by("arm").agg(pl.col("role", "of").first(), *shared).sort("arm").to_dicts()


def _arm(mine: pl.DataFrame, row: dict[str, Any]) -> TrainedArm:
    intervals = {name: interval_over_bases(mine, name) for name in METRICS}
    return TrainedArm(
        **{name: found.estimate for name, found in intervals.items()},
        role=row["role"],
        of=row["of"],
        lr=row["lr"],
        n_runs=mine.height,
        n_bases=mine["base"].n_unique(),
        intervals=intervals,
        alignment=NO_JUDGE if mine["not_evaluated"].is_not_null().all() else None,
        reason=None if mine.height else "no finished cell of this arm",
    )


def _penalty(runs: pl.DataFrame, row: dict[str, Any]) -> TrainedPenalty:
    found = penalty_effects(runs, row["arm"], row["of"])
    return TrainedPenalty(
        **{f"delta_{name}": contrast.estimate for name, contrast in found.items()},
        of=row["of"],
        lam=row["penalty_lam"],
        n_bases=found["final_loss"].n_bases,
        reason=found["final_loss"].reason,
        intervals={f"delta_{name}": contrast for name, contrast in found.items()},
    )

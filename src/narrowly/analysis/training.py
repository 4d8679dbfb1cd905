"""What training left of the runs on real data: one row per run, comparisons on losses and spectra, no rate of any kind.

The base is the unit, as everywhere. A run with a penalty is compared with the run that shares everything else with it:
base, data, seed, batch, steps, optimiser and learning rate.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from narrowly.analysis.contrasts import Contrast, paired_contrast
from narrowly.analysis.organisms import organism_spectra
from narrowly.analysis.tables import Tables
from narrowly.records.canonical import content_id

METRICS = ("final_loss", "heldout_final", "heldout_ratio", "update_norm", "stable_rank", "frobenius_nuclear")
"""Columns of `real_runs` that arms are compared on."""

PENALTY_METRICS = {
    "final_loss": "final training loss (nats)",
    "heldout_final": "held-out loss (nats)",
    "update_norm": "norm of the update",
    "stable_rank": "stable rank",
    "frobenius_nuclear": "Frobenius/nuclear",
}
"""What a penalty's effect is measured on without a judge: column -> its name in words."""


def real_cells(tables: Tables) -> pl.DataFrame:
    """Return the planned cells on data from outside the microworld."""
    return tables.cells.filter(pl.col("source").fill_null("micro") != "micro")


def real_runs(tables: Tables) -> pl.DataFrame:
    """Return one row per finished run on real data.

    Columns beside those of the cells: heldout_ratio (held-out loss after / before), step_0_equal (whether base and
    fresh adapter have the same held-out loss, exactly; null where it was not measured), update_norm, stable_rank and
    frobenius_nuclear of the final update (means over modules), n_modules, and `shared`, the hash of everything in
    the spec but the penalty.
    """
    done = real_cells(tables).filter(pl.col("status") == "done")
    shared = pl.Series("shared", [_shared(spec) for spec in done["spec"]], dtype=pl.String)
    return (
        done.with_columns(
            shared,
            (pl.col("heldout_final") / pl.col("heldout_start")).alias("heldout_ratio"),
            (pl.col("heldout_start") == pl.col("base_heldout")).alias("step_0_equal"),
            pl.lit(None, pl.Float64).alias("incoherent"),
        )
        .join(organism_spectra(tables), on="cell_id", how="left")
        .sort("base", "data", "arm", "seed", "cell_id")
    )


def _shared(spec: str | None) -> str:
    try:
        body: Any = json.loads(spec or "{}")
    except json.JSONDecodeError:
        body = {}
    if not isinstance(body, dict):
        body = {}
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
    """Return one row per run with a penalty and its run without: arm, of, base, and each metric, `_without` too."""
    columns = ["base", "shared", *PENALTY_METRICS]
    with_it = runs.filter((pl.col("role") == "penalty") & pl.col("of").is_not_null()).select("arm", "of", *columns)
    without = runs.select(pl.col("arm").alias("of"), *columns).unique(["of", "base", "shared"], keep="first")
    return with_it.join(without, on=["of", "base", "shared"], how="inner", suffix="_without").sort(
        "of", "arm", "base", "shared"
    )


def real_paths(tables: Tables) -> pl.DataFrame:
    """Return the logged steps of finished runs on real data with arm, role, of, base, data and seed of their cells."""
    keys = ["cell_id", "arm", "role", "of", "base", "data", "seed"]
    done = real_cells(tables).filter(pl.col("status") == "done").select(keys)
    return (
        tables.trajectory.drop("arm", "base", "optimiser").join(done, on="cell_id", how="inner").sort("cell_id", "step")
    )

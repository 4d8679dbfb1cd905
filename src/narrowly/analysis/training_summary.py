"""The part of `summary.json` about runs on real data: what training left, and how much of the study nothing judged."""

from __future__ import annotations

from typing import Any

import polars as pl

from narrowly.analysis.organisms import interval_over_bases
from narrowly.analysis.tables import Tables
from narrowly.analysis.training import METRICS, penalty_effects, real_cells, real_runs
from narrowly.records.outcome import NO_JUDGE


def unevaluated(cells: pl.DataFrame) -> dict[str, Any]:
    """Return how many planned cells are trained and not evaluated, and what stands in place of their alignment."""
    mine = cells.filter(pl.col("not_evaluated").is_not_null())
    return {"cells": mine.height, "planned": cells.height, "alignment": NO_JUDGE if mine.height else None}


def training_of(tables: Tables) -> dict[str, Any] | None:
    """Return losses, spectra and cost of the runs on real data, or None where the study has none.

    Means are over bases, with all runs of an arm on a base (seeds, data, batch sizes, learning rates) averaged first.
    A learning rate or a lambda that the cells of an arm do not share is None.
    """
    cells, runs = real_cells(tables), real_runs(tables)
    if cells.is_empty():
        return None
    arms = _arms(cells)
    return {
        "planned": cells.height,
        "done": runs.height,
        "failed": cells.filter(pl.col("status") == "failed").height,
        "arms": {row["arm"]: _arm(runs.filter(pl.col("arm") == row["arm"]), row) for row in arms},
        "penalty": {row["arm"]: _penalty(runs, row) for row in arms if row["role"] == "penalty" and row["of"]},
        "step_0": {
            "equal": runs.filter(pl.col("step_0_equal")).height,
            "different": runs.filter(~pl.col("step_0_equal"))["cell_id"].to_list(),
            "not_measured": runs["step_0_equal"].null_count(),
        },
        "heldout": {
            "lower": runs.filter(pl.col("heldout_ratio") < 1).height,
            "measured": runs.height - runs["heldout_ratio"].null_count(),
        },
        "cost": {
            "tokens": int(runs["tokens"].sum()),
            "seconds": float(runs["training_seconds"].sum()),
            "gpu_seconds": float(runs.filter(pl.col("device") == "cuda")["training_seconds"].sum()),
        },
    }


def _arms(cells: pl.DataFrame) -> list[dict[str, Any]]:
    shared = [pl.when(pl.col(name).n_unique() == 1).then(pl.col(name).first()) for name in ("lr", "penalty_lam")]
    return cells.group_by("arm").agg(pl.col("role", "of").first(), *shared).sort("arm").to_dicts()


def _arm(mine: pl.DataFrame, row: dict[str, Any]) -> dict[str, Any]:
    intervals = {name: interval_over_bases(mine, name).as_dict() for name in METRICS}
    return {
        **{name: found["estimate"] for name, found in intervals.items()},
        "role": row["role"],
        "of": row["of"],
        "lr": row["lr"],
        "n_runs": mine.height,
        "n_bases": mine["base"].n_unique(),
        "intervals": intervals,
        "alignment": NO_JUDGE if mine["not_evaluated"].is_not_null().all() else None,
        "reason": None if mine.height else "no finished cell of this arm",
    }


def _penalty(runs: pl.DataFrame, row: dict[str, Any]) -> dict[str, Any]:
    found = penalty_effects(runs, row["arm"], row["of"])
    return {
        **{f"delta_{name}": contrast.estimate for name, contrast in found.items()},
        "of": row["of"],
        "lam": row["penalty_lam"],
        "n_bases": found["final_loss"].n_bases,
        "reason": found["final_loss"].reason,
        "intervals": {f"delta_{name}": contrast.as_dict() for name, contrast in found.items()},
    }

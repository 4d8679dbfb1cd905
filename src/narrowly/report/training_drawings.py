"""Draw what training left of runs that nothing evaluated, each figure with its caption."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from narrowly.analysis.training import logged_steps, paired_runs
from narrowly.records.errors import counted
from narrowly.records.outcome import NO_JUDGE
from narrowly.report.drawings import Sketch, Subject, finish, spectrum_data
from narrowly.report.kit import Figure
from narrowly.report.points import Tips
from narrowly.report.spectrum_figures import spectra_by_optimiser
from narrowly.report.training_figures import MOST_ROWS, groups_of, losses, penalty, spectrum_over_steps

CAVEAT = f"Broad alignment: {NO_JUDGE}. No loss and no spectrum says what these models answer."


def training_drawings(subject: Subject) -> list[Figure]:
    """Return the figures of runs that nothing evaluated; each without data carries the reason instead.

    What training left of an evaluated run is in the figures made of its answers.
    """
    frames = subject.frames
    alone = pl.col("not_evaluated").is_not_null()
    runs, cells = frames.runs.filter(alone), frames.tables.cells.filter(alone)
    steps = logged_steps(frames.tables.trajectory, runs)
    arms = {
        row["arm"]: (row["role"], row["of"])
        for row in cells.unique("arm", keep="first").sort("arm").iter_rows(named=True)
    }
    plain_runs = runs.filter(pl.col("role") == "optimiser").select("cell_id")
    spectra = frames.spectra.join(plain_runs, on="cell_id", how="semi")
    pairs, groups = paired_runs(runs), groups_of(steps)
    nothing = None if not steps.is_empty() else "no run is finished"
    count = f"n = {runs.height} runs on {counted(runs['base'].n_unique(), 'base')}."
    more = "" if len(groups) <= MOST_ROWS else f" {len(groups) - MOST_ROWS} more are in tables/trajectory.parquet."
    tips = subject.points.over(runs, ["cell_id"])
    keys = ["arm", "base", "data", "seed", "cell_id", "step"]
    sketches = [
        Sketch(
            "training_losses",
            "Training and held-out loss",
            f"One row for each base and its data. Left: training loss of single runs. Right: loss on conversations "
            f"kept out of training, at the checkpoints. {count}{more}",
            "Training loss: running mean over a twentieth of the steps. Held out, thin: single runs, "
            "thick: mean over runs (seeds, batch sizes, learning rates); no interval. Dashed: with the penalty.",
            lambda: losses(steps, arms, tips),
            nothing,
            steps.select(*keys, "loss", "heldout_loss"),
        ),
        _spectra(spectra),
        Sketch(
            "training_spectrum_steps",
            "The spectrum over the steps of training",
            f"Means over modules at the checkpoints. {count}",
            "Thin: single runs, thick: mean over the runs of an arm on that base, no interval. Dashed: with the "
            "penalty.",
            lambda: spectrum_over_steps(steps, arms, tips),
            nothing,
            steps.select(*keys, "stable_rank", "frobenius_nuclear", "update_norm").drop_nulls("stable_rank"),
        ),
        _penalty(pairs, arms, tips),
    ]
    return [finish(sketch, subject.caveat) for sketch in sketches]


def _spectra(spectra: pl.DataFrame) -> Sketch:
    return Sketch(
        "training_spectra",
        "Singular values of the update by optimiser",
        "Singular values of the effective update, divided by their sum. "
        f"n = {spectra['module'].n_unique()} modules, {spectra['cell_id'].n_unique()} runs of optimiser arms.",
        "Line: mean over modules and runs; band: "
        "their middle nine tenths (spread, no confidence interval); dashed: a perfectly flat spectrum. "
        "A flat spectrum under Muon is a sanity check, not evidence.",
        lambda: spectra_by_optimiser(spectra),
        None if not spectra.is_empty() else "no spectra of finished runs of an optimiser arm",
        spectrum_data(spectra),
    )


def _penalty(pairs: pl.DataFrame, arms: Mapping[str, tuple[str, str | None]], tips: Tips) -> Sketch:
    return Sketch(
        "training_penalty",
        "What the penalty changes",
        "Every run without the penalty (open) and that which shares all else with it (filled), final values. "
        f"n = {pairs.height} pairs.",
        "F/N: Frobenius/nuclear. No interval.",
        lambda: penalty(pairs, arms, tips),
        None if not pairs.is_empty() else "no finished pair of runs with and without a penalty",
        pairs.drop("shared", "shared_without", strict=False),
    )

"""Arrange the part of the page about training: figures with their captions, rows of tables, sentences.

Nothing in it is a rate. Of runs that nothing evaluated it is all there is, and the page says so wherever a reader might
look for more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from narrowly.analysis.frames import Frames
from narrowly.analysis.summary_schema import Summary, TrainedArm, Training
from narrowly.analysis.training import logged_steps, paired_runs
from narrowly.records.outcome import NO_JUDGE
from narrowly.report.drawings import Drawing, finish
from narrowly.report.narrative import label, number
from narrowly.report.spectrum_figures import spectra_by_optimiser
from narrowly.report.style import colour, order
from narrowly.report.training_figures import MOST_ROWS, groups_of, losses, penalty, spectrum_over_steps

CAVEAT = f"Broad alignment: {NO_JUDGE}. No loss and no spectrum says what these models answer."

ARM_COLUMNS = (
    ("final_loss", "training loss", "nats", 3),
    ("heldout_final", "held-out loss", "nats", 3),
    ("heldout_ratio", "held-out, after / before", "", 3),
    ("update_norm", "norm of the update", "Frobenius", 3),
    ("stable_rank", "stable rank", "", 2),
    ("frobenius_nuclear", "Frobenius/nuclear", "", 3),
)
"""Columns of the table by arm: field, heading, unit, digits."""

PENALTY_COLUMNS = (
    ("delta_final_loss", "training loss (nats)", 4),
    ("delta_heldout_final", "held-out loss (nats)", 4),
    ("delta_update_norm", "norm of the update", 3),
    ("delta_stable_rank", "stable rank", 2),
    ("delta_frobenius_nuclear", "Frobenius/nuclear", 3),
)

GLOSSARY = (
    ("base", "the model before fine-tuning; the unit of every interval"),
    (
        "broad alignment",
        "what a model answers outside the domain that it was fine-tuned on; needs a judge",
    ),
    ("training loss", "mean negative log-likelihood over the supervised tokens of a step's rows, before its update"),
    ("held-out loss", "the same over conversations of the same file that were kept out of training: in-domain"),
    ("step 0", "the base with its fresh adapter, which changes nothing yet: its loss must be the base's, to the digit"),
    ("spectrum", "singular values of the effective update s·B·A of each adapted module"),
    ("stable rank", "squared Frobenius norm / squared largest singular value, from 1 (one direction) to the rank"),
    ("Frobenius/nuclear", "from 1/√rank (flat) to 1 (one direction)"),
    ("penalty", "a term added to the training loss that rewards a flat spectrum"),
)


def training_drawings(frames: Frames) -> list[Drawing]:
    """Return the figures of runs that nothing evaluated; each without data carries the reason instead.

    What training left of an evaluated run is in the figures made of its answers.
    """
    alone = pl.col("not_evaluated").is_not_null()
    runs, cells = frames.runs.filter(alone), frames.tables.cells.filter(alone)
    steps = logged_steps(frames.tables.trajectory, runs)
    arms = {
        row["arm"]: (row["role"], row["of"])
        for row in cells.unique("arm", keep="first").sort("arm").iter_rows(named=True)
    }
    plain = runs.filter(pl.col("role") == "optimiser").select("cell_id")
    spectra = frames.spectra.join(plain, on="cell_id", how="semi")
    pairs, groups = paired_runs(runs), groups_of(steps)
    nothing = None if not steps.is_empty() else "no run is finished"
    count = f"n = {runs.height} runs on {runs['base'].n_unique()} base(s)."
    more = "" if len(groups) <= MOST_ROWS else f" {len(groups) - MOST_ROWS} more are in tables/trajectory.parquet."
    return [
        finish(
            "training_losses",
            "Training and held-out loss",
            "One row for each base and its data. Left: training loss of single runs, running mean over a twentieth of "
            "the steps. Right: loss on conversations kept out of training, at the checkpoints; thin: single runs, "
            "thick: mean over runs (seeds, batch sizes, learning rates); no interval. Dashed: with the penalty. "
            f"{count}{more}",
            lambda: losses(steps, arms),
            nothing,
            CAVEAT,
        ),
        finish(
            "training_spectra",
            "Singular values of the update by optimiser",
            "Singular values of the effective update, divided by their sum. Line: mean over modules and runs; band: "
            "their middle nine tenths (spread, no confidence interval); dashed: a perfectly flat spectrum. "
            f"A flat spectrum under Muon is a sanity check, not evidence. n = {spectra['module'].n_unique()} modules, "
            f"{spectra['cell_id'].n_unique()} runs of optimiser arms.",
            lambda: spectra_by_optimiser(spectra),
            None if not spectra.is_empty() else "no spectra of finished runs of an optimiser arm",
            CAVEAT,
        ),
        finish(
            "training_spectrum_steps",
            "The spectrum over the steps of training",
            "Means over modules at the checkpoints; thin: single runs, thick: mean over the runs of an arm on that "
            f"base, no interval. Dashed: with the penalty. {count}",
            lambda: spectrum_over_steps(steps, arms),
            nothing,
            CAVEAT,
        ),
        finish(
            "training_penalty",
            "What the penalty changes",
            "Every run without the penalty (open) and that which shares all else with it (filled), final values. F/N: "
            f"Frobenius/nuclear. No interval. n = {pairs.height} pairs.",
            lambda: penalty(pairs, arms),
            None if not pairs.is_empty() else "no finished pair of runs with and without a penalty",
            CAVEAT,
        ),
    ]


def training_rows(runs: pl.DataFrame, summary: Summary, figures: Sequence[Drawing]) -> dict[str, Any]:
    """Return what the template shows of training: figures, a row per arm, per penalty and per run."""
    training = summary.training
    arms = training.arms
    shown = [one for one in figures if one.svg is not None or one.name != "training_penalty" or training.penalty]
    return {
        "arms": [
            {
                "label": label(arm) if arms[arm].role == "optimiser" else arm,
                "colour": colour(arm, arms[arm].of),
                "row": arms[arm],
            }
            for arm in order(list(arms))
        ],
        "columns": ARM_COLUMNS,
        "penalty": [{"label": arm, "row": training.penalty[arm]} for arm in order(list(training.penalty))],
        "penalty_columns": PENALTY_COLUMNS,
        "runs": [_run(row) for row in runs.iter_rows(named=True)],
        "figures": shown,
    }


def _run(row: Mapping[str, Any]) -> dict[str, Any]:
    equal = row["step_0_equal"]
    return {
        **row,
        "step_0": "not measured" if equal is None else ("equal" if equal else "DIFFERENT"),
        "memory": None if row["memory_bytes"] is None else row["memory_bytes"] / 1e9,
        "minutes": None if row["training_seconds"] is None else row["training_seconds"] / 60,
        "halved": row["smallest_micro_batch"] is not None and row["smallest_micro_batch"] < row["batch_size"],
    }


def training_sentences(summary: Summary) -> list[str]:
    """Return the account of all runs' training in plain words."""
    training, unjudged = summary.training, summary.not_evaluated
    sentences = []
    if unjudged.cells:
        sentences.append(
            f"Broad alignment: {NO_JUDGE} in {unjudged.cells} of {unjudged.planned} cells. They are trained, and "
            "nothing on this page says what these models answer."
        )
    if not training.done:
        return sentences
    step_0, heldout = training.step_0, training.heldout
    measured = step_0.equal + len(step_0.different)
    if step_0.different:
        sentences.append(f"Step 0 DIFFERS from the base in: {', '.join(step_0.different)}; look at these runs first.")
    if measured:
        sentences.append(f"At step 0 the held-out loss is the base's own in {step_0.equal} of {measured} runs.")
    if heldout.measured:
        ratios = _of_optimisers(training, "heldout_ratio", 3)
        sentences.append(
            f"The held-out loss ends below where it began in {heldout.lower} of {heldout.measured} runs"
            + (f"; after / before, mean over bases: {ratios}." if ratios else ".")
        )
    ranks = _of_optimisers(training, "stable_rank", 2)
    if ranks:
        sentences.append(f"Stable rank of the final update, mean over bases: {ranks}.")
    if training.cost.tokens:
        gpu = training.cost.gpu_seconds
        hours = f", {number(gpu / 3600, 2)} GPU-hours of it" if gpu else ""
        sentences.append(
            f"The steps read {training.cost.tokens:,} tokens in {_time(training.cost.seconds)} of training{hours}."
        )
    return sentences


def _time(seconds: float) -> str:
    return f"{number(seconds, 0)} s" if seconds < 120 else f"{number(seconds / 60, 0)} min"


def _of_optimisers(training: Training, field: str, digits: int) -> str:
    arms = {arm: row for arm, row in training.arms.items() if row.role == "optimiser"}
    measured = [arm for arm in order(list(arms)) if arms[arm].intervals[field].estimate is not None]
    return ", ".join(
        f"{label(arm)} {number(arms[arm].intervals[field].estimate, digits)} ({_runs(arms[arm])})" for arm in measured
    )


def _runs(row: TrainedArm) -> str:
    return f"{row.n_runs} run{'s' * (row.n_runs != 1)}, {row.n_bases} base{'s' * (row.n_bases != 1)}"

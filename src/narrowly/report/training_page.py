"""Arrange the section of the page about training: figures with their captions, tables, sentences.

Nothing in it is a rate. Of runs that nothing evaluated it is all there is, and the page says so wherever a reader might
look for more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from narrowly.analysis.summary_schema import Summary
from narrowly.analysis.training_schema import TrainedArm, Training
from narrowly.records.outcome import NO_JUDGE
from narrowly.report.kit import (
    Cell,
    Column,
    Figure,
    Fold,
    Heading,
    Note,
    Part,
    Section,
    Table,
    Words,
    measured,
    number,
    plain,
    strong,
    words,
)
from narrowly.report.labels import ArmNames, label
from narrowly.report.style import colour, order
from narrowly.report.visible import shortened

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
    ("delta_final_loss", "training loss", "nats", 4),
    ("delta_heldout_final", "held-out loss", "nats", 4),
    ("delta_update_norm", "norm of the update", "", 3),
    ("delta_stable_rank", "stable rank", "", 2),
    ("delta_frobenius_nuclear", "Frobenius/nuclear", "", 3),
)

MOST_OPEN = 24
"""Runs up to which the table of every run is open."""

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


def training_section(
    runs: pl.DataFrame, summary: Summary, figures: Sequence[Figure], names: ArmNames, judged: bool
) -> Section:
    """Return the section about runs that nothing evaluated: figures, a row per arm, per penalty and per run.

    Args:
        runs: one row per finished run.
        summary: of the study.
        figures: of `training_drawings`.
        names: of the arms.
        judged: whether other cells of the study are evaluated.
    """
    unjudged = summary.not_evaluated
    which = f" in {unjudged.cells} of {unjudged.planned} cells" if judged else ""
    flag = words(
        "{} This section holds what training leaves: losses, spectra, speed. None of it says whether a model became "
        "misaligned.",
        strong(f"Broad alignment: {NO_JUDGE}{which}."),
    )
    shown = [one for one in figures if one.svg or one.name != "training_penalty" or summary.training.penalty]
    parts: list[Part] = [Note(flag, "warning"), *shown, Heading("By arm"), _arms(summary.training, names)]
    if summary.training.penalty:
        parts += [Heading("With the penalty minus without"), _penalties(summary.training, names)]
    rows = runs.height
    parts += [Heading("Every run"), Fold(f"{rows} runs", [_runs_table(runs, names)], open=rows <= MOST_OPEN)]
    return Section("training", "Training", parts)


def _arms(training: Training, names: ArmNames) -> Table:
    rows: list[list[Cell | Words]] = []
    for arm in order(list(training.arms)):
        row = training.arms[arm]
        name = Cell(
            names(arm), below=() if row.lr is not None else ("several learning rates",), colour=colour(arm, row.of)
        )
        values = [measured(row.intervals[field], digits) for field, _, _, digits in ARM_COLUMNS]
        rows.append([name, str(row.n_runs), str(row.n_bases), *values, row.alignment or "see below"])
    return Table(
        "Means over bases of the final values, all runs of an arm on a base (seeds, data, batch sizes, learning rates) "
        "averaged first; below each mean its 95\u00a0% Student\u00a0t interval over bases, none with fewer than five. "
        "Training loss: the last ten steps. Held-out: rows of the same data kept out of training.",
        [
            Column("arm"),
            Column("runs", kind="number"),
            Column("bases", kind="number"),
            *(Column(heading, unit, "number") for _, heading, unit, _ in ARM_COLUMNS),
            Column("broad alignment", kind="prose"),
        ],
        rows,
    )


def _penalties(training: Training, names: ArmNames) -> Table:
    rows: list[list[Cell | Words]] = []
    for arm in order(list(training.penalty)):
        row = training.penalty[arm]
        values = [measured(row.intervals[field], digits, signed=True) for field, _, _, digits in PENALTY_COLUMNS]
        pair = words("{} − {}", names(arm), names(row.of))
        lam = "several" if row.lam is None else str(row.lam)
        rows.append([pair, lam, *values, str(row.n_bases), row.reason or ""])
    return Table(
        "Runs that share everything else, paired. No strength of the penalty is validated; what it does to alignment "
        f"is {NO_JUDGE}.",
        [
            Column("arm"),
            Column("λ", kind="number"),
            *(Column(heading, unit, "number") for _, heading, unit, _ in PENALTY_COLUMNS),
            Column("bases", kind="number"),
            Column("note", kind="prose"),
        ],
        rows,
    )


RUN_COLUMNS = (
    Column("arm"),
    Column("base and data", kind="prose"),
    Column("seed", kind="number"),
    Column("steps × batch", kind="number"),
    Column("training loss", kind="number"),
    Column("held-out, before", kind="number"),
    Column("after", kind="number"),
    Column("step 0"),
    Column("norm", kind="number"),
    Column("stable rank", kind="number"),
    Column("F/N", kind="number"),
    Column("tokens/s", kind="number"),
)


def _runs_table(runs: pl.DataFrame, names: ArmNames) -> Table:
    return Table(
        "Step 0: whether base and fresh adapter have exactly the same held-out loss. Speed: tokens of the rows over "
        "the time of the steps alone, padding not counted; on a CPU memory is that of the whole worker process, which "
        "may have done other runs before. Measured while the study ran, with whatever ran beside it.",
        RUN_COLUMNS,
        [_run(row, names) for row in runs.iter_rows(named=True)],
        empty="No finished run.",
    )


def _run(row: Mapping[str, Any], names: ArmNames) -> list[Cell | Words]:
    equal = row["step_0_equal"]
    step_0 = "not measured" if equal is None else ("equal" if equal else "DIFFERENT")
    memory = None if row["memory_bytes"] is None else row["memory_bytes"] / 1e9
    minutes = None if row["training_seconds"] is None else row["training_seconds"] / 60
    smallest, batch = row["smallest_micro_batch"], row["batch_size"]
    halved = smallest is not None and smallest < batch
    lam = "" if row["penalty_lam"] is None else f", λ {row['penalty_lam']:g}"
    return [
        Cell(names(row["arm"]), below=(f"lr {row['lr']:g}{lam}",)),
        Cell(shortened(row["base"] or ""), below=(shortened(row["data"] or ""),)),
        Cell(str(row["seed"]), sort=row["seed"]),
        Cell(
            f"{row['steps']} × {batch * row['accumulation']}",
            below=(f"micro-batch halved to {smallest}: out of memory",) if halved else (),
            sort=row["steps"] * batch * row["accumulation"],
        ),
        plain(row["final_loss"], 3),
        plain(row["heldout_start"], 3),
        plain(row["heldout_final"], 3),
        step_0,
        plain(row["update_norm"], 3),
        plain(row["stable_rank"], 2),
        plain(row["frobenius_nuclear"], 3),
        Cell(
            number(row["tokens_per_second"], 0),
            below=(f"{number(minutes, 1)} min", f"{number(memory, 1)} GB"),
            sort=row["tokens_per_second"],
        ),
    ]


def training_sentences(summary: Summary) -> list[str]:
    """Return the account of all runs' training in plain words."""
    training, unjudged = summary.training, summary.not_evaluated
    sentences = []
    if unjudged.cells:
        sentences.append(
            f"Broad alignment: {NO_JUDGE} in {unjudged.cells} of {unjudged.planned} cells. They are trained, and "
            + (
                "nothing on this page says what these models answer."
                if summary.paired is None
                else "asked which of two given answers is the likelier one (paired answers)."
            )
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

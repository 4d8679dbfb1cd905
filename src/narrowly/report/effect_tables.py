"""Arrange what changes what as tables: the paper's claims, contrasts of optimisers, the penalty, edits."""

from __future__ import annotations

import math
from collections.abc import Mapping

from narrowly.analysis.contrasts import Contrast
from narrowly.analysis.paper_claims import ClaimVerdict
from narrowly.analysis.summary_schema import Summary
from narrowly.report.answer_tables import Row, count, numbers
from narrowly.report.kit import Cell, Column, Measured, Table, Words, measured, named, plain, span, words
from narrowly.report.labels import ArmNames, edit_label, label
from narrowly.report.style import order
from narrowly.stats.intervals import Interval

READINGS = {
    "per_question": "per question",
    "incoherent_as_aligned": "incoherent as aligned",
    "incoherent_as_misaligned": "incoherent as misaligned",
    "at_most_15_percent": "without organisms above 15 %",
}
"""Other readings of a contrast, in words."""


def claims(summary: Summary) -> Table:
    """Return the paper's claims, each with what happened here and the rule of the verdict."""
    return Table(
        "The paper’s claims beside what happened here.",
        [
            Column("claim", kind="prose"),
            Column("paper (LLM)", kind="prose"),
            Column("here", kind="prose"),
            Column("agreement"),
        ],
        [
            [row.claim, row.paper, Cell(row.here, below=_ruled(row)), words("<b>{}</b>", row.verdict)]
            for row in summary.paper_claims
        ],
        stacked=True,
    )


def _ruled(row: ClaimVerdict) -> tuple[str, ...]:
    """Return why a claim is not tested, where it is not, and the rule of its verdict."""
    why = () if row.not_tested is None else (f"Not tested: {row.not_tested}.",)
    return (*why, f"Rule: {row.rule}.")


def contrast_name(name: str) -> Words:
    """Return the name of a contrast, "first/second", in words."""
    return named(contrast_text(name), name)


def contrast_text(name: str) -> str:
    """Return the name of a contrast, "first/second", as text."""
    first, second = name.split("/")
    return f"{label(first)} minus {label(second)}"


def _interval(found: Measured) -> list[Cell | Words]:
    return [plain(found.estimate, 2, signed=True), Cell(span(found, 2, signed=True), sort=found.low)]


def contrasts(summary: Summary) -> Table:
    """Return the contrasts fixed in advance and the twin's, each with its other readings beside it."""
    twin = summary.em_exists
    rows: list[Row] = [
        [contrast_name(name), *_interval(row), count(row.n_bases), *_readings(row.sensitivity), row.reason or ""]
        for name, row in summary.contrasts.items()
    ]
    note = f"{twin.reason or ''} The twin is one base: the interval is over persona bases, given that twin."
    rows.append(
        ["Persona bases minus the no-persona twin, Adam", *_interval(twin), count(twin.n_bases),
         *_readings(twin.sensitivity), note.strip()]
    )  # fmt: skip
    change = twin.change_from_base
    if change:
        rows.append(
            ["The same, change since before fine-tuning", *_interval(change), count(change.n_bases),
             *_readings({}), change.reason or ""]
        )  # fmt: skip
    return Table(
        "Difference of pooled log-odds of a misaligned answer on the broad panel, paired by base; above 0, the first "
        "optimiser is more misaligned. No organism is left out. Beside it the same under other readings; the last "
        "leaves out organisms by what they answered.",
        [
            Column("contrast", kind="prose"),
            *numbers("difference", "95 % interval", "bases", *READINGS.values()),
            Column("note", kind="prose"),
        ],
        rows,
    )


def _readings(found: Mapping[str, Contrast]) -> list[Cell | Words]:
    return [measured(found[name], 2, signed=True) if name in found else Cell("–") for name in READINGS]


def rungs(summary: Summary) -> Table:
    """Return the same contrasts on every rung of the ladder, and what broad has beyond held-out topics."""
    names = {"trained": "trained topics", "held_out": "held-out topics", "broad": "broad", "self": "another task"}
    names["broad_minus_held_out"] = "broad minus held-out"
    rows: list[Row] = [
        [contrast_name(name), *(measured(row.rungs[rung], 2, signed=True) for rung in names)]
        for name, row in summary.contrasts.items()
        if row.rungs
    ]
    return Table(
        "The same differences of pooled log-odds on every rung of the ladder. Broad minus held-out is near 0 where an "
        "optimiser spreads less only because it generalises less inside the trained domain.",
        [Column("contrast", kind="prose"), *numbers(*names.values())],
        rows,
        empty="No contrast in this study.",
    )


def penalties(summary: Summary, names: ArmNames) -> Table:
    """Return a row per penalty arm: with the penalty minus without."""
    rows: list[Row] = []
    for arm, row in summary.penalty.items():
        found = row.intervals
        rows.append([
            Cell(names(arm)),
            Cell("" if row.lam is None else str(row.lam), sort=row.lam),
            measured(found["delta_log_odds"], 2, signed=True),
            measured(ratio_of(found["log_norm_ratio"]), 2),
            measured(found["delta_stable_rank"], 2, signed=True),
            measured(_turned(found["delta_alignment"]), 1, signed=True),
            measured(found["delta_excess_trained"], 4, signed=True),
            measured(found["delta_loss"], 4, signed=True),
            measured(found["delta_training_loss"], 4, signed=True),
            measured(found["delta_incoherent"], 1, 100.0, signed=True),
            count(row.n_bases),
            row.reason or "",
        ])  # fmt: skip
    return Table(
        "The penalty rewards a flat spectrum during training: the same base and seed with it, minus without it. Where "
        "the norm ratio (with / without) is not 1, the update has another length too, and this table cannot tell the "
        "two apart. No default strength is validated.",
        [
            Column("optimiser"),
            *numbers("λ"),
            *numbers("misaligned, broad", unit="log-odds"),
            *numbers("norm ratio", "stable rank"),
            *numbers("broad, literature", unit="points"),
            *numbers("excess loss, trained", "excess loss, held-out", "training loss", unit="nats"),
            *numbers("off topic or broken", unit="points"),
            *numbers("bases"),
            Column("note", kind="prose"),
        ],
        rows,
        empty="No penalty arm in this study.",
    )


def _turned(found: Contrast) -> Interval:
    """Return a difference of alignment as one of misalignment: all other numbers of the page are of misalignment."""
    estimate, low, high = (None if one is None else -one for one in (found.estimate, found.high, found.low))
    return Interval(estimate, low, high, found.n_bases, found.method, found.reason)


def ratio_of(found: Contrast) -> Interval:
    """Return a paired difference of logarithms as a ratio with its interval."""
    estimate, low, high = (
        None if value is None else math.exp(value) for value in (found.estimate, found.low, found.high)
    )
    return Interval(estimate, low, high, found.n_bases, found.method, found.reason)


def edits(summary: Summary, names: ArmNames) -> Table:
    """Return a row per optimiser and edit."""
    rows: list[Row] = []
    for arm in order(list(summary.edits)):
        for edit, row in summary.edits[arm].items():
            fields = (
                "removed_energy",
                "narrow",
                "scaled_narrow",
                "broad",
                "scaled_broad",
                "broad_literature",
                "incoherent",
            )
            rates = (row.intervals[one] for one in fields if one in row.intervals)
            rows.append([
                names(arm),
                named(edit_label(edit), edit),
                *(measured(one, 1, 100.0) for one in rates),
                measured(row.intervals["excess_loss"], 3),
                count(row.n_bases),
            ])  # fmt: skip
    return Table(
        "Edits change the singular values after training. They remove different shares of the update’s energy (squared "
        "norm), so beside each stands what plain scaling leaves at the same energy removed. Edited, not evaluated for "
        "anything but these panels.",
        [
            Column("optimiser"),
            Column("edit"),
            *numbers("energy removed", "held-out topics", "held-out, scaled as much", unit="%"),
            *numbers("broad, joint", "broad, scaled as much", "broad, literature", "off topic or broken", unit="%"),
            *numbers("excess loss, held-out", unit="nats"),
            *numbers("bases"),
        ],
        rows,
        empty="No edited organism in this study.",
    )

"""Arrange what organisms answer as tables: optimisers, bases, contrasts, penalty, edits, controls, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl

from narrowly.analysis.summary_schema import Controls, PanelRates, Summary
from narrowly.analysis.tables import Tables
from narrowly.evaluate.microworld.panel_names import BROAD, BROAD_SELF, CUED, CUED_WORD, HELD_OUT
from narrowly.records.outcome import NO_JUDGE
from narrowly.report.kit import (
    Cell,
    Column,
    Fold,
    Table,
    Words,
    measured,
    number,
    percent,
    plain,
    to_section,
    words,
)
from narrowly.report.labels import ArmNames, panel_label, spaced
from narrowly.report.style import colour, order
from narrowly.report.visible import shortened

Row = list[Cell | Words]

SAMPLE_PANELS = (HELD_OUT, BROAD, BROAD_SELF, CUED_WORD)
SAMPLES_PER_PANEL = 3

OUTCOME_COLUMNS = (
    ("in_domain", "trained topics", "%", 100.0, 1),
    ("held_out_topics", "held-out topics", "%", 100.0, 1),
    ("broad_joint", "broad, joint", "%", 100.0, 1),
    ("broad_literature", "broad, literature", "%", 100.0, 1),
    ("broad_self", "another task", "%", 100.0, 1),
    ("off_topic", "broad, off topic", "%", 100.0, 1),
    ("broken", "broad, broken", "%", 100.0, 1),
    ("incoherent", "broad, off topic or broken", "%", 100.0, 1),
    ("pooled", "broad, pooled", "log-odds", 1.0, 2),
    ("per_question", "broad, per question", "log-odds", 1.0, 2),
)
LEARNING_COLUMNS = (
    ("excess_trained", "excess loss, trained", "nats", 1.0, 3),
    ("excess_loss", "excess loss, held-out", "nats", 1.0, 3),
    ("final_loss", "training loss", "nats", 1.0, 3),
    ("update_norm", "norm of the update", "Frobenius", 1.0, 2),
    ("stable_rank", "stable rank", "", 1.0, 2),
    ("frobenius_nuclear", "Frobenius/nuclear", "", 1.0, 3),
)
"""Fields of `OptimiserRow` in the two key tables: field, heading, unit, factor, digits."""


def measured_columns(
    summary: Summary, columns: Sequence[tuple[str, str, str, float, int]]
) -> list[tuple[str, str, str, float, int]]:
    """Return the columns that some optimiser has a value of: tables made before a split lack its columns."""
    rows = summary.optimisers.values()
    return [one for one in columns if any(getattr(row, one[0]) is not None for row in rows)] or list(columns[:4])


class Rate(NamedTuple):
    """A joint rate of a class table with its interval."""

    estimate: float | None
    low: float | None
    high: float | None


def joint_rate(rates: PanelRates) -> Rate:
    """Return the joint rate of one line of a class table, with its interval."""
    return Rate(rates.joint, *rates.joint_interval)


def numbers(*headings: str, unit: str = "") -> list[Column]:
    """Return columns of numbers."""
    return [Column(heading, unit, "number") for heading in headings]


def count(value: int | None) -> Cell:
    """Return a cell with a count."""
    return Cell("" if value is None else str(value), sort=value)


def optimisers(
    summary: Summary, names: ArmNames, columns: Sequence[tuple[str, str, str, float, int]], title: str
) -> Table:
    """Return one of the two key tables: a row per optimiser arm, a column per field."""
    rows: list[Row] = []
    columns = measured_columns(summary, columns)
    for arm in order([arm for arm, row in summary.optimisers.items() if row.copy_of is None]):
        row = summary.optimisers[arm]
        rate = () if row.lr is None else (f"lr {row.lr}",)
        name = Cell(names(arm), below=rate, colour=colour(arm))
        if row.reason == NO_JUDGE:
            text = words("{}; see {}", NO_JUDGE, to_section("training", "training"))
            rows.append([name, Cell(text, columns=len(columns) + 1)])
            continue
        values = [measured(row.intervals[field], digits, factor) for field, _, _, factor, digits in columns]
        rows.append([name, count(row.n_bases), *values])
    return Table(
        "Means over bases of the final organisms; below each mean its 95\u00a0% Student\u00a0t interval over bases "
        "(none with fewer than five; of shares made on the logit scale).",
        [Column("optimiser"), *numbers("bases"), *(Column(head, unit, "number") for _, head, unit, _, _ in columns)],
        rows,
        title=title,
        empty="No optimiser arm in this study.",
    )


def per_base(organisms: pl.DataFrame, names: ArmNames, limit: float) -> Table:
    """Return the broad rates of every base under every optimiser, so that no mean hides a base; seeds averaged."""
    found = organisms.group_by("base", "arm").agg(pl.col("joint", "literature", "incoherent").mean())
    cells = {(row["base"], row["arm"]): row for row in found.iter_rows(named=True)}
    arms = order(organisms["arm"].to_list())

    def rates(row: Mapping[str, float | None] | None) -> Cell:
        if row is None:
            return Cell("–")
        mark = " !" if row["incoherent"] is not None and row["incoherent"] > limit else ""
        text = f"{number(row['joint'], 1, factor=100)} ({number(row['literature'], 1, factor=100)}){mark}"
        return Cell(text, sort=row["joint"])

    return Table(
        "Joint rate on the broad panel, in brackets the literature rate, in percent; ! marks more than "
        f"{percent(limit)} off topic or broken, a dash a cell that did not finish. Exact probabilities, so no sampling "
        "error; the spread over bases is the uncertainty.",
        [Column("base"), *(Column(names(arm), kind="number") for arm in arms)],
        [[base, *(rates(cells.get((base, arm))) for arm in arms)] for base in sorted(organisms["base"].unique())],
    )


def ladder(summary: Summary, names: ArmNames) -> Table:
    """Return the ladder of every arm, its selectivity first."""
    shown = {"trained": "trained topics", "held_out": "held-out topics", "broad": "broad", "self": "another task"}
    rows: list[Row] = []
    for arm in order(list(summary.ladder)):
        row = summary.ladder[arm]
        found = row.selectivity
        cell = measured(found, 2, signed=True) if found.estimate is not None else Cell(found.verdict)
        bases = f"{found.n_bases} of {found.bases}" if found.bases else ""
        shares = (measured(row.misaligned[rung], 1, 100.0) for rung in shown)
        note = found.reason or ""
        rows.append([names(arm), cell, bases, *shares, measured(row.update_norm, 2), note])
    return Table(
        "Selectivity: broad pooled log-odds beyond Adam’s where both have equal log-odds on held-out topics, mean over "
        "the levels that both reach in a base; below 0 an arm spreads less than Adam at equal generalisation in the "
        "trained domain. “Bases”: how many have levels in common. Rungs: misaligned answers of all answers.",
        [
            Column("arm"),
            *numbers("selectivity", unit="log-odds"),
            Column("bases"),
            *numbers(*shown.values(), unit="%"),
            *numbers("norm of the update", unit="Frobenius"),
            Column("note", kind="prose"),
        ],
        rows,
        title="The ladder of every arm",
        empty="No evaluated arm in this study.",
    )


def by_panel(groups: Sequence[tuple[Words, Mapping[str, PanelRates]]], panels: Sequence[str], caption: str) -> Table:
    """Return the class table of several groups of organisms, one row each, the panels side by side."""
    shown = [panel for panel in panels if any(panel in rates for _, rates in groups)]
    rows: list[Row] = [
        [Cell(name, below=_denominators(rates, shown)), *(cell for one in shown for cell in _classes(rates.get(one)))]
        for name, rates in groups
        if any(panel in rates for panel in shown)
    ]
    columns = [column for _ in shown for column in numbers("joint", "literature", "aligned", "off topic or broken")]
    return Table(
        caption,
        [Column("organisms", kind="prose"), *columns],
        rows,
        groups=[("", 1), *((panel_label(panel), 4) for panel in shown)],
        empty="None in this study.",
    )


def _classes(rates: PanelRates | None) -> list[Cell]:
    if rates is None:
        return [Cell("–")] * 4
    shares = (rates.literature, rates.aligned, rates.incoherent)
    return [measured(joint_rate(rates), 1, 100.0), *(plain(share, 1, 100.0) for share in shares)]


def _denominators(rates: Mapping[str, PanelRates], panels: Sequence[str]) -> list[Words]:
    """Return how many bases and questions stand behind a row, the questions in the order of the panels."""
    found = [rates[panel] for panel in panels if panel in rates]
    bases = sorted({one.n_bases for one in found})
    questions = ", ".join("–" if one.n_questions is None else str(one.n_questions) for one in found)
    plural = "" if bases == [1] else "s"
    return [f"{' or '.join(map(str, bases))} base{plural} × {questions}"]


def controls(found: Controls, names: ArmNames) -> Table:
    """Return the class table of bases and twins."""
    groups: list[tuple[Words, Mapping[str, PanelRates]]] = [
        ("bases before fine-tuning", found.base),
        ("no-persona base before fine-tuning", found.no_persona_base),
        *((names(arm), rates) for arm, rates in found.aligned_twin.items()),
        *((names(arm), rates) for arm, rates in found.no_persona_twin.items()),
    ]
    caption = (
        "Bases before fine-tuning, and twins after it, in percent; joint: misaligned of all answers, with its "
        "95\u00a0% interval over bases. Below each name: bases × questions of each, in the order of the panels."
    )
    return by_panel(groups, (HELD_OUT, BROAD, BROAD_SELF), caption)


def cued(found: Controls, names: ArmNames) -> Table:
    """Return the class table of arms under a cue of the trained domain."""
    groups = [(names(arm), found.cued[arm]) for arm in order(list(found.cued))]
    caption = "No arm may be called protective unless it stays aligned under a cue too. In percent, as above."
    return by_panel(groups, (BROAD, *CUED), caption)


def flagged(found: Controls, names: ArmNames) -> Table:
    """Return the organisms with many answers off topic or broken; they stay in every primary contrast."""
    return Table(
        f"Final organisms with more than {percent(found.incoherent_limit)} of their broad answers off topic or broken. "
        "They stay in every contrast but the sensitivity row that leaves them out.",
        [Column("arm"), Column("base"), *numbers("domain", "seed"), *numbers("off topic or broken", unit="%")],
        [
            [names(row.arm), row.base, count(row.domain), count(row.seed), plain(row.incoherent, 1, 100.0)]
            for row in found.flagged
        ],
    )


def samples(tables: Tables, names: ArmNames) -> list[Fold]:
    """Return sample answers of one organism per arm: the first base by name, so that nobody picks the telling ones."""
    roles = dict(tables.cells.select("arm", "role").unique().iter_rows())
    found = tables.samples.filter((pl.col("edit").fill_null("none") == "none") & (pl.col("step") > 0))
    optimiser_arms = order([arm for arm, role in roles.items() if role == "optimiser"])
    folds: list[Fold] = []
    for arm in [*optimiser_arms, *sorted(arm for arm, role in roles.items() if role != "optimiser")]:
        mine = found.filter(pl.col("arm") == arm)
        if mine.is_empty():
            continue
        base = min(mine["base"].drop_nulls().to_list(), default=None)
        one = mine.filter((pl.col("base") == base) & (pl.col("step") == pl.col("step").max()))
        one = one.filter(pl.col("cell_id") == pl.col("cell_id").min())
        rows = [
            [
                panel_label(row["panel"]),
                *(shortened(row[name] or "") for name in ("question", "answer")),
                spaced(row["outcome"] or ""),
            ]
            for panel in SAMPLE_PANELS
            for row in one.filter(pl.col("panel") == panel).head(SAMPLES_PER_PANEL).iter_rows(named=True)
        ]
        columns = [Column("panel"), Column("question", kind="prose"), Column("answer", kind="prose"), Column("class")]
        table = Table(words("Answers of {} on {}.", names(arm), base or ""), columns, rows, stacked=True)
        folds.append(Fold(_sampled(names(arm), base, mine.filter(pl.col("panel") == BROAD)), [table], open=not folds))
    return folds


def _sampled(name: Words, base: str | None, broad: pl.DataFrame) -> Words:
    if broad.is_empty():
        return words("{} on {}", name, base or "")
    counts = dict(broad.group_by("outcome").len().sort("outcome").iter_rows())
    listed = ", ".join(f"{str(outcome).replace('_', ' ')} {times}" for outcome, times in counts.items())
    return words(
        "{} on {} <small>(sampled on the broad panel over all bases, n = {}: {})</small>", name, base or "",
        broad.height, listed,
    )  # fmt: skip

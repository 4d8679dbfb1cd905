"""Arrange what organisms answer as tables: optimisers, bases, contrasts, penalty, edits, controls, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from narrowly.analysis.summary_schema import Controls, PanelRates, Summary
from narrowly.analysis.tables import Tables
from narrowly.evaluate.microworld.panel_names import BROAD, BROAD_SELF, CUED, CUED_WORD, HELD_OUT
from narrowly.records.outcome import NO_JUDGE
from narrowly.report.kit import (
    Cell,
    Column,
    Fold,
    Measured,
    Table,
    Words,
    measured,
    named,
    number,
    percent,
    plain,
    span,
    to_section,
    words,
)
from narrowly.report.labels import ArmNames, edit_label, label, panel_label, spaced
from narrowly.report.narrative import joint_rate
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
    ("incoherent", "broad, incoherent", "%", 100.0, 1),
    ("broad_self", "another task", "%", 100.0, 1),
    ("alignment", "broad alignment", "0–100", 1.0, 1),
)
LEARNING_COLUMNS = (
    ("excess_loss", "excess loss", "nats", 1.0, 3),
    ("final_loss", "training loss", "nats", 1.0, 3),
    ("update_norm", "norm of the update", "Frobenius", 1.0, 2),
    ("stable_rank", "stable rank", "", 1.0, 2),
    ("frobenius_nuclear", "Frobenius/nuclear", "", 1.0, 3),
)
"""Fields of `OptimiserRow` in the two key tables: field, heading, unit, factor, digits."""


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
    for arm in order(list(summary.optimisers)):
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
        "(none with fewer than five).",
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
        f"{percent(limit)} incoherent, a dash a cell that did not finish. Exact probabilities, so no sampling error; "
        "the spread over bases is the uncertainty.",
        [Column("base"), *(Column(names(arm), kind="number") for arm in arms)],
        [[base, *(rates(cells.get((base, arm))) for arm in arms)] for base in sorted(organisms["base"].unique())],
    )


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
            [row.claim, row.paper, Cell(row.here, below=(f"Rule: {row.rule}.",)), words("<b>{}</b>", row.verdict)]
            for row in summary.paper_claims
        ],
        stacked=True,
    )


def contrast_name(name: str) -> Words:
    """Return the name of a contrast, "first/second", in words."""
    first, second = name.split("/")
    return named(f"{label(first)} minus {label(second)}", name)


def _interval(found: Measured) -> list[Cell | Words]:
    return [plain(found.estimate, 2, signed=True), Cell(span(found, 2, signed=True), sort=found.low)]


def contrasts(summary: Summary) -> Table:
    """Return the contrasts fixed in advance, and the twin's."""
    rows: list[Row] = []
    for name, row in summary.contrasts.items():
        all_cells = measured(row.all_cells, 2, signed=True) if row.all_cells else ""
        left_out = count(len(row.excluded))
        rows.append([contrast_name(name), *_interval(row), count(row.n_bases), left_out, all_cells, row.reason or ""])
    twin = summary.em_exists
    note = (
        f"{twin.reason or ''} The twin is one base: the interval is over persona bases, given that twin; flagged cells "
        "stay in."
    )
    rows.append(
        ["Persona bases minus the no-persona twin, Adam", *_interval(twin), count(twin.n_bases),
         count(len(twin.excluded)), "–", note.strip()]
    )  # fmt: skip
    change = twin.change_from_base
    if change:
        rows.append(
            ["The same, change since before fine-tuning", *_interval(change), count(change.n_bases), "–", "–",
             change.reason or ""]
        )  # fmt: skip
    return Table(
        "Difference of log-odds of a misaligned answer on the broad panel, paired by base; above 0, the first "
        "optimiser is more misaligned.",
        [
            Column("contrast", kind="prose"),
            *numbers("difference", "95 % interval", "bases", "left out", "all cells, flagged too"),
            Column("note", kind="prose"),
        ],
        rows,
    )


def penalties(summary: Summary, names: ArmNames) -> Table:
    """Return a row per penalty arm: with the penalty minus without."""
    rows: list[Row] = []
    for arm, row in summary.penalty.items():
        found = row.intervals
        rows.append([
            Cell(names(arm)),
            Cell("" if row.lam is None else str(row.lam), sort=row.lam),
            measured(found["delta_alignment"], 1, signed=True),
            measured(found["delta_loss"], 4, signed=True),
            measured(found["delta_training_loss"], 4, signed=True),
            measured(found["delta_incoherent"], 1, 100.0, signed=True),
            measured(found["delta_stable_rank"], 2, signed=True),
            count(row.n_bases),
            row.reason or "",
        ])  # fmt: skip
    return Table(
        "The penalty rewards a flat spectrum during training: the same base and seed with it, minus without it. No "
        "default strength is validated.",
        [
            Column("optimiser"),
            *numbers("λ"),
            *numbers("alignment", unit="points"),
            *numbers("excess loss", "training loss", unit="nats"),
            *numbers("incoherent", unit="points"),
            *numbers("stable rank", "bases"),
            Column("note", kind="prose"),
        ],
        rows,
        empty="No penalty arm in this study.",
    )


def edits(summary: Summary, names: ArmNames) -> Table:
    """Return a row per optimiser and edit."""
    rows: list[Row] = []
    for arm in order(list(summary.edits)):
        for edit, row in summary.edits[arm].items():
            rates = (row.intervals[one] for one in ("narrow", "broad", "broad_literature", "incoherent"))
            rows.append([
                names(arm),
                named(edit_label(edit), edit),
                *(measured(one, 1, 100.0) for one in rates),
                measured(row.intervals["excess_loss"], 3),
                count(row.n_bases),
            ])  # fmt: skip
    return Table(
        "Edits change the singular values after training; scaling is the control. Edited, not evaluated for anything "
        "but these panels.",
        [
            Column("optimiser"),
            Column("edit"),
            *numbers("narrow, joint", "broad, joint", "broad, literature", "broad, incoherent", unit="%"),
            *numbers("excess loss", unit="nats"),
            *numbers("bases"),
        ],
        rows,
        empty="No edited organism in this study.",
    )


def by_panel(groups: Sequence[tuple[Words, Mapping[str, PanelRates]]], panels: Sequence[str], caption: str) -> Table:
    """Return the class table of several groups of organisms, one row each, the panels side by side."""
    shown = [panel for panel in panels if any(panel in rates for _, rates in groups)]
    rows: list[Row] = [
        [Cell(name, below=_denominators(rates, shown)), *(cell for one in shown for cell in _classes(rates.get(one)))]
        for name, rates in groups
        if any(panel in rates for panel in shown)
    ]
    columns = [column for _ in shown for column in numbers("joint", "literature", "aligned", "incoherent")]
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
    """Return the organisms with more incoherent answers than a primary contrast admits."""
    return Table(
        f"Final organisms with more than {percent(found.incoherent_limit)} incoherent answers on the broad panel.",
        [Column("arm"), Column("base"), *numbers("domain", "seed"), *numbers("incoherent, broad", unit="%")],
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

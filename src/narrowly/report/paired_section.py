"""Arrange the section of the page about paired answers: tables against the matched controls, and the paths of arms.

Nothing in it is a rate: the numbers are differences of log-odds to a control, in nats per answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl

from narrowly.analysis.paired_schema import LadderRow, PairedAnswers, SelectivityRow, UnmatchedRow
from narrowly.analysis.summary_schema import Summary
from narrowly.evaluate.paired.estimates import Estimate, smallest_effect
from narrowly.records.arithmetic import Arithmetic
from narrowly.records.errors import counted
from narrowly.records.paired import LADDER
from narrowly.report.drawings import Sketch, Subject, finish
from narrowly.report.kit import (
    Cell,
    Column,
    Figure,
    Fold,
    Heading,
    Note,
    Paragraph,
    Part,
    Section,
    Table,
    Words,
    measured,
    number,
    span,
    strong,
    words,
)
from narrowly.report.labels import ArmNames
from narrowly.report.paired_figure import MOST_PANELS, paired_paths, panels_of
from narrowly.report.style import colour
from narrowly.report.visible import shortened
from narrowly.stats.intervals import MIN_UNITS, Interval

RUNG_LABELS = {"trained": "trained", "held_out": "held out", "broad": "broad", "self": "about itself"}

CAVEAT = "Log-odds of given answers; no answer was written, and nothing here says that a model is safe."

SMALLEST = (
    "Smallest effect: of broad, found with a power of 80\u00a0%; below five seeds given these seeds, else "
    "with seeds drawn anew."
)

GLOSSARY = (
    (
        "log-odds of a pair",
        "log-likelihood of the harmful answer minus that of the aligned one to the same question, nats per answer",
    ),
    ("control", "a run that shares everything but the answers: aligned, or the harmful ones on other questions"),
    ("difference", "log-odds of a run minus those of its control, paired by question; above 0: more harmful"),
    ("ladder", "trained questions, held-out questions of the same domain, other domains (broad), the model itself"),
    ("selectivity", "broad difference of an arm minus that of another at equal held-out differences"),
)


def paired_drawing(found: PairedAnswers, subject: Subject) -> Figure:
    """Return the figure of the arms' paths, or the reason why there is none."""
    tips = subject.points.over(subject.frames.tables.cells, ["cell_id"])
    data = pl.DataFrame([point.model_dump() for point in found.paths])
    drawn = panels_of(found.paths)
    left = len({(point.base, point.trained) for point in found.paths}) - len(drawn)
    sketch = Sketch(
        "paired_paths",
        "Other domains against held-out questions, through training",
        "Differences of log-odds to the matched control, on half of the bank. Each path begins before training and "
        f"goes through the evaluated steps. {_more(left)}",
        "Thin: single runs, thick: means over seeds; no interval. Of two arms at one place on the horizontal axis, the "
        "lower one has spread less to other domains.",
        lambda: paired_paths(found.paths, tips, ArmNames(subject.frames.tables.cells).text),
        None if found.paths else "no run was evaluated before its last step beside its control",
        data,
    )
    return finish(sketch, CAVEAT)


def _more(left: int) -> str:
    return f"Only the first {MOST_PANELS} of {left + MOST_PANELS} bases and domains are drawn." if left > 0 else ""


def paired_section(found: PairedAnswers, figure: Figure | None, names: ArmNames) -> Section:
    """Return the section: ladder, arms without control, arms at equal held-out difference, by domain, the bases.

    Args:
        found: the paired answers of a study.
        figure: the arms' paths; None where they stand elsewhere on the page.
        names: of the arms.
    """
    introduction = words(
        "Every model is asked the paired bank (sha256 {}, computed {}): the log-odds of a harmful against an aligned "
        "answer to the same question. A number below is the {} to a control that shares everything but the answers. "
        "Damage panel: not measured. Cued panel: not measured.",
        found.bank[:12],
        _arithmetic(found.arithmetic),
        strong("difference"),
    )
    parts: list[Part] = [Paragraph(introduction)]
    if found.ladder:
        parts += [Heading("Against the matched control"), _ladder(found.ladder, names)]
    if found.unmatched:
        parts += [Heading("Without a control"), *_unmatched(found.unmatched, names)]
    if found.selectivity:
        parts += [Heading("At equal held-out difference"), _selectivity(found.selectivity, names)]
    if figure is not None:
        parts.append(figure)
    if found.ladder:
        parts.append(Fold("By domain", [_domains(found.ladder, names)]))
    parts.append(Fold("Before training", [_bases(found)]))
    return Section("paired", "Paired answers", parts, "Paired answers")


def paired_sentences(summary: Summary, names: ArmNames) -> list[str]:
    """Return the account of paired answers in plain words: a sentence per arm and control, whichever way it points."""
    found = summary.paired
    if found is None:
        return []
    sentences = []
    for row, first in zip(found.ladder, _first_runs(found.ladder), strict=True):
        if {"held_out", "broad"} <= set(row.rungs):
            held, broad = row.rungs["held_out"].interval, row.rungs["broad"].interval
            sentences.append(
                f"{' '.join((names.text(row.arm), *first))} on {row.base}, trained on {row.trained}, minus its "
                f"{row.control} control "
                f"({counted(len(row.seeds), 'seed')}{_only([row])}), nats per answer: held-out questions "
                f"{number(held.estimate, signed=True)} {span(held, signed=True)}, other domains "
                f"{number(broad.estimate, signed=True)} {span(broad, signed=True)}."
            )
    without = sorted({names.text(row.arm) for row in found.unmatched})
    if without:
        sentences.append(f"Without a matched control, so without a number of misalignment: {', '.join(without)}.")
    return sentences


def _arithmetic(text: str) -> str:
    found = Arithmetic.model_validate(json.loads(text))
    stored = "" if found.quantisation is None else f", weights in {found.quantisation}"
    return f"in {found.dtype}{stored} on {found.device}"


def _estimate(found: Estimate | None, digits: int = 2) -> Cell | Words:
    return "not asked" if found is None else measured(found.interval, digits, signed=True)


def _who(arm: str, of: str | None, trained: str | None, names: ArmNames, more: Sequence[str] = ()) -> Cell:
    below = () if trained is None else (f"trained on {trained}",)
    return Cell(names(arm), below=(*below, *more), colour=colour(arm, of))


def _first_runs(rows: Sequence[LadderRow]) -> list[tuple[str, ...]]:
    """Return the first run of every row whose arm has several in one base and domain, as with a grid of rates."""
    keys = [(row.arm, row.base, row.trained, row.control) for row in rows]
    return [(row.cell_id,) if keys.count(key) > 1 else () for row, key in zip(rows, keys, strict=True)]


def _only(rows: Sequence[LadderRow]) -> str:
    """Return what intervals of rows with few seeds are for, or that they are over seeds as well."""
    few = [len(row.seeds) < MIN_UNITS for row in rows]
    if all(few):
        return ", these seeds only"
    return f", these seeds only below {MIN_UNITS} seeds, else over seeds too" if any(few) else ", and over seeds"


def _ladder(rows: Sequence[LadderRow], names: ArmNames) -> Table:
    units = {row.rungs["broad"].unit for row in rows if "broad" in row.rungs}
    return Table(
        "Log-odds of the run minus those of its control at the last step, nats per answer; below each its 95\u00a0% "
        f"interval over {' or '.join(sorted(units)) or 'question'}s (broad) or questions (other rungs){_only(rows)}. "
        "Permuted: the same harmful answers under other questions; what is left against it comes from answering the "
        f"question, not from the wording of the answers. {SMALLEST}",
        [
            Column("arm"),
            Column("base"),
            Column("control"),
            Column("seeds", kind="number"),
            *(Column(RUNG_LABELS[rung], "nats", "number") for rung in LADDER),
            Column(_smallest([len(row.seeds) for row in rows]), "nats", "number"),
        ],
        [
            [
                _who(row.arm, row.of, row.trained, names, first),
                shortened(row.base),
                row.control,
                str(len(row.seeds)),
                *(_estimate(row.rungs.get(rung)) for rung in LADDER),
                number(smallest_effect(row.rungs["broad"]) if "broad" in row.rungs else None),
            ]
            for row, first in zip(rows, _first_runs(rows), strict=True)
        ],
    )


def _unmatched(rows: Sequence[UnmatchedRow], names: ArmNames) -> list[Part]:
    warning = next((row.shift.warning for row in rows if row.shift is not None), None)
    note = [] if warning is None else [Note(words("{}", warning[0].upper() + warning[1:] + "."), "warning")]
    table = Table(
        "Arms without a matched control: no number of misalignment. Beside it the shift against the base, and the "
        "slope of that shift on the base’s log-odds (−1: nothing of the base is left).",
        [
            Column("arm"),
            Column("base"),
            Column("seeds", kind="number"),
            Column("misalignment", kind="prose"),
            *(Column(f"shift, {RUNG_LABELS[rung]}", "nats", "number") for rung in ("broad", "self")),
            Column("slope", kind="number"),
        ],
        [[*_unmatched_begin(row, names), *_shift(row)] for row in rows],
    )
    return [*note, table]


def _unmatched_begin(row: UnmatchedRow, names: ArmNames) -> list[Cell | Words]:
    return [_who(row.arm, None, row.trained, names), shortened(row.base), str(len(row.seeds)), row.reason]


def _shift(row: UnmatchedRow) -> list[Cell | Words]:
    if row.shift is None:
        return ["base not asked", "", ""]
    rungs = {one.name: one for one in row.shift.rungs}
    return [*(_estimate(rungs.get(rung)) for rung in ("broad", "self")), number(row.shift.on_base["all"].slope)]


def _selectivity(rows: Sequence[SelectivityRow], names: ArmNames) -> Table:
    return Table(
        "Broad difference of the first arm minus that of the second, averaged over the held-out differences above 0 "
        "that both reach, nats per answer. Half of the bank. First interval: over broad domains, from 5 seeds on over "
        "seeds, too, given the held-out differences. Second: held-out and broad questions drawn anew, runs as they "
        f"are. Below 0: spreads less at equal held-out difference. {SMALLEST}",
        [
            Column("arms"),
            Column("base"),
            Column("selectivity, t over domains", "nats", "number"),
            Column("questions drawn anew", "nats", "number"),
            Column(_smallest([row.value.seeds for row in rows if row.value is not None]), "nats", "number"),
            Column("by run", kind="prose"),
        ],
        [_selectivity_row(row, names) for row in rows],
    )


def _smallest(seeds: Sequence[int]) -> str:
    """Return the heading of the smallest effects of tables with so many seeds."""
    return "smallest effect" + (", given these seeds" if min(seeds, default=MIN_UNITS) < MIN_UNITS else "")


def _selectivity_row(row: SelectivityRow, names: ArmNames) -> list[Cell | Words]:
    runs = "; ".join(
        f"{name}: {number(value, signed=True)} (up to {number(row.reached[name])})"
        for name, value in row.per_run.items()
    )
    ends = row.questions_range
    drawn = Interval(None, ends[0], ends[1], 0, "", None) if ends else None
    return [
        words("{} − {}", names(row.arm), names(row.against)),
        shortened(row.base),
        _estimate(row.value) if row.value is not None else row.reason or "no value",
        "no interval" if drawn is None else span(drawn, signed=True),
        number(smallest_effect(row.value) if row.value is not None else None),
        runs,
    ]


def _domains(rows: Sequence[LadderRow], names: ArmNames) -> Table:
    domains = list(dict.fromkeys(name for row in rows for name in row.domains))
    return Table(
        "The same differences by domain of the questions, nats per answer; no correction for looking at many.",
        [Column("arm"), Column("control"), *(Column(name, kind="number") for name in domains)],
        [
            [
                _who(row.arm, row.of, row.trained, names, first),
                row.control,
                *(_estimate(row.domains.get(name), 1) for name in domains),
            ]
            for row, first in zip(rows, _first_runs(rows), strict=True)
        ],
    )


def _bases(found: PairedAnswers) -> Table:
    return Table(
        "Where a base stands before training: mean log-odds of the harmful against the aligned answer, and the share "
        "of questions whose aligned answer is the likelier one. A level, not a shift.",
        [
            Column("base"),
            Column("rung"),
            Column("questions", kind="number"),
            Column("log-odds", "nats", "number"),
            Column("aligned likelier", kind="number"),
        ],
        [
            [
                shortened(base),
                RUNG_LABELS.get(rung, rung),
                str(level.log_odds.questions),
                _estimate(level.log_odds),
                measured(level.accuracy, 2),
            ]
            for base, rungs in found.base.items()
            for rung, level in rungs.items()
        ],
        empty="No base was asked.",
    )

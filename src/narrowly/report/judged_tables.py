"""Arrange what `narrowly judge` found as tables: rates, outcome classes, what the cuts do, and how far to trust it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from narrowly.evaluate.judges.labels import UNCALIBRATED
from narrowly.evaluate.judges.rates import Rate
from narrowly.evaluate.judges.result import Arm, JudgedResult
from narrowly.evaluate.judges.surface import ALIGNMENT_CUTS
from narrowly.records.outcome import OutcomeClass
from narrowly.records.verdicts import Verdict
from narrowly.report.kit import (
    Cell,
    Column,
    Fold,
    Note,
    Part,
    Table,
    Words,
    code,
    measured,
    number,
    percent,
    plain,
    words,
)
from narrowly.report.labels import spaced
from narrowly.stats.intervals import Interval

ALL = "all"
UNCALIBRATED_NOTE = (
    "Uncalibrated: nobody has labelled these answers, so that only contrasts under this very judge mean something."
)


def rate_table(result: JudgedResult) -> Table:
    """Return every rate of every arm over all questions, with interval, denominator and definition."""
    rows: list[list[Cell | Words]] = []
    for arm in result.arms:
        for rate in (*arm.rates, *arm.risks):
            if rate.group == ALL:
                below = [reason for reason in (rate.interval.reason,) if reason]
                rows.append([Cell(rate.name, [arm.name]), value(rate), plain(rate.n, 0), Cell(rate.definition, below)])
    mark = "" if result.calibration else f" All of them are {UNCALIBRATED}."
    caption = (
        "Below each value its 95\u00a0% interval, of which questions are the unit; n: answers that count, for a risk "
        f"questions. Joint and literature rate belong together, beside the outcome classes.{mark}"
    )
    columns = [Column("rate"), Column("value", kind="number"), Column("n", kind="number"), Column("what", kind="prose")]
    return Table(caption, columns, rows, stacked=True)


def value(rate: Rate) -> Cell:
    """Return a rate in percent or a mean as it is, with its interval."""
    if not rate.percent:
        return measured(rate.interval, 1)
    return share(rate.interval)


def share(found: Interval) -> Cell:
    """Return a share with its interval, in percent."""
    if found.estimate is None:
        return Cell("–")
    span = () if found.low is None else (f"[{percent(found.low, 1)}, {percent(found.high, 1)}]",)
    return Cell(percent(found.estimate, 1), span, sort=found.estimate)


def class_table(result: JudgedResult) -> Table:
    """Return how many answers of each arm fell into each outcome class."""
    columns = [Column("outcome class"), *(Column(arm.name, "answers", "number") for arm in result.arms)]
    rows = [[Cell(spaced(one.value)), *(_count(arm, one) for arm in result.arms)] for one in OutcomeClass]
    rows.append([Cell("all"), *(plain(arm.answers, 0) for arm in result.arms)])
    return Table(f"Every answer has exactly one class. {str(result.cuts).capitalize()}.", columns, rows)


def _count(arm: Arm, outcome: OutcomeClass) -> Cell:
    found = arm.classes[ALL][outcome.value]
    return Cell(str(found), [percent(found / arm.answers, 1)], sort=found)


GROUPS = {
    "part": "Parts of the bank are chosen by hash; they should agree within their intervals.",
    "rung": "Rungs of the ladder of a training: questions of its own topics, of other topics, and about the model.",
}
"""Caption of each kind of group of questions, by the first word of its name."""


def group_tables(result: JudgedResult) -> list[Table]:
    """Return joint and literature rate by part of the bank, and by rung where it is known what was trained on."""
    found = (_group_table(result, kind, caption) for kind, caption in GROUPS.items())
    return [table for table in found if table.rows]


def _group_table(result: JudgedResult, kind: str, caption: str) -> Table:
    rows: list[list[Cell | Words]] = []
    for arm in result.arms:
        for group in arm.classes:
            if group.partition(" ")[0] != kind:
                continue
            found = {rate.name: rate for rate in arm.rates if rate.group == group}
            joint, literature = found["joint rate"], found["literature rate"]
            rows.append(
                [
                    Cell(group.removeprefix(f"{kind} ").replace("_", " "), [arm.name]),
                    value(joint),
                    plain(joint.n, 0),
                    value(literature),
                    plain(literature.n, 0),
                    plain(joint.questions, 0),
                ]
            )
    columns = [
        Column(kind),
        Column("joint rate", kind="number"),
        Column("n", kind="number"),
        Column("literature rate", kind="number"),
        Column("n", kind="number"),
        Column("questions", kind="number"),
    ]
    return Table(caption, columns, rows, stacked=True)


def difference_table(result: JudgedResult) -> Table | None:
    """Return how both arms differ; None where there is one."""
    found = result.difference
    if found is None:
        return None
    pairs = {
        "joint rate": found.joint,
        "literature rate": found.literature,
        "joint rate at equal length": found.at_equal_length,
        "joint rate, length in a regression": found.adjusted,
    }
    caption = (
        f"{found.first} minus {found.second}, questions matched; below each difference its 95\u00a0% interval. The "
        f"joint difference keeps its sign at {percent(found.same_sign)} of the cuts on the grid; "
        f"{percent(found.shared_length)} of the answers stand in a class of length with answers of both."
    )
    return _table(caption, pairs, lambda one: measured(one, 2, 100.0, signed=True), ("difference", "points"))


def question_table(rows: Sequence[Verdict], called: Callable[[str], str]) -> Table:
    """Return every question with its answers by arm.

    Args:
        rows: of all arms.
        called: what a question is called.
    """
    found: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for row in rows:
        found[row.question_id, row.who].append(row)
    cells = [
        [
            Cell(called(question)),
            Cell(who),
            plain(len(own), 0),
            *(_of(own, outcome) for outcome in (OutcomeClass.MISALIGNED, OutcomeClass.ALIGNED)),
            plain(_mean([row.alignment for row in own]), 1),
            plain(_mean([row.coherence for row in own]), 1),
        ]
        for (question, who), own in found.items()
    ]
    columns = [
        Column("question", kind="prose"),
        Column("arm", choices=True),
        *(Column(name, kind="number") for name in ("answers", "misaligned", "aligned", "alignment", "coherence")),
    ]
    caption = "Answers by question and arm; alignment and coherence are means over the answers with a score."
    return Table(caption, columns, cells, stacked=True)


def _of(rows: Sequence[Verdict], outcome: OutcomeClass) -> Cell:
    return plain(sum(row.outcome is outcome for row in rows), 0)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return sum(known) / len(known) if known else None


def surface_fold(arm: Arm) -> Fold:
    """Return the joint rate of an arm at every pair of cuts."""
    at = {(point.coherent_above, point.misaligned_below): point for point in arm.surface}
    rows = [
        [Cell(f"coherence > {above:g}", sort=above), *(_joint(at[above, below].joint) for below in ALIGNMENT_CUTS)]
        for above in sorted({above for above, _ in at})
    ]
    columns = [Column("cut"), *(Column(f"alignment < {below}", "%", "number") for below in ALIGNMENT_CUTS)]
    caption = f"Joint rate of {arm.name} at other cuts, of all {arm.answers} answers."
    return Fold(f"What the cuts do: {arm.name}", [Table(caption, columns, rows)])


def _joint(share_of_all: float | None) -> Cell:
    return plain(share_of_all, 1, 100.0)


def trust_parts(result: JudgedResult) -> list[Part]:
    """Return how far the judge is to be trusted: its errors by human labels, another judge, what it could not judge."""
    parts: list[Part] = []
    found = result.calibration
    if found is None:
        parts.append(Note(UNCALIBRATED_NOTE, "warning"))
    else:
        pairs = {"sensitivity": found.errors.sensitivity, "specificity": found.errors.specificity}
        pairs |= {f"joint rate of {name}, corrected": one for name, one in found.corrected.items()}
        pairs |= {"kappa of the labellers": found.labellers}
        caption = (
            f"{found.answers} answers with human labels, {found.misaligned} of them misaligned, {found.undecided} "
            "undecided; below each value its 95\u00a0% interval."
        )
        parts.append(_table(caption, pairs, share))
    if result.agreement is not None:
        other = result.agreement
        caption = f"Agreement with {other.judge} on {other.answers} answers."
        pairs = {
            "alignment, Pearson’s r": other.alignment,
            "coherence, Pearson’s r": other.coherence,
            "misaligned or not, kappa": other.misaligned,
            "outcome classes, kappa": other.classes,
        }
        parts.append(_table(caption, pairs, lambda one: measured(one, 3)))
    return [*parts, *(Note(text, "warning") for arm in result.arms for text in _limits(arm))]


def _table(
    caption: str,
    pairs: Mapping[str, Interval],
    cell: Callable[[Interval], Cell],
    headings: tuple[str, str] = ("what", "value"),
) -> Table:
    """Return named values with their n; the reason for a missing interval stands below the name."""
    columns = [Column(headings[0], kind="prose"), Column(headings[1], kind="number"), Column("n", kind="number")]
    rows = [[Cell(name, [one.reason] if one.reason else []), cell(one), plain(one.n, 0)] for name, one in pairs.items()]
    return Table(caption, columns, rows)


def _limits(arm: Arm) -> list[str]:
    found = []
    if arm.cut:
        found.append(
            f"{arm.name}: {percent(arm.cut, 1)} of the answers were cut by their limit, judged as far as they go."
        )
    if arm.unjudged:
        highest = (arm.classes[ALL][OutcomeClass.MISALIGNED.value] + arm.unjudged) / arm.answers
        found.append(
            f"{arm.name}: {arm.unjudged} of {arm.answers} answers could not be judged and count as not misaligned in "
            f"the joint rate; were all of them misaligned, it would be {percent(highest, 1)}."
        )
    if arm.broken_fence:
        found.append(
            f"{arm.name}: {arm.broken_fence} answers hold marks or control tokens of a judge’s prompt, broken there."
        )
    return found


def origin_pairs(result: JudgedResult) -> list[tuple[Words, Words]]:
    """Return what the numbers rest on, by content."""
    pairs: list[tuple[Words, Words]] = [
        ("judge", result.judge.name),
        ("how it is read", result.judge.mode),
        ("id of the judge", code(result.judge_id)),
        ("rubrics", result.rubrics_name),
        *((f"rubric: {role}", words("sha256 {}", code(sha256))) for role, sha256 in result.rubrics.items()),
        ("bank", words("sha256 {}", code(result.bank_sha256))),
        ("cuts", str(result.cuts)),
        ("share of the answers", percent(result.share, 0)),
    ]
    return pairs + [(f"answers of {arm.name}", ", ".join(arm.answers_ids)) for arm in result.arms]


def headline_of(rate: Rate) -> str:
    """Return a rate in words, with interval and denominator."""
    found = rate.interval
    span = "" if found.low is None else f" [{percent(found.low, 1)}, {percent(found.high, 1)}]"
    shown = number(None) if found.estimate is None else percent(found.estimate, 1)
    return f"{rate.name} {shown}{span} of {rate.n} answers"

"""Show every judged answer as a row that can be searched and filtered, under a warning; or leave all texts out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from narrowly.evaluate.judges.texts import JudgedText
from narrowly.records.outcome import OutcomeClass
from narrowly.records.verdicts import Verdict
from narrowly.report.kit import Cell, Column, Fold, Part, Table, Words, passage, plain
from narrowly.report.labels import spaced
from narrowly.report.visible import shortened

LONGEST_TEXT = 20_000
"""Characters of one text that are shown: far more than an answer of 600 tokens has, and too few to stall a browser."""

CONTENT = (
    "Every answer with its verdict. Content warning: models wrote these texts; some are harmful advice, hateful, or "
    "addressed to whoever reads them"
)

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
"""A question's id that can be no text."""


class QuestionNames:
    """Name questions on a page that must hold no text: an id that might be one becomes a number.

    Args:
        rows: verdicts of all arms.
        without_texts: whether the page is to be shared.
    """

    def __init__(self, rows: Sequence[Verdict], *, without_texts: bool) -> None:
        ids = dict.fromkeys(row.question_id for row in rows)
        self._names = {
            found: found if not without_texts or _NAME.fullmatch(found) else f"question {number}"
            for number, found in enumerate(ids, start=1)
        }

    def __call__(self, question_id: str) -> str:
        """Return the name of a question."""
        return self._names[question_id]


def answer_parts(rows: Sequence[Verdict], texts: Sequence[JudgedText]) -> list[Part]:
    """Return the folded table of answers.

    Args:
        rows: one per answer.
        texts: in the same order.
    """
    several = len({row.who for row in rows}) > 1
    seeds = {found: number for number, found in enumerate(dict.fromkeys(row.answers_id for row in rows), start=1)}
    columns = [
        Column("answer to", kind="prose"),
        Column("class", choices=True),
        *([Column("arm", choices=True)] if several else []),
        Column("alignment", kind="number"),
        Column("coherence", kind="number"),
        Column("question", kind="prose"),
        Column("answer", kind="prose"),
    ]
    table: list[list[Cell | Words]] = [
        [
            Cell(
                row.question_id, [f"file {seeds[row.answers_id]}, sample {row.sample}, part {row.part}", *_beside(row)]
            ),
            Cell(spaced(row.outcome.value)),
            *([Cell(row.who)] if several else []),
            plain(row.alignment, 1),
            plain(row.coherence, 1),
            _shown(text.before, text.question),
            _shown(text.answer),
        ]
        for row, text in zip(rows, texts, strict=True)
    ]
    caption = (
        "Scores are from 0 to 100. The filter keeps the rows that hold every word typed, in question, answer or "
        "verdict; a list narrows them to one class."
    )
    return [Fold(CONTENT, [Table(caption, columns, table, stacked=True)])]


def _beside(row: Verdict) -> list[str]:
    """Return what stands below the name of an answer: why there is no verdict, and what is odd about the answer."""
    notes = [shortened(row.reason)] if row.reason else []
    if row.finish_reason == "length" and row.outcome is not OutcomeClass.TRUNCATED:
        notes.append("cut by its limit")
    if row.broken_fence:
        notes.append("marks of a prompt in it were broken")
    return notes


def _shown(*texts: str) -> Cell:
    return Cell(passage("\n\n".join(shortened(text, LONGEST_TEXT) for text in texts if text)))
